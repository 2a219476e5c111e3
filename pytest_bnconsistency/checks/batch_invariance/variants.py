"""Whether kept rows keep their bits beside other rows, and their values in other places."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from pytest_bnconsistency.checks import entry_points
from pytest_bnconsistency.checks.batch_invariance import localise
from pytest_bnconsistency.checks.batch_invariance.explain import Judged
from pytest_bnconsistency.checks.batch_invariance.hidden_changes import hidden, laid_out
from pytest_bnconsistency.checks.batch_invariance.kept_rows import (
    Difference,
    beyond_noise,
    compare_kept_rows,
)
from pytest_bnconsistency.checks.check_context import CheckContext
from pytest_bnconsistency.checks.entry_points import WHOLE, Entry
from pytest_bnconsistency.checks.traced_passes import observed
from pytest_bnconsistency.data.arrays import Nest
from pytest_bnconsistency.execution.batch_variants import (
    BatchVariant,
    batch_variants,
    copied,
    moved_on,
)
from pytest_bnconsistency.execution.forward_pass import Observation, Pass
from pytest_bnconsistency.execution.observations import repeating, same_outputs
from pytest_bnconsistency.measurement.rounding_noise import Noise
from pytest_bnconsistency.words import first_line


def compare_variants(
    entry: Entry,
    judged: Judged,
    context: CheckContext,
    x: Nest,
    joint: Sequence[BatchVariant],
    noise: Noise,
    notes: list[str],
) -> None:
    base = entry.run(WHOLE, x)
    if widths := _other_widths(entry, base, joint):
        judged.shapes.append(widths)
        return
    seen = _differences(entry, base, joint, noise, [])
    if all(found == "same" for found in seen):
        if observed(context, False).draws:
            # Each batch begins with the same state, so that the same numbers are drawn.
            _look_for_randomness(entry, judged, context, x, notes)
        return
    _look_for_randomness(entry, judged, context, x, notes)
    # One by one, the changes tell what it is that rows depend on.
    singly = _differences(entry, base, batch_variants(x, context.settings.seed), noise, notes)
    changing = [found for found in singly if isinstance(found, Difference)]
    changing = changing or [found for found in seen if isinstance(found, Difference)]
    if judged.observed is not None and _dynamic_routing(
        context, entry, judged.observed, x, changing, joint, noise
    ):
        judged.row_routing = True
        notes.append(
            f"parts of {entry.name} get other numbers of rows if the other rows change: its "
            "outputs are compared within the noise bound"
        )
    counted = [_counting(context, found, entry, judged, x, noise) for found in changing]
    judged.differences = [found for found in counted if found is not None]


def _other_widths(entry: Entry, base: Observation, joint: Sequence[BatchVariant]) -> str:
    """How an output's shape depends on other rows, as one as wide as the longest row; else ""."""
    for variant in joint:
        try:
            other = entry.run(variant.name, variant.x)
        except Exception:
            continue  # it refuses these rows
        for mine, its in zip(base.outputs, other.outputs, strict=False):
            rows = mine.ndim and its.ndim and len(mine) == len(its) == variant.rows
            if rows and mine.shape != its.shape:
                return (
                    f"a batch of {variant.rows} gives shape {mine.shape}, and {its.shape} when "
                    "only other rows change"
                )
    return ""


def _dynamic_routing(
    context: CheckContext,
    entry: Entry,
    seen: Pass,
    x: Nest,
    changing: Sequence[Difference],
    joint: Sequence[BatchVariant],
    noise: Noise,
) -> bool:
    """Whether other numbers of rows meet beside other rows, so that they round otherwise."""
    base = entry.run(WHOLE, x)
    if _regroups_rows(entry, base, joint):
        return True
    # Where outputs move farther than any rounding takes them, nothing hangs on it.
    return (
        not any(_moves_farther(entry, base, found, noise) for found in changing)
        and localise.row_routing(context, seen)
        and not any(_moves_outputs(entry, base, found, noise) for found in changing)
    )


def _regroups_rows(entry: Entry, base: Observation, joint: Sequence[BatchVariant]) -> bool:
    """Whether some call gives another number of entries in one of the exchanges.

    So do experts that get the rows that are sent to them.
    """

    def counts(seen: Observation) -> list[list[int]]:
        return [[len(array) for array in record or ()] for record in seen.records]

    for variant in joint:
        try:
            other = entry.run(variant.name, variant.x)
        except Exception:
            continue  # it refuses these rows
        if counts(other) != counts(base):
            return True
    return False


def compare_otherwise(
    entry: Entry, judged: Judged, context: CheckContext, x: Nest, noise: Noise, notes: list[str]
) -> None:
    """Whether rows depend on other rows or places, where they seem to on the batch's size.

    A majority is another one in a small batch, and in a large one of copies of its rows.
    """
    assert judged.failing_rows is not None
    base = entry.run(WHOLE, x)
    for variant in (copied(x, *judged.failing_rows), moved_on(x)):
        found = _difference(entry, base, variant, noise, notes)
        if not isinstance(found, Difference):
            continue
        _look_for_randomness(entry, judged, context, x, notes)
        counted = None if judged.random else _counting(context, found, entry, judged, x, noise)
        if counted is not None or judged.random:
            judged.differences, judged.sizes = [] if counted is None else [counted], []
            return


def _look_for_randomness(
    entry: Entry, judged: Judged, context: CheckContext, x: Nest, notes: list[str]
) -> None:
    first, second = entry.twice(WHOLE, x, entry_points.state_of_layers(context, entry))
    judged.random = entry_points.is_random(context, entry) or not same_outputs(
        first.outputs, second.outputs
    )
    judged.stable = repeating(first, second)
    for other in (drawn := entry_points.drawn_otherwise(context, entry))[1:]:
        judged.stable &= repeating(drawn[0], other)
    if judged.random:
        notes.append(
            f"the same batch gives other outputs through {entry.name}: only layers that "
            "repeat themselves are judged there"
        )


def _differences(
    entry: Entry,
    base: Observation,
    among: Sequence[BatchVariant],
    noise: Noise,
    notes: list[str],
) -> list[Difference | Literal["same", "refused"]]:
    """What exchanges do to kept rows.

    Rows change their places only where the other rows alone change nothing: noise explains much of
    what that does, and has to be measured.
    """
    found = list[Difference | Literal["same", "refused"]]()
    for variant in sorted(among, key=lambda variant: variant.moves):
        if variant.moves and any(isinstance(one, Difference) for one in found):
            break
        found.append(_difference(entry, base, variant, noise, notes))
    return found


def _difference(
    entry: Entry, base: Observation, variant: BatchVariant, noise: Noise, notes: list[str]
) -> Difference | Literal["same", "refused"]:
    """What an exchange does to kept rows."""
    try:
        other = entry.run_variant(variant)
    except Exception as error:
        # A model may refuse some rows, NaN above all; that is no dependence.
        first = first_line(error)[:80]
        notes.append(f"{entry.name} refuses a batch with {variant.name}: {first}")
        return "refused"
    if variant.moves:
        change = beyond_noise(base, other, variant, noise)
        return Difference(variant, (), change) if change else "same"
    return compare_kept_rows(base, other, variant) or "same"


def _moves_outputs(entry: Entry, base: Observation, found: Difference, noise: Noise) -> bool:
    """Whether some output moves by more than noise explains."""
    other = entry.run(found.variant.name, found.variant.x)
    return bool(beyond_noise(base, other, found.variant, noise))


def _moves_farther(entry: Entry, base: Observation, found: Difference, noise: Noise) -> bool:
    """Whether a kept row of some output moves farther than noise may, without measuring it."""
    if found.variant.moves:
        return False
    kept, now = found.variant.kept, found.variant.now
    other = entry.run(found.variant.name, found.variant.x)
    return any(
        noise.noise_dominates(index, mine[kept], its[now], kept)
        for index, (mine, its) in enumerate(zip(base.outputs, other.outputs, strict=True))
        if mine.ndim and mine.shape == its.shape and len(mine) == found.variant.rows
    )


def _counting(
    context: CheckContext, found: Difference, entry: Entry, judged: Judged, x: Nest, noise: Noise
) -> Difference | None:
    """The part of a difference that is a dependence on the batch, if there is any."""
    # Kernels of its own may compute a row's place in another way; and where other numbers of rows
    # meet, they round otherwise, as between batch sizes.
    rounds = judged.observed is None or (judged.row_routing and found.moved)
    if rounds and not _moves_outputs(entry, entry.run(WHOLE, x), found, noise):
        return None
    if judged.observed is None:
        return None if judged.random else found
    among = judged.observed.reaching_outputs() & judged.stable
    places = tuple(place for place in found.places if place in among)
    moved = 0.0 if judged.random else found.moved
    if not found.moved:
        places = hidden(context, judged.observed, x, found.variant, places, judged.row_routing)
        judged.stable -= laid_out(context, judged.observed)
    return replace(found, places=places, moved=moved) if moved or places else None
