"""200 examples on MobileNetV2 at 96, beside the bare forward passes and the obvious test.

    python benchmarks/example_search.py

A is the search in the check, its traces made before. B is the same batches through a bare traced
forward pass. C is `@given(arrays(...))` with `predict`. Prints seconds, the number of traces that
the search made, and A / B; A without its passes is what drawing, expanding and comparing cost.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import hypothesis.extra.numpy as arrays
import keras
import numpy as np
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_bnconsistency.assertions import check_context
from pytest_bnconsistency.checks.batch_invariance.search import Rows
from pytest_bnconsistency.checks.search import Search
from pytest_bnconsistency.execution.forward_pass import Pass

EXAMPLES, SHAPE = 200, (96, 96, 3)


def main() -> None:
    keras.utils.set_random_seed(1)
    model = keras.applications.MobileNetV2(weights=None, input_shape=SHAPE, classes=10)
    context = check_context(model, None, None, {})
    oracle = Rows(context, context.sample(), None)
    sizes: list[int] = []
    passes: list[float] = []
    traces = 0
    run, trace = Pass.run, Pass._trace

    def counted_run(self: Pass, x: Any, **options: Any) -> Any:
        start = time.perf_counter()
        try:
            return run(self, x, **options)
        finally:
            sizes.append(len(x))
            passes.append(time.perf_counter() - start)

    def counted_trace(self: Pass, x: Any) -> None:
        nonlocal traces
        traces += 1
        trace(self, x)

    Pass.run, Pass._trace = counted_run, counted_trace
    start = time.perf_counter()
    found = Search("batch_invariance", oracle).run(EXAMPLES)
    search = time.perf_counter() - start
    Pass.run, Pass._trace = run, trace

    signature = [tf.TensorSpec((None, *SHAPE))]
    bare = tf.function(lambda x: model(x, training=False), input_signature=signature)
    for size in {1, *sizes}:
        bare(tf.zeros((size, *SHAPE)))
    start = time.perf_counter()
    for size in sizes:
        bare(tf.random.normal((size, *SHAPE))).numpy()
    forward = time.perf_counter() - start

    rows = st.tuples(st.integers(1, 17), *map(st.just, SHAPE))

    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
    @given(arrays.arrays(np.float32, rows, elements=st.floats(-100, 100, width=32)))
    def obvious(x: np.ndarray) -> None:
        model.predict(x, verbose=0)

    start = time.perf_counter()
    with contextlib.suppress(Exception):
        obvious()
    naive = time.perf_counter() - start
    rest = search - sum(passes)
    print(f"found {found}, {len(sizes)} passes on {sum(sizes)} rows, {traces} new traces")
    print(f"A search {search:.1f} s, {rest / search:.1%} of it outside the passes")
    print(f"B bare forward passes {forward:.1f} s, A / B {search / forward:.2f}")
    print(f"C arrays and predict {naive:.1f} s, C / A {naive / search:.2f}")


if __name__ == "__main__":
    main()
