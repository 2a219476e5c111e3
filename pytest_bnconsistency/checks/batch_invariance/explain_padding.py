"""Rows that depend on how far their batch is padded: what reads the padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_bnconsistency.checks.size_dependence import END
from pytest_bnconsistency.data.arrays import Array, Nest, distance, flatten
from pytest_bnconsistency.execution.batch_variants import BatchVariant
from pytest_bnconsistency.execution.forward_pass import Pass
from pytest_bnconsistency.execution.layer_values import (
    UNLIKE,
    Recorded,
    differ,
    outputs_with,
    recorded,
)
from pytest_bnconsistency.execution.padding import Padded, padded_inside
from pytest_bnconsistency.measurement.rounding_noise import Moved
from pytest_bnconsistency.results import Explanation, Finding
from pytest_bnconsistency.rules import catalogue as rules
from pytest_bnconsistency.words import listed

MASKS = (
    "hand the mask on (mask_zero=True or Masking, and layers that support masks up to the pooling)"
)
ROUNDS = 4
"""How many readers of padding, one behind the other, are looked for."""


def finding(seen: Pass, batch: Padded, moved: Moved) -> Finding:
    """The finding for outputs that moved beyond their noise."""
    readers, tested = reading(seen, batch, moved.bound)
    named = _listed(readers)
    return rules.PADDING.finding(
        layer=readers[0].place,
        layers=[reader.place for reader in readers],
        message=f"row {moved.row} moves by {moved.change:.3g} when its batch is padded "
        f"{batch.more} steps further on the {batch.side}; noise explains {moved.bound:.3g}",
        explanation=Explanation(
            cause=_takes(readers)
            if tested
            else "not established; tried: each layer's values with and without the added steps",
            tested=f"with {named} held at what comes without the added steps for those of the "
            "sequence, every row is as before"
            if tested
            else "",
            remedy=f"{MASKS}, or pad every batch to one fixed length",
            established=tested,
        ),
        bound="the noise bound, measured on this model",
        evidence={
            "moved": moved.change,
            "bound": moved.bound,
            "added_steps": batch.more,
            "side": batch.side,
        },
    )


def finding_inside(
    seen: Pass, x: Nest, variants: Sequence[BatchVariant], message: str, evidence: dict[str, Any]
) -> Finding | None:
    """The finding for rows that move with their other rows because code of the model pads each
    batch to its longest row; None if that is not why.

    A batch may show some of what reads the padding alone: where the first of the `variants` shows
    any, the one that shows most tells.
    """
    bound = UNLIKE * max(float(evidence["largest_change"]), 0.0)
    base, (first, *others) = recorded(seen, x), variants
    if (most := _inside(seen, x, base, first, bound)) is None:
        return None
    for other in others:
        inside = _inside(seen, x, base, other, bound)
        if inside is not None and len(inside.readers) > len(most.readers):
            most = inside
    who, readers = most.who, most.readers
    return rules.PADDING.finding(
        layer=readers[0].place,
        message=message,
        explanation=Explanation(
            cause=f"{_takes(readers)}: {who} pads each batch to its longest row",
            tested=f"with {_listed(readers)} held at what it gives where the batch is padded "
            "less, every kept row is as before",
            remedy=f"{MASKS}, or have {who} pad to one fixed length: output_sequence_length "
            "of a TextVectorization, shape of RaggedTensor.to_tensor",
            established=True,
        ),
        bound="no tolerance: bitwise, at one number of rows",
        evidence={**evidence, "layer": readers[0].place, "added_steps": most.added},
    )


@dataclass(frozen=True)
class _Inside:
    """What pads in the model, by so many `added` steps, and what reads that."""

    who: str
    readers: list[Reader]
    added: int


def _inside(
    seen: Pass, x: Nest, base: Recorded, variant: BatchVariant, bound: float
) -> _Inside | None:
    for who, mine, its, given in _made(base, recorded(seen, variant.x), flatten(x)):
        if len(mine) != 1 or len(its) != 1:
            continue
        batch = padded_inside(x, variant.x, variant.kept, mine[0], its[0])
        if batch is None:
            continue
        longest = batch.counted.shape[1] + batch.more
        if any(leaf.ndim > 1 and leaf.shape[1] >= longest for leaf in given):
            return None  # its rows were of one length, until here
        readers, tested = reading(seen, batch, bound)
        return _Inside(who, readers, batch.more) if tested else None
    return None


def _made(
    base: Recorded, other: Recorded, inputs: list[Array]
) -> Iterator[tuple[str, list[Array], list[Array], list[Array]]]:
    """Each layer, and the code before it: what they make in both runs of what they are given."""
    before, known = "the input", inputs
    for label, mine in base.returned.items():
        given = base.given[label], other.given.get(label, [])
        yield f"the code between {before} and {label}", *given, known
        its = other.returned.get(label, [])
        yield label, mine, its, [*given[0], *given[1]]
        before, known = label, [*inputs, *mine, *its]


@dataclass(frozen=True)
class Reader:
    """A layer, or code between two, that reads padding; `call` shows it, "" where none does."""

    place: str
    call: str
    is_layer: bool


def _takes(readers: list[Reader]) -> str:
    takes = "take" if len(readers) > 1 else "takes"
    return f"{_listed(readers)} {takes} padded steps for steps of the sequence"


def _listed(readers: list[Reader]) -> str:
    return listed([r.place if r.is_layer else f"the code {r.place}" for r in readers])


def reading(seen: Pass, batch: Padded, bound: float) -> tuple[list[Reader], bool]:
    """What gives steps that count other values, and whether that is all that moves the outputs.

    What differs in padded steps alone is no fault yet: it is one of whoever reads them. Where one
    gives back what it gives without the added steps, another may read them further on.
    """
    base, readers, patched = recorded(seen, batch.short), list[Reader](), dict[str, list[Array]]()
    for _ in range(ROUNDS):
        longer = recorded(seen, batch.long, patched=patched)
        readers.append(_first_reader(batch, base, longer))
        label = readers[-1].call
        if not label or label in patched:
            break
        pairs = zip(base.returned[label], longer.returned[label], strict=False)
        patched[label] = [batch.with_steps_of(its, mine) for mine, its in pairs]
        if _mends(seen, batch, patched, bound):
            return readers, True
    return readers[:1], False


def _first_reader(batch: Padded, base: Recorded, longer: Recorded) -> Reader:
    """The first place whose values differ in the steps that count."""

    def unlike(mine: list[Array], its: list[Array]) -> bool:
        pairs = (batch.of_both(a, b) for a, b in zip(mine, its, strict=False))
        return any(differ(*pair) for pair in pairs if pair is not None)

    def gives_others(label: str) -> bool:
        return unlike(base.returned[label], longer.returned.get(label, []))

    def is_given_others(label: str) -> bool:
        return unlike(base.given[label], longer.given.get(label, []))

    before = "the input"
    for label in base.returned:
        around = base.around(label)
        if not gives_others(label):
            before = label
        elif all(map(gives_others, around)):
            # A loop in a layer takes padding for a step: then it is the layer that reads it.
            reader = next((one for one in (label, *around) if not is_given_others(one)), "")
            if reader:
                return Reader(reader, reader, is_layer=True)
            return Reader(f"between {before} and {label}", label, is_layer=False)
    return Reader(f"between {before} and {END}", "", is_layer=False)


def _mends(seen: Pass, batch: Padded, patched: dict[str, list[Array]], bound: float) -> bool:
    base, outputs = outputs_with(seen, batch.short), outputs_with(seen, batch.long, patched)
    if base is None or outputs is None:
        return False
    pairs = (batch.of_both(a, b) for a, b in zip(base, outputs, strict=True))
    known = [pair for pair in pairs if pair is not None]
    return all(distance(*pair).max(initial=0.0) <= bound for pair in known)
