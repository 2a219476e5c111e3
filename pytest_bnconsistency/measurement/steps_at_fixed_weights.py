"""Real training steps with the weights put back after each: what they do to statistics alone."""

from __future__ import annotations

import itertools
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from pytest_bnconsistency.data.arrays import Array
from pytest_bnconsistency.data.rows import Data
from pytest_bnconsistency.execution.graphs import as_written
from pytest_bnconsistency.execution.state import Variables, preserve_state, reachable_variables
from pytest_bnconsistency.execution.training_steps import forget_training
from pytest_bnconsistency.execution.variable_writers import calls_around, intercepted, writer_at
from pytest_bnconsistency.measurement.tracked_variables import Tracked, write_statistics
from pytest_bnconsistency.models import Subject

MOST_WRITES = 64
"""So many writes to a variable in one step are told apart."""


@dataclass(frozen=True)
class RealStep:
    """The user's own training step, on each batch of what it is given: `fit`, or one handed in."""

    subject: Subject
    own: Callable[..., Any] | None
    size: int

    @property
    def has_run(self) -> bool:
        """Whether it may be what trained the model: an optimizer that is new has not."""
        return self.own is not None or self.subject.own_training or self.subject.updates() != 0

    def __call__(self, given: Data) -> None:
        with as_written():
            if self.own is None:
                self.subject.fit(given, self.size)
                return
            for batch in given.batches(self.size):
                self.own(batch.x, batch.y)

    def each(
        self,
        data: Data,
        rows: Sequence[Array],
        begin: Callable[[int], None],
        end: Callable[[int], None],
    ) -> None:
        """A step on each of these rows, as many each time, between `begin` and `end` with its
        number.
        """
        if not self._in_one_fit(data, rows, begin, end):
            for number, chosen in enumerate(rows):
                begin(number)
                self(data.take(chosen))
                end(number)

    def _in_one_fit(
        self,
        data: Data,
        rows: Sequence[Array],
        begin: Callable[[int], None],
        end: Callable[[int], None],
    ) -> bool:
        """The same in one `fit`, which costs less; False where that runs several steps at once."""
        if self.own is not None or not self.subject.takes_callbacks or len(rows) < 2:
            return False
        begun, ended = itertools.count(), itertools.count()
        every = data.take(np.concatenate(rows))
        with as_written():
            self.subject.fit_watched(
                every, len(rows[0]), lambda: begin(next(begun)), lambda: end(next(ended))
            )
        return next(ended) == len(rows)


@dataclass(frozen=True)
class Write:
    """A write to a tracked variable. `by` is who wrote, empty where a call of its layer did."""

    by: str
    before: Array
    after: Array


@dataclass(frozen=True)
class Rested:
    """What one step made of each tracked variable, and the writes that it took, in their order."""

    after: list[Array]
    writes: list[list[Write]]

    def by_layer(self, index: int) -> list[Write]:
        return [write for write in self.writes[index] if not write.by]


def steps_at_rest(
    step: RealStep,
    tracked: Sequence[Tracked],
    data: Data,
    begun: Sequence[tuple[Array, Sequence[Array]]],
    *,
    others: bool = True,
) -> list[Rested]:
    """One step on each batch of rows, from the same weights and from the statistics beside it.

    One trace serves all: the batches have as many rows. With `others=False`, all writes to the
    statistics but those of their layers are left out.
    """
    logs = {id(t.variable): _Log(t) for t in tracked}
    stepping = False

    def note(variable: Any, frame: types.FrameType, write: Callable[[], Any]) -> Any:
        if not stepping:
            return write()
        log = logs[id(variable)]
        by = log.writer(frame)
        if by and not others:
            return variable
        result = write()
        log.note(by)
        return result

    found: dict[int, Rested] = {}
    with preserve_state(step.subject, step.own):
        everything = Variables(reachable_variables(step.subject))
        forget_training(step.subject, step.own)

        def begin(number: int) -> None:
            nonlocal stepping
            stepping = False
            everything.restore()
            write_statistics(tracked, begun[number][1])
            for log in logs.values():
                log.begin()
            stepping = True

        def end(number: int) -> None:
            writes = [logs[id(t.variable)].read() for t in tracked]
            found[number] = Rested([t.stored for t in tracked], writes)

        with intercepted([t.variable for t in tracked], note):
            step.each(data, [rows for rows, _ in begun], begin, end)
    return [found[number] for number in range(len(begun))]


class _Log:
    """The writes to a variable, in variables of its own: they are noted as the step runs, which
    may have been traced, and may loop.
    """

    def __init__(self, tracked: Tracked) -> None:
        self._tracked = tracked
        shape = tuple(tracked.variable.shape)
        self._values = tf.Variable(tf.zeros((MOST_WRITES, *shape), tf.float64), trainable=False)
        self._sites = tf.Variable(tf.zeros((MOST_WRITES,), tf.int32), trainable=False)
        self._count = tf.Variable(0, trainable=False)
        self._writers: list[str] = []
        self._before = tracked.stored

    def writer(self, frame: types.FrameType) -> str:
        """Who asked for a write, empty for a call of the variable's own layer."""
        if id(self._tracked.layer) in calls_around(frame):
            return ""
        writer = writer_at(frame)
        return "the training step" if writer is None else writer.label

    def note(self, by: str) -> None:
        self._writers.append(by)
        place = tf.minimum(self._count.read_value(), MOST_WRITES - 1)[None]
        value = tf.cast(self._tracked.variable.read_value(), tf.float64)
        self._values.scatter_update(tf.IndexedSlices(value[None], place))
        self._sites.scatter_update(tf.IndexedSlices([len(self._writers) - 1], place))
        self._count.assign_add(1)

    def begin(self) -> None:
        self._count.assign(0)
        self._before = self._tracked.stored

    def read(self) -> list[Write]:
        """The writes since it began."""
        found, before = [], self._before
        for index in range(min(int(self._count.numpy()), MOST_WRITES)):
            after = self._values[index].numpy()
            found.append(Write(self._writers[int(self._sites[index].numpy())], before, after))
            before = after
        return found
