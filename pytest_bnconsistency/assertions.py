"""What users call, with or without pytest: one model, one question, one answer."""

from __future__ import annotations

import contextlib
import contextvars
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_bnconsistency import checks, settings
from pytest_bnconsistency.errors import ConsistencyFailure
from pytest_bnconsistency.reporting import text
from pytest_bnconsistency.results import CheckResult, Report, Verdict


@dataclass(frozen=True)
class Door:
    """What stands around an assertion: nothing in a script, a test item under pytest.

    `options` are the layers of settings below the call's own, the strongest first. `skip` is
    called with the reason of a result that is skipped; it raises where skipping is known.
    """

    options: tuple[Mapping[str, Any], ...] = ()
    record: Callable[[CheckResult], None] = lambda result: None
    skip: Callable[[str], None] = lambda reason: None
    verbose: bool = False
    reproduce: str = ""


door: contextvars.ContextVar[Door] = contextvars.ContextVar("door", default=Door())  # noqa: B039


def assert_batch_invariance(model: Any, x: Any = None, **options: Any) -> CheckResult:
    """A row's result in inference does not depend on the rows that share its batch.

    Args:
        model: a Keras 3 or tf_keras model, built.
        x: rows to run, an array or a nest of arrays of shape `(rows, ...)`, as the model takes
            them. Without it, rows are generated that fit the model's inputs.
        options: fields of `Settings`: `rows`, `seed`, `vacuous`.

    Raises:
        ConsistencyFailure: a row depends on its batch, or the check could not have seen it.
        BNConsistencyError: the model, `x` or an option cannot be used.
    """
    return _assert("batch_invariance", model, x, None, options)


def assert_inference_purity(model: Any, x: Any = None, **options: Any) -> CheckResult:
    """Inference changes no state, repeats itself, and means the same through every entry point."""
    return _assert("inference_purity", model, x, None, options)


def assert_train_eval_agreement(model: Any, x: Any, y: Any = None, **options: Any) -> CheckResult:
    """A trained model says the same in evaluation as it did in training.

    Args:
        model: a trained model; compiled if loss and metrics are to be compared.
        x: training data: arrays of shape `(rows, ...)`, a `tf.data.Dataset`, a `PyDataset`, or
            an iterable of batches.
        y: the targets, for loss and metrics; without them outputs and decisions are compared.
        options: fields of `Settings`: `batch_size`, `max_rows`, `updates`, `*_tolerance`, ...

    Raises:
        ConsistencyFailure: evaluation is worse than the population statistics of the data
            explain, or the check could not have seen it (a model that was never trained).
        BNConsistencyError: the model, the data or an option cannot be used.
    """
    return _assert("train_eval_agreement", model, x, y, options)


def assert_frozen_stability(
    model: Any,
    x: Any,
    y: Any = None,
    *,
    frozen: str | None = None,
    train_step: Callable[..., Any] | None = None,
    steps: int | None = None,
    **options: Any,
) -> CheckResult:
    """What is declared frozen stays frozen: training moves none of its state.

    Args:
        model: the model to train; everything that training changes is restored.
        x: rows to train on, as for `assert_train_eval_agreement`.
        y: the targets; needed where the model is compiled.
        frozen: a pattern of layer paths that count as frozen, besides `trainable=False` and
            `training=False`: `"backbone/*"`.
        train_step: a function `train_step(x, y)` that trains one batch, instead of `fit`.
        steps: training steps for each batch shape (2).

    Raises:
        ConsistencyFailure: a frozen layer's state moves, or it runs in training mode.
        BNConsistencyError: the model, the data or an option cannot be used.
    """
    given = {"frozen": frozen, "steps": steps}
    options.update({name: value for name, value in given.items() if value is not None})
    return _assert("frozen_stability", model, x, y, options, train_step=train_step)


def assert_healthy_statistics(model: Any, x: Any = None, **options: Any) -> CheckResult:
    """The stored statistics are usable."""
    return _assert("statistics_health", model, x, None, options)


def check_consistency(
    model: Any,
    x: Any = None,
    y: Any = None,
    *,
    checks: Sequence[str] | None = None,
    train_step: Callable[..., Any] | None = None,
    **options: Any,
) -> Report:
    """Run several checks on one model and return their results; never raises on findings.

    Args:
        model: as for the assertions.
        x: as for the assertions; checks that need data are not applicable without.
        y: the targets.
        checks: names of checks; all of them by default.
        train_step: as for `assert_frozen_stability`.
        options: fields of `Settings`.

    Raises:
        BNConsistencyError: the model, the data, an option or a check's name cannot be used.
    """
    return run(model, x, y, checks, options, train_step=train_step)


def recalibrate(model: Any, data: Any, **options: Any) -> list[str]:
    """Write the population statistics of `data` into the model; return the changed layers.

    Args:
        model: a model whose normalisers are trainable; frozen layers are left alone.
        data: training data, as for `assert_train_eval_agreement`; targets are not needed.
        options: `batch_size`, `max_rows` and `seed` of `Settings`.

    Raises:
        BNConsistencyError: no normaliser moves in training mode, or the data cannot be used.

    Source: the population statistics of Ioffe and Szegedy, 2015 (algorithm 2), aggregated over
    batches as in Wu and Johnson, "Rethinking 'Batch' in BatchNorm", 2021 (PreciseBN).
    """
    from pytest_bnconsistency.checks.train_eval_agreement import recalibrate as write

    return write(_case(model, data, None, options))


@contextlib.contextmanager
def preserve_state(model: Any) -> Iterator[None]:
    """Everything of `model` that changes inside is restored bitwise, also after an exception."""
    from pytest_bnconsistency.probes.state import preserve_state as preserve
    from pytest_bnconsistency.subjects import subject_of

    with preserve(subject_of(model)):
        yield


def run(
    model: Any,
    x: Any,
    y: Any,
    names: Sequence[str] | None,
    options: Mapping[str, Any],
    *,
    train_step: Callable[..., Any] | None = None,
) -> Report:
    """The results of the checks `names` (all by default), judged by nobody yet."""
    chosen = checks.named(names)
    case = _case(model, x, y, options, asked=names is not None, train_step=train_step)
    return Report(case.subject.name, tuple(check.run(case) for check in chosen))


def enforce(result: CheckResult, chosen: settings.Settings, *, asked: bool) -> CheckResult:
    """Let `result` fail, skip, warn or pass, as its verdict and the settings say.

    `asked` says that the check was asked for by name.

    Raises:
        ConsistencyFailure: the verdict fails.
    """
    around = door.get()
    around.record(result)
    fails = result.verdict is Verdict.FAILED
    if result.verdict is Verdict.VACUOUS:
        outcome = chosen.vacuous or ("fail" if asked else "skip")
        fails = outcome == "fail"
        if outcome == "warn":
            warnings.warn(result.headline, UserWarning, stacklevel=4)
            return result
    if fails:
        message = text.render(result, verbose=around.verbose, reproduce=around.reproduce)
        raise ConsistencyFailure(message, [result])
    if result.verdict is not Verdict.PASSED:
        around.skip(result.summary if not result.hint else f"{result.summary}; {result.hint}")
    return result


def _assert(
    name: str,
    model: Any,
    x: Any,
    y: Any,
    options: Mapping[str, Any],
    *,
    train_step: Callable[..., Any] | None = None,
) -> CheckResult:
    report = run(model, x, y, [name], options, train_step=train_step)
    return enforce(report.results[0], _settings(options), asked=True)


def _settings(options: Mapping[str, Any]) -> settings.Settings:
    return settings.resolve(options, *door.get().options)


def _case(
    model: Any,
    x: Any,
    y: Any,
    options: Mapping[str, Any],
    *,
    asked: bool = True,
    train_step: Callable[..., Any] | None = None,
) -> checks.Case:
    chosen = _settings(options)
    return checks.Case.of(model, x, y, chosen, asked=asked, train_step=train_step)


