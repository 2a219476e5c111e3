"""Initial values that are still in the statistics, or are in them again."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from pytest_bnconsistency.checks.train_eval_agreement.causes.cause import HALF, MOST, RIVALS, Cause
from pytest_bnconsistency.checks.train_eval_agreement.measured import CERTAIN_SHARE, Measured
from pytest_bnconsistency.data.arrays import Array
from pytest_bnconsistency.measurement.compared_outputs import gap
from pytest_bnconsistency.measurement.population_distances import initial_share
from pytest_bnconsistency.measurement.tracked_variables import Tracked
from pytest_bnconsistency.models.owned_objects import variable_name
from pytest_bnconsistency.rules import catalogue as rules
from pytest_bnconsistency.words import digits, listed

SETTLED_SHARE = 0.01
"""The remedy's arithmetic aims at this share of the initial values."""
ALIKE = 1.0
"""Standard deviations: rows of mean 0 and variance 1 come as near from farther away."""
HARDLY_VARY = 0.1
"""Outputs hardly vary that vary by less than this share of the population's."""
SHOWN = 3
OTHER_START = (
    "what the statistics were before these updates (0 and 1, unless they were trained or loaded "
    "before, as for fine-tuning)"
)


def stale(m: Measured) -> Iterator[Cause]:
    """The share of the initial values that the updates leave; as measured, where none is known."""
    certain, t = m.certain_share, m.slowest
    if t.cumulative or not 0 < t.retention < 1:
        return
    if certain is None or not m.updates:
        yield from _measured(m)
        return
    needed = math.ceil(math.log(SETTLED_SHARE) / math.log(t.retention))
    largest = math.floor(100 * SETTLED_SHARE ** (1 / (m.updates * t.calls))) / 100
    harmless, place = _harmless_share(m)
    more = math.ceil(math.log(harmless) / math.log(t.retention))
    also = ""
    if more > needed:
        also = f" ({more} for {place}, whose variance is far below the initial 1)"
    if certain < CERTAIN_SHARE:  # little is left, of what is large against the variances
        needed, largest = more, math.floor(100 * harmless ** (1 / (m.updates * t.calls))) / 100
        also = f" (for {place}, whose variance is far below the initial 1)"
    steps = f"{m.updates} updates" if t.calls == 1 else f"{m.updates} steps of {t.calls} updates"
    proof, explained = "", m.explained(m.with_initial(m.left))
    begun = "the initial values" if certain < CERTAIN_SHARE or explained > MOST else OTHER_START
    left = f"momentum {t.momentum:.5g} after {steps} leaves {certain:.1%} of {begun}"
    if certain < CERTAIN_SHARE:
        proof, explained, is_measured = _of_little(m, certain)
        if is_measured:
            left = f"{m.initial_share:.1%} of the initial values are left (measured; {left})"
    yield Cause.tested(
        rules.STALE,
        cause=left,
        tested=proof,
        remedy=f"train for {needed} updates or more{also}; or momentum <= {largest:.2f} for "
        f"{m.updates} updates; or recalibrate(model, x)",
        share=explained if certain >= CERTAIN_SHARE or explained > MOST else 0.0,
    )


def _measured(m: Measured) -> Iterator[Cause]:
    """The share that is measured, where no number of updates is known."""
    share = m.initial_share
    if share < HALF:
        return
    values = m.with_initial(share)
    yield Cause.tested(
        rules.STALE,
        cause=f"{share:.0%} of the initial values are still in the statistics (measured; how many "
        f"updates there were is not known; momentum {m.slowest.momentum:.5g})",
        tested="",
        remedy="train for more updates, or with a smaller momentum; or recalibrate(model, x)",
        share=min(m.explained(values), _remade(m, values, ALIKE)[1]),
    )


def uncounted(m: Measured) -> str:
    """What to say where nothing counts the updates, and less of the initial values seems to be
    left than tells by itself; "" elsewhere.
    """
    t, share = m.slowest, m.initial_share
    known = m.updates is not None or t.cumulative or not 0 < t.retention < 1
    if known or not CERTAIN_SHARE <= share < HALF:
        return ""
    if not m.explained(m.with_initial(share)) > HALF:
        return ""
    steps = round(math.log(share) / (t.calls * math.log(t.momentum)))
    return (
        "say how many training steps there were, updates=..., which nothing counts here "
        f"({share:.0%} of the initial values seem to be left, as after {steps}); or "
    )


def _of_little(m: Measured, certain: float) -> tuple[str, float, bool]:
    """What the share that the updates leave explains, or the measured one if it is better."""
    proof, explained = _remade(m, m.with_initial(m.left))
    if certain < m.initial_share < CERTAIN_SHARE or 0 < m.initial_share < certain:
        retold, better = _remade(m, m.with_initial(m.initial_share))
        if better > explained:
            return retold, better, True
    return proof, explained, False


def _harmless_share(m: Measured) -> tuple[float, str]:
    """The share of the initial variance that is 5 % of the smallest of all, and its path."""
    shares = [(1.0, "")]
    if not m.first_variance:
        return min(shares)
    for t, value in zip(m.tracked, m.reference, strict=True):
        if t.role == "variance":
            own = float(np.median(value))
            shares.append((0.05 * own / max(1 - own, 1e-9) if 0 < own < 1 else 1.0, t.path))
    return min(shares)


def set_back(m: Measured) -> Iterator[Cause]:
    """Statistics with more of the initial values in them than the updates left."""
    yield from _one_of_two(m)
    shares = shares_against_count(m)
    if not shares or not m.updates:
        return
    paths = list(dict.fromkeys(t.path for t in m.tracked if id(t.layer) in shares))
    first = next(t for t in m.tracked if id(t.layer) in shares)
    proof, explained = _remade(m, m.with_initial(lambda t: shares.get(id(t.layer), 0.0)), ALIKE)
    named = f"the statistics of {listed(paths, most=SHOWN)}"
    yield _against_count(m, first, shares[id(first.layer)], named, proof, explained - RIVALS)


def _one_of_two(m: Measured) -> Iterator[Cause]:
    """Statistics that are as layers begin, to the last bit, where the layer's others moved."""
    moved = {id(t.layer) for i, t in enumerate(m.tracked) if not _as_begun(m, i)}
    found = [i for i in m.wrong if _as_begun(m, i) and id(m.tracked[i].layer) in moved]
    if not found:
        return
    tracked = [m.tracked[i] for i in found]
    named = listed([f"{variable_name(t.layer, t.variable)} of {t.path}" for t in tracked])
    before, after = (m.deviation(side, m.reference) for side in (m.moving, m.mended(found)))
    yield Cause.tested(
        rules.STALE,
        cause=f"{named} {'is' if len(found) == 1 else 'are'} exactly as built, though other "
        "statistics of the layer have moved: not loaded, or set back",
        tested=f"with what this data gives there, all are {digits(after, 2)} standard "
        f"deviations from the population's, as stored {digits(before, 2)}",
        remedy="load and keep all statistics of a layer together; or recalibrate(model, x)",
        share=1 - after / before,
    )


def _as_begun(m: Measured, place: int) -> bool:
    begun = {"mean": 0.0, "variance": 1.0}.get(m.tracked[place].role)
    return begun is not None and bool((m.moving[place] == begun).all())


def all_set_back(m: Measured) -> Cause | None:
    """One share of the initial values in all layers, where chance or a lag blurs each of them.

    It explains nearly all of what is stored or of what evaluation says, and most of both.
    """
    share, left = m.initial_share, m.certain_share
    if not m.updates or left is None or not _is_beyond(share, left):
        return None
    values = m.with_initial(share)
    proof, said = _remade(m, values)
    stored = m.explained(values)
    if not (min(said, stored) > HALF and max(said, stored) > MOST):
        return None
    proof += f", and {stored:.0%} of what is stored is explained"
    return _against_count(m, m.slowest, share, "all statistics", proof, min(said, stored))


def _against_count(
    m: Measured, t: Tracked, share: float, named: str, proof: str, explained: float
) -> Cause:
    """More of the initial values is left than the number of updates leaves."""
    return Cause.tested(
        rules.STALE,
        cause=f"{share:.0%} of the initial values are in {named} (measured), though {m.updates} "
        f"updates at momentum {t.momentum:.5g} leave {_left_by_count(m, id(t.layer)):.1%}: they "
        "were set back late or after training (built anew, loaded or assigned), or the updates "
        "counted were not theirs",
        tested=proof,
        remedy="keep the statistics with the weights where these are built, loaded or set; or "
        "recalibrate(model, x)",
        share=explained,
    )


def shares_against_count(m: Measured) -> dict[int, float]:
    """The measured shares of the initial values, by identity of the layer, where these explain
    what is stored and the number of updates does not.
    """
    if not m.updates:
        return {}
    shares = {key: _share_of(m, key) for key in dict.fromkeys(id(t.layer) for t in m.tracked)}
    return {key: share for key, share in shares.items() if share is not None}


def _share_of(m: Measured, key: int) -> float | None:
    """That of a layer, by identity; None where it does not explain more than the count."""
    own = [i for i, t in enumerate(m.tracked) if id(t.layer) == key]
    if any(m.tracked[i].cumulative for i in own):
        return None
    share = initial_share(
        [m.tracked[i] for i in own], [m.moving[i] for i in own], [m.reference[i] for i in own]
    )
    left = _left_by_count(m, key)
    if not _is_beyond(share, left) or not _can_be_left(m, own, share):
        return None

    def with_own(values: list[Array]) -> list[Array]:
        return [values[i] if i in own else stored for i, stored in enumerate(m.moving)]

    explained, without = with_own(m.with_initial(share)), with_own(m.reference)
    near = m.deviation(m.moving, explained) < (1 - MOST) * m.deviation(m.moving, without)
    return share if near else None


def _can_be_left(m: Measured, places: Sequence[int], share: float) -> bool:
    """Whether some number of updates leaves such a share: none leaves the values as built.

    Data of mean 0 and variance 1 stores about those, too.
    """
    retention = min(m.tracked[i].retention for i in places)
    return share < (3 + retention) / 4 or all(_as_begun(m, i) for i in places)


def _is_beyond(share: float, left: float) -> bool:
    """Whether a measured share speaks against the one that the updates leave."""
    return share >= max(left + CERTAIN_SHARE, 2 * left)


def _left_by_count(m: Measured, key: int) -> float:
    return max(m.left(t) for t in m.tracked if id(t.layer) == key)


def _remade(m: Measured, values: list[Array], most: float = math.inf) -> tuple[str, float]:
    """Put initial values into the population statistics: how near does evaluation come to what it
    says as stored? Distances beyond `most` are alike.

    They are in deviations of the outputs as stored; of the population's where those hardly vary,
    as variances far too large leave them.
    """
    before, after = (
        gap(side, m.stored, m.data).outputs for side in (m.population, m.under(values))
    )
    of_population = gap(m.stored, m.population, m.data).outputs
    if of_population < HARDLY_VARY * before:
        before, after = of_population, after * of_population / before
    proof = (
        "with as much of the initial values put into the population statistics, evaluation is "
        f"{digits(after, 2)} standard deviations from what it says as stored, without "
        f"{digits(before, 2)}"
    )
    return proof, 1 - after / min(before, most) if before and math.isfinite(after) else 0.0
