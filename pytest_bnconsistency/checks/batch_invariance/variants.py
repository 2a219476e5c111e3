"""Whether kept rows keep their bits beside other rows, and their values in other places."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pytest_bnconsistency.checks import entry_points
from pytest_bnconsistency.checks.batch_invariance import localise
from pytest_bnconsistency.checks.batch_invariance.hidden_changes import hidden, laid_out
from pytest_bnconsistency.checks.batch_invariance.judged import AmongOthers
from pytest_bnconsistency.checks.batch_invariance.kept_rows import (
    Difference,
    beyond_noise,
    compare_kept_rows,
    largest_move,
    moves_farther,
)
from pytest_bnconsistency.checks.check_context import CheckContext
from pytest_bnconsistency.checks.entry_points import WHOLE, Entry, rows_between
from pytest_bnconsistency.checks.traced_passes import observed
from pytest_bnconsistency.data.arrays import Array, Nest, rows_of
from pytest_bnconsistency.execution.batch_variants import (
    BatchVariant,
    batch_variants,
    beside_copies,
    copied,
    moved_on,
)
from pytest_bnconsistency.execution.forward_pass import Observation, Pass
from pytest_bnconsistency.execution.observations import has_rows, repeating, same_outputs
from pytest_bnconsistency.measurement.rounding_noise import Noise
from pytest_bnconsistency.words import brief_line

AGAIN = 2
"""More runs of a batch whose rows change with others, so that luck is no repetition."""


@dataclass(frozen=True)
class Refused:
    """A batch that an entry point does not take: NaN above all. That is no dependence."""

    note: str


Outcome = Difference | Refused | None
"""What a batch variant does to kept rows: None where they stay the same."""


@dataclass(frozen=True)
class Comparing:
    """An entry point on the rows of the sample, and the noise of its outputs.

    `seen` is the traced pass behind it, where there is one, `joint` batches in which other rows
    change.
    """

    context: CheckContext
    entry: Entry
    seen: Pass | None
    noise: Noise
    joint: Sequence[BatchVariant] = ()

    @property
    def x(self) -> Nest:
        return self.context.sample()

    @property
    def base(self) -> Observation:
        return self.entry.run(WHOLE, self.x)

    def outputs_between(self, start: int, stop: int) -> list[Array]:
        """What it gives for some of the rows."""
        name, batch = rows_between(self.x, start, stop)
        # What layers give is compared for all rows only.
        return self.entry.run(name, batch, None if name == WHOLE else (0, 0)).outputs

    @functools.cached_property
    def by_row(self) -> list[bool]:
        """Which outputs have the rows first; a table may by chance be as long as the batch."""
        whole = self.base.outputs
        found = [has_rows([output], self.x) for output in whole]
        try:
            few = self.context.fixed_rows is None and rows_of(self.x) > 1
            single = self.outputs_between(0, 1) if few and any(found) else []
        except Exception:
            return found
        if len(single) != len(whole):
            return found
        pairs = zip(found, whole, single, strict=True)
        return [rows and one.shape != every.shape for rows, every, one in pairs]

    def outcome(self, variant: BatchVariant) -> Outcome:
        try:
            other = self.entry.run_variant(variant)
        except Exception as error:
            said = brief_line(error)
            return Refused(f"{self.entry.name} refuses a batch with {variant.name}: {said}")
        if variant.moves:
            change = beyond_noise(self.base, other, variant, self.noise)
            row = largest_move(self.base.outputs, other.outputs, variant)[1]
            return Difference(variant, (), change, row) if change else None
        return compare_kept_rows(self.base, other, variant)

    def outcomes(self, among: Sequence[BatchVariant]) -> list[Outcome]:
        """Of each variant, as far as it tells.

        Rows change their places only where the other rows alone change nothing: noise explains
        much of what that does, and has to be measured.
        """
        found = list[Outcome]()
        for variant in sorted(among, key=lambda variant: variant.moves):
            if variant.moves and _differences(found):
                break
            found.append(self.outcome(variant))
        return found

    def others(self) -> list[tuple[BatchVariant, Observation]]:
        """What it gives for each of the joint variants that it takes."""
        found = []
        for variant in self.joint:
            try:
                found.append((variant, self.entry.run(variant.name, variant.x)))
            except Exception:
                continue
        return found

    def moves_outputs(self, found: Difference) -> bool:
        """Whether some output moves by more than noise explains."""
        if self.moves_farther(found):
            return True  # and no noise has to be measured
        other = self.entry.run(found.variant.name, found.variant.x)
        return bool(beyond_noise(self.base, other, found.variant, self.noise))

    def moves_farther(self, found: Difference) -> bool:
        """Whether a kept row of some output moves farther than noise may, without measuring it."""
        other = self.entry.run(found.variant.name, found.variant.x)
        return moves_farther(self.base, other, found.variant, self.noise)


def compare_variants(c: Comparing) -> AmongOthers:
    """What other rows do; changed one by one, they tell what it is that rows depend on."""
    if width := _other_width(c):
        return AmongOthers(width=width)
    outcomes = c.outcomes(c.joint)
    if all(outcome is None for outcome in outcomes):
        # Each batch begins with the same state, so that the same numbers are drawn.
        return _repeating(c) if observed(c.context, False).draws else AmongOthers()
    known = _repeating(c)
    singly = c.outcomes(batch_variants(c.x, c.context.settings.seed))
    changing = _differences(singly) or _differences(outcomes)
    notes = [*known.notes, *(found.note for found in singly if isinstance(found, Refused))]
    routing = c.seen is not None and _dynamic_routing(c, c.seen, changing)
    if routing:
        notes.append(
            f"parts of {c.entry.name} get other numbers of rows, or rows in another order, if the "
            "other rows change: its outputs are compared within the noise bound"
        )
    return _counted(c, changing, replace(known, row_routing=routing, notes=notes))


def compare_otherwise(c: Comparing, rows: tuple[int, int], known: AmongOthers) -> AmongOthers:
    """What rows depend on, where they seem to on the batch's size.

    A majority is another one in a small batch, and in a large one of copies of its rows. What was
    known stands where they do depend on the size.
    """
    for variant in (copied(c.x, *rows), moved_on(c.x)):
        outcome = c.outcome(variant)
        if isinstance(outcome, Refused):
            known = replace(known, notes=[*known.notes, outcome.note])
        elif outcome is not None:
            outcome = _by_others(c, outcome)
            repeats = _repeating(c)
            notes = [*known.notes, *repeats.notes]
            known = replace(known, random=repeats.random, stable=repeats.stable, notes=notes)
            found = known if known.random else _counted(c, [outcome], known)
            if found.random or found.differences:
                return found
    return known


def _by_others(c: Comparing, found: Difference) -> Difference:
    """What the other rows alone do to a row that seemed to hang on its place; else `found`."""
    if not found.variant.moves:
        return found
    outcomes = map(c.outcome, beside_copies(c.x, found.row))
    return next((o for o in outcomes if isinstance(o, Difference) and o.moved), found)


def _differences(outcomes: Sequence[Outcome]) -> list[Difference]:
    return [outcome for outcome in outcomes if isinstance(outcome, Difference)]


def _other_width(c: Comparing) -> str:
    """How an output's shape depends on other rows, as one as wide as the longest row; else ""."""
    for variant, other in c.others():
        for mine, its in zip(c.base.outputs, other.outputs, strict=False):
            rows = mine.ndim and its.ndim and len(mine) == len(its) == variant.rows
            if rows and mine.shape != its.shape:
                return (
                    f"a batch of {variant.rows} gives shape {mine.shape}, and {its.shape} when "
                    "only other rows change"
                )
    return ""


def _dynamic_routing(c: Comparing, seen: Pass, changing: Sequence[Difference]) -> bool:
    """Whether other numbers of rows meet beside other rows, so that they round otherwise."""
    if _regroups_rows(c):
        return True
    # Where outputs move farther than any rounding takes them, nothing hangs on it.
    return (
        not any(map(c.moves_farther, changing))
        and localise.row_routing(c.context, seen)
        and not any(map(c.moves_outputs, changing))
    )


def _regroups_rows(c: Comparing) -> bool:
    """Whether some call gives another number of entries beside other rows.

    So do experts that get the rows that are sent to them.
    """

    def counts(seen: Observation) -> list[list[int]]:
        return [[len(array) for array in record or ()] for record in seen.records]

    return any(counts(other) != counts(c.base) for _, other in c.others())


def _repeating(c: Comparing) -> AmongOthers:
    """Whether the same batch gives the same bits again: the outputs, and which layers."""
    state = entry_points.state_of_layers(c.context, c.entry)
    first, second = c.entry.twice(WHOLE, c.x, state)
    random = entry_points.is_random(c.context, c.entry) or not same_outputs(
        first.outputs, second.outputs
    )
    stable = repeating(first, second)
    for _ in range(AGAIN):  # what draws few numbers gives the same bits twice by luck
        other = c.entry.call(c.x, False)
        random |= not same_outputs(first.outputs, other.outputs)
        stable &= repeating(first, other)
    for other in (drawn := entry_points.drawn_otherwise(c.context, c.entry))[1:]:
        stable &= repeating(drawn[0], other)
    judged = "nothing is" if c.seen is None else "only layers that repeat themselves are"
    note = f"the same batch gives other outputs through {c.entry.name}: {judged} judged there"
    return AmongOthers(random=random, stable=stable, notes=[note] if random else [])


def _counted(c: Comparing, changing: Sequence[Difference], known: AmongOthers) -> AmongOthers:
    """With the parts of differences that are a dependence on the batch."""
    counting = [_counting(c, found, known) for found in changing]
    stable = known.stable if c.seen is None else known.stable - laid_out(c.seen)
    differences = [found for found in counting if found is not None]
    return replace(known, differences=differences, stable=stable)


def _counting(c: Comparing, found: Difference, known: AmongOthers) -> Difference | None:
    # Kernels of its own may compute a row's place in another way; and where other numbers of rows
    # meet, they round otherwise, as between batch sizes.
    rounds = c.seen is None or (known.row_routing and found.moved)
    if rounds and not c.moves_outputs(found):
        return None
    if c.seen is None:
        return None if known.random else found
    among = (c.seen.reaching_outputs() & known.stable) - laid_out(c.seen)
    places = tuple(place for place in found.places if place in among)
    moved = 0.0 if known.random else found.moved
    if not found.moved:
        places = hidden(c.context, c.seen, c.x, found.variant, places, known.row_routing)
    return replace(found, places=places, moved=moved) if moved or places else None
