"""What is said where rows keep their results, and where that can't be told."""

from __future__ import annotations

from collections.abc import Mapping

from pytest_bnconsistency.checks.batch_invariance.comparisons import Compared
from pytest_bnconsistency.checks.batch_invariance.detection_limit import detection_limit
from pytest_bnconsistency.checks.batch_invariance.judged import names_of
from pytest_bnconsistency.checks.batch_invariance.padding import Further
from pytest_bnconsistency.checks.non_finite_outputs import not_finite
from pytest_bnconsistency.checks.unanswered import Unanswered
from pytest_bnconsistency.data.arrays import rows_of
from pytest_bnconsistency.measurement.rounding_noise import NOISE_DOMINATED
from pytest_bnconsistency.words import listed

BE_REPEATABLE = "remove the randomness from inference; inference_purity says where it is"
NOTHING_WOULD_SHOW = Unanswered(
    why="not even a row moved by 0.1 of its batch's mean would have been seen",
    hint="give rows that differ, and a model whose layers are not all zero",
)


def inconclusive(compared: Compared, further: Further) -> Unanswered | None:
    """Why nothing can be told though nothing was found, and what to do."""
    if not compared.known:
        return Unanswered(
            why="inference is random: the same batch gives other bits in a second run",
            hint=BE_REPEATABLE,
        )
    if unseen := names_of([entry for entry in compared.unknown if entry.observed is None]):
        return Unanswered(
            why=f"the same batch gives other bits in a second run of {listed(unseen)}, of which "
            "no layer can be looked at",
            hint=BE_REPEATABLE,
        )
    if not compared.finite:
        return not_finite(compared.context, "the outputs are NaN or Inf, whatever the batch")
    if not compared.sound:
        outputs = [output for given in compared.outputs(repeating=True) for output in given]
        shapes = listed(dict.fromkeys(str(output.shape) for output in outputs)) or "no arrays"
        rows = rows_of(compared.x)
        return Unanswered(
            why=f"no output has the {rows} rows of the batch first: {shapes}",
            hint="give a model, or a function around it, whose outputs have the rows first",
        )
    if compared.dominated or any(moved.dominated for moved in further.moves):
        return Unanswered(
            why="rounding alone may move the outputs by as much as they are large, so no "
            "change of them between batches of other sizes or lengths tells anything",
            hint="give rows whose outputs do not cancel to nearly zero, or compute in a higher "
            "precision",
        )
    return None


def detection_limits(compared: Compared) -> Mapping[str, float]:
    """The smallest leak that would have been seen, for each place where one would have been."""
    context, x, row_by_row = compared.context, compared.x, compared.row_by_row
    seen = detection_limit(
        context, x, row_by_row, compared.noise if compared.row_routing else None
    )
    if compared.row_routing and all(share is None for share in seen.values()):
        seen = detection_limit(context, x, row_by_row)  # no output shows it: hidden bits may
    return {place: share for place, share in seen.items() if share is not None}


def _batches(number: int) -> str:
    return f"{number} other batch{'' if number == 1 else 'es'}"


def passed_summary(compared: Compared, further: Further, limits: Mapping[str, float]) -> str:
    """What held, and what would have been seen."""
    smallest = "; ".join(f"{share:.0e} at {place}" for place, share in limits.items())
    kept = "values within noise" if compared.row_routing else "bits"
    return (
        f"each of {rows_of(compared.x)} rows keeps its {kept} in {_batches(compared.others)} "
        f"through {listed(names_of(compared.sound))}; {_in_other_sizes(compared)}{further.holds}; "
        f"a leak of the batch mean into a row would have been seen from {smallest}"
    )


def _in_other_sizes(compared: Compared) -> str:
    if compared.only_size:
        return "other sizes were not tried, which the model refuses"
    if any(judged.noise_dominated for judged in compared.known):
        return (
            "batch sizes were not judged, because rounding alone moves the outputs by more than "
            f"{NOISE_DOMINATED:g} of their scale"
        )
    return (
        f"in batches of {listed(compared.sizes)} it moves by {compared.margin:.2f} of the noise "
        "bound or less"
    )
