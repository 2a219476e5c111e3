"""Rounding, imitated: what layers or single operations give times 1 +- eps/2, at random."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from pytest_bnconsistency.data.arrays import Array, Nest, map_nest
from pytest_bnconsistency.execution.activation_patching import Operation, replacing
from pytest_bnconsistency.execution.forward_pass import Pass
from pytest_bnconsistency.execution.graphs import with_mask
from pytest_bnconsistency.execution.hooked_calls import Instrument, Replay
from pytest_bnconsistency.models import Call, Part

EPSILON = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}
LOWER = {"float64": 2.0**-23, "float32": 2.0**-10, "float16": 2.0**-7, "bfloat16": 2.0**-3}
"""The eps of the next lower precision: float32, float16, bfloat16, float8 (e4m3)."""


def epsilon_of(dtype: Any, *values: Array) -> float:
    """The round-off of numbers of a type, or of the narrower one that all of them fit.

    Keras 3.0 computes updates in half precision, whatever the statistics are stored in.
    """
    with np.errstate(over="ignore"):
        for narrow in (tf.bfloat16, tf.float16):
            if all(np.array_equal(value, value.astype(narrow.as_numpy_dtype)) for value in values):
                return EPSILON[narrow.name]
    return EPSILON.get(dtype.name, 0.0)


def _types(names: str) -> frozenset[str]:
    return frozenset(names.split())


ARITHMETIC = {
    "Add": tf.add,
    "AddV2": tf.add,
    "Sub": tf.subtract,
    "Mul": tf.multiply,
    "RealDiv": tf.divide,
}
"""Operations whose result is the number next to the exact one."""
SUMS = _types("""
    AvgPool AvgPool3D BatchMatMul BatchMatMulV2 BatchMatMulV3 Conv2D Conv3D DepthwiseConv2dNative
    Einsum MatMul Mean Sum
""")
"""Operations that add up many terms."""
REDUCTIONS = _types("AvgPool AvgPool3D Mean Sum")
"""Those of them whose terms are the numbers that they are given."""
MOVES = _types("""
    Abs Bitcast BroadcastTo Ceil CheckNumerics ClipByValue Concat ConcatV2 Const DepthToSpace
    DynamicPartition DynamicStitch EnsureShape ExpandDims Fill Floor Gather GatherNd GatherV2
    Identity IdentityN MatrixBandPart Max MaxPool MaxPool3D MaxPoolV2 Maximum Min Minimum MirrorPad
    Neg OneHot OnesLike Pack Pad PadV2 ParallelDynamicStitch Placeholder PlaceholderWithDefault
    PreventGradient ReadVariableOp Relu Relu6 Reshape ResizeNearestNeighbor ResourceGather
    ResourceGatherNd Reverse ReverseSequence ReverseV2 Rint Roll Round Select SelectV2 Sign Slice
    SpaceToDepth Split SplitV Squeeze StopGradient StridedSlice Tile TopKV2 Transpose Unpack
    ZerosLike
""")
"""Operations that hand numbers on as they are, or choose among them."""


class MonteCarloRounding(Instrument):
    """Multiplies outputs by 1 + sign * size(eps) / 2.

    With `sums`, the size is that which a sum over all n elements of a row has, sqrt(n/2) * eps,
    and each element has a sign of its own. For runs outside of a graph.
    """

    def __init__(self, seed: int, eps: Mapping[str, float], *, sums: bool) -> None:
        self.places = 0
        self._eps, self.sums = eps, sums
        self._rng = np.random.default_rng(seed)

    def on_call(self, call: Call, outputs: Any, replay: Replay) -> tuple[Any, list[Any] | None]:
        if isinstance(call.layer, Part):
            return outputs, None  # the noise inside is not that of its outputs
        return map_nest(self.round_randomly, outputs), None

    def round_randomly(self, tensor: Any) -> Any:
        if not floating(tensor) or tensor.shape[0] == 0:
            return tensor
        self.places += 1
        size = self._eps.get(tensor.dtype.name, self._eps["float32"]) / 2
        shape = list(tensor.shape)
        if self.sums:
            size *= max(1.0, math.sqrt(math.prod(shape[1:]) / 2))
        else:
            # A sign for each channel and place along the first inner axis: a draw for each
            # element costs more than the network itself.
            shape = [n if axis in (0, 1, len(shape) - 1) else 1 for axis, n in enumerate(shape)]
        signs = 2 * self._rng.integers(0, 2, shape, np.int8) - 1
        share = (signs * size).astype(tensor.dtype.as_numpy_dtype)
        unrounded = _whole(tensor) | ~tf.math.is_finite(tensor)
        return with_mask(tf.where(unrounded, tensor, tensor + tensor * share), tensor)


class MonteCarloRoundingOfOperations:
    """Rounds what single operations give another way: times 1 + sign * size / 2.

    A sum of n terms is that of terms that are each off by sqrt(n/2) * eps: n is not known, but is
    no more than the elements of a row. A mean in half precision is off by as much itself, by its
    own n. So much is off, too, what an operation gives of which it is
    not known what it computes. What is computed by +, -, * or / is off by eps; what is exact, and
    so what is only moved or chosen, by nothing. In the next lower precision all are off by its
    eps. Each element has a sign of its own.

    It does so in what is traced `within` it, wherever the first axis is of no fixed length: what
    one layer computes may cancel, and then its output does not show how large its noise is.
    """

    UNDISTURBED, ROUNDED, LOWERED = 0, 1, 2

    def __init__(self) -> None:
        self._seed = tf.Variable(0, dtype=tf.int32, trainable=False)
        self._mode = tf.Variable(self.UNDISTURBED, dtype=tf.int32, trainable=False)
        self._places = itertools.count()
        self._graph: Any = None

    def run(self, traced: Pass, x: Nest, mode: int, seed: int = 0) -> list[Array]:
        """The outputs of one draw, or of none."""
        self._seed.assign(seed)
        self._mode.assign(mode)
        return traced.run(x).outputs

    def within(self) -> contextlib.AbstractContextManager[None]:
        return replacing(self._replace)

    def _replace(self, operation: Operation) -> Sequence[Any] | None:
        graph, tensors = operation.graph, operation.outputs
        if self._graph is None:
            self._graph = graph
        # Traces of functions that the code calls outlive this one, so they stay as they are.
        if graph is None or graph is not self._graph or not any(map(_known, tensors)):
            return None
        return [self._rounded(tensor) if _known(tensor) else tensor for tensor in tensors]

    def _rounded(self, tensor: Any) -> Any:
        operation = tensor.op
        if _moves_only(operation):
            return tensor
        kept = _whole(tensor)
        if operation.type in ARITHMETIC:
            kept |= _exact(operation, tensor)
            rounding = self._rounded_by(tensor, 1)
        elif operation.type in SUMS:
            added = _added_in_turn(operation, tensor)
            rounding = self._rounded_by(
                self._of_rounded_terms(operation, tensor), added, lowered=_growth(added)
            )
        else:
            rounding = self._rounded_by(tensor, _terms(tensor))
        return tf.where(kept, tensor, rounding)

    def _of_rounded_terms(self, operation: Any, tensor: Any) -> Any:
        """The same sum of terms that are a little off."""
        given = list(operation.inputs)
        places = [place for place, leaf in enumerate(given) if _known(leaf)]
        if not places:
            return tensor
        terms = given[places[0]]
        # A lower precision rounds them where they come from.
        given[places[0]] = self._rounded_by(terms, _terms(terms), lowered=0.0)
        attributes = dict(operation.node_def.attr)
        again = operation.graph.create_op(
            operation.type, given, [tensor.dtype], attrs=attributes
        ).outputs[0]
        again.set_shape(tensor.shape)
        return again

    def _rounded_by(self, tensor: Any, terms: Any, *, lowered: Any = 1.0) -> Any:
        shape = tf.shape(tensor)
        seed = tf.stack([self._seed, next(self._places)])
        signs = 2 * tf.random.stateless_uniform(shape, seed, 0, 2, tf.int32) - 1
        sums = _growth(terms) * EPSILON[tensor.dtype.name]
        lower = tf.cast(lowered, tf.float64) * LOWER[tensor.dtype.name]
        size = tf.gather(tf.stack([tf.zeros_like(sums), sums, lower]), self._mode) / 2
        share = tf.cast(signs, tensor.dtype) * tf.cast(size, tensor.dtype)
        return tf.where(tf.math.is_finite(tensor), tensor + tensor * share, tensor)


def _known(tensor: Any) -> bool:
    """Whether it is of floating numbers in rows, whose number is open."""
    ranked = tensor.dtype.name in EPSILON and tensor.shape.rank not in (None, 0)
    return ranked and tensor.shape[0] is None


def _terms(tensor: Any) -> Any:
    return tf.reduce_prod(tf.shape(tensor)[1:])


def _growth(terms: Any) -> Any:
    """By how much the rounding of a sum of so many terms is larger than that of one."""
    return tf.maximum(tf.sqrt(tf.cast(terms, tf.float64) / 2), 1)


def _added_in_turn(operation: Any, tensor: Any) -> Any:
    """The terms that are added one after the other, each sum rounded; 1 where it is not known.

    So are numbers of half precision: sums of one sign grow, and their rounding with them.
    """
    if operation.type not in REDUCTIONS or EPSILON[tensor.dtype.name] < EPSILON["float16"]:
        return 1
    given, left = (tf.size(t, tf.int64) for t in (operation.inputs[0], tensor))
    return given // tf.maximum(left, 1)


def _moves_only(operation: Any) -> bool:
    """Whether an operation computes nothing: it moves or chooses what it is given."""
    if operation.type != "Cast":
        return operation.type in MOVES
    mine, its = operation.inputs[0].dtype.name, operation.outputs[0].dtype.name
    return EPSILON.get(mine, 1.0) >= EPSILON[its]


def _exact(operation: Any, tensor: Any) -> Any:
    """Where a result was not rounded, or is one of the operands and so only chosen."""
    mine, its = operation.inputs
    kept = (tensor == mine) | (tensor == its)
    if tensor.dtype != tf.float64:
        wide = ARITHMETIC[operation.type](tf.cast(mine, tf.float64), tf.cast(its, tf.float64))
        kept |= tf.cast(tensor, tf.float64) == wide
    return kept


def _whole(tensor: Any) -> Any:
    """Whether a tensor holds nothing but whole numbers, where its type has others of that size."""
    largest = 1 / EPSILON[tensor.dtype.name]
    whole = (tensor == tf.round(tensor)) & (tf.abs(tensor) < tf.cast(largest, tensor.dtype))
    return tf.reduce_all(whole)


def floating(tensor: Any) -> bool:
    return isinstance(tensor, tf.Tensor) and tensor.dtype.is_floating and tensor.shape.rank > 0
