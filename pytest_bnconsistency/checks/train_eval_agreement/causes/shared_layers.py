"""A layer that runs on several inputs in a step, and has one set of statistics for them."""

from __future__ import annotations

from pytest_bnconsistency.checks.train_eval_agreement.causes.cause import HALF, Cause
from pytest_bnconsistency.checks.train_eval_agreement.causes.own_steps import unlike_inputs
from pytest_bnconsistency.checks.train_eval_agreement.measured import Measured
from pytest_bnconsistency.measurement.compared_outputs import Side, gap
from pytest_bnconsistency.measurement.statistics_per_call import most_unlike, per_call
from pytest_bnconsistency.measurement.tracked_variables import write_statistics
from pytest_bnconsistency.words import digits


def shared_by_inputs(m: Measured) -> Cause | None:
    """Give each call of a shared layer statistics of its own: does what training said return?"""
    run, inputs = per_call(m.training, m.tracked, m.seen, m.batches[0].x)
    if run is None:
        return None
    write_statistics(m.tracked, m.reference)
    single = Side(run.over(m.data.batches(m.size)))
    before = gap(m.stored, m.trained, m.data).outputs
    left = gap(single, m.trained, m.data).outputs
    if not left < HALF * min(before, gap(m.population, m.trained, m.data).outputs):
        return None
    path, given = next(iter(inputs.items()))
    tested = (
        f"with statistics of its own for each call, the outputs are {digits(left, 2)} standard "
        f"deviations from those of training, with the stored ones {digits(before, 2)}"
    )
    return unlike_inputs(path, *most_unlike(given), tested)
