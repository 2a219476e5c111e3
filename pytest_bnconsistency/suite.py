"""One class becomes a set of tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pytest_bnconsistency.errors import UnsupportedSubjectError

if TYPE_CHECKING:
    from pytest_bnconsistency.checks import Case, Check


class ConsistencySuite:
    """Subclass it and say what the model is; each check becomes a test of the subclass.

    The model is built once for all tests of the class. A check that could not have seen a
    violation is skipped, unless `checks` names it: then it fails.

    Example:
        class TestMyModel(ConsistencySuite):
            def model(self):
                return build()

            def data(self):
                return x_train, y_train
    """

    __test__ = False
    checks: ClassVar[Sequence[str] | None] = None
    """Names of the checks; all of them by default."""
    options: ClassVar[Mapping[str, Any]] = {}
    """Fields of `Settings`, as strong as a call's own."""
    _shared: ClassVar[Case | None] = None

    def model(self) -> Any:
        """The model under test."""
        raise UnsupportedSubjectError(
            f"{type(self).__name__} has no model; expected a method model(self) that returns one"
        )

    def data(self) -> Any:
        """`x`, `(x, y)`, `(x, y, sample_weight)` or a data set; None leaves it to the checks."""
        return None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        from pytest_bnconsistency.checks import named

        super().__init_subclass__(**kwargs)
        if "__test__" not in vars(cls):
            cls.__test__ = True
        chosen = named(cls.checks)
        for check in named(None):
            name = f"test_{check.name}"
            if name not in vars(cls):
                # None hides what a parent with more checks hands down.
                setattr(cls, name, _test(check) if check in chosen else None)

    def _case(self) -> Case:
        from pytest_bnconsistency import assertions

        cls = type(self)
        if cls._shared is None:
            x = assertions.one_batch(self.data())
            asked = cls.checks is not None
            cls._shared = assertions.case(self.model(), x, None, cls.options, asked=asked)
        return cls._shared

    @classmethod
    def teardown_class(cls) -> None:
        cls._shared = None


def _test(check: Check) -> Callable[[ConsistencySuite], None]:
    def test(self: ConsistencySuite) -> None:
        from pytest_bnconsistency import assertions

        assertions.judge(check, self._case())

    test.__name__, test.__doc__ = f"test_{check.name}", check.property
    return test
