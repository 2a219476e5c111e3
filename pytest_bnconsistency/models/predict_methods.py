"""How Keras models infer by `predict` and its kin, and what of it is the library's."""

from __future__ import annotations

import contextlib
import copy
import inspect
import warnings
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import tensorflow as tf

from pytest_bnconsistency.data.arrays import Nest, flatten, map_nest, packed, rows_of
from pytest_bnconsistency.models.base import PREDICT_DATASET, Subject, set_batch
from pytest_bnconsistency.models.calls import Compiled
from pytest_bnconsistency.models.refusals import as_sentence
from pytest_bnconsistency.models.training_batches import dataset_of, with_tuples

_INFERRING = ("predict", "predict_on_batch", "predict_step", "make_predict_function")
"""What turns rows into outputs, apart from the model's call."""
_EVALUATING = ("evaluate", "test_step", "make_test_function", "compute_loss", "compute_metrics")
"""What turns rows and targets into scores, apart from the model's call."""


class PredictingSubject(Subject):
    """A model whose library has a `predict`, which compiles a function when it first runs."""

    model_class: Any
    steps = False
    """Whether inference runs the model's own `predict_step`."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self._traced: weakref.WeakKeyDictionary[Any, set[str]] = weakref.WeakKeyDictionary()

    @property
    def predict_function(self) -> Any:
        return self.model.predict_function

    @predict_function.setter
    def predict_function(self, function: Any) -> None:
        self.model.predict_function = function

    def recompile(self) -> None:
        self.model.predict_function = self.model.test_function = None

    def entries(self) -> Mapping[str, Callable[[Nest], Nest]]:
        return {
            "predict": self._predict,
            PREDICT_DATASET: self._predict_dataset,
            "predict_on_batch": self._predict_on_batch,
        }

    def _predict(self, x: Nest) -> Nest:
        with quiet(), self._one_trace(), as_sentence("predict", x):
            return self._predicted(fed(packed(x, self.kinds)), batch_size=rows_of(x))

    def _predict_dataset(self, x: Nest) -> Nest:
        """`predict` of a `tf.data.Dataset` of batches, the last one smaller."""
        # A data set takes a list for one tensor, and `predict` takes a tuple for (x, y).
        rows = dataset_of((x,) if isinstance(x, (tuple, list)) else x, set_batch(self, x))
        if any(self.kinds):
            rows = rows.map(lambda x: packed(x, self.kinds))
        with quiet(), self._one_trace(), as_sentence(PREDICT_DATASET, x):
            return self._predicted(rows)

    def _predicted(self, x: Any, **options: Any) -> Nest:
        """`predict` of the model's own is given the options that it takes."""
        options["verbose"] = 0
        parameters = inspect.signature(self.model.predict).parameters
        if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            options = {name: value for name, value in options.items() if name in parameters}
        return self.model.predict(x, **options)

    @contextlib.contextmanager
    def _one_trace(self) -> Iterator[None]:
        """Have `predict` traced for any number of rows at once.

        By itself it is traced for the first number, and for any when it meets a second one.
        """
        self.model.make_predict_function()
        function = self.model.predict_function

        def run(batches: Any) -> Any:
            self._trace_any_rows(function, batches)
            return function(batches)

        self.model.predict_function = run
        try:
            yield
        finally:
            self.model.predict_function = function

    def _trace_any_rows(self, function: Any, batches: Any) -> None:
        if not hasattr(function, "get_concrete_function"):
            return
        if not function.experimental_get_tracing_count():
            self._traced[function] = set()
        if function not in self._traced:
            return  # what the user runs has its traces

        def any_rows(spec: Any) -> Any:
            return tf.TensorSpec((None, *spec.shape[1:]), spec.dtype)

        def spec(leaf: Any) -> Any:
            if isinstance(leaf, tf.data.Iterator):
                return tf.data.IteratorSpec(tf.nest.map_structure(any_rows, leaf.element_spec))
            return any_rows(leaf)

        # Code that needs the number of rows is traced for each, as without this; so are the
        # batches of a distribution strategy, which have no shape.
        with contextlib.suppress(Exception):
            signature = tf.nest.map_structure(spec, batches)
            if str(signature) not in self._traced[function]:
                self._traced[function].add(str(signature))
                function.get_concrete_function(signature)

    def _predict_on_batch(self, x: Nest) -> Nest:
        with quiet(), self._one_trace(), as_sentence("predict_on_batch", x):
            return self.model.predict_on_batch(fed(packed(x, self.kinds)))

    @property
    def runs_eagerly(self) -> bool:
        return bool(getattr(self.model, "run_eagerly", False)) or tf.config.functions_run_eagerly()

    @property
    def steps_at_once(self) -> int:
        return int(getattr(self.model, "steps_per_execution", None) or 1)

    @contextlib.contextmanager
    def single_steps(self) -> Iterator[None]:
        before, function = self.steps_at_once, self.model.predict_function
        self.model.steps_per_execution, self.model.predict_function = 1, None
        try:
            yield
        finally:
            self.model.steps_per_execution, self.model.predict_function = before, function

    def compiled_for(self) -> list[Compiled]:
        function = self.model.predict_function
        if function in self._traced:
            return []  # no user's, with no trace of theirs
        traces: list[Any] = getattr(function, "_list_all_concrete_functions", list)()
        found = (self._compiled(trace.structured_input_signature[0][0]) for trace in traces)
        return [trace for trace in found if trace is not None]

    def _compiled(self, data: Any) -> Compiled | None:
        """The trace for `data`: a list of batches, or an iterator over batches."""
        static = isinstance(data, tf.data.IteratorSpec)
        batch = with_tuples(data._element_spec if static else data[0])
        x = batch[0] if isinstance(batch, tuple) else batch
        leaves = flatten(x)
        if not all(isinstance(leaf, tf.TensorSpec) and leaf.shape.rank for leaf in leaves):
            return None
        sizes = [flatten(each)[0].shape[0] for each in ([batch] if static else data)]

        def run(rows: Nest) -> Nest:
            """`predict` of batches that look like those that it was compiled for."""
            given, count = iter(flatten(rows)), rows_of(rows)
            wanted = {id(leaf) for leaf in leaves}

            def filled(spec: Any) -> Any:
                if id(spec) in wanted:
                    return next(given)
                return tf.zeros((count, *(size or 1 for size in spec.shape[1:])), spec.dtype)

            with quiet(), as_sentence("predict", rows):
                element = tf.nest.map_structure(filled, batch)
                if static and sizes[0] is not None:
                    batches = tf.data.Dataset.from_tensors(element)
                else:
                    batches = tf.data.Dataset.from_tensor_slices(element)
                    batches = batches.batch(sizes[0] or count)
                return self.model_class.predict(self.model, batches, verbose=0)

        return Compiled(None if None in sizes else sum(sizes), x, run)

    def own_inference(self) -> list[str]:
        return [name for name in _INFERRING if self._overrides(name)]

    def own_evaluation(self) -> list[str]:
        return [name for name in _EVALUATING if self._overrides(name)]

    def qualified(self, name: str) -> str:
        if name in vars(self.model):
            return f"{name}, which was set on the model itself,"
        owner = next(kind for kind in type(self.model).__mro__ if name in vars(kind))
        return f"{owner.__name__}.{name}"

    def by_step(self) -> Subject | None:
        if "predict_step" not in self.own_inference():
            return None
        stepping = copy.copy(self)
        stepping.steps = True
        return stepping

    def _overrides(self, name: str) -> bool:
        """Whether the model, or its class, has a method of its own in place of the library's."""
        if name in vars(self.model):
            return True
        own, its = (getattr(kind, name, None) for kind in (type(self.model), self.model_class))
        return own is not its

    def as_library(self, names: Collection[str]) -> contextlib.AbstractContextManager[None]:
        own = {name: getattr(self.model_class, name).__get__(self.model) for name in names}
        return self._with_methods(own)

    @contextlib.contextmanager
    def _with_methods(self, methods: Mapping[str, Callable[..., Any]]) -> Iterator[None]:
        """Within it, the model has other methods."""
        attributes = vars(self.model)
        before = {name: attributes[name] for name in methods if name in attributes}
        attributes.update(methods)
        try:
            yield
        finally:
            for name in methods:
                attributes.pop(name, None)
            attributes.update(before)


def fed(x: Nest) -> Nest:
    """`x` as Keras takes it: texts as tensors only."""
    return map_nest(lambda leaf: tf.constant(leaf) if leaf.dtype == object else leaf, x)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """What a model's own step warns of, its user has seen in runs of its own."""
    logger = tf.get_logger()
    level = logger.level
    try:
        logger.setLevel("ERROR")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
