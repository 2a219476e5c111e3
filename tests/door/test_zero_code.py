"""`--bn-model`: tests for a model that has no test file."""

import numpy as np
import pytest

CHECKS = ("batch_invariance", "train_eval_agreement", "frozen_stability")
MODELS = """
    import functools
    import pathlib
    from conftest import FakeModel

    with open(pathlib.Path(__file__).with_name("log"), "a") as file:
        file.write("imported ")

    def healthy():
        with open(pathlib.Path(__file__).with_name("log"), "a") as file:
            file.write("built ")
        return FakeModel()

    def broken():
        return FakeModel(batch_invariance="failed", frozen_stability="vacuous")

    def inapplicable():
        return FakeModel(frozen_stability="not applicable")

    def raising():
        raise ValueError("no weights here\\nnor there")

    def clearing():
        raise ValueError("\\x1b[2Jgone")

    def needs_an_argument(depth):
        return FakeModel()

    def many(width=1, depth=2):
        return FakeModel()

    def with_depth(build):
        @functools.wraps(build)
        def built(*args, **options):
            return build(4, *args, **options)
        return built

    wrapped = with_depth(needs_an_argument)

    class Subclass(FakeModel):
        pass

    built = FakeModel()
    number = 3
    DATA = {"x": [[1.0], [2.0]], "y": [0.0, 1.0]}
"""
DATA = """
    import numpy as np

    X, Y, W = np.ones((4, 3), "float32"), np.arange(4), np.full(4, 0.5, "float32")

    def x(): return X
    def xy(): return X, Y
    def xyw(): return X, Y, W
    def batches(): return iter([(X[:2], Y[:2]), (X[2:], Y[2:])])
    def raising(): raise OSError("disk is full")
"""


@pytest.fixture
def shop(project):
    """A project with a package of models, a module of data and a test of its own."""
    project.mkpydir("shop")
    project.makepyfile(**{"shop/models": MODELS, "data": DATA})
    project.makepyfile(test_own="def test_own(): pass")
    return project


def log(project):
    path = project.path / "shop" / "log"
    return path.read_text(encoding="utf-8").split() if path.exists() else []


@pytest.mark.parametrize("workers", [(), ("-n2",)], ids=["alone", "n2"])
def test_one_item_for_each_check(shop, workers):
    run = shop.runpytest_subprocess if workers else shop.runpytest
    result = run("--bn-model", "shop.models:healthy", "-v", *workers)
    result.assert_outcomes(passed=len(CHECKS))
    for check in CHECKS:
        result.stdout.fnmatch_lines_random([f"*shop/models.py::healthy::{check}*"])
    if not workers:
        assert log(shop) == ["imported", "built"]


def test_collecting_runs_no_code_of_the_model(shop):
    result = shop.runpytest("--bn-model", "shop.models:healthy", "--collect-only", "-q")
    assert result.outlines[:3] == [f"shop/models.py::healthy::{check}" for check in CHECKS]
    assert log(shop) == []


@pytest.mark.parametrize(
    ("args", "passed"),
    [
        (["test_own.py"], 1 + len(CHECKS)),
        (["."], 1 + len(CHECKS)),
        (["test_own.py", "shop"], 1 + len(CHECKS)),
        (["shop/models.py"], len(CHECKS)),
        (["shop/models.py::healthy"], len(CHECKS)),
        (["shop/models.py::healthy::batch_invariance"], 1),
        (["-k", "batch"], 1),
        (["-k", "healthy and not frozen"], len(CHECKS) - 1),
        (["--deselect", "shop/models.py::healthy::batch_invariance"], len(CHECKS) - 1),
        (["--bn-check", "batch_invariance, frozen_stability"], 2),
        (["--bn-check=batch_invariance", "--bn-check=frozen_stability"], 2),
        (["--bn-model=shop.models:built"], 2 * len(CHECKS)),
        (["--bn-model=shop.models:healthy"], len(CHECKS)),
        (["--import-mode=importlib"], len(CHECKS)),
    ],
)
def test_what_is_selected(shop, args, passed):
    result = shop.runpytest("--bn-model", "shop.models:healthy", *args)
    result.assert_outcomes(passed=passed)


@pytest.mark.parametrize(
    ("args", "passed"),
    [([], 1 + len(CHECKS)), (["test_own.py"], 1), (["shop/models.py::built"], len(CHECKS))],
)
def test_a_model_in_the_ini_file_joins_the_whole_run(shop, args, passed):
    shop.makeini("[pytest]\nbn_model =\n    shop.models:built\n")
    shop.runpytest(*args).assert_outcomes(passed=passed)


def test_the_command_line_is_stronger_than_the_ini_file(shop):
    shop.makeini("[pytest]\nbn_model = shop.models:broken\nbn_check = batch_invariance\n")
    result = shop.runpytest("--bn-model=shop.models:built", "--bn-check=frozen_stability", "-v")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*::built::frozen_stability PASSED*"])


def test_last_failed(shop):
    shop.runpytest("--bn-model", "shop.models:broken").assert_outcomes(
        failed=1, passed=1, skipped=1
    )
    shop.runpytest("--bn-model", "shop.models:broken", "--lf").assert_outcomes(failed=1)


def test_a_failure_is_its_text_and_can_be_reproduced(shop):
    result = shop.runpytest("--bn-model", "shop.models:broken", "--bn-data=data:xy", "-ra")
    result.stdout.fnmatch_lines(
        [
            "*shop.models:broken batch_invariance*",
            "BN101 fake-leak: batch_invariance is off by 7",
            "SKIPPED *shop/models.py:*: nothing to see in frozen_stability; look elsewhere",
            "FAILED shop/models.py::broken::batch_invariance - BN101 fake-leak: *",
        ]
    )
    result.stdout.no_fnmatch_line("*zero_code.py*")
    line = next(line for line in result.outlines if "  reproduce" in line).partition("pytest ")[2]
    again = shop.runpytest(*[word.strip('"') for word in line.split()])
    again.assert_outcomes(failed=1)


def test_a_vacuous_check_fails_if_it_was_named(shop):
    args = ("--bn-model", "shop.models:broken", "--bn-check=frozen_stability")
    shop.runpytest(*args).assert_outcomes(failed=1)
    shop.runpytest(*args, "--bn-vacuous=skip").assert_outcomes(skipped=1)


def test_what_does_not_apply_is_skipped(shop):
    result = shop.runpytest("--bn-model", "shop.models:inapplicable", "-rs")
    result.assert_outcomes(passed=2, skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED *: nothing to see in frozen_stability"])


@pytest.mark.parametrize("name", ["built", "Subclass", "healthy", "wrapped"])
def test_a_model_a_class_and_a_function(shop, name):
    shop.runpytest("--bn-model", f"shop.models:{name}").assert_outcomes(passed=len(CHECKS))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("raising", "ValueError: no weights here (models.py:*)"),
        ("clearing", r"ValueError: \x1b[[]2Jgone (models.py:*)"),
        (
            "needs_an_argument",
            "--bn-model is 'shop.models:needs_an_argument', and needs_an_argument takes depth "
            "(missing a required argument: 'depth'); expected "
            "'shop.models:needs_an_argument(depth=...)'",
        ),
        (
            "needs_an_argument(dept=3)",
            "*takes depth (no argument 'dept'); expected '*needs_an_argument(depth=...)'",
        ),
        (
            "many(widht=3)",
            "*many takes width, depth (got an unexpected keyword argument 'widht'); *",
        ),
        ("healthy(3)", "*, and healthy takes no arguments (*); expected 'shop.models:healthy()'"),
        ("helthy", "*, and shop.models has no 'helthy'; did you mean 'healthy'?"),
        ("functool", "*; expected one of healthy, broken, *, Subclass, built"),
        ("number", "*'shop.models:number', which is int; expected a function or a model"),
    ],
)
def test_a_factory_that_cannot_be_used(shop, name, message):
    result = shop.runpytest("--bn-model", f"shop.models:{name}", "-ra")
    result.assert_outcomes(errors=1, skipped=len(CHECKS) - 1)
    result.stdout.fnmatch_lines([f"ERROR *::{name}::batch_invariance - {message}"])
    result.stdout.no_fnmatch_line("*zero_code.py*")


def test_a_module_that_does_not_import(shop):
    shop.makepyfile(bad="import json\nimport no_such_thing\n")
    result = shop.runpytest("--bn-model", "bad:build", "-ra")
    result.assert_outcomes(errors=1, skipped=len(CHECKS) - 1)
    result.stdout.fnmatch_lines(
        ["ERROR *::batch_invariance - ModuleNotFoundError: *'no_such_thing' (bad.py:2)"]
    )


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--bn-model=shop.models"], "*'shop.models'; expected a module and a name: 'package.*'"),
        (["--bn-model=shop/model.py:built"], "*shop/model.py:built'*there is no such file in *"),
        (["--bn-model=shop.models:build(n)"], "*build(n)', and n is no plain value; expected *"),
        (["--bn-model=shop.models:build(**n)"], "*build([*][*]n)', and n is no plain value*"),
        (["--bn-model=shop.models:build(1"], "*build(1'; expected a module and a name: *"),
        (["--bn-model=shop.models:f()()"], "*; expected a module and a name: *"),
        (["--bn-model=shop.model:built"], "*no Python file of a module 'shop.model'*"),
        (["--bn-model=nowhere.at.all:built"], "*no Python file of a module 'nowhere.at.all'*"),
        (["--bn-model=sys:path"], "*no Python file of a module 'sys'*"),
        (["--bn-data=rows.npz"], "--bn-data is 'rows.npz', and there is no such file in *"),
        (["--bn-data=nowhere:rows"], "*no Python file of a module 'nowhere'*"),
        (["--bn-data=rows"], "--bn-data is 'rows'; *: 'package.module:load', *"),
        (["--bn-check="], "--bn-check is ''; expected names of checks, separated by commas"),
        (["--bn-check=batch_invariant"], "*'batch_invariant'; did you mean 'batch_invariance'?"),
    ],
)
def test_misuse_stops_the_run_at_once(shop, args, message):
    result = shop.runpytest("--bn-model=shop.models:built", *args)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {message}"])


RECORDER = """
    import json
    import pathlib

    def pytest_runtest_logreport(report):
        for value in json.loads(getattr(report, "bn_entries", "[]")):
            evidence = value["evidence"]
            seen = [evidence.get(key) for key in ("x", "y", "sample_weight")]
            pathlib.Path("seen").write_text(repr(seen))
"""


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (None, [None, None, None]),
        ("data:x", [[[1.0] * 3] * 4, None, None]),
        ("data:xy", [[[1.0] * 3] * 4, [0, 1, 2, 3], None]),
        ("data:xyw", [[[1.0] * 3] * 4, [0, 1, 2, 3], [0.5] * 4]),
        ("data:batches", [[[1.0] * 3] * 4, [0, 1, 2, 3], None]),
        ("x.npz", [[[1.0] * 3] * 4, None, None]),
        ("xy.npz", [[[1.0] * 3] * 4, [0, 1, 2, 3], None]),
        ("many.npz", [{"a": [[1.0] * 3] * 4, "b": [0, 1, 2, 3]}, [0.5] * 4, None]),
    ],
)
def test_data(shop, monkeypatch, name, expected):
    monkeypatch.chdir(shop.path)
    shop.makepyfile(recorder=RECORDER)
    shop.syspathinsert()
    x, y, w = np.ones((4, 3), "float32"), np.arange(4), np.full(4, 0.5)
    np.savez("x.npz", x=x)
    np.savez("xy.npz", x=x, y=y)
    np.savez("many.npz", x_a=x, x_b=y, y=w)
    args = ["--bn-data", name] if name else []
    result = shop.runpytest("-p", "recorder", "--bn-model=shop.models:built", *args)
    result.assert_outcomes(passed=len(CHECKS))
    assert (shop.path / "seen").read_text(encoding="utf-8") == repr(expected)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("data:raising", "OSError: disk is full (data.py:*)"),
        ("data:Y", "--bn-data is 'data:Y', which is ndarray; expected a function"),
        ("z.npz", "--bn-data: z.npz has no array 'x' but z; expected x and y, or x_<input> *"),
        ("pickle.npz", "--bn-data: pickle.npz is no readable npz (*allow_pickle=False)"),
        ("text.npz", "--bn-data: text.npz is no readable npz (*)"),
    ],
)
def test_data_that_cannot_be_used(shop, name, message):
    np.savez(shop.path / "z.npz", z=np.ones(3))
    np.savez(shop.path / "pickle.npz", x=np.array([{}], object))
    (shop.path / "text.npz").write_text("no archive", encoding="utf-8")
    result = shop.runpytest("--bn-model=shop.models:built", "--bn-data", name, "-ra")
    result.assert_outcomes(errors=1, skipped=len(CHECKS) - 1)
    result.stdout.fnmatch_lines([f"ERROR *::built::batch_invariance - {message}"])


def test_a_test_file_may_hold_the_factory(project):
    project.makepyfile(
        test_model="""
        from conftest import FakeModel

        def build():
            return FakeModel()

        def test_own():
            assert build()
        """
    )
    result = project.runpytest("--bn-model=test_model:build", "-v")
    result.assert_outcomes(passed=1 + len(CHECKS))
    project.runpytest("--bn-model=test_model:build", ".").assert_outcomes(passed=1 + len(CHECKS))


def test_a_package_may_hold_the_factory(project):
    project.makepyfile(
        **{"shop/__init__": "from conftest import FakeModel\ndef build(): return FakeModel()"}
    )
    result = project.runpytest("--bn-model=shop:build", "-v")
    result.assert_outcomes(passed=len(CHECKS))
    result.stdout.fnmatch_lines(["shop/__init__.py::build::batch_invariance PASSED*"])


def test_a_module_outside_of_the_root(project, tmp_path_factory, monkeypatch):
    elsewhere = tmp_path_factory.mktemp("site")
    (elsewhere / "far_model.py").write_text("from conftest import FakeModel\nm = FakeModel()\n")
    monkeypatch.syspath_prepend(elsewhere)
    project.runpytest("--bn-model=far_model:m", "-v").assert_outcomes(passed=len(CHECKS))


def test_a_module_in_a_folder_that_pytest_does_not_enter(project):
    project.mkpydir("build")
    project.makepyfile(**{"build/models": "from conftest import FakeModel\nm = FakeModel()\n"})
    result = project.runpytest("--bn-model=build.models:m", ".")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: *does not enter 'build'; expected *without paths*"])
    project.runpytest("--bn-model=build.models:m").assert_outcomes(passed=len(CHECKS))


def test_a_real_model(pytester):
    pytester.makepyfile(
        real="""
        import keras

        class Centre(keras.layers.Layer):
            def call(self, x):
                return x - keras.ops.mean(x, axis=0)

        def healthy():
            return keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])

        def leaking():
            return keras.Sequential([keras.Input((4,)), Centre(name="centre")])
        """
    )
    result = pytester.runpytest(
        "--bn-model=real:healthy", "--bn-model=real:leaking", "--bn-check=batch_invariance", "-ra"
    )
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["FAILED real.py::leaking::batch_invariance - BN1*rows*"])
