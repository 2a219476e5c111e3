"""How many rows a model takes, and how long the axes may be that it leaves open."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import tensorflow as tf

from pytest_bnconsistency.data.arrays import (
    Nest,
    Spec,
    all_finite,
    fits,
    flatten,
    is_float,
    map_nest,
    rebuild,
    rows_of,
    take_rows,
)
from pytest_bnconsistency.data.generation import generate
from pytest_bnconsistency.errors import DataError
from pytest_bnconsistency.execution.input_kinds import as_read
from pytest_bnconsistency.execution.state import preserve_state
from pytest_bnconsistency.models import Subject
from pytest_bnconsistency.settings import Shapes
from pytest_bnconsistency.words import counted, first_line

SIZES = (32, 96, 224)
LONGEST, TRIED = 8192, 48
"""The longest axis, and how many lengths, that are tried of those that a model says."""


def specs_of(subject: Subject, shape: Mapping[str, tuple[int, ...]] | None = None) -> Nest | None:
    """The inputs that rows are generated for; None where nothing tells them.

    They are those that the model declares, or was called with, with the axes that the user says,
    and with the ids that what reads them takes.

    Raises:
        DataError: `shape` names an input that the model has not, or other axes than it has.
    """
    declared = subject.inputs()
    strict = declared is not None
    specs = declared if strict else subject.called_inputs()
    if specs is None and not shape:
        return None
    if shape:
        specs = _named(shape) if specs is None else _shaped(specs, shape, strict=strict)
    return as_read(subject, specs, dtypes_known=strict)


def _named(shape: Mapping[str, tuple[int, ...]]) -> Nest:
    """Inputs of the user's shapes, where the model tells none."""
    specs = {name: Spec(axes, "float32", name or "x") for name, axes in shape.items()}
    return next(iter(specs.values())) if len(specs) == 1 else specs


def _shaped(specs: Nest, shape: Mapping[str, tuple[int, ...]], *, strict: bool) -> Nest:
    """`specs` with the user's axes; with `strict`, those that are declared must be the same."""
    names = [spec.name for spec in flatten(specs)]
    if unknown := [name for name in shape if name and name not in names]:
        raise DataError(
            f"option 'shape' names {unknown[0]!r}; expected one of the inputs {', '.join(names)}"
        )
    if (unnamed := shape.get("")) is not None and len(names) > 1:
        raise DataError(
            f"option 'shape' is {unnamed} without a name; expected one for each of the inputs "
            f"{', '.join(names)}: {names[0]}={unnamed}"
        )

    def given(spec: Spec) -> Spec:
        axes = shape.get(spec.name, shape.get(""))
        if axes is None:
            return spec
        if strict and not fits(axes, spec.shape):
            wanted = ", ".join("any" if axis is None else str(axis) for axis in spec.shape)
            wanted += "," if len(spec.shape) == 1 else ""
            raise DataError(
                f"option 'shape' is {axes} for input {spec.name!r}; expected ({wanted}), without "
                "the rows"
            )
        return replace(spec, shape=axes)

    return map_nest(given, specs)


def fitting_size(subject: Subject, make: Callable[[int], Nest]) -> int:
    """The first length of open axes whose rows, as `make` makes them, run through the model.

    `SIZES` are tried, and what the model says: the axes of its variables and what its layers are
    configured with, such as a table of positions or a longest sequence.

    Raises:
        DataError: none of them does.
    """
    refusal, running, seen = "", 0, set[tuple[tuple[int, ...], ...]]()
    fewest = subject.declared_rows() or 1
    for size in _sizes(subject):
        x = take_rows(make(size), slice(fewest))
        shapes = tuple(leaf.shape for leaf in flatten(x))
        if shapes in seen:
            break  # no axis is open
        seen.add(shapes)
        try:
            with preserve_state(subject):
                outputs = flatten(subject.forward(x, False))
        except Exception as error:
            refusal = refusal or f"{size}: {first_line(error)}"
            continue
        if any(map(functools.partial(_has_rows_of, x), outputs)):
            return size
        running = running or size  # it runs, and gives other rows than it is given
    if running:
        return running
    raise DataError(
        f"generated rows do not run through model {subject.name!r} ({refusal}); give some rows as "
        f"x, or --bn-data{_how_to_say(subject)}"
    )


def _how_to_say(subject: Subject) -> str:
    """How the user says the lengths of open axes, where there are any."""
    specs = flatten(specs_of(subject) or ())
    example = {s.name: tuple(128 if a is None else a for a in s.shape) for s in specs}
    if not any(None in spec.shape for spec in specs):
        return ""
    shapes = Shapes(example if len(example) > 1 else {"": next(iter(example.values()))})
    python = dict(shapes) if len(shapes) > 1 else shapes[""]
    return f", or say how long the axes are: shape={python}, --bn-shape '{shapes}'"


def read_as_ids(subject: Subject, x: Nest) -> list[bool]:
    """Which arrays of floats in `x` the model reads as ids, and takes as whole numbers as well."""
    specs = map_nest(lambda leaf: Spec(leaf.shape[1:], str(leaf.dtype)), x)
    ids = [
        spec.dtype.startswith("int") and is_float(leaf)
        for spec, leaf in zip(flatten(as_read(subject, specs)), flatten(x), strict=True)
    ]
    pairs = zip(flatten(x), ids, strict=True)
    rows = rebuild(x, [leaf[:1].astype("int32") if found else leaf[:1] for leaf, found in pairs])
    return ids if takes(subject, rows) else [False] * len(ids)


def takes(subject: Subject, x: Nest) -> bool:
    """Whether inference runs on rows `x`."""
    return _outputs(subject, x) is not None


MISSING = 32
"""So many of the rows that hold NaN are tried."""


def takes_nan(subject: Subject, x: Nest) -> bool:
    """Whether inference gives finite numbers for rows `x` that hold NaN.

    A model does that fills in what is missing; of labels it isn't seen.
    """
    count = subject.declared_rows() or min(rows_of(x), MISSING)
    some = take_rows(x, np.arange(count) % rows_of(x))
    outputs = _outputs(subject, some) or []
    floats = [array for array in map(np.asarray, outputs) if is_float(array)]
    return bool(floats) and all_finite(floats)


def _outputs(subject: Subject, x: Nest) -> list[Any] | None:
    """What inference gives for rows, as flat outputs; None where it can't run on them."""
    try:
        with preserve_state(subject):
            return flatten(subject.forward(map_nest(tf.convert_to_tensor, x), False))
    except Exception:
        return None


def _has_rows_of(x: Nest, output: Any) -> bool:
    return output is not None and bool(np.ndim(output)) and len(output) == rows_of(x)


def _sizes(subject: Subject) -> Iterator[int]:
    yield from SIZES
    yield from _declared_sizes(subject)


def _declared_sizes(subject: Subject) -> list[int]:
    """Numbers in a model that an open axis may have to be as long as, the likelier ones first."""
    tables, widths, configured = dict[int, None](), set[int](), dict[int, None]()
    for layer in subject.layers():
        for variable in subject.own_variables(layer):
            shape = [int(axis) for axis in variable.shape if axis]
            tables.update(dict.fromkeys(shape))
            widths.update(shape)
        configured.update(dict.fromkeys(_whole_numbers(layer)))
    # A flattened sequence is as wide as it is long, times its features.
    lengths = sorted({a // b for a in tables for b in widths if 1 < b < a and not a % b})
    declared = [size for size in (*configured, *tables, *lengths) if 1 <= size <= LONGEST]
    return list(dict.fromkeys(declared))[:TRIED]


def _whole_numbers(layer: Any) -> list[int]:
    """Those that a layer is configured with, or holds as attributes."""
    try:
        config = layer.get_config()
    except Exception:  # layers of the user's own may have none
        config = {}
    found = [*config.values(), *getattr(layer, "__dict__", {}).values()]
    return [
        value
        for item in found
        for value in (item if isinstance(item, (list, tuple)) else [item])
        if isinstance(value, int) and not isinstance(value, bool) and value > 1
    ]


def only_size(subject: Subject) -> str:
    """Why no other number of rows can be run than the one that the model declares, "" if any can.

    A stateful recurrence is such a model: it keeps a state for each row.
    """
    rows, specs = subject.declared_rows(), subject.inputs()
    if rows is None or specs is None:
        return ""
    for count in (rows, rows + 1):
        try:
            with preserve_state(subject):
                subject.forward(generate(specs, count, 0, SIZES[0]), False)
        except Exception as error:
            if count == rows:
                return ""  # generated rows are not what it takes
            only = f"the model takes batches of {counted(rows, 'row')} and no others"
            return f"{only}: {first_line(error)}"
    return ""
