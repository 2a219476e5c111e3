"""Who writes to variables that should stay: found by their stack, proven by leaving them out."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_bnconsistency.execution.training_steps import Ran, Steps
from pytest_bnconsistency.execution.variable_writers import Writer, writers_of
from pytest_bnconsistency.results import Explanation

MEANT = (
    "or, where these are meant to follow other weights (a momentum encoder, a target network), "
    "accept that by the option ignore"
)


@dataclass(frozen=True)
class Written:
    """Why variables are written to, and by whom; `by_decay` says that it is weight decay."""

    explanation: Explanation
    by_decay: bool
    writers: Sequence[Writer]

    @property
    def labels(self) -> list[str]:
        return _labels(self.writers)

    def others_than(self, layers: Iterable[Any]) -> bool:
        """Whether other code writes than calls of these layers, and no optimizer."""
        own = {id(layer) for layer in layers}
        return all(w.kind != "optimizer" and not own & w.inside for w in self.writers)


def named_writers(
    steps: Steps, variables: Sequence[Any], frozen: Sequence[Any] = ()
) -> Written | None:
    """Who writes to `variables` in training steps, with the layers `frozen` by flag; None where
    leaving that out changes nothing.

    Raises:
        BNConsistencyError: the user's step raised, if only when it is traced anew.
    """
    if not steps.possible:
        return None
    run = functools.partial(steps.run, variables, freeze=frozen, retrace=True)
    with writers_of(variables) as seen:
        run()
    writers = list(dict.fromkeys(writer for found in seen.values() for writer in found))
    if not writers:
        return None
    return _decay(run, writers) or _left_out(run, variables, writers)


def _decay(run: Callable[[], Ran], writers: Sequence[Writer]) -> Written | None:
    """Weight decay, where optimizers alone write and the state stays without it."""
    decaying = [w.by for w in writers if getattr(w.by, "weight_decay", None)]
    if not decaying or any(w.kind != "optimizer" for w in writers):
        return None
    if not _stay_without_decay(run, decaying):
        return None
    decay = float(decaying[0].weight_decay)
    explanation = Explanation(
        cause=f"the weight decay ({decay:g}) of the optimizer {type(decaying[0]).__name__}",
        tested="with weight_decay=None, their state stays",
        remedy="give the optimizer trainable variables only, or "
        "optimizer.exclude_from_weight_decay(var_list=...): decay moves a variable that has "
        "no gradient, too",
        established=True,
    )
    return Written(explanation, by_decay=True, writers=writers)


def _left_out(
    run: Callable[[], Ran], variables: Sequence[Any], writers: Sequence[Writer]
) -> Written | None:
    """Whoever writes, where the state stays without that."""
    with writers_of(variables, let=False):
        if run().moved:
            return None
    labels = _labels(writers)
    names, verb = " and ".join(labels), "writes" if len(labels) == 1 else "write"
    explanation = Explanation(
        cause=f"{names} {verb} these variables, frozen or not",
        tested=f"without what {names} {verb} to them, their state stays",
        remedy=_remedy(writers[0]),
        established=True,
    )
    return Written(explanation, by_decay=False, writers=writers)


def _labels(writers: Sequence[Writer]) -> list[str]:
    """Each once: the same line may write in several calls."""
    return list(dict.fromkeys(writer.label for writer in writers))


def _stay_without_decay(run: Callable[[], Ran], optimizers: Sequence[Any]) -> bool:
    decays = [(optimizer, optimizer.weight_decay) for optimizer in optimizers]
    try:
        for optimizer, _ in decays:
            optimizer.weight_decay = None
        return not run().moved
    finally:
        for optimizer, decay in decays:
            optimizer.weight_decay = decay


def _remedy(writer: Writer) -> str:
    if writer.kind == "optimizer":
        return (
            "take the gradient of, and give the optimizer, model.trainable_variables, read after "
            "the layers were frozen"
        )
    where = "let the callback" if writer.kind == "callback" else f"at {writer.place}:"
    return f"{where} write to model.trainable_variables only; {MEANT}"
