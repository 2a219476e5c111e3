"""What users call, with or without pytest: one model, one question, one answer."""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pytest_bnconsistency import checks, settings
from pytest_bnconsistency.checks.undisturbed import undisturbed
from pytest_bnconsistency.context import door
from pytest_bnconsistency.data.reading import Returned
from pytest_bnconsistency.errors import BNConsistencyError, ConsistencyFailure, OptionError
from pytest_bnconsistency.reporting import text
from pytest_bnconsistency.results import CheckResult, Report, Verdict
from pytest_bnconsistency.settings import DataOptions, Layer, Options
from pytest_bnconsistency.words import printable

if TYPE_CHECKING:
    from typing_extensions import Unpack  # Python 3.10 has none of its own


def assert_batch_invariance(model: Any, x: Any = None, **options: Unpack[Options]) -> CheckResult:
    """A row's result in inference does not depend on the rows that share its batch.

    Args:
        model: a Keras 3 or tf_keras model, built; a `tf.Module`, what `tf.saved_model.load`
            returns, or a function of x.
        x: rows to run, an array or a nest of arrays of shape `(rows, ...)`, of the dtypes that
            the model takes, finite. Without it, rows are generated that fit the model's inputs.
        options: fields of `Settings`: `rows` of a batch (8), `seed`, `examples`, `vacuous`, ...

    Raises:
        ConsistencyFailure: a row depends on its batch, or the check could not have seen it.
        BNConsistencyError: the model, `x` or an option cannot be used.

    At one batch shape a kept row has the same bits whatever is beside it. Between batch sizes it
    may move by rounding noise, measured by Monte Carlo arithmetic: Parker, "Monte Carlo
    Arithmetic", 1997.
    """
    __tracebackhide__ = True
    return _assert("batch_invariance", model, x, None, options).results[0]


def assert_inference_purity(model: Any, x: Any = None, **options: Unpack[Options]) -> CheckResult:
    """Inference changes no state, repeats itself, and means the same through every entry point.

    Args:
        model: as for `assert_batch_invariance`.
        x: as for `assert_batch_invariance`.
        options: fields of `Settings`: `rows` of a batch (8), `entry_points="all"`, `seed`, ...

    Raises:
        ConsistencyFailure: a variable's bits change, the same batch gives other bits the second
            time, or entry points differ by more than rounding noise.
        BNConsistencyError: the model, `x` or an option cannot be used.
    """
    __tracebackhide__ = True
    return _assert("inference_purity", model, x, None, options).results[0]


def assert_train_eval_agreement(
    model: Any,
    x: Any = None,
    y: Any = None,
    *,
    train_step: Callable[..., Any] | None = None,
    **options: Unpack[Options],
) -> CheckResult:
    """A trained model says the same in evaluation as it did in training.

    Args:
        model: a trained model; compiled if loss and metrics are to be compared.
        x: training data: arrays of shape `(rows, ...)`, a `tf.data.Dataset`, a `PyDataset`, or
            an iterable of batches. A long one is streamed.
        y: the targets, for loss and metrics; without them outputs and decisions are compared.
        train_step: a function `train_step(x, y)` that trains one batch, instead of `fit`: what
            a step does to the statistics is tried on it, and undone.
        options: fields of `Settings`: `batch_size`, `max_rows`, `updates`, `*_tolerance`,
            `planned_updates`, ...

    Raises:
        ConsistencyFailure: evaluation is worse than the population statistics of the data
            explain, or the check could not have seen it (a model that was never trained).
        BNConsistencyError: the model, the data or an option cannot be used.

    With `planned_updates`, a model that is not trained yet passes, and a `UserWarning` says if
    so many updates can't warm up its statistics.

    Source: the population statistics of Ioffe and Szegedy, 2015, taken as by Wu and Johnson,
    "Rethinking 'Batch' in BatchNorm", 2021; chance is their sampling error, in standard errors.
    """
    __tracebackhide__ = True
    report = _assert("train_eval_agreement", model, x, y, options, train_step=train_step)
    return report.results[0]


def assert_frozen_stability(
    model: Any,
    x: Any,
    y: Any = None,
    *,
    train_step: Callable[..., Any] | None = None,
    **options: Unpack[Options],
) -> CheckResult:
    """What is declared frozen stays frozen: training moves none of its state.

    Args:
        model: the model to train; everything that training changes is restored.
        x: rows to train on, as for `assert_train_eval_agreement`.
        y: the targets; needed where the model is compiled.
        train_step: a function `train_step(x, y)` that trains one batch, instead of `fit`.
        options: fields of `Settings`: `frozen`, a pattern of layer paths that count as frozen,
            besides `trainable=False` and `training=False`, as in `"backbone/*"`; `steps` for each
            batch shape (2); ...

    Raises:
        ConsistencyFailure: a frozen layer's state moves, or it runs in training mode.
        BNConsistencyError: the model, the data or an option cannot be used.
    """
    __tracebackhide__ = True
    return _assert("frozen_stability", model, x, y, options, train_step=train_step).results[0]


def assert_statistics_health(model: Any, x: Any = None, **options: Unpack[Options]) -> CheckResult:
    """The stored statistics are usable: finite, no variance negative, able to accumulate.

    Args:
        model: as for `assert_batch_invariance`; it need not be compiled.
        x: training data, as for `assert_train_eval_agreement`: how far the statistics are from
            the population's, in standard errors, is told, and fails nothing.
        options: fields of `Settings`: `statistics_rows`, `batch_size`, `ignore`, ...

    Raises:
        ConsistencyFailure: a statistic, a momentum, an axis or a dtype can't be right, or no
            layer holds statistics.
        BNConsistencyError: the model, `x` or an option cannot be used.
    """
    __tracebackhide__ = True
    return _assert("statistics_health", model, x, None, options).results[0]


def assert_baseline(
    model: Any,
    name: str | None = None,
    x: Any = None,
    y: Any = None,
    *,
    train_step: Callable[..., Any] | None = None,
    **options: Unpack[Options],
) -> CheckResult:
    """The model behaves as its baseline in the repository says.

    Args:
        model: a model as for the other assertions.
        name: the name of its baseline; by default, that of the test.
        x: training data, for what the checks say of it; the baseline holds none of it.
        y: the targets.
        train_step: as for `assert_frozen_stability`.
        options: fields of `Settings`: `weights`, `baseline_dir`, `baseline_checks`, ...

    Raises:
        ConsistencyFailure: something moved.
        BNConsistencyError: there is no baseline, or it is damaged; `pytest
            --bn-update-baseline=new` records one.
    """
    __tracebackhide__ = True
    if name is not None:
        options["baseline_name"] = name
    return _assert("baseline", model, x, y, options, train_step=train_step).results[0]


def record_baseline(
    model: Any,
    name: str | None = None,
    x: Any = None,
    y: Any = None,
    *,
    train_step: Callable[..., Any] | None = None,
    **options: Unpack[Options],
) -> CheckResult:
    """Write the baseline of a model, where pytest's `--bn-update-baseline` does not.

    Args and errors are those of `assert_baseline`. What did not move stays as it is written.
    """
    from pytest_bnconsistency.checks.baseline.file import save

    baselines = dataclasses.replace(door.get().baselines, update="changed", write=save)
    token = door.set(dataclasses.replace(door.get(), baselines=baselines))
    try:
        return assert_baseline(model, name, x, y, train_step=train_step, **options)
    finally:
        door.reset(token)


def bn_baseline(
    model: Any, x: Any = None, y: Any = None, **options: Unpack[Options]
) -> CheckResult:
    """What the fixture is: `assert_baseline`, where the test gives the name."""
    __tracebackhide__ = True
    return assert_baseline(model, None, x, y, **options)


assert_healthy_statistics = assert_statistics_health


def assert_consistency(
    model: Any,
    x: Any = None,
    y: Any = None,
    *,
    checks: Sequence[settings.CheckName] | None = None,
    train_step: Callable[..., Any] | None = None,
    **options: Unpack[Options],
) -> Report:
    """Several checks on one model: `check_consistency` that raises, with all failures at once.

    A check that could not have seen a violation fails only if `checks` names it. Arguments are
    those of `check_consistency`.

    Raises:
        ConsistencyFailure: one or more checks failed.
        BNConsistencyError: the model, the data, an option or a check's name cannot be used.
    """
    __tracebackhide__ = True
    call = Layer("call", options, arguments=("checks", "train_step"))
    return _assert(checks, model, x, y, call, train_step=train_step)


class BnCheck:
    """What the fixture `bn_check` is: the assertions as methods, each named as its check."""

    batch_invariance = staticmethod(assert_batch_invariance)
    inference_purity = staticmethod(assert_inference_purity)
    train_eval_agreement = staticmethod(assert_train_eval_agreement)
    frozen_stability = staticmethod(assert_frozen_stability)
    statistics_health = staticmethod(assert_statistics_health)
    healthy_statistics = statistics_health
    all = staticmethod(assert_consistency)


def check_consistency(
    model: Any,
    x: Any = None,
    y: Any = None,
    *,
    checks: Sequence[settings.CheckName] | None = None,
    train_step: Callable[..., Any] | None = None,
    **options: Unpack[Options],
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
    call = Layer("call", options, arguments=("checks", "train_step"))
    return run(model, x, y, checks, call, train_step=train_step)


def recalibrate(
    model: Any, data: Any, *, frozen: bool = False, **options: Unpack[DataOptions]
) -> list[str]:
    """Write the population statistics of `data` into the model; return the changed layers.

    Args:
        model: a model with normalization layers; weights, optimizer and flags stay as they are.
        data: training data, as for `assert_train_eval_agreement`: x, or `(x, y)`, of which y is
            not needed.
        frozen: whether frozen layers are changed, too; they are left alone by default.
        options: `batch_size`, `statistics_rows`, `max_rows` and `seed` of `Settings`.

    Raises:
        BNConsistencyError: no normalization layer moves in training mode, all are frozen, the
            statistics of the data are not finite or not what evaluation reads, or the data cannot
            be used. Nothing was written then.

    Source: the population statistics of Ioffe and Szegedy, 2015 (algorithm 2), aggregated over
    batches as in Wu and Johnson, "Rethinking 'Batch' in BatchNorm", 2021 (PreciseBN).
    """
    __tracebackhide__ = True
    try:
        as_fit = Returned(data) if isinstance(data, tuple) else data
        given = check_context(model, as_fit, None, options)
        from pytest_bnconsistency.checks.recalibration import recalibrate as write

        return undisturbed(lambda: write(given, frozen))
    except BNConsistencyError as error:
        raise error.with_traceback(None)  # noqa: B904 - the sentence says all


@contextlib.contextmanager
def preserve_state(model: Any) -> Iterator[None]:
    """Everything of `model` that changes inside is restored bitwise, also after an exception.

        with preserve_state(model):
            model.fit(x, y)

    That is weights, statistics, optimizer, flags, compiled functions, and random generators, also
    those of Python and numpy.

    Raises:
        BNConsistencyError: the model is of no known kind.
    """
    from pytest_bnconsistency.models import subject_of

    subject = subject_of(model)
    from pytest_bnconsistency.execution.state import preserve_state as preserve

    with preserve(subject):
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
    chosen = checks.named(names, baseline=resolved(options).baseline)

    def report() -> Report:
        given = check_context(model, x, y, options, asked=names is not None, train_step=train_step)
        return Report(given.subject.name, tuple(check.run(given) for check in chosen))

    return undisturbed(report)


def check_context(
    model: Any,
    x: Any,
    y: Any,
    options: Mapping[str, Any],
    *,
    asked: bool = True,
    train_step: Callable[..., Any] | None = None,
) -> checks.CheckContext:
    """The context of a check of `model`, under the options of the call and of the door around."""
    chosen = resolved(options)
    if train_step is not None and not callable(train_step):
        raise OptionError(
            f"train_step is {train_step!r}; expected a function train_step(x, y) that trains one "
            "batch"
        )
    return checks.CheckContext.of(model, x, y, chosen, asked=asked, train_step=train_step)


def context_returned(
    model: Any, data: Any, chosen: settings.Settings, *, asked: bool
) -> checks.CheckContext:
    """The same as for a call, with what a function of data returned."""
    given = None if data is None else Returned(data)
    return checks.CheckContext.of(model, given, None, chosen, asked=asked)


def enforce(results: Sequence[CheckResult], chosen: settings.Settings, *, asked: bool) -> None:
    """Let `results` fail, warn or pass, as their verdicts and the settings say.

    `asked` says that the checks were asked for by name. What is skipped is left to the door: an
    assertion never cuts short the test around it.

    Raises:
        ConsistencyFailure: at least one verdict fails.
    """
    __tracebackhide__ = True
    around = door.get()
    outcomes = [_outcome(result, chosen, asked) for result in results]
    for result, outcome in zip(results, outcomes, strict=True):
        around.record(result, outcome)
        for said in _warned(result, outcome, chosen):
            warnings.warn(said, UserWarning, stacklevel=4)
    failed = [r for r, outcome in zip(results, outcomes, strict=True) if outcome == "fail"]
    if failed:
        texts = [text.render(r, verbose=around.verbose, reproduce="") for r in failed[:-1]]
        texts.append(text.render(failed[-1], verbose=around.verbose, reproduce=around.reproduce))
        raise ConsistencyFailure("\n\n".join(texts), failed)


def _warned(result: CheckResult, outcome: str, chosen: settings.Settings) -> Iterator[str]:
    """What pytest shows as warnings: a verdict on request, and a schedule that is too short."""
    if outcome == "warn":
        yield result.headline
    if chosen.planned_updates is not None:
        for warning in result.warnings:
            if "planned_updates" in warning.evidence:
                yield printable(f"{warning.headline}; {warning.remedy}")


def _outcome(result: CheckResult, chosen: settings.Settings, asked: bool) -> str:
    by_default = "fail" if asked else "skip"
    if result.verdict is Verdict.VACUOUS:
        return chosen.vacuous or by_default
    if result.verdict is Verdict.NOT_APPLICABLE:
        return "skip" if result.waived else chosen.not_applicable or by_default
    return "pass" if result.verdict is Verdict.PASSED else "fail"


def _assert(
    names: Sequence[str] | None,
    model: Any,
    x: Any,
    y: Any,
    options: Mapping[str, Any],
    *,
    train_step: Callable[..., Any] | None = None,
) -> Report:
    __tracebackhide__ = True
    try:
        report = run(model, x, y, names, options, train_step=train_step)
    except BNConsistencyError as error:
        raise error.with_traceback(None)  # noqa: B904 - the sentence says all
    enforce(report.results, resolved(options), asked=names is not None)
    return report


def resolved(options: Mapping[str, Any]) -> settings.Settings:
    """The settings of a call with `options`, and of the door that stands around."""
    return settings.resolve(options, *door.get().options)
