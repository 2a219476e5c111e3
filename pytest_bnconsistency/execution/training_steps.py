"""Real training steps by the user's own path, and what one pass in training mode shows."""

from __future__ import annotations

import contextlib
import dataclasses
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from pytest_bnconsistency.data.arrays import Array, Nest, distance, is_float, map_nest, numbers_in
from pytest_bnconsistency.data.rows import Data
from pytest_bnconsistency.errors import BNConsistencyError, DataError, StepError
from pytest_bnconsistency.execution.graphs import as_written
from pytest_bnconsistency.execution.hooked_calls import Instrument, Replay
from pytest_bnconsistency.execution.state import Variables, preserve_state, reachable_variables
from pytest_bnconsistency.execution.traces import Traces
from pytest_bnconsistency.models import Call, Subject
from pytest_bnconsistency.models.calls import TracedBatch
from pytest_bnconsistency.models.owned_objects import LIBRARIES, traced_functions
from pytest_bnconsistency.models.training_batches import (
    as_batch,
    as_given,
    batch_like,
    rows_in,
    same_form,
    traced_batches,
)
from pytest_bnconsistency.words import brief_line

SHIFT = 3.0
"""Rows are moved by this many standard deviations."""
TRACED = 4
"""Forms of batches that training was traced for, at most, besides those of the data given."""
ROUNDED = 8
"""Units in the last place by which runs of one trace may round otherwise."""
UNITS = 64


@dataclass(frozen=True)
class Feed:
    """How steps get their rows: so many in a batch, as `like` if training was traced for that."""

    rows: int
    like: TracedBatch | None = None


@dataclass(frozen=True)
class Ran:
    """What some steps did: the variables that moved, by identity, and how many now hold NaN.

    `rounded` are those of them that moved by no more than rounding may move them. `trained` says
    that some variable of the subject's moved, whichever it is; `unlike` are forms of batches that
    `fit` was traced for, and that the data given can't take.
    """

    moved: frozenset[int] = frozenset()
    rounded: frozenset[int] = frozenset()
    sizes: tuple[int, ...] = ()
    broken: int = 0
    trained: bool = True
    unlike: tuple[TracedBatch, ...] = ()


@dataclass(frozen=True)
class Steps:
    """Training steps on rows moved by `SHIFT`, with two batch shapes and the first of them again.

    Batches are as the user gives them, and as training was traced for: what was traced before a
    flag changed still runs as it was, for batches of its own form alone. Each run begins with the
    state that the subject is in, and leaves it so.
    """

    subject: Subject
    data: Data | None
    train_step: Callable[..., Any] | None
    batch_size: int
    steps: int

    @property
    def possible(self) -> bool:
        if self.data is None:
            return False
        return self.train_step is not None or self.subject.trains_on(self.data)

    @property
    def path(self) -> str:
        return "train_step" if self.train_step is not None else "fit"

    def as_users_run(self, variables: Sequence[Any]) -> Ran:
        """The variables that move, where a trace is rewritten before it runs, as it is for users.

        That takes time, and tells only where it rounds otherwise.
        """
        ran = self.run(variables)
        if not ran.rounded:
            return ran
        rewritten = self.run(variables, rewritten=True)
        return dataclasses.replace(ran, moved=ran.moved - (ran.rounded - rewritten.moved))

    def run(
        self,
        variables: Sequence[Any],
        *,
        freeze: Sequence[Any] = (),
        retrace: bool = False,
        rewritten: bool = False,
    ) -> Ran:
        """The variables that move; some layers frozen by flag first, training compiled anew, or
        what is traced `rewritten` before it runs.

        Raises:
            StepError: the user's own step raised.
        """
        if self.data is None or not self.possible:
            return Ran()
        feeds, unlike = self._feeds(self.data)
        variables_ = reachable_variables(self.subject)
        before, all_before = Variables(list(variables)), Variables(variables_)
        moved, far = set[int](), set[int]()
        broken, trained = 0, True
        with preserve_state(self.subject, self.train_step):
            for layer in freeze:
                self.subject.freeze(layer)
            if retrace:
                forget_training(self.subject, self.train_step)
            try:
                finite = _finite(variables_)
                for feed in feeds:
                    # What a step refers to may be traced for other things than batches.
                    guess = feed.like is not None
                    with contextlib.suppress(*([StepError, DataError] if guess else [])):
                        self._train(self.data, feed, rewritten=rewritten)
                    for variable, now in before.changes():
                        moved.add(id(variable))
                        if not is_rounding(before.value(variable), now.numpy()):
                            far.add(id(variable))
                broken = len(finite - _finite(variables_))
                trained = bool(moved or all_before.moved())
            finally:
                before.restore()
        sizes = tuple(feed.rows for feed in feeds)
        return Ran(frozenset(moved), frozenset(moved - far), sizes, broken, trained, unlike)

    def _feeds(self, data: Data) -> tuple[list[Feed], tuple[TracedBatch, ...]]:
        """What steps are fed with, and the traced batches that `data` doesn't fit."""
        size = min(self.batch_size, data.rows)
        sizes = [size, size - 1, size] if size > 1 else [1, 2, 1]
        fitting, unlike = self._traced(data, sizes)
        feeds = [Feed(rows_in(traced) or size, traced) for traced in fitting[:TRACED]]
        return [*feeds, *map(Feed, sizes)], () if self.train_step is not None else tuple(unlike)

    def _traced(
        self, data: Data, sizes: Sequence[int]
    ) -> tuple[list[TracedBatch], list[TracedBatch]]:
        """The batches that training was traced for and `data` fits, and those that it doesn't.

        Without those that steps of `sizes` rows run on anyway.
        """
        own = self.train_step is not None
        narrowed = not own and (data.form is None or not data.form.streamed)
        one = data.take([0])
        mine, names = as_batch(one), self.subject.input_names()
        fitting, unlike = list[TracedBatch](), list[TracedBatch]()
        for traced in [*self.subject.traced_batches(), *traced_batches(self.train_step)]:
            rows = rows_in(traced)
            known = rows in (None, *sizes) and same_form(mine, traced, narrowed=narrowed)
            if known and (own or not traced.by_call):
                continue
            fits = batch_like(one, traced, names) is not None
            (fitting if fits else unlike).append(traced)
        return fitting, unlike

    def _train(self, data: Data, feed: Feed, *, rewritten: bool) -> None:
        batch = data.take(np.arange(feed.rows * self.steps) % data.rows)
        batch = dataclasses.replace(batch, x=shifted(batch.x))
        with _as_sentence(self.path), contextlib.nullcontext() if rewritten else as_written():
            if self.train_step is not None:
                for part in batch.batches(feed.rows):
                    self.train_step(*self._handed(part, feed))
            elif feed.like is not None:
                self.subject.fit_like(batch, feed.rows, feed.like)
            else:
                self.subject.fit(batch, feed.rows)

    def _handed(self, batch: Data, feed: Feed) -> tuple[Nest, Nest | None]:
        """x and y as the user's own step is given them."""
        x, y = as_given(batch), batch.y
        if feed.like is not None:
            parts = batch_like(batch, feed.like, self.subject.input_names())
            x, y = (*parts, None)[:2] if isinstance(parts, tuple) else (parts, None)
        if batch.form is not None and batch.form.tensors:
            x, y = (None if v is None else map_nest(tf.convert_to_tensor, v) for v in (x, y))
        return x, y


def is_rounding(before: Array, after: Array) -> bool:
    """Whether a variable moved by no more than rounding may move it."""
    if before.dtype.kind != "f":
        return False
    bound = ROUNDED * float(np.finfo(before.dtype).eps) * float(np.abs(before).max(initial=0))
    return bool((distance(before, after) <= bound).all())


def forget_training(subject: Subject, train_step: Callable[..., Any] | None) -> None:
    """Let the next step trace anew, by `fit` or by the user's own `train_step`."""
    if subject.compiled:
        subject.rebuild_training()
    Traces(traced_functions(train_step)).forget()


@contextlib.contextmanager
def _as_sentence(path: str) -> Iterator[None]:
    """What the user's own step raises, with the line of the user's that raised it.

    What it warns of, its user has seen in runs of its own.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except BNConsistencyError:
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        own = [f for f in frames if not _in_library(f.filename)]
        where = f" ({Path(own[-1].filename).name}:{own[-1].lineno})" if own else ""
        raise StepError(
            f"{path} raised {type(error).__name__}: {brief_line(error)}{where}; expected a "
            "training step that runs; everything is as it was before"
        ) from error


def _in_library(filename: str) -> bool:
    parts = Path(filename).parts
    return any(part in (*LIBRARIES, "pytest_bnconsistency") for part in parts)


def shifted(x: Nest) -> Nest:
    """The rows moved, so that a moving statistic must show; integers stay."""

    def move(leaf: Array) -> Array:
        if not is_float(leaf):
            return leaf
        by = leaf.dtype.type(SHIFT * (numbers_in(leaf).std() or 1.0))
        moved: Array = (leaf + by).astype(leaf.dtype)
        return moved

    return map_nest(move, x)


def _finite(variables: Sequence[Any]) -> set[int]:
    """The weights among them that train and hold no NaN, by identity."""
    return {
        id(v)
        for v in variables
        if v.trainable and v.dtype.is_floating and bool(tf.reduce_all(tf.math.is_finite(v)))
    }


@dataclass(frozen=True)
class ModeGap:
    """How far a layer in training mode is from inference mode, on one input.

    `scale` is the largest output in inference mode; `compared` is False where all of them are
    NaN or infinite.
    """

    distance: float = 0.0
    scale: float = 0.0
    compared: bool = field(default=True)

    @property
    def differs(self) -> bool:
        """Whether it is more than float noise of a single layer can make."""
        return self.compared and not self.distance <= UNITS * 2.0**-23 * max(self.scale, 1e-30)


class Modes(Instrument):
    """Records, for chosen layers, how far what they give is from what inference mode gives, or
    another `mode`, on one input.
    """

    def __init__(
        self, subject: Subject, chosen: Callable[[Call], bool], *, mode: bool = False
    ) -> None:
        self._subject, self._chosen, self._mode = subject, chosen, mode

    def on_call(self, call: Call, outputs: Any, replay: Replay) -> tuple[Any, list[Any] | None]:
        if (
            not call.is_layer
            or not self._chosen(call)
            or not self._subject.takes_training(call.layer)
            or self._subject.stochastic(call.layer)
            or self._only_holds(call.layer)
            or not isinstance(outputs, tf.Tensor)
            or not outputs.dtype.is_floating
        ):
            return outputs, None
        in_mode = tf.cast(replay(self._mode), tf.float32)
        seen = tf.cast(outputs, tf.float32)
        same = tf.logical_or(
            tf.equal(seen, in_mode),
            tf.logical_and(tf.math.is_nan(seen), tf.math.is_nan(in_mode)),
        )
        distance = tf.where(same, tf.zeros_like(seen), tf.abs(seen - in_mode))
        sizes = tf.where(tf.math.is_finite(in_mode), tf.abs(in_mode), tf.zeros_like(in_mode))
        finite = tf.reduce_any(tf.math.is_finite(in_mode))
        return outputs, [tf.reduce_max(distance), tf.reduce_max(sizes), finite]

    def _only_holds(self, layer: Any) -> bool:
        """Whether it is others inside that compute, as in a nested model."""
        subject = self._subject
        return not subject.own_variables(layer) and bool(subject.sublayers(layer))


def mode_gaps(calls: Sequence[Call], records: Sequence[list[Array] | None]) -> dict[int, ModeGap]:
    """What `Modes` recorded, by identity of the layer; the worst of its calls."""
    found: dict[int, ModeGap] = {}
    for call, record in zip(calls, records, strict=True):
        if record:
            now = ModeGap(float(record[0]), float(record[1]), bool(record[2]))
            before = found.get(id(call.layer), now)
            found[id(call.layer)] = max(before, now, key=lambda a: (a.differs, a.distance))
    return found
