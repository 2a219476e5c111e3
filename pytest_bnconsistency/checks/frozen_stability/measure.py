"""What training does to the layers that are declared frozen."""

from __future__ import annotations

import functools
from dataclasses import replace

from pytest_bnconsistency.checks.check_context import CheckContext
from pytest_bnconsistency.checks.frozen_stability import fine_tuning
from pytest_bnconsistency.checks.frozen_stability.declared import Declarations
from pytest_bnconsistency.checks.frozen_stability.explain import Measured
from pytest_bnconsistency.checks.population_statistics import inference_pass
from pytest_bnconsistency.checks.traced_passes import IN_BOTH_MODES, TRAINING
from pytest_bnconsistency.data.arrays import Nest
from pytest_bnconsistency.execution.forward_pass import Pass, neutralised
from pytest_bnconsistency.execution.trainable_flags import flags_set
from pytest_bnconsistency.execution.training_steps import Modes, Ran, Steps, mode_gaps, shifted
from pytest_bnconsistency.results import Table

COLUMNS = ("layer", "frozen by", "own flag", "state in training", "output in training")


FEW = 8
"""Rows of a step where no data says how many there are."""


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
    gaps = mode_gaps(training.calls, seen.records)
    for layer in _drawing(training):
        gaps.pop(layer, None)  # dropout tells its modes apart, and that is no fault
    steps = Steps(subject, context.data, context.train_step, settings.batch_size, settings.steps)
    with flags_set([f.call.layer for f in declared.frozen], subject.layers()) as flagged:
        ran = steps.run(declared.variables)
    m = Measured(
        subject=subject,
        x=rows,
        steps=steps,
        frozen=declared.frozen,
        by_forward=frozenset(id(v) for v in seen.moved),
        by_steps=ran.moved,
        flagged=flagged,
        gaps=gaps,
        table=Table(COLUMNS, ()),
    )
    return m, ran


def _drawing(training: Pass) -> set[int]:
    """The layers that draw random numbers, and those that hold such layers, by identity."""
    random = {id(layer) for layer in training.random_layers}
    holders = {
        id(parent)
        for call in training.calls
        if id(call.layer) in random
        for parent in call.parents
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
