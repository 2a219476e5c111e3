"""The harness that our tests use, and authors of new checks: expect a verdict, and no trace.

    finding = expect_failure("batch_invariance", faulty, x, rule="BN101", layer="leak")
    expect_pass("batch_invariance", mended, x)

Every expectation also proves that the check left no trace on the model, the data and the global
random generators, by a snapshot that shares no code with the checks' own.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import numpy as np
from tensorflow.python.eager import context

from pytest_bnconsistency.assertions import check_consistency
from pytest_bnconsistency.data.arrays import flatten
from pytest_bnconsistency.models import subject_of
from pytest_bnconsistency.reporting import text
from pytest_bnconsistency.results import CheckResult, Finding, Verdict
from pytest_bnconsistency.settings import CheckName


@dataclass(frozen=True, kw_only=True)
class Expectation:
    """What a test expected of a model, and what was found.

    `kind` is the class of its subject, `options` are the names of those that were given. `found`
    are the rules that fail, each with its layer and whether its cause was tested; `rule` is the
    one that was expected. `remedied` says that this is the model of the failure before, mended.
    """

    model: Any
    check: str
    options: tuple[str, ...]
    expected: str
    verdict: str
    kind: str
    rule: str = ""
    found: tuple[tuple[str, str, bool], ...] = ()
    met: bool = True
    remedied: bool = False


def _to_nobody(expectation: Expectation) -> None:
    """Where no table is made of them."""


listener: ContextVar[Callable[[Expectation], None]] = ContextVar("listener", default=_to_nobody)
"""What hears each expectation."""


def expect_verdict(
    check: CheckName,
    verdict: Verdict | str,
    model: Any,
    x: Any = None,
    y: Any = None,
    **options: Any,
) -> CheckResult:
    """The result of one check, which must have this verdict and leave no trace.

    Args:
        check: the check's name.
        verdict: `"passed"`, `"failed"`, `"vacuous"` or `"not applicable"`.
        model: as for the assertions, like `x`, `y` and `options` (`train_step` included).
    """
    result = _decided(check, model, x, y, options)
    _compare(result, Verdict(verdict), model, options)
    return result


def expect_pass(
    check: CheckName, model: Any, x: Any = None, y: Any = None, **options: Any
) -> CheckResult:
    """The result of a check that must pass."""
    return expect_verdict(check, Verdict.PASSED, model, x, y, **options)


def expect_failure(
    check: CheckName,
    model: Any,
    x: Any = None,
    y: Any = None,
    *,
    rule: str,
    layer: str | None = None,
    cause_tested: bool | None = None,
    cause_contains: str | None = None,
    without: Iterable[str] = (),
    remedy: Callable[[Any], Any] | None = None,
    **options: Any,
) -> Finding:
    """The finding of `rule` in a check that must fail.

    Args:
        rule: the finding's id, `"BN101"`.
        layer: its layer path, whole.
        cause_tested: whether undoing the cause made the symptom go away.
        cause_contains: a part of its cause.
        without: neighbours that must not be named: parts of its cause, or rules of any finding.
        remedy: mends the model, or returns one that is mended; the check must pass then.
    """
    result = _decided(check, model, x, y, options)
    rules = [finding.rule for finding in result.findings]
    wrong: list[str] = []
    if rule in rules:
        found = result.findings[rules.index(rule)]
        wrong += _other_than(found, layer=layer, cause_tested=cause_tested)
        if cause_contains is not None and cause_contains not in found.cause:
            wrong.append(f"cause {found.cause!r}, expected {cause_contains!r} in it")
        named = "\n".join([found.cause, *rules])
        wrong += [f"{other!r} is named" for other in without if other in named]
    else:
        wrong.append(f"rule {rules}, expected {rule}")
    _compare(result, Verdict.FAILED, model, options, rule, wrong)
    if remedy is not None:
        mended = remedy(model)
        mended = model if mended is None else mended
        passes = _decided(check, mended, x, y, options)
        _compare(passes, Verdict.PASSED, mended, options, remedied=True)
    return found


def _decided(check: CheckName, model: Any, x: Any, y: Any, options: dict[str, Any]) -> CheckResult:
    """The result of one check, which must leave no trace."""
    with leaves_no_trace(model, x, y):
        result = check_consistency(model, x, y, checks=[check], **options)[check]
    result.to_dict()  # must not raise: results cross process boundaries
    return result


def _compare(
    result: CheckResult,
    expected: Verdict,
    model: Any,
    options: Iterable[str],
    rule: str = "",
    wrong: Iterable[str] = (),
    remedied: bool = False,
) -> None:
    """Raise what is `wrong` with a result, or that it is another verdict than expected."""
    if result.verdict != expected:
        wrong = [f"expected {expected}, and {result.check} said {result.verdict}"]
    wrong = list(wrong)
    listener.get()(
        Expectation(
            model=model,
            check=result.check,
            options=tuple(sorted(options)),
            expected=str(expected),
            verdict=str(result.verdict),
            kind=type(subject_of(model)).__name__,
            rule=rule,
            found=tuple((one.rule, one.layer, one.cause_tested) for one in result.findings),
            met=not wrong,
            remedied=remedied,
        )
    )
    if wrong:
        rendered = text.render(result, verbose=True)
        raise AssertionError("\n".join(wrong) + f"\nThe whole result:\n{rendered}")


def _other_than(found: Finding, **wanted: Any) -> Iterator[str]:
    for name, value in wanted.items():
        if value is not None and getattr(found, name) != value:
            yield f"{name} {getattr(found, name)!r}, expected {value!r}"


@contextlib.contextmanager
def leaves_no_trace(model: Any, *nests: Any) -> Iterator[None]:
    """Within it, neither `model` nor the arrays in `nests` nor a random generator may change."""
    before = _state(model, nests)
    try:
        yield
    finally:
        after = _state(model, nests)
        keys = sorted(before.keys() | after.keys())
        moved = [key for key in keys if before.get(key) != after.get(key)]
        if moved:
            shown = [f"  {k}: {before.get(k)!s:.60} became {after.get(k)!s:.60}" for k in moved]
            places = "\n".join(shown[:12])
            raise AssertionError(f"the check left a trace in {len(moved)} places:\n{places}")


def _state(model: Any, nests: tuple[Any, ...]) -> dict[str, Any]:
    """What must be the same before and after, by name: bytes, flags and identities."""
    operation_seeds = getattr(context.context(), "_rng", None)
    found: dict[str, Any] = {
        "python's random": random.getstate(),
        "numpy's random": str(np.random.get_state()),
        "tensorflow's random": getattr(context.context(), "_seed", None),
        "tensorflow's operation seeds": getattr(operation_seeds, "getstate", tuple)(),
    }
    layers = list(model._flatten_layers()) if hasattr(model, "_flatten_layers") else []
    optimizer = getattr(model, "optimizer", None)
    found |= _variables(model)
    for index, layer in enumerate(layers):
        found[f"layer {index} {layer.name}: trainable"] = layer.trainable
        found.update((f"layer {index} {layer.name}.{name}", "there") for name in vars(layer))
    compiled = ("train_function", "test_function", "predict_function")
    for name in (*compiled, "stop_training", "history"):
        found[f"model.{name}"] = id(getattr(model, name, None))
    found["optimizer.built"] = getattr(optimizer, "built", None)
    for index, leaf in enumerate(flatten(list(nests))):
        if isinstance(leaf, np.ndarray):
            found[f"array {index} of the data"] = leaf.shape, leaf.tobytes()
    return found


def _variables(model: Any) -> dict[str, Any]:
    """The bytes of the variables of a model, its optimizer and its metrics."""
    found: dict[str, Any] = {}
    variables_ = [*_listed(model, "variables"), *_listed(model, "weights")]
    variables = {"model": list({id(variable): variable for variable in variables_}.values())}
    for part in (getattr(model, "optimizer", None), *getattr(model, "metrics", [])):
        variables[f"{type(part).__name__} {id(part)}"] = _listed(part, "variables")
    for owner, variables_ in variables.items():
        found[f"{owner}: number of variables"] = len(variables_)
        for index, variable in enumerate(variables_):
            value = np.asarray(variable.numpy())
            name = getattr(variable, "path", None) or getattr(variable, "name", "")
            found[f"{owner}: {index} {name}"] = value.shape, value.tobytes()
    return found


def _listed(owner: Any, name: str) -> list[Any]:
    variables_ = getattr(owner, name, [])
    return list(variables_() if callable(variables_) else variables_)
