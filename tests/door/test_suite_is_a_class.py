"""A suite is an ordinary pytest class: fixtures, parameters, marks, overriding, bases."""

import pytest

HEAD = """
    import abc
    import pytest
    from conftest import FakeModel
    from pytest_bnconsistency import ConsistencySuite

    built = []

    def good():
        built.append("good")
        return FakeModel()

    def bad():
        built.append("bad")
        return FakeModel(batch_invariance="failed", frozen_stability="not applicable")

"""


@pytest.mark.parametrize("scope", ["class", "function", "module"])
def test_a_model_for_each_parameter_of_a_fixture(project, scope):
    project.makepyfile(
        HEAD
        + f"""
    @pytest.fixture(params=[good, bad], ids=["good", "bad"], scope={scope!r})
    def factory(request):
        return request.param

    class TestModels(ConsistencySuite):
        @pytest.fixture(autouse=True)
        def take(self, factory):
            self.factory = factory

        def model(self):
            return self.factory()

    def test_each_was_built_once():
        assert sorted(built) == ["bad", "good"]
    """
    )
    result = project.runpytest("-v")
    result.assert_outcomes(passed=3 + 1 + 1, failed=1, skipped=1)
    result.stdout.fnmatch_lines_random(
        ["*::test_batch_invariance?bad? FAILED*", "*::test_batch_invariance?good? PASSED*"]
    )


@pytest.mark.parametrize(
    "how",
    [
        """
    @pytest.mark.parametrize("factory", [good, bad], ids=["good", "bad"])
    class TestModels(ConsistencySuite):
        def model(self, factory):
            return factory()
    """,
        """
    @pytest.fixture(params=["good", "bad"], scope="class")
    def factory(request):
        return globals()[request.param]

    @pytest.fixture
    def rows():
        return [[1.0], [2.0]], [0.0, 1.0]

    class TestModels(ConsistencySuite):
        def model(self, factory):
            return factory()

        def data(self, rows):
            return rows
    """,
        """
    class Shared(ConsistencySuite):
        def model(self, factory):
            return factory()

    @pytest.mark.parametrize("factory", [good, bad], ids=["good", "bad"])
    class TestModels(Shared):
        pass
    """,
        """
    class TestModels(ConsistencySuite):
        @pytest.fixture(params=[good, bad], ids=["good", "bad"])
        def factory(self, request):
            return request.param

        @staticmethod
        def model(factory):
            return factory()

        @classmethod
        def data(cls, factory):
            return [[1.0], [2.0]]
    """,
    ],
    ids=["parametrize", "fixtures", "inherited", "static"],
)
def test_fixtures_and_parameters_as_arguments(project, how):
    project.makepyfile(HEAD + how)
    result = project.runpytest("-v", "--strict-markers")
    result.assert_outcomes(passed=3 + 1, failed=1, skipped=1)
    result.stdout.fnmatch_lines_random(
        ["*::test_batch_invariance?bad? FAILED*", "*::test_batch_invariance?good? PASSED*"]
    )


@pytest.mark.parametrize(
    "how",
    [
        "model = FakeModel(); data = [[1.0], [2.0]], [0.0, 1.0]",
        "model = property(lambda self: FakeModel())",
        """
        @pytest.fixture(scope="class")
        def model(self):
            return good()

        @pytest.fixture
        def data(self, model):
            return [[1.0], [2.0]], [0.0, 1.0]
        """,
        """
        @pytest.fixture(params=[good])
        def model(self, request):
            return request.param()

        @staticmethod
        def data(model):
            assert isinstance(model, FakeModel)
        """,
    ],
    ids=["attributes", "property", "fixtures", "parameters"],
)
def test_a_model_that_is_an_attribute_or_a_fixture(project, how):
    project.makepyfile(
        HEAD
        + f"""
    class TestModel(ConsistencySuite):
        {how.strip()}

        def test_frozen_stability(self, request):
            super().test_frozen_stability()
            from pytest_bnconsistency.plugin import ENTRIES
            [entry] = request.node.stash[ENTRIES]
            assert ("x" in entry["evidence"]) == {"[[1.0]" in how}
    """
    )
    project.runpytest().assert_outcomes(passed=3)


SETTINGS = """
    def seen(request):
        from pytest_bnconsistency.plugin import ENTRIES
        return [entry["evidence"] for entry in request.node.stash[ENTRIES]]

    class TestSettings(ConsistencySuite):
        options = {"seed": 5}

        def model(self):
            built.append("model")
            return FakeModel(train_eval_agreement="vacuous")

        def data(self):
            built.append("data")
            return [[1.0], [2.0]]

        @pytest.mark.bnconsistency(rows=4, seed=9)
        def test_batch_invariance(self, request):
            super().test_batch_invariance()
            assert [(e["rows"], e["seed"]) for e in seen(request)] == [(4, 5)]

        @pytest.mark.bnconsistency(rows=6, vacuous="fail")
        def test_train_eval_agreement(self, request):
            super().test_train_eval_agreement()

        def test_frozen_stability(self, request):
            super().test_frozen_stability()
            assert [(e["rows"], e["seed"]) for e in seen(request)] == [(8, 5)]

    def test_built_once():
        assert built.count("model") == 1
"""


@pytest.mark.parametrize("only", [(), ("-k", "train_eval"), ("-p", "no:randomly", "-k", "frozen")])
def test_each_test_has_its_own_settings(project, only):
    project.makepyfile(HEAD + SETTINGS)
    result = project.runpytest(*only)
    if not only:
        result.assert_outcomes(passed=3, failed=1)
    elif "frozen" in only:
        result.assert_outcomes(passed=1)
    else:
        result.assert_outcomes(failed=1)


def test_one_check_is_marked_or_overridden(project):
    project.makepyfile(
        HEAD
        + """
    class TestSound(ConsistencySuite):
        def model(self):
            return good()

        @pytest.mark.xfail(strict=True, reason="a leak that is known")
        def test_batch_invariance(self):
            super().test_batch_invariance()

        @pytest.mark.parametrize("again", [1, 2])
        def test_frozen_stability(self, again):
            super().test_frozen_stability()
            assert again == 1

    class TestFaulty(TestSound):
        checks = ["batch_invariance"]

        def model(self):
            return bad()
    """
    )
    result = project.runpytest("-ra")
    # The second class inherits two tests that are written by hand, and one mark.
    result.assert_outcomes(failed=2 + 2, passed=1 + 1, xfailed=1)
    result.stdout.fnmatch_lines_random(
        [
            "*[[]XPASS(strict)[]] a leak that is known*",
            "FAILED *::TestSound::test_frozen_stability[[]2[]] - assert 2 == 1",
            "XFAIL *::TestFaulty::test_batch_invariance*",
        ]
    )


@pytest.mark.parametrize(
    "base",
    [
        "class TestBase(ConsistencySuite):\n        checks = ['batch_invariance']",
        "class Base(ConsistencySuite):\n        def model(self):\n            return self.make()",
        "class TestBase(ConsistencySuite, abc.ABC):\n        @abc.abstractmethod\n"
        "        def model(self): ...",
        "class Base(ConsistencySuite):\n        __test__ = False\n"
        "        def model(self):\n            return self.make()",
    ],
    ids=["no-model", "template", "abc", "explicit"],
)
def test_a_base_is_no_test(project, base):
    name = base.partition("(")[0].removeprefix("class ")
    project.makepyfile(
        HEAD
        + f"""
    {base}

    class TestGood({name}):
        checks = ["batch_invariance"]
        make = model = lambda self: good()

    class TestBad({name}):
        checks = ["batch_invariance"]
        make = model = lambda self: bad()
    """
    )
    result = project.runpytest("-v")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.no_fnmatch_line(f"*::{name}::*")


def test_an_imported_suite_and_one_with_more_checks_than_its_base(project):
    project.makepyfile(
        suites=HEAD
        + """
    class Shared(ConsistencySuite):
        checks = ["batch_invariance"]

        def model(self):
            return good()
    """
    )
    project.makepyfile(
        test_it="""
    from suites import ConsistencySuite, Shared

    class TestMore(Shared):
        checks = ["batch_invariance", "frozen_stability"]
    """
    )
    project.runpytest().assert_outcomes(passed=2)


def test_an_import_of_the_base_collects_nothing(project):
    project.makepyfile("from pytest_bnconsistency import ConsistencySuite\ndef test_it(): pass")
    project.runpytest().assert_outcomes(passed=1)


def test_a_failure_points_at_the_class(project):
    path = project.makepyfile(
        HEAD
        + """
    class TestBad(ConsistencySuite):
        def model(self):
            return bad()

    class TestRaising(ConsistencySuite):
        checks = ["batch_invariance", "frozen_stability"]

        def model(self):
            return [][1]
    """
    )
    lines = path.read_text(encoding="utf-8").splitlines()
    place = next(at for at, line in enumerate(lines, 1) if line.startswith("class TestBad"))
    result = project.runpytest("-v", "--junit-xml=out.xml", "-o", "junit_family=xunit1", "-ra")
    result.assert_outcomes(failed=1, errors=1, passed=1, skipped=2)
    result.stdout.no_fnmatch_line("*suite.py*")
    result.stdout.no_fnmatch_line("*shared.py*")
    result.stdout.fnmatch_lines(
        [
            ">       return [[][]][[]1[]]",
            f"SKIPPED *{path.name}:{place}: nothing to see*",
            "ERROR *::TestRaising::test_batch_invariance - IndexError: list index out of range",
        ]
    )
    xml = (project.path / "out.xml").read_text(encoding="utf-8")
    assert f'name="test_batch_invariance" file="{path.name}" line="{place - 1}"' in xml
    lines = project.runpytest("--tb=line").outlines
    assert f"{path}:{place}: BN101 fake-leak: batch_invariance is off by 7" in lines
