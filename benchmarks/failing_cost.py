"""What a failing check costs beside a passing one, on ten architectures.

    python benchmarks/failing_cost.py [architecture ...]

Each architecture is built healthy and with a fault, and one check judges both in turn, three times
each, all in one process. No cause is left out for want of time (`diagnosis_seconds`). Prints a
table of the median processor seconds and of their ratios, which hang less than the clock on what
else the machine does.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from keras import layers

from pytest_bnconsistency import Verdict, check_consistency, recalibrate

SIZE, CLASSES, ROWS = 64, 10, 128
TURNS = 3
Given = tuple[Any, dict[str, Any]]
"""A model, and what is given with it."""
Build = Callable[[], keras.Model]


class LessTheMean(layers.Layer):
    def call(self, x: Any) -> Any:
        return x - 0.1 * keras.ops.mean(x, axis=0, keepdims=True)


def normalization_layers(model: keras.Model) -> list[Any]:
    kinds = (layers.BatchNormalization, layers.LayerNormalization)
    return [layer for layer in model.layers if isinstance(layer, kinds)]


def in_training_mode(build: Build, faulty: bool) -> Given:
    """One normalization layer, a third into the model, is called with training=True."""
    model = build()
    found = [n for n in normalization_layers(model) if isinstance(n, layers.BatchNormalization)]
    place = found[len(found) // 3].name

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        told = {"training": True} if faulty and layer.name == place else {}
        return layer(*args, **{**kwargs, **told})

    return keras.models.clone_model(model, call_function=call), {}


def rows_meet(build: Build, faulty: bool) -> Given:
    """A third into the model, behind a normalization layer, a tenth of the mean is taken away."""
    model = build()
    found = normalization_layers(model)
    place = found[len(found) // 3].name

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        outputs = layer(*args, **kwargs)
        return LessTheMean(name="leak")(outputs) if faulty and layer.name == place else outputs

    return keras.models.clone_model(model, call_function=call), {}


def stale(build: Build, faulty: bool) -> Given:
    """All stored variances are four times, all stored means three deviations off."""
    model = build()
    x = np.random.default_rng(0).standard_normal((ROWS, *model.input_shape[1:]), np.float32)
    recalibrate(model, x)
    y = model.predict(x, verbose=0).argmax(-1)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, metrics=["accuracy"])
    kept = [n for n in normalization_layers(model) if isinstance(n, layers.BatchNormalization)]
    for layer in kept if faulty else ():
        layer.moving_mean.assign_add(3 * np.sqrt(layer.moving_variance))
        layer.moving_variance.assign(4 * layer.moving_variance)
    return model, {"x": x, "y": y}


def thawed(build: Build, faulty: bool) -> Given:
    """A base that is called with training=False, and not frozen."""
    base = build()
    base.trainable = False
    if faulty:
        base.trainable = True
    inputs = keras.Input(base.input_shape[1:])
    model = keras.Model(inputs, layers.Dense(CLASSES)(base(inputs, training=False)))
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    x = np.random.default_rng(0).standard_normal((16, *base.input_shape[1:]), np.float32)
    return model, {"x": x, "y": np.arange(16) % CLASSES}


def segmenter() -> keras.Model:
    """Patches, attention over fewer keys, depthwise convolutions, and a head with BatchNorm."""
    inputs = h = keras.Input((SIZE, SIZE, 3))
    scales = []
    for stage, (width, heads, fewer) in enumerate(((16, 1, 8), (32, 2, 4), (64, 4, 2))):
        h = layers.Conv2D(width, 3, 4 if stage == 0 else 2, "same")(h)
        for _ in range(2):
            few = keys = layers.LayerNormalization()(h)
            if fewer > 1:
                keys = layers.LayerNormalization()(layers.Conv2D(width, fewer, fewer)(few))
            flat = (layers.Reshape((-1, width))(t) for t in (few, keys))
            attended = layers.MultiHeadAttention(heads, width // heads)(*flat)
            h = layers.Add()([h, layers.Reshape(h.shape[1:])(attended)])
            inner = layers.Dense(4 * width)(layers.LayerNormalization()(h))
            inner = layers.DepthwiseConv2D(3, padding="same", activation="gelu")(inner)
            h = layers.Add()([h, layers.Dense(width)(inner)])
        scales.append(layers.UpSampling2D(2**stage, interpolation="bilinear")(layers.Dense(32)(h)))
    h = layers.Conv2D(32, 1, use_bias=False)(layers.Concatenate()(scales))
    h = layers.ReLU()(layers.BatchNormalization(name="head")(h))
    h = layers.UpSampling2D(4, interpolation="bilinear")(layers.Conv2D(CLASSES, 1)(h))
    return keras.Model(inputs, h)


def transformer() -> keras.Model:
    inputs = keras.Input((SIZE, SIZE, 3))
    h = layers.Reshape((-1, 64))(layers.Conv2D(64, 8, 8)(inputs))
    for _ in range(6):
        few = layers.LayerNormalization()(h)
        h = layers.Add()([h, layers.MultiHeadAttention(4, 16)(few, few)])
        few = layers.Dense(256, "gelu")(layers.LayerNormalization()(h))
        h = layers.Add()([h, layers.Dense(64)(few)])
    h = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(h))
    return keras.Model(inputs, layers.Dense(CLASSES)(h))


def application(name: str, size: int = SIZE) -> Build:
    make = getattr(keras.applications, name)
    return lambda: make(weights=None, input_shape=(size, size, 3), classes=CLASSES)


@dataclass(frozen=True)
class Pair:
    check: str
    fault: Callable[[Build, bool], Given]
    build: Build


PAIRS = {
    "MobileNetV2": Pair("batch_invariance", in_training_mode, application("MobileNetV2")),
    "ResNet50": Pair("batch_invariance", rows_meet, application("ResNet50")),
    "EfficientNetB0": Pair("batch_invariance", in_training_mode, application("EfficientNetB0")),
    "DenseNet121": Pair("frozen_stability", thawed, application("DenseNet121")),
    "Xception": Pair("inference_purity", in_training_mode, application("Xception", 71)),
    "InceptionV3": Pair("inference_purity", in_training_mode, application("InceptionV3", 75)),
    "MobileNetV3Small": Pair("batch_invariance", rows_meet, application("MobileNetV3Small")),
    "NASNetMobile": Pair("batch_invariance", in_training_mode, application("NASNetMobile")),
    "segmenter": Pair("train_eval_agreement", stale, segmenter),
    "transformer": Pair("batch_invariance", rows_meet, transformer),
}


@dataclass(frozen=True)
class Cost:
    """The median processor seconds of a passing and of a failing check."""

    name: str
    check: str
    rule: str
    passing: float
    failing: float

    @property
    def ratio(self) -> float:
        return self.failing / self.passing

    @property
    def row(self) -> str:
        return (
            f"| {self.name} | `{self.check}` | {self.rule} | {self.passing:.1f} | "
            f"{self.failing:.1f} | {self.ratio:.1f} |"
        )


def measured(name: str, pair: Pair) -> Cost:
    """Both judged in turn, so that what else the machine does meets both."""
    spent: dict[bool, list[float]] = {False: [], True: []}
    rules = set()
    for faulty in (False, True) * TURNS:
        keras.utils.set_random_seed(0)
        model, options = pair.fault(pair.build, faulty)
        begun = time.process_time()
        result = check_consistency(model, checks=[pair.check], diagnosis_seconds=600, **options)[
            pair.check
        ]
        spent[faulty].append(time.process_time() - begun)
        if result.verdict is not (Verdict.FAILED if faulty else Verdict.PASSED):
            raise SystemExit(f"{name}, faulty={faulty}, is not what it is: {result.headline}")
        rules |= {finding.rule for finding in result.findings}
    passing, failing = (statistics.median(spent[faulty]) for faulty in (False, True))
    return Cost(name, pair.check, ", ".join(sorted(rules)), passing, failing)


def main() -> None:
    print("| model | check | rule | passing, s | failing, s | times |")
    print("|---|---|---|---|---|---|")
    ratios: list[float] = []
    for name in sys.argv[1:] or PAIRS:
        cost = measured(name, PAIRS[name])
        print(cost.row, flush=True)
        ratios.append(cost.ratio)
    middle, most = statistics.median(ratios), max(ratios)
    print(f"\nA failure costs {middle:.1f} times a pass (median), at most {most:.1f} times.")


if __name__ == "__main__":
    main()
