"""What `--bn-model` and `--bn-data` name: arguments, files, data for each model."""

import pytest

MODELS = """
    import functools
    from conftest import FakeModel

    class Built(FakeModel):
        def __init__(self, *said, **options):
            super().__init__()
            with open("built", "a") as file:
                file.write(f"{said}{options};")

    def build(classes=2, width=1.0, *, name="net", shape=(), deep=None):
        return Built(classes, width, name, shape, deep)

    def other():
        return Built()

    def owns():
        return Built()

    def owns_arrays():
        return Built()

    class Sorted(Built):
        @staticmethod
        def data():
            return [[5.0], [5.0]]

    half = functools.partial(build, 4, 0.5)
    owns.data = lambda: ([[7.0], [8.0]], [0, 1])
    owns_arrays.data = [[9.0], [9.0]]
"""
DATA = """
    def one(): return [[1.0], [1.0]]
    def two(value=2.0, rows=2): return [[value]] * rows
"""
CONFTEST_TAIL = """
import json

def pytest_runtest_logreport(report):
    for value in json.loads(getattr(report, "bn_entries", "[]")):
        if report.when == "call":
            with open("seen", "a") as file:
                x = value["evidence"].get("x")
                file.write(f"{report.nodeid.split('::')[1]} {x and x[0][0]};")
"""
ONE = "--bn-check=batch_invariance"


@pytest.fixture
def shop(project):
    conftest = project.path / "conftest.py"
    conftest.write_text(conftest.read_text(encoding="utf-8") + CONFTEST_TAIL, encoding="utf-8")
    project.mkpydir("shop")
    project.makepyfile(**{"shop/models": MODELS, "shop/data": DATA})
    return project


def seen(shop, name="seen"):
    path = shop.path / name
    return path.read_text(encoding="utf-8") if path.exists() else ""


@pytest.mark.parametrize(
    ("called", "built"),
    [
        ("build", "(2, 1.0, 'net', (), None)"),
        ("build()", "(2, 1.0, 'net', (), None)"),
        ("build(classes=4)", "(4, 1.0, 'net', (), None)"),
        ("build(10, 0.5, name='a b')", "(10, 0.5, 'a b', (), None)"),
        ("build(-1, shape=[1, 2], deep={'a': None})", "(-1, 1.0, 'net', [1, 2], {'a': None})"),
        ("build(name='a::b/c[0]:d.py:e')", "(2, 1.0, 'a::b/c[0]:d.py:e', (), None)"),
        ("half", "(4, 0.5, 'net', (), None)"),
        ("half(name='other')", "(4, 0.5, 'other', (), None)"),
    ],
)
@pytest.mark.parametrize("place", ["shop.models", "shop/models.py"])
def test_arguments(shop, place, called, built):
    result = shop.runpytest(f"--bn-model={place}:{called}", ONE, "--bn-vacuous=skip")
    result.assert_outcomes(passed=1)
    assert seen(shop, "built") == built + "{};"


def test_the_line_that_runs_a_failure_with_arguments_again(shop):
    shop.makepyfile(
        bad="""
        from conftest import FakeModel

        def build(verdict, note=()):
            return FakeModel(batch_invariance=verdict)
        """
    )
    result = shop.runpytest("--bn-model=bad:build('failed', note=[1, 'x y'])", ONE)
    result.assert_outcomes(failed=1)
    line = next(line for line in result.outlines if "  reproduce" in line)
    import shlex

    again = shop.runpytest(*shlex.split(line.partition("pytest ")[2]))
    again.assert_outcomes(failed=1)


@pytest.mark.parametrize(
    "name", ["shop/models.py:other", "./shop/models.py:other", "{path}/shop/models.py:other"]
)
def test_a_file_and_a_name(shop, name):
    result = shop.runpytest(f"--bn-model={name.format(path=shop.path)}", ONE, "-v")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["shop/models.py::other::batch_invariance PASSED*"])


@pytest.mark.parametrize("folder", ["scripts", "my-scripts", "json"])
def test_a_script_beside_its_helper(shop, folder):
    """A file that no module's name leads to, or one that a library has as well."""
    shop.mkdir(folder)
    shop.makepyfile(
        **{
            f"{folder}/decoder": """
            import pathlib
            from conftest import FakeModel
            from beside import make

            assert pathlib.Path(__file__).name == "decoder.py"
            """,
            f"{folder}/beside": "from conftest import FakeModel\ndef make(): return FakeModel()",
        }
    )
    result = shop.runpytest(f"--bn-model={folder}/decoder.py:make", ONE)
    result.assert_outcomes(passed=1)


def test_a_file_from_another_folder(shop, monkeypatch):
    shop.makeini("[pytest]")
    monkeypatch.chdir(shop.path / "shop")
    result = shop.runpytest("--bn-model=models.py:other", "--bn-data=data.py:two(value=3.0)", ONE)
    result.assert_outcomes(passed=1)
    assert "other 3.0;" in (shop.path / "shop" / "seen").read_text(encoding="utf-8")


PAIRS = [
    # Data after a model is that model's, and of those right before it.
    ("m=other d=one m=half d=two", "other 1.0;half 2.0;"),
    ("m=other m=half d=two", "other 2.0;half 2.0;"),
    ("m=other d=one m=half", "other 1.0;half None;"),
    ("d=one m=other m=half", "other 1.0;half 1.0;"),
    # As many as there are models, but not beside them.
    ("m=other m=half d=one d=two", "other 1.0;half 2.0;"),
    ("d=one d=two m=other m=half", "other 1.0;half 2.0;"),
    ("d=one m=other d=two m=half", "other 1.0;half 2.0;"),
    # The attribute of the function comes next.
    ("m=owns", "owns 7.0;"),
    ("m=owns_arrays", "owns_arrays 9.0;"),
    ("m=Sorted", "Sorted 5.0;"),
    ("m=owns d=one", "owns 1.0;"),
    ("m=owns m=other d=two(rows=4)", "owns 2.0;other 2.0;"),
]


@pytest.mark.parametrize(("given", "expected"), PAIRS)
def test_data_for_each_model(shop, given, expected):
    words = {"m": "--bn-model=shop.models:", "d": "--bn-data=shop.data:"}
    args = [words[word[0]] + word[2:] for word in given.split()]
    shop.runpytest(*args, ONE).assert_outcomes(passed=expected.count(";"))
    assert sorted(seen(shop).split(";")) == sorted(expected.split(";"))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("shop.data:one", "other 1.0;owns 7.0;"),
        ("shop.data:one\n    shop.data:two", "other 1.0;owns 7.0;"),
    ],
)
def test_data_in_the_ini_file(shop, data, expected):
    models = "shop.models:other\n    shop.models:owns"
    shop.makeini(f"[pytest]\nbn_model =\n    {models}\nbn_data =\n    {data}\n")
    shop.runpytest(ONE).assert_outcomes(passed=2)
    assert sorted(seen(shop).split(";")) == sorted(expected.split(";"))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("m=other", "m=half", "m=owns", "d=one", "d=two"), "*2 times for 3 models; expected*"),
        (("m=other", "d=one", "m=other", "d=two"), "*'shop.models:other' twice, with *"),
        (("m=other", "d=one", "f=other", "d=two"), "*'shop/models.py:other' twice, with *"),
        (("d=one",), "--bn-data is for models, and none is named; give --bn-model, too"),
    ],
)
def test_data_that_belongs_to_no_model(shop, args, message):
    words = {
        "m": "--bn-model=shop.models:",
        "f": "--bn-model=shop/models.py:",
        "d": "--bn-data=shop.data:",
    }
    result = shop.runpytest(*[words[word[0]] + word[2:] for word in args])
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {message}"])


@pytest.mark.thorough
def test_data_reaches_the_workers(shop):
    result = shop.runpytest_subprocess(
        *("-n2", "--bn-model=shop.models:other", "--bn-data=shop.data:one"),
        *("--bn-model=shop.models:half", "--bn-data=shop.data:two", ONE),
    )
    result.assert_outcomes(passed=2)
    assert sorted(set(seen(shop).split(";"))) == ["", "half 2.0", "other 1.0"]


def test_what_fails_is_shown_at_the_function_that_builds_the_model(shop):
    path = shop.makepyfile(
        bad="""
        from conftest import FakeModel

        x = 1

        @staticmethod
        def unused(): pass

        def build():
            return FakeModel(batch_invariance="failed")

        class Nested:
            def build():
                return FakeModel(batch_invariance="failed")
        """
    )
    for name, line in (("build", 8), ("Nested.build", 12)):
        result = shop.runpytest(f"--bn-model=bad:{name}", ONE, "--tb=line")
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines([f"{path}:{line}: BN101 *"])


REFUSING = """
    import keras
    import numpy as np

    class Refusing(keras.layers.Layer):
        refuses = False

        def call(self, x):
            if self.refuses:
                raise ValueError("no rows today")
            return x

    def build():
        model = keras.Sequential([keras.Input((4,)), Refusing(), keras.layers.Dense(3)])
        model.layers[0].refuses = True
        return model

    def data():
        return np.ones((8, 4), "float32"), np.ones((8, 3), "float32")

    def five_columns():
        return np.ones((8, 5), "float32"), np.ones((8, 3), "float32")

    def sound():
        return keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
"""


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--bn-model=far:build", "--bn-data=far:data"), "no rows today"),
        (("--bn-model=far:build",), "no rows today"),
        (("--bn-model=far:sound", "--bn-data=far:five_columns"), "x has shape (8, 5)"),
    ],
)
def test_a_refusal_is_told_once(pytester, args, message):
    pytester.makepyfile(far=REFUSING)
    result = pytester.runpytest(*args, "-ra")
    outcomes = result.parseoutcomes()
    assert outcomes.pop("errors", 0) + outcomes.pop("error", 0) == 1
    assert not outcomes.get("failed")
    told = [line for line in result.outlines if line.startswith("ERROR far.py::")]
    assert len(told) == 1
    assert message in told[0]
    result.stdout.fnmatch_lines(["SKIPPED * not checked, for the same error as far.py::*"])
