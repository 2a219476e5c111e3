"""One life of one model: the steps, what is watched in each, and what is wrong with it."""

from __future__ import annotations

import functools
import importlib
import tempfile
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from pytest_bnconsistency.data.arrays import Array, Nest, flatten, is_float, map_nest
from pytest_bnconsistency.data.reading import read
from pytest_bnconsistency.data.recipes import Recipe, Row
from pytest_bnconsistency.data.rows import Data
from pytest_bnconsistency.errors import ConsistencyFailure, DataError
from pytest_bnconsistency.execution.state import Variables, preserve_state, same_bits
from pytest_bnconsistency.measurement.normalization_layers import tracked_candidates
from pytest_bnconsistency.models import Subject, subject_of
from pytest_bnconsistency.reporting import text
from pytest_bnconsistency.results import CheckResult, Explanation, Verdict
from pytest_bnconsistency.rules import catalogue as rules
from pytest_bnconsistency.rules.catalogue import Rule
from pytest_bnconsistency.strategies.arrays import source_for
from pytest_bnconsistency.words import listed

Step = tuple[str, str]
"""A name and the layer that it is about, or an empty string."""
ROWS, FEW = 8, 4
THE_MODEL = "the model"


class Ways(Protocol):
    """How the project makes, freezes and compiles its model, and what it trains on."""

    @property
    def factory(self) -> Callable[[], Any]: ...

    @property
    def data(self) -> Any: ...

    def set_trainable(self, model: Any, layer: Any, value: bool) -> None: ...

    def compile_model(self, model: Any) -> None: ...


@dataclass(frozen=True)
class Problem:
    """What is wrong: `tell` raises it, each kind from a line of its own, as Hypothesis needs it.

    `test` tells whether undoing the cause undoes it; it runs the model that it was found in.
    """

    tell: Callable[..., None]
    arguments: tuple[Any, ...]
    test: Callable[[], bool] | None = None

    def raise_(self) -> None:
        self.tell(*self.arguments, None if self.test is None else self.test())


@dataclass(frozen=True)
class Layers:
    """The layers with statistics, and what holds them.

    `around` gives for each name, the layers with statistics first, the names of what holds it;
    `normalisers` are the names of the former, `frozen` those that are frozen from the start.
    """

    around: Mapping[str, tuple[str, ...]]
    normalisers: tuple[str, ...]
    frozen: frozenset[str]

    @property
    def names(self) -> list[str]:
        """What can be frozen; the model, where nothing keeps statistics."""
        return list(self.around) or [THE_MODEL]

    def unfreezable(self, frozen: Collection[str]) -> list[str]:
        """What is frozen or holds what is, and lies in nothing frozen."""
        return [
            name
            for name, outer in self.around.items()
            if any(name == other or name in self.around[other] for other in frozen)
            and not set(frozen).intersection(outer)
        ]

    def allow(self, script: Iterable[Step]) -> bool:
        """Whether each step of a script freezes or unfreezes what it may."""
        frozen = set(self.frozen)
        for name, layer in script:
            if name == "freeze" and layer not in frozen:
                frozen.add(layer)
            elif name == "unfreeze" and layer in self.unfreezable(frozen):
                frozen.discard(layer)
            elif name in ("freeze", "unfreeze"):
                return False
        return True

    @classmethod
    def of(cls, subject: Subject) -> Layers:
        named, normalisers = _named(subject)
        around = {
            name: tuple(
                other
                for other in named
                if other != name and (other == THE_MODEL or name.startswith(f"{other}/"))
            )
            for name in named
        }
        frozen = [name for name in named if not subject.trainable(named[name])]
        outermost = [name for name in frozen if not set(frozen).intersection(around[name])]
        return cls(around, tuple(normalisers), frozenset(outermost))


class Life:
    """The life of one model. A step returns what is wrong, or None."""

    def __init__(self, ways: Ways) -> None:
        self._ways = ways
        self._adopt(ways.factory())
        self._layers = Layers.of(self.subject)
        self._frozen = set(self._layers.frozen)
        if not self.subject.compiled:
            self.model.compile("sgd", "mean_squared_error")

    def begin(self) -> Problem | None:
        return self._inference("model(x)", self._called)

    def do(self, step: Step) -> Problem | None:
        """One step, and what must hold after it."""
        name, layer = step
        problem = None
        if name == "fit":
            problem = self._fit()
        elif name == "predict":
            return self._inference("predict", self.subject.entries()["predict"])
        elif name == "evaluate":
            batch = self._ways.data.take(slice(0, FEW))
            return self._moves("evaluate", lambda: self.subject.evaluate(batch, FEW))
        elif name == "save_and_load":
            self._save_and_load()
        else:
            self._change(name, layer)
        return problem or self._inference("model(x)", self._called)

    def _change(self, name: str, layer: str) -> None:
        if name == "compile":
            self._ways.compile_model(self.model)
            return
        (self._frozen.add if name == "freeze" else self._frozen.discard)(layer)
        self._ways.set_trainable(self.model, self._named[layer], name == "unfreeze")

    def _fit(self) -> Problem | None:
        batch = self._ways.data.take(np.arange(ROWS) % self._ways.data.rows)
        frozen = [
            name
            for name in self._layers.normalisers
            if self._frozen.intersection([name, *self._layers.around[name]])
        ]
        owners = {id(v): name for name in frozen for v in self._variables(name)}
        before = Variables([v for name in frozen for v in self._variables(name)])
        try:
            self.subject.fit(batch, ROWS)
        except Exception:
            # Keras says aloud that an optimizer was made for other weights: no silent fault.
            self._ways.compile_model(self.model)
            return None
        moved = list(dict.fromkeys(owners[id(variable)] for variable in before.moved()))
        thawed = [name for name in moved if self._trains(name)]
        if thawed:
            outer = list(dict.fromkeys(o for name in thawed for o in self._layers.around[name]))
            test = functools.partial(self._holds_if, before, batch, freeze=thawed)
            return Problem(_unfrozen_unasked, (thawed, outer), test)
        if moved:
            test = functools.partial(self._holds_if, before, batch, freeze=[])
            return Problem(_still_trains, (moved,), test)
        return None

    def _save_and_load(self) -> None:
        library = importlib.import_module(_library(self.model))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.keras"
            try:
                self.model.save(path)
                loaded = library.models.load_model(path)
            except Exception:
                return  # code of the user's own that does not say how it is saved
        self._adopt(loaded)

    def _called(self, x: Nest) -> Nest:
        return self.subject.forward(x, None)

    def _inference(self, name: str, run: Callable[[Nest], Nest]) -> Problem | None:
        """Run four rows, and the first of them beside others."""
        x = self._ways.data.take(np.arange(FEW) % self._ways.data.rows).x
        other = map_nest(np.copy, x)
        for leaf in flatten(other):
            leaf[1:] = _changed(leaf[1:])
        seen: list[Nest] = []
        problem = self._moves(name, lambda: seen.extend([run(x), run(other)]))
        if problem is not None:
            return problem
        for mine, its in zip(flatten(seen[0]), flatten(seen[1]), strict=True):
            a, b = np.asarray(mine), np.asarray(its)
            if a.ndim and len(a) == len(b) == FEW and not same_bits(a[:1], b[:1]):
                change = float(np.abs(a[:1].astype(float) - b[:1].astype(float)).max())
                return Problem(_rows_mix, (name, change))
        return None

    def _moves(self, name: str, run: Callable[[], Any]) -> Problem | None:
        owners = {id(v): layer.name for layer, variables in self._held for v in variables}
        before = Variables([v for _, variables in self._held for v in variables])
        run()
        moved = list(dict.fromkeys(owners[id(variable)] for variable in before.moved()))
        return Problem(_state_moves, (name, moved)) if moved else None

    def _adopt(self, model: Any) -> None:
        self.model = model
        self.subject: Subject = subject_of(model)
        self._named, _ = _named(self.subject)
        layers = [layer for layer in self.subject.layers() if layer is not model]
        self._held = [(layer, self.subject.own_variables(layer)) for layer in layers]

    def _variables(self, name: str) -> list[Any]:
        return self.subject.own_variables(self._named[name])

    def _trains(self, name: str) -> bool:
        """Whether no flag freezes a layer any more."""
        parts = [name, *self._layers.around[name]]
        return all(self.subject.trainable(self._named[part]) for part in parts)

    def _holds_if(self, before: Variables, batch: Data, *, freeze: list[str]) -> bool:
        """Whether another training function holds the state."""
        with preserve_state(self.subject):
            before.restore()
            for name in freeze:
                self.subject.freeze(self._named[name])
            self.subject.rebuild_training()
            self.subject.fit(batch, ROWS)
            return not before.moved()


def given_data(data: Any) -> Data:
    """The rows to train on, with targets.

    Raises:
        DataError: there are no targets, or the data cannot be read.
    """
    given = read(iter([data]) if isinstance(data, tuple) else data, None, None, ROWS)
    if given.y is None:
        raise DataError("data holds no targets, and a life has steps of fit; expected (x, y)")
    return given


def some_data(subject: Subject) -> Data:
    """Rows that fit the model's inputs, and targets that fit its outputs and its loss.

    Raises:
        DataError: the model does not tell its inputs, or its loss takes no such targets.
    """
    x = source_for(subject.model).expand(Recipe(ROWS, {}, Row("random", 1.0)))
    with preserve_state(subject):
        outputs = next(iter(subject.entries().values()))(x)
    shaped = map_nest(lambda leaf: _one_hot(np.asarray(leaf)), outputs)
    if not subject.compiled:
        return Data(x, shaped)
    for targets in (shaped, map_nest(lambda leaf: leaf.argmax(-1), shaped)):
        try:
            with preserve_state(subject):
                subject.evaluate(Data(x, targets), ROWS)
        except Exception:
            continue
        return Data(x, targets)
    raise DataError(
        f"the loss of model {subject.name!r} takes neither targets of the shape of its outputs "
        "nor classes; give some: lifecycle_machine(build, (x, y))"
    )


def _one_hot(outputs: Array) -> Array:
    hot = np.zeros(outputs.shape, np.float32)
    width = outputs.shape[-1] if outputs.ndim > 1 else 2
    for row in range(len(hot)):
        hot[row, ..., row % width] = 1
    return hot


def _named(subject: Subject) -> tuple[dict[str, Any], list[str]]:
    """The layers with statistics and what holds them, by path; and the paths of the former."""
    layers = [layer for layer in subject.layers() if layer is not subject.model]
    inside = {id(layer): {id(s) for s in subject.sublayers(layer)} for layer in layers}

    def path(layer: Any) -> str:
        outer = [other for other in layers if id(layer) in inside[id(other)]]
        outer.sort(key=lambda other: -len(inside[id(other)]))
        return "/".join(part.name for part in [*outer, layer])

    keeping = [layer for layer in layers if tracked_candidates(subject, layer)]
    holding = [layer for layer in layers if any(id(each) in inside[id(layer)] for each in keeping)]
    named = {path(layer): layer for layer in [*keeping, *holding]}
    return named | ({THE_MODEL: subject.model} if named else {}), [path(k) for k in keeping]


def _library(model: Any) -> str:
    """The package of Keras that made a model."""
    packages = [base.__module__.partition(".")[0] for base in type(model).__mro__]
    return next(package for package in packages if package in ("keras", "tf_keras"))


def _changed(rows: Array) -> Array:
    """Other valid rows in place of these."""
    return rows * rows.dtype.type(100) + rows.dtype.type(1) if is_float(rows) else rows[::-1]


def _unfrozen_unasked(moved: list[str], outer: list[str], tested: bool | None) -> None:
    raise _failure(
        rules.NOT_FROZEN,
        moved[0],
        f"fit moves the state of {listed(moved)}, frozen and never unfrozen by name",
        f"unfreezing what holds it ({listed(outer, 'or')}) set its own flag to True",
        tested,
        "with its own flag set to False again, its state stays",
        "freeze the normalisers again after unfreezing what holds them, and compile",
    )


def _still_trains(moved: list[str], tested: bool | None) -> None:
    rule = rules.FROZEN_MOVES if tested is False else rules.RECOMPILE_MISSING
    raise _failure(
        rule,
        moved[0],
        f"fit moves the state of {listed(moved)}, which is frozen",
        "compiling again does not hold it either"
        if tested is False
        else "the training function was made before the flag was set",
        tested,
        "with the training function made anew, its state stays",
        "compile again after freezing",
    )


def _state_moves(name: str, moved: list[str], tested: bool | None) -> None:
    raise _failure(
        rules.STATE_MOVES,
        moved[0],
        f"{name} moves the state of {listed(moved)}",
        "inference_purity tells more of the model as it is at this point",
        tested,
        "",
        "take training=True out of calls and defaults (training=None)",
    )


def _rows_mix(name: str, change: float, tested: bool | None) -> None:
    raise _failure(
        rules.ROWS_MIX,
        "the model's output",
        f"a row moves by {change:.3g} when only the other rows change, through {name}",
        "batch_invariance tells more of the model as it is at this point",
        tested,
        "",
        "call the model with training=False; compute over the feature axes, not over axis 0",
    )


def _failure(
    rule: Rule, layer: str, message: str, cause: str, tested: bool | None, how: str, remedy: str
) -> ConsistencyFailure:
    finding = rule.finding(
        layer=layer,
        message=message,
        explanation=Explanation(
            cause=cause if tested else f"not established; {cause}",
            tested=how if tested else "",
            remedy=remedy,
            established=bool(tested),
        ),
        bound="no tolerance: bitwise",
    )
    result = CheckResult(check="lifecycle", verdict=Verdict.FAILED, findings=(finding,))
    return ConsistencyFailure(text.render(result), [result])
