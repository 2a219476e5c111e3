"""Why an entry point does not repeat itself."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from pytest_bnconsistency.checks.budget import Tries
from pytest_bnconsistency.checks.inference_purity.undoing import LIBRARY, Runner
from pytest_bnconsistency.checks.training_mode_callers import to_blame
from pytest_bnconsistency.data.arrays import Nest
from pytest_bnconsistency.execution.activation_patching import Patch
from pytest_bnconsistency.execution.forward_pass import Pass
from pytest_bnconsistency.execution.layer_values import (
    REPEATED,
    in_trace,
    repeats_with,
    results_of,
    unrepeatable,
    values_of,
)
from pytest_bnconsistency.execution.observations import same_outputs
from pytest_bnconsistency.execution.random_operations import noting_draws
from pytest_bnconsistency.execution.state import preserve_state, restored
from pytest_bnconsistency.models import Subject
from pytest_bnconsistency.models.owned_objects import name_of
from pytest_bnconsistency.results import Explanation, Finding
from pytest_bnconsistency.rules import catalogue as rules
from pytest_bnconsistency.words import listed

SHOWN = 3
"""Operations that a cause names at most."""
NOTHING_SEEN = Explanation(
    cause="not established; no operation of TensorFlow was seen to draw, or to give other bits "
    "for the same input",
    remedy="look for random numbers of NumPy or Python; keep nothing from one call to the next: "
    "no counter, no cache",
)


def not_repeatable(
    subject: Subject, x: Nest, default: Pass, random: Sequence[str], mode: bool | None
) -> Finding:
    """The finding for entry points that give other bits the second time.

    `default` is a pass that leaves the mode out, `mode` what one of the entry points is told.
    """
    drawn, tested, tries = _drawn(default), False, Tries()
    if not drawn.places:
        return _unknown(subject, x, random, mode, tries)
    if tries.may("the random numbers held"):
        with contextlib.suppress(Exception):
            tested = _repeats_with(subject, x, mode, drawn.labels, default.drawing)
    explanation = _of_draws(drawn, tested, tries, _to_repeat(subject, random))
    return _finding(random, drawn, explanation)


def of_own_method(subject: Subject, runner: Runner, random: Sequence[str]) -> Finding | None:
    """The finding where the model's own `predict_step`, or such a method, is all that is random.

    It is for entry points that run the code of `runner`, where the model's calls repeat.
    """
    tries = Tries()

    def steady(names: Collection[str]) -> bool:
        if not tries.may(LIBRARY):
            return False
        with subject.as_library(names):
            return _repeats_itself(subject, runner)

    own = to_blame(runner.own, steady)
    if not own:
        return None
    who = f"the model's own {listed([subject.qualified(name) for name in own])}"
    explanation = Explanation(
        cause=f"{who} draws random numbers, or keeps something from one call to the next",
        tested="with the library's own in its place, the same batch gives the same bits",
        remedy=f"draw no random numbers in {listed(own)}, and keep nothing there from one call to "
        "the next",
        established=True,
    )
    # It is no layer: what else repeats itself does so for all that.
    return replace(_finding(random, _Drawn(own, [], []), explanation), layers=())


def of_metrics(holders: Sequence[str], random: Sequence[str]) -> Finding:
    """The finding where outputs hang on metrics of these layers: put back, all repeats."""
    explanation = Explanation(
        cause=f"the outputs hang on a metric of {listed(holders)}, which each call changes",
        tested="with the metric put back, the same batch gives the same bits",
        remedy="leave the metric out of the outputs; keep nothing from one call to the next",
        established=True,
    )
    return _finding(random, _Drawn(list(holders), [], []), explanation)


def _repeats_itself(subject: Subject, runner: Runner) -> bool:
    """Whether code that runs anew draws nothing and gives the same bits each time."""
    try:
        with preserve_state(subject), restored(runner.may_change), noting_draws() as drew:
            first = runner.run()
            again = [runner.run() for _ in range(REPEATED - 1)]
    except Exception:
        return False  # what can't be run so is not shown to repeat itself
    return not drew() and all(same_outputs(first, other) for other in again)


def _finding(random: Sequence[str], drawn: _Drawn, explanation: Explanation) -> Finding:
    places = drawn.places
    return rules.NOT_REPEATABLE.finding(
        layer=places[0] if places else "not located",
        layers=places,
        message=f"the same batch gives other bits the second time, through {listed(random)}",
        explanation=explanation,
        bound="no tolerance: bitwise",
        evidence={"random": list(random), "layers": drawn.paths},
    )


def _unknown(
    subject: Subject, x: Nest, random: Sequence[str], mode: bool | None, tries: Tries
) -> Finding:
    """The finding where no operation runs that is known to draw: one may do so all the same."""
    traced, found = Pass(subject, x, training=mode), dict[str, str]()
    if tries.may("the operations that give other bits for the same input"):
        found = unrepeatable(traced, x)
    if not found:
        return _finding(random, _Drawn([], [], []), NOTHING_SEEN)
    layers, around = traced.standing(found)
    paths = {id(call.layer): call.path for call in traced.calls}
    between = [f"between {before} and {after}" for before, after in around.values()]
    drawn = _Drawn([paths.get(id(layer), name_of(layer)) for layer in layers], [], between)
    patched = {name: Patch(values) for name, values in results_of(traced, x, found).items()}
    tested = all(repeats_with(traced, x, {}, patched) for _ in range(REPEATED))
    one = len(found) == 1
    cause = (
        f"{listed([*found.values()][:SHOWN])}, {_in(drawn)}, {'gives' if one else 'give'} other "
        "bits for the same input"
    )
    return _finding(
        random,
        drawn,
        Explanation(
            cause=cause if tested else f"not established; {cause}",
            tested=f"with what {'it gives' if one else 'they give'} held, the same batch gives "
            "the same bits"
            if tested
            else "",
            remedy="leave it out of inference, or give it a seed that stays, if it takes one",
            established=tested,
        ),
    )


def _in(drawn: _Drawn) -> str:
    return " and ".join([*(f"in {path}" for path in drawn.paths), *drawn.around])


@dataclass(frozen=True)
class _Drawn:
    """The layers that draw random numbers, the labels of their calls, and code between layers."""

    paths: list[str]
    labels: list[str]
    around: list[str]

    @property
    def places(self) -> list[str]:
        return [*self.paths, *self.around]


def _drawn(default: Pass) -> _Drawn:
    drawing = {id(layer) for layer in default.random_layers}
    # Held still, a layer may return what it was given.
    called = [*default.passing_calls, *default.calls]
    calls = [call for call in called if id(call.layer) in drawing]
    path_of = {id(call.layer): call.path for call in reversed(calls)}
    paths = [path_of.get(id(layer), name_of(layer)) for layer in default.random_layers]
    around = [f"between {before} and {after}" for before, after in default.drawing.values()]
    labels = [call.label for call in calls]
    return _Drawn(list(dict.fromkeys(paths)), labels, list(dict.fromkeys(around)))


def _of_draws(drawn: _Drawn, tested: bool, tries: Tries, remedy: str) -> Explanation:
    """Why rows are not as they were: what draws, if holding it was `tested` to mend that."""
    one = len(drawn.places) == 1
    who = listed([*drawn.paths, *(f"the code {place}" for place in drawn.around)])
    draws = f"{who} {'draws' if one else 'draw'} random numbers"
    whose = f"{'its' if one else 'their'} {'random numbers' if drawn.around else 'outputs'}"
    if tested:
        return Explanation(
            cause=f"{draws} in inference",
            tested=f"with {whose} held, the same batch gives the same bits",
            remedy=remedy,
            established=True,
        )
    unknown = f"not established; {draws}, and holding {whose} showed nothing"
    return Explanation(cause=tries.without_cause(unknown), remedy=remedy)


def _to_repeat(subject: Subject, random: Sequence[str]) -> str:
    """What has nothing drawn; a mode that was seen to draw nothing comes first."""
    if list(random) == [subject.call_text(None)]:
        advice = f"call the model with training=False for inference, {subject.call_text(False)}"
    else:
        advice = "draw random numbers in training mode only"
    return f"{advice}; keep augmentation outside the model"


def _repeats_with(
    subject: Subject,
    x: Nest,
    training: bool | None,
    labels: Collection[str],
    drawing: Collection[str],
) -> bool:
    """Whether the same rows give the same bits twice once calls and operations are held."""
    if not drawing:
        seen = Pass(subject, x, training=training, traced=False)
        patched = {label: known for label, known in values_of(seen, x).items() if label in labels}
        return bool(patched) and repeats_with(seen, x, patched)
    traced = Pass(subject, x, training=training)
    patched = {k: v for k, v in in_trace(traced, x)[1].items() if k in labels}
    drawn = {name: Patch(values) for name, values in results_of(traced, x, drawing).items()}
    return repeats_with(traced, x, patched, drawn)
