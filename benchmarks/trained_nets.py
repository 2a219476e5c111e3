"""The nets of the examination: what each is drawn to be, its data, and its training.

`agreement_examination.py` judges them. A net is told by its number alone.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import dataclasses

import keras
import numpy as np
from skimage import data as photographs
from sklearn import datasets

L = keras.layers


@dataclasses.dataclass(frozen=True)
class Plan:
    """One net of the examination, drawn from its number alone."""

    number: int
    data: str
    architecture: str
    momentum: float
    batch_size: int
    optimizer: str
    rate: float
    epochs: int
    slow_epochs: int
    slip: str


def plan(number: int) -> Plan:
    rng = np.random.default_rng([2026, number])

    def one(*choices):
        return choices[rng.integers(len(choices))]

    data = one("digits", "digits", "photographs", "signals", "tumours", "wine", "diabetes")
    images = data in ("digits", "photographs")
    kinds = ("dense", "deep dense", "dense dropout")
    if images:
        kinds = ("conv", "residual", "depthwise", "conv dropout", "dense")
    if data == "signals":
        kinds = ("conv1d", "conv1d", "dense")
    optimizer = one("adam", "adam", "sgd", "momentum", "rmsprop", "adamw")
    rate = float({"sgd": 0.05, "momentum": 0.02}.get(optimizer, 0.003) * one(0.3, 1, 3))
    return Plan(
        number,
        data,
        one(*kinds),
        one(0.5, 0.9, 0.9, 0.99, 0.99, 0.999),
        one(8, 16, 32, 64, 128),
        optimizer,
        rate,
        one(1, 2, 4, 8, 16),
        one(0, 0, 3),
        one("none", "none", "none", "sorted", "last phase", "reset"),
    )


def load(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows and targets, in a fixed random order."""
    if name == "photographs":
        x, y = patches()
    elif name == "signals":
        x, y = signals()
    else:
        source = {
            "digits": datasets.load_digits,
            "tumours": datasets.load_breast_cancer,
            "wine": datasets.load_wine,
            "diabetes": datasets.load_diabetes,
        }[name]
        x, y = source(return_X_y=True)
        if name == "digits":
            x = x.reshape(-1, 8, 8, 1) / 16
        elif name != "diabetes":
            x = x / x.mean(axis=0)
        else:
            x, y = 20 * x, (y - y.mean()) / y.std()
    order = np.random.default_rng(0).permutation(len(x))
    return x[order].astype("float32"), y[order].astype(
        "float32" if name == "diabetes" else "int32"
    )


def patches() -> tuple[np.ndarray, np.ndarray]:
    """Pieces of four photographs, 16 pixels wide: which photograph is it?"""
    rng, x, y = np.random.default_rng(1), [], []
    photos = (photographs.astronaut, photographs.coffee, photographs.cat, photographs.rocket)
    for label, photo in enumerate(photos):
        image = photo()[::2, ::2]
        for _ in range(300):
            top = rng.integers(image.shape[0] - 16)
            left = rng.integers(image.shape[1] - 16)
            x.append(image[top : top + 16, left : left + 16] / 255)
            y.append(label)
    return np.array(x), np.array(y)


def signals() -> tuple[np.ndarray, np.ndarray]:
    """Noisy waves of three frequencies, 32 steps of two channels."""
    rng = np.random.default_rng(2)
    y = rng.integers(0, 3, 900)
    t = np.arange(32)[None, :, None]
    phase = rng.uniform(0, 6.3, (900, 1, 2))
    wave = np.sin(t * (0.3 + 0.25 * y[:, None, None]) + phase)
    return 2 + 1.5 * wave + rng.normal(0, 1.0, (900, 32, 2)), y


def network(p: Plan, shape: tuple[int, ...], outputs: int) -> keras.Model:
    def bn():
        return L.BatchNormalization(momentum=p.momentum)

    def conv(h, filters, stride=1):
        return L.ReLU()(bn()(L.Conv2D(filters, 3, stride, padding="same", use_bias=False)(h)))

    i = h = keras.Input(shape)
    if p.architecture.startswith("conv") and len(shape) == 3:
        for filters in (8, 16):
            h = conv(h, filters, 2)
        if "dropout" in p.architecture:
            h = L.Dropout(0.3)(L.Flatten()(h))
        h = L.Flatten()(h)
    elif p.architecture == "residual":
        h = conv(h, 12)
        for _ in range(2):
            s = conv(h, 12)
            h = L.ReLU()(L.Add()([h, bn()(L.Conv2D(12, 3, padding="same")(s))]))
        h = L.GlobalAveragePooling2D()(h)
    elif p.architecture == "depthwise":
        h = conv(h, 8, 2)
        for filters in (12, 16):
            h = L.ReLU()(bn()(L.DepthwiseConv2D(3, padding="same", use_bias=False)(h)))
            h = bn()(L.Conv2D(filters, 1, use_bias=False)(h))
        h = L.GlobalAveragePooling2D()(h)
    elif p.architecture == "conv1d":
        for filters in (8, 16):
            h = L.ReLU()(bn()(L.Conv1D(filters, 5, 2, padding="same")(h)))
        h = L.GlobalAveragePooling1D()(h)
    else:
        h = L.Flatten()(h)
        for _ in range(4 if p.architecture == "deep dense" else 2):
            h = L.ReLU()(bn()(L.Dense(24)(h)))
        if "dropout" in p.architecture:
            h = L.Dropout(0.3)(h)
    return keras.Model(i, L.Dense(outputs)(h))


def norms(m: keras.Model) -> list[keras.layers.Layer]:
    return [layer for layer in m.layers if isinstance(layer, L.BatchNormalization)]


def train(p: Plan) -> tuple[keras.Model, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The trained net, its training rows and targets, and those held out."""
    keras.utils.set_random_seed(p.number)
    x, y = load(p.data)
    cut = int(0.7 * len(x))
    regression = y.dtype == np.float32
    m = network(p, x.shape[1:], 1 if regression else int(y.max()) + 1)
    optimizer = {
        "adam": keras.optimizers.Adam,
        "adamw": keras.optimizers.AdamW,
        "rmsprop": keras.optimizers.RMSprop,
        "sgd": keras.optimizers.SGD,
        "momentum": lambda rate: keras.optimizers.SGD(rate, momentum=0.9),
    }[p.optimizer](p.rate)
    loss = "mse" if regression else keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    m.compile(optimizer, loss, metrics=[] if regression else ["accuracy"])
    a, b = x[:cut], y[:cut]
    fit = {"batch_size": p.batch_size, "verbose": 0}
    m.fit(a, b, epochs=p.epochs, **fit)
    if p.slip == "sorted":
        order = np.argsort(b, kind="stable")
        m.fit(a[order], b[order], epochs=1, shuffle=False, **fit)
    elif p.slip == "last phase":
        kind = b <= np.median(b)
        m.optimizer.learning_rate.assign(p.rate / 10)
        m.fit(a[kind], b[kind], epochs=2, **fit)
    elif p.slip == "reset":
        for layer in norms(m):
            layer.moving_mean.assign(keras.ops.zeros_like(layer.moving_mean))
            layer.moving_variance.assign(keras.ops.ones_like(layer.moving_variance))
        m.fit(a, b, epochs=1, **fit)
    if p.slow_epochs:
        m.optimizer.learning_rate.assign(p.rate / 30)
        m.fit(a, b, epochs=p.slow_epochs, **fit)
    return m, a, b, x[cut:], y[cut:]


# What is true, without the package.
