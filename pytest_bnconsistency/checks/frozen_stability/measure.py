"""What training does to the layers that are declared frozen."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import tensorflow as tf

from pytest_bnconsistency.checks.check_context import CheckContext
from pytest_bnconsistency.checks.frozen_stability import fine_tuning
from pytest_bnconsistency.checks.frozen_stability.declared import Declarations
from pytest_bnconsistency.checks.frozen_stability.measured import Frozen, Measured
from pytest_bnconsistency.checks.population_statistics import inference_pass
from pytest_bnconsistency.checks.traced_passes import IN_BOTH_MODES, TRAINING
from pytest_bnconsistency.data.arrays import Array, Nest, all_finite, rows_of, take_rows
from pytest_bnconsistency.execution.forward_pass import Observation, Pass, neutralised
from pytest_bnconsistency.execution.state import restored, same_bits
from pytest_bnconsistency.execution.trainable_flags import flags_set
from pytest_bnconsistency.execution.training_steps import (
    ModeGap,
    Modes,
    Ran,
    Steps,
    is_rounding,
    mode_gaps,
    shifted,
)
from pytest_bnconsistency.results import Table

COLUMNS = ("layer", "frozen by", "own flag", "state in training", "output in training")


FEW = 8
"""Rows of a step where no data says how many there are."""
TRIED = 16
"""Variables that are written and stay as they are, and are tried from 0, at most."""


def step_rows(context: CheckContext) -> Nest:
    """The rows of a training step."""
    given = context.data.rows if context.data else FEW
    return context.once("step", lambda: context.rows(min(context.settings.batch_size, given)))


def training_pass(context: CheckContext) -> Pass:
    """A pass in training mode that compares each layer's modes on the same input."""
    subject = context.subject

    def traced() -> Pass:
        modes = functools.partial(Modes, subject, lambda call: True)
        before = context.known(TRAINING)
        x = step_rows(context)
        return neutralised(subject, x, training=True, instrument=modes, after=before)

    return context.once(IN_BOTH_MODES, traced)


def measured(
    context: CheckContext, x: Nest, training: Pass, declared: Declarations
) -> tuple[Measured, Ran]:
    """What a forward pass on shifted rows, and real steps, do to what is declared."""
    subject, settings, rows = context.subject, context.settings, shifted(x)
    seen = training.run(rows)
    beyond = _beyond_rows(training, rows, seen.moved, declared.frozen)
    gaps = mode_gaps(training.calls, seen.records)
    for layer in _excused(training, gaps):
        gaps.pop(layer, None)
    steps = Steps(subject, context.data, context.train_step, settings.batch_size, settings.steps)
    with flags_set([f.call.layer for f in declared.frozen], subject.layers()) as flagged:
        ran = steps.as_users_run(declared.variables)
    m = Measured(
        subject=subject,
        x=rows,
        steps=steps,
        frozen=declared.frozen,
        by_forward=frozenset(id(v) for v in (*_moved(seen, ran), *beyond)),
        by_steps=ran.moved,
        flagged=flagged,
        gaps=gaps,
        table=Table(COLUMNS, ()),
        beyond=beyond,
    )
    if not (differing := [f for f in declared.without_variables if m.gap(f).differs]):
        return m, ran
    return replace(m, frozen=[*m.frozen, *(m.meeting(differing) or [])]), ran


def _moved(seen: Observation, ran: Ran) -> list[Any]:
    """What a pass moves, without what it rounds otherwise than steps do, which leave its bits."""

    unmoved = {id(v) for v in seen.moved if ran.sizes} - ran.moved
    return [
        v
        for v in seen.moved
        if id(v) not in unmoved or not is_rounding(v.numpy(), seen.after[id(v)])
    ]


def _beyond_rows(
    training: Pass, rows: Nest, moved: Iterable[Any], frozen: Sequence[Frozen]
) -> tuple[Any, ...]:
    """What a pass writes to and leaves as it is, because what is stored has seen more than `rows`.

    A maximum only moves when it is exceeded. What comes back to its old value from 0 as well, a
    flag, or to the same with other rows, a vector of the weights alone, hangs on no rows.
    """
    if not training.is_traced:  # what it writes is not known
        return ()
    candidates = {*map(id, training.written)} - {*map(id, moved)}
    owned = {id(v): v for f in frozen for v in f.variables if id(v) in candidates}
    of_floats = [v for v in owned.values() if v.dtype.is_floating]
    return tuple(v for v in of_floats[:TRIED] if _moves_from_zero(training, rows, v))


def _moves_from_zero(training: Pass, rows: Nest, variable: Any) -> bool:
    value, after = variable.numpy(), _from_zero(training, rows, variable)
    if after is None or not all_finite([after]) or same_bits(after, value):
        return False
    if (count := rows_of(rows)) < 2:
        return True
    halves = [np.resize(half, count) for half in np.array_split(np.arange(count), 2)]
    first, second = (_from_zero(training, take_rows(rows, half), variable) for half in halves)
    return first is None or second is None or not same_bits(first, second)


def _from_zero(training: Pass, rows: Nest, variable: Any) -> Array | None:
    with restored([variable]):
        variable.assign(tf.zeros_like(variable))
        return training.run(rows).after.get(id(variable))


def _excused(training: Pass, gaps: Mapping[int, ModeGap]) -> set[int]:
    """The layers, by identity, whose modes are not alike for a reason that is no fault of theirs.

    Random numbers, of dropout, or a layer inside whose own modes are not alike.
    """
    differing = {layer for layer, gap in gaps.items() if gap.differs}
    if not differing:
        return set()
    random = {id(layer) for layer in (*training.random_layers, *training.with_random_numbers())}
    holders = {
        id(parent)
        for call in (*training.calls, *training.inner_calls)
        if id(call.layer) in random | differing
        for parent in call.parents
        if parent is not call.layer
    }
    return random | holders


def start_of(context: CheckContext, training: Pass, m: Measured) -> fine_tuning.Start | None:
    """Both modes on the user's own rows, where there are targets to score them by."""
    if context.data is None or context.data.y is None or context.subject.modeless:
        return None
    differing = [id(f.call.layer) for f in m.by_batch]
    return fine_tuning.start(
        context.subject,
        context.data,
        context.settings.batch_size,
        inference_pass(context),
        training,
        differing,
    )


def with_table(m: Measured, start: fine_tuning.Start | None) -> Measured:
    """With the layers as a table, the moving ones first, and how far both modes are apart."""
    telling = start if start is not None and start.differs and m.by_batch else None
    ordered = sorted(m.frozen, key=lambda f: (f not in m.moving, -m.gap(f).distance))
    rows = tuple(
        (
            f.path,
            f.by,
            str(f.own_flag),
            "moves" if f in m.moving else "still",
            f"{m.gap(f).distance:.3g} off" if m.gap(f).differs else "as in inference",
        )
        for f in ordered
    )
    return replace(m, table=Table(COLUMNS, rows), start=telling)
