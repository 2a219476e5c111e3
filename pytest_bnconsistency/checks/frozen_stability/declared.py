"""What is declared frozen, and by what; and the normalization layers, frozen or not."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Sequence
from typing import Any

from pytest_bnconsistency.checks.check_context import CheckContext
from pytest_bnconsistency.checks.frozen_stability.measured import Frozen
from pytest_bnconsistency.checks.frozen_stability.status import NormalizationLayer
from pytest_bnconsistency.checks.unanswered import Unanswered
from pytest_bnconsistency.errors import DataError
from pytest_bnconsistency.execution.forward_pass import Pass
from pytest_bnconsistency.measurement.tracked_variables import tracked_candidates
from pytest_bnconsistency.models import Call, Subject
from pytest_bnconsistency.models.owned_objects import name_of
from pytest_bnconsistency.words import counted


class Declarations:
    """What the flags, the calls and the user's pattern declare of the layers of a pass."""

    def __init__(self, context: CheckContext, training: Pass) -> None:
        self._subject, self._training = context.subject, training
        self._pattern = context.settings.frozen
        self._in_inference = {id(layer) for layer in context.subject.inference_calls()}
        declared = self._declared()
        self.frozen = [f for f in declared if f.variables]
        self.without_variables = [f for f in declared if not f.variables and not f.inference_only]
        self._check_pattern()
        self.normalization_layers = self._normalization_layers()

    @property
    def variables(self) -> list[Any]:
        """What must stay, and all that normalization layers hold."""
        owned = [v for n in self.normalization_layers for v in (*n.statistics, *n.weights)]
        return [*(v for f in self.frozen for v in f.variables), *owned]

    @property
    def none_frozen(self) -> Unanswered:
        """Why there is nothing to check where nothing is declared frozen."""
        found = len(self.normalization_layers)
        free = f"; {counted(found, 'normalization layer')} trainable" if found else ""
        return Unanswered(
            f"no layer with variables is declared frozen{free}",
            "set trainable=False, call with training=False, or say frozen='backbone/*'",
        )

    def _of(self, call: Call) -> Frozen | None:
        return _declared(self._subject, call, self._in_inference, self._pattern)

    def _declared(self) -> list[Frozen]:
        found: dict[int, Frozen] = {}
        for call in _all_calls(self._training):
            if id(call.layer) not in found and (frozen := self._of(call)) is not None:
                found[id(call.layer)] = frozen
        return list(found.values())

    def _normalization_layers(self) -> list[NormalizationLayer]:
        """Layers with variables of their own that follow what they see, rather than a gradient."""
        subject = self._subject
        found: dict[int, NormalizationLayer] = {}
        for call in _all_calls(self._training):
            tracked = tracked_candidates(subject, call.layer) if call.is_layer else []
            if not tracked or id(call.layer) in found or not subject.takes_training(call.layer):
                continue
            statistics = {id(v) for v in tracked}
            weights = [v for v in subject.own_variables(call.layer) if id(v) not in statistics]
            frozen = self._of(call)
            by = "" if frozen is None else frozen.by
            found[id(call.layer)] = NormalizationLayer(call, by, tracked, weights)
        return list(found.values())

    def _check_pattern(self) -> None:
        subject, pattern = self._subject, self._pattern
        paths = [
            c.path
            for c in _all_calls(self._training)
            if c.is_layer and subject.own_variables(c.layer)
        ]
        if pattern and not any(fnmatch.fnmatchcase(path, pattern) for path in paths):
            known = ", ".join(list(dict.fromkeys(paths))[:4])
            raise DataError(
                f"frozen={pattern!r} matches no layer that has variables; expected a pattern of "
                f"paths such as {known}"
            )


def _declared(
    subject: Subject, call: Call, in_inference: set[int], pattern: str | None
) -> Frozen | None:
    """What declares the call's layer frozen, with all variables, if any, that must stay then."""
    layer = call.layer
    if not call.is_layer:
        return None
    own = subject.trainable(layer)
    named = pattern is not None and fnmatch.fnmatchcase(call.path, pattern)

    def by(reason: str, **kinds: bool) -> Frozen:
        statistics_only = kinds.get("inference_only", False)
        tracked = tracked_candidates(subject, layer) if statistics_only else None
        variables = subject.own_variables(layer) if tracked is None else tracked
        return Frozen(call, reason, tuple(variables), own, named=named, **kinds)

    if not own:
        return by("trainable=False")
    if (above := _frozen_above(subject, call)) is not None:
        return by(f"trainable=False on {above}", above=True)
    if named:
        return by(f"pattern {pattern}", expected=True)
    outer = [each for each in (layer, *reversed(call.parents)) if id(each) in in_inference]
    outer += [layer] if call.called_with[-1] is False else []
    if not outer:
        return None
    return by(f"training=False in the call of {name_of(outer[0])}", inference_only=True)


def _frozen_above(subject: Subject, call: Call) -> str | None:
    """What holds the call's layer and is frozen by its flag, the nearest first."""
    for parent in reversed(call.parents):
        if not subject.trainable(parent):
            return name_of(parent)
    return None if subject.trainable(subject.model) else "the model"


def _all_calls(training: Pass) -> Iterator[Call]:
    """The calls of a pass; then, as if called, layers that others run, and that nobody ran."""
    subject, seen = training.subject, set()
    calls = training.state_calls()
    for call in calls:
        seen.add(id(call.layer))
        yield call
    for call in calls:
        below = call.is_layer and call.layer is not subject.model
        for inside in subject.sublayers(call.layer) if below else ():
            if id(inside) not in seen:
                seen.add(id(inside))
                parents, called_with = (*call.parents, call.layer), (*call.called_with, None)
                path = f"{call.path}/{name_of(inside)}"
                yield Call(inside, path, 0, True, parents, called_with, (), {})
    for layer in subject.layers():
        if id(layer) not in seen:
            above = subject.above(layer)
            called_with = (None,) * (len(above) + 1)
            yield Call(layer, subject.path(layer), 0, True, above, called_with, (), {})


def not_frozen(subject: Subject, training: Pass, frozen: Sequence[Frozen]) -> dict[str, Any]:
    """The layers with variables that are not declared frozen, by their paths."""
    names = {id(f.call.layer) for f in frozen}
    return {
        call.path: call.layer
        for call in training.calls
        if call.is_layer and id(call.layer) not in names and subject.own_variables(call.layer)
    }
