"""Arrays as a few numbers, in which a change of any element shows.

A projection is the sum of all elements with signs that are drawn once and for all, over the root
of their number: a change by d in each moves it by about d, whichever way it points, and one by d
in one element by d over that root. Long arrays are joined block by block first, each block with a
weight of its own, so that a pass over them is enough.

Source: Achlioptas 2003, "Database-friendly random projections": signs do for normal numbers.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator

import numpy as np

from pytest_bnconsistency.data.arrays import Array

PROJECTIONS = 4
"""Of a vector: all of them miss a change by the twentieth part of its size once in 10^4."""
BLOCK = 2**12
"""Elements of a block, each of which has a sign."""


def projections(values: Array, name: str, count: int = PROJECTIONS) -> list[float]:
    """The projections of all elements of `values`; `name` says which signs."""
    flat = _numbers(values).reshape(-1)
    if not flat.size:
        return [0.0] * count
    length = min(flat.size, BLOCK)
    whole, rest = divmod(flat.size, length)
    weights = _weights(f"{name} again", whole + bool(rest))
    blocks = flat[: whole * length].reshape(whole, length)
    with np.errstate(invalid="ignore", over="ignore"):
        joined = np.einsum("b,be->e", weights[:whole], blocks, dtype=np.float64)
        joined[:rest] += weights[whole:] * flat[whole * length :]
        found = joined @ _signs(name, (length, count))
        return [float(value) for value in found / np.sqrt(flat.size)]


def size(values: Array) -> float:
    """The root mean square of the elements."""
    numbers = _numbers(values)
    with np.errstate(invalid="ignore", over="ignore"):
        squares = np.einsum("e,e->", numbers.reshape(-1), numbers.reshape(-1), dtype=np.float64)
        return float(np.sqrt(squares / max(numbers.size, 1)))


def vector_facts(values: Array, name: str) -> dict[str, float | int | str]:
    """A stored vector: how it is distributed, and its projections."""
    numbers = _numbers(values).astype(np.float64)
    facts: dict[str, float | int | str] = {"elements": int(numbers.size)}
    with np.errstate(invalid="ignore", over="ignore"):
        if numbers.size:
            facts |= {
                "mean": float(numbers.mean()),
                "deviation": float(numbers.std()),
                "smallest": float(numbers.min()),
                "largest": float(numbers.max()),
            }
    return facts | dict(_numbered(projections(numbers, name)))


def weights_facts(weights: Iterable[Array]) -> dict[str, float | int | str]:
    """All weights together, each with signs by its place."""
    count = elements = 0
    squares, total = 0.0, np.zeros(PROJECTIONS)
    for values in weights:
        count, elements = count + 1, elements + values.size
        own = projections(values, f"array {count}")
        total += np.array(own) * np.sqrt(values.size)
        squares += size(values) ** 2 * values.size
    root = np.sqrt(max(elements, 1))
    return {
        "arrays": count,
        "elements": int(elements),
        "size": float(np.sqrt(squares) / root),
        **dict(_numbered([float(value) for value in total / root])),
    }


def row_facts(output: Array, rows: int) -> dict[str, float | int | str]:
    """The rows of an output, or all of it where its first axis is not that of the rows."""
    by_row = bool(output.ndim) and len(output) == rows
    shape = output.shape[1:] if by_row else output.shape
    facts: dict[str, float | int | str] = {
        "shape": "(rows" + "".join(f", {axis}" for axis in shape) + ")" if by_row else str(shape),
        "dtype": "text" if output.dtype.kind in "OSU" else output.dtype.name,
    }
    for place in range(rows) if by_row else (None,):
        values = output if place is None else output[place]
        label = "whole" if place is None else f"row {place}"
        facts[f"{label} size"] = size(values)
        for number, value in _numbered(projections(np.asarray(values), "output", 2)):
            facts[f"{label} {number}"] = value
    return facts


def _numbered(values: Iterable[float]) -> Iterator[tuple[str, float]]:
    for number, value in enumerate(values, start=1):
        yield f"projection {number}", value


def _numbers(values: Array) -> Array:
    """The elements as floats; of what is no number, one that stands for it."""
    values = np.asarray(values)
    if values.dtype.kind in "OSU":
        codes = [zlib.crc32(_as_bytes(value)) for value in values.reshape(-1)]
        return np.array(codes, np.float64).reshape(values.shape)
    if values.dtype.kind == "c":
        return np.stack([values.real, values.imag], axis=-1).astype(np.float64)
    return values if values.dtype in (np.float32, np.float64) else values.astype(np.float64)


def _as_bytes(value: object) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


def _signs(name: str, shape: tuple[int, int]) -> Array:
    count = shape[0] * shape[1]
    bits = np.unpackbits(_bits(name, count, -(-count // 64)).view(np.uint8))
    return np.asarray(2.0 * bits[:count].reshape(shape) - 1.0)


def _weights(name: str, count: int) -> Array:
    """Weights of either sign, of a root mean square of 1."""
    bits = _bits(name, count, count)
    drawn = (0.5 + (bits >> np.uint64(12)) / 2.0**52) * np.where(bits & np.uint64(1), 1.0, -1.0)
    return np.asarray(drawn / np.sqrt(np.mean(drawn**2)))


def _bits(name: str, count: int, words: int) -> Array:
    """Bits that no version of numpy draws otherwise: the generator's own."""
    seed = np.random.SeedSequence([zlib.crc32(name.encode()), count])
    return np.asarray(np.random.PCG64(seed).random_raw(words).astype("<u8"))
