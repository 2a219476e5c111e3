"""What was frozen in a model's life, by paths that stay when the model comes back from a file."""

from __future__ import annotations

from typing import Any

from pytest_bnconsistency.measurement.tracked_variables import tracked_candidates
from pytest_bnconsistency.models import Subject, subject_of

THE_MODEL = "the model"


class FrozenLayers:
    """The layers with statistics, what holds them, and the model: which of them are frozen."""

    def __init__(self, model: Any) -> None:
        subject = subject_of(model)
        self._around = _around(subject)
        self._frozen = {
            path for path, layer in _by_path(model).items() if not subject.trainable(layer)
        }

    @property
    def paths(self) -> list[str]:
        return list(self._around)

    def freeze(self, model: Any, path: str) -> Any:
        """The layer to freeze, which counts as frozen from now on."""
        self._frozen.add(path)
        return _by_path(model)[path]

    def unfreeze(self, model: Any, path: str) -> Any | None:
        """The layer to unfreeze; None unless it is frozen, or holds what is, and lies in nothing
        frozen.
        """
        holds = any(path in (frozen, *self._around[frozen]) for frozen in self._frozen)
        if not holds or self._frozen.intersection(self._around[path]):
            return None
        self._frozen.discard(path)
        return _by_path(model)[path]

    def flagged_otherwise(self, model: Any) -> str | None:
        """A layer that was frozen, and whose own flag says otherwise by now."""
        layers, subject = _by_path(model), subject_of(model)
        frozen = (path for path in self._around if self._frozen & {path, *self._around[path]})
        kept = (path for path in frozen if tracked_candidates(subject, layers[path]))
        return next((path for path in kept if subject.trainable(layers[path])), None)


def _by_path(model: Any) -> dict[str, Any]:
    subject = subject_of(model)
    return {subject.path(layer): layer for layer in subject.layers()} | {THE_MODEL: model}


def _around(subject: Subject) -> dict[str, tuple[str, ...]]:
    """Each with what holds it."""
    keeping = [layer for layer in subject.layers() if tracked_candidates(subject, layer)]
    parents = [above for layer in keeping for above in subject.above(layer)]
    paths = dict.fromkeys(subject.path(layer) for layer in [*keeping, *parents])
    found = {
        path: (*(other for other in paths if path.startswith(f"{other}/")), THE_MODEL)
        for path in paths
    }
    return {**found, THE_MODEL: ()}
