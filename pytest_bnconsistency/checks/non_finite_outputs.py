"""Outputs that are NaN or Inf: weights, rows or stored statistics are at fault."""

from __future__ import annotations

from pytest_bnconsistency.checks.check_context import CheckContext
from pytest_bnconsistency.checks.population_statistics import inference_pass
from pytest_bnconsistency.checks.unanswered import Unanswered
from pytest_bnconsistency.data.arrays import all_finite
from pytest_bnconsistency.measurement.tracked_variables import tracked_candidates
from pytest_bnconsistency.models import Subject
from pytest_bnconsistency.models.owned_objects import variable_name
from pytest_bnconsistency.words import listed

SHOWN = 3


def not_finite(context: CheckContext, why: str) -> Unanswered:
    """What to do where the outputs are so."""
    weights = spoilt_weights(context.subject)
    if weights:
        named = listed(weights, most=SHOWN)
        return Unanswered(
            f"{why}, and so are weights ({named})",
            "training went wrong, or what was loaded: train again, or put sound weights in",
        )
    hint = "statistics_health says whether stored statistics are at fault"
    if context.data is None:
        hint = (
            "give rows as the model takes them as x, or --bn-data: those that were generated are "
            f"standard normal; and {hint}"
        )
    return Unanswered(why, hint)


def has_finite_outputs(context: CheckContext) -> bool:
    """Whether evaluation gives numbers for the first of the given rows."""
    return all_finite(inference_pass(context).run(context.given.take([0, 1]).x).outputs)


def spoilt_weights(subject: Subject) -> list[str]:
    """The weights that train and have NaN or Inf in them, as `kernel of dense`."""
    found = dict[int, str]()
    for layer in subject.layers():
        statistics = {id(variable) for variable in tracked_candidates(subject, layer)}
        for variable in subject.own_variables(layer):
            trains = variable.dtype.is_floating and id(variable) not in statistics
            if trains and not all_finite([variable.numpy()]):
                name = f"{variable_name(layer, variable)} of {subject.path(layer)}"
                found.setdefault(id(variable), name)
    return list(found.values())
