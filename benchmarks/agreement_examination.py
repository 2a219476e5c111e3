"""Nets trained for real, judged by `train_eval_agreement`, beside a calculation of what is true.

    python benchmarks/agreement_examination.py --nets 150 --cache nets --out judged.jsonl
    python benchmarks/agreement_examination.py --cache nets --only 3,17 --rows all --seed 1

The first run trains the nets (two hours) and keeps them in the folder; later ones judge them
again (one hour). What `--out` has is not judged again, so a run can be stopped and resumed.

The calculation of the truth (`truth`) shares no code with the package and knows each net's
layers, data, batch size and momentum, which the check must find out.

The criterion, written down before the first net was judged. On the rows in question, with the
compiled loss and the statistics of all training rows:

- `unit` is the loss under population statistics, or a tenth of the loss of a constant answer,
  whichever is larger;
- *converged* is what the net says under moving averages of the same momentum and batch size that
  ran until they converged, with the weights at rest (three orders of the data, the worst);
- *harmful*: under the moving statistics the loss is more than 0.15 units above both population and
  converged statistics, or 4 of 100 decisions more are wrong than under either;
- *healthy*: the loss is at most 0.10 units above that under population statistics and at most 3 of
  100 decisions more are wrong; or neither is worse than under converged statistics;
- *between*: the others. Any verdict is right for them.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import argparse
import collections
import dataclasses
import itertools
import json
import pathlib
import time

import keras
import numpy as np
import tensorflow as tf
from skimage import data as photographs
from sklearn import datasets

L = keras.layers
CONDITIONS = ("all", "200", "50", "unlabelled", "held-out")
CONVERGED_DRAWS = 3


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


def norms(m: keras.Model) -> list[keras.layers.Layer]:
    return [layer for layer in m.layers if isinstance(layer, L.BatchNormalization)]


def read(m: keras.Model) -> list[np.ndarray]:
    return [v.numpy() for n in norms(m) for v in (n.moving_mean, n.moving_variance)]


def write(m: keras.Model, values: list[np.ndarray]) -> None:
    variables = [v for n in norms(m) for v in (n.moving_mean, n.moving_variance)]
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def population(m: keras.Model, x: np.ndarray) -> list[np.ndarray]:
    """Mean and variance of all rows, one layer after the other, each behind the ones before."""
    before, found = read(m), []
    for layer in norms(m):
        inputs = np.array(keras.Model(m.inputs[0], layer.input)(x, training=False), "float64")
        axes = tuple(range(inputs.ndim - 1))
        layer.moving_mean.assign(inputs.mean(axes))
        layer.moving_variance.assign(inputs.var(axes))
    found = read(m)
    write(m, before)
    return found


def converged(m: keras.Model, p: Plan, x: np.ndarray) -> list[list[np.ndarray]]:
    """Moving averages of this momentum and batch size that converged with the weights at rest."""
    before, found = read(m), []
    rates = {layer: layer.rate for layer in m.layers if isinstance(layer, L.Dropout)}
    for layer in rates:
        layer.rate = 0.0
    step = tf.function(lambda rows: m(rows, training=True), reduce_retracing=True)
    start = population(m, x)
    steps = int(min(2000, max(60, 3 / (1 - p.momentum))))
    for draw in range(CONVERGED_DRAWS):
        rng = np.random.default_rng(draw)
        write(m, start)
        done = 0
        while done < steps:
            order = rng.permutation(len(x))
            for at in range(0, len(x), p.batch_size):
                step(x[order[at : at + p.batch_size]])
                done += 1
        found.append(read(m))
    for layer, rate in rates.items():
        layer.rate = rate
    write(m, before)
    return found


def scores(m: keras.Model, x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Loss, and share of wrong decisions (0 of a regression), in inference."""
    out = np.array(m(x, training=False), "float64")
    if y.dtype == np.float32:
        return float(np.mean((out[:, 0] - y) ** 2)), 0.0
    out -= out.max(axis=1, keepdims=True)
    logp = out - np.log(np.exp(out).sum(axis=1, keepdims=True))
    return float(-logp[np.arange(len(y)), y].mean()), float(np.mean(out.argmax(axis=1) != y))


def constant_loss(y: np.ndarray) -> float:
    if y.dtype == np.float32:
        return float(y.var())
    share = np.bincount(y) / len(y)
    share = share[share > 0]
    return float(-(share * np.log(share)).sum())


def truth(m: keras.Model, p: Plan, x: np.ndarray, rows: np.ndarray, y: np.ndarray) -> dict:
    """What is true of `rows` under statistics of the training rows `x`, by the criterion."""
    moving = read(m)
    loss, wrong = scores(m, rows, y)
    write(m, population(m, x))
    loss_population, wrong_population = scores(m, rows, y)
    others = []
    for values in converged(m, p, x):
        write(m, values)
        others.append(scores(m, rows, y))
    write(m, moving)
    loss_converged, wrong_converged = (max(o[k] for o in others) for k in (0, 1))
    unit = max(loss_population, 0.1 * constant_loss(y))
    excess = (loss - max(loss_population, loss_converged)) / unit
    lost = wrong - max(wrong_population, wrong_converged)
    healthy = (loss - loss_population) / unit <= 0.10 and wrong - wrong_population <= 0.03
    healthy = healthy or (loss <= loss_converged and wrong <= wrong_converged)
    state = "healthy" if healthy else "between"
    if excess > 0.15 or lost > 0.04:
        state = "harmful"
    return {
        "state": state,
        "loss": [loss, loss_population, loss_converged],
        "wrong": [wrong, wrong_population, wrong_converged],
    }


# The examination.


def prepare(number: int, cache: pathlib.Path) -> dict:
    """Trains the net of this number unless the folder has it, and says what is true of it."""
    kept = cache / f"{number}.json"
    if not kept.exists():
        keras.backend.clear_session()
        p = plan(number)
        m, x, y, held_x, held_y = train(p)
        facts = {
            "plan": dataclasses.asdict(p),
            "training": truth(m, p, x, x, y),
            "held-out": truth(m, p, x, held_x, held_y),
        }
        m.save(cache / f"{number}.keras")
        kept.write_text(json.dumps(facts))
    return json.loads(kept.read_text())


def rows_of(p: Plan, condition: str) -> tuple[np.ndarray, np.ndarray | None]:
    x, y = load(p.data)
    cut = int(0.7 * len(x))
    if condition == "held-out":
        return x[cut:], y[cut:]
    count = int(condition) if condition.isdigit() else cut
    index = np.sort(np.random.default_rng(p.number).permutation(cut)[:count])
    return x[index], None if condition == "unlabelled" else y[index]


@dataclasses.dataclass(frozen=True)
class Judgement:
    """What the check said of a net, beside what is true of it."""

    number: int
    condition: str
    seed: int
    state: str
    verdict: str
    rule: str
    seconds: float
    excess: list[dict]

    @property
    def key(self) -> tuple[int, str, int]:
        return self.number, self.condition, self.seed


def judge(number: int, condition: str, cache: pathlib.Path, seed: int, state: str) -> Judgement:
    from pytest_bnconsistency import check_consistency

    p = plan(number)
    keras.backend.clear_session()
    m = keras.models.load_model(cache / f"{number}.keras")
    x, y = rows_of(p, condition)
    start = time.process_time()
    result = check_consistency(
        m, x, y, checks=["train_eval_agreement"], batch_size=p.batch_size, seed=seed
    )["train_eval_agreement"]
    seconds = time.process_time() - start
    rule = result.findings[0].rule if result.findings else ""
    excess = result.evidence.get("excess", [])
    return Judgement(
        number, condition, seed, state, result.verdict.value, rule, round(seconds, 2), excess
    )


def judged(out: pathlib.Path | None) -> list[Judgement]:
    if out is None or not out.exists():
        return []
    return [Judgement(**json.loads(line)) for line in out.read_text().splitlines()]


def table(found: list[Judgement]) -> str:
    lines = [
        "| rows | truth | nets | failed | inconclusive | passed | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    for condition in CONDITIONS:
        for state in ("harmful", "between", "healthy"):
            these = [j for j in found if (j.condition, j.state) == (condition, state)]
            if these:
                count = collections.Counter(j.verdict for j in these)
                cells = " | ".join(str(count[v]) for v in ("failed", "vacuous", "passed"))
                seconds = np.mean([j.seconds for j in these])
                lines.append(f"| {condition} | {state} | {len(these)} | {cells} | {seconds:.1f} |")
    return "\n".join(lines)


def errors(found: list[Judgement]) -> str:
    """How often it was wrong, and how often it may be where it never was (the rule of three)."""
    lines = [
        "| rows | false alarms | harmful, but passed | harmful, but not failed |",
        "|---|---|---|---|",
    ]
    for condition in CONDITIONS:
        of = [j for j in found if j.condition == condition]
        healthy = [j.verdict == "failed" for j in of if j.state == "healthy"]
        passed = [j.verdict == "passed" for j in of if j.state == "harmful"]
        missed = [j.verdict != "failed" for j in of if j.state == "harmful"]
        lines.append(f"| {condition} | {share(healthy)} | {share(passed)} | {share(missed)} |")
    return "\n".join(lines)


def share(wrong: list[bool]) -> str:
    if not wrong:
        return ""
    some = sum(wrong)
    said = f"{some / len(wrong):.1%}" if some else f"below {min(1, 3 / len(wrong)):.1%}"
    return f"{some} of {len(wrong)} ({said})"


def repeats(found: list[Judgement]) -> str:
    """Of the nets that were judged with several seeds, those that got several answers."""
    lines = [
        "| rows | nets | seeds | verdicts that differ | rules that differ |",
        "|---|---|---|---|---|",
    ]
    for condition in CONDITIONS:
        answers: dict[int, list[Judgement]] = collections.defaultdict(list)
        for j in found:
            if j.condition == condition:
                answers[j.number].append(j)
        several = [these for these in answers.values() if len(these) > 1]
        if several:
            seeds = min(len(these) for these in several)
            verdicts = sum(len({j.verdict for j in these}) > 1 for these in several)
            rules = sum(len({j.rule for j in these}) > 1 for these in several)
            lines.append(f"| {condition} | {len(several)} | {seeds} | {verdicts} | {rules} |")
    return "\n".join(lines) if len(lines) > 2 else ""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--nets", type=int, default=150)
    parser.add_argument("--cache", type=pathlib.Path, required=True)
    parser.add_argument("--only", help="numbers of nets, separated by commas")
    parser.add_argument("--rows", help=f"some of {', '.join(CONDITIONS)}; default: all of them")
    parser.add_argument("--seed", help="some seeds, separated by commas", default="0")
    parser.add_argument("--out", type=pathlib.Path, help="judgements, a line each; resumed")
    parser.add_argument("--train-only", action="store_true")
    asked = parser.parse_args()
    asked.cache.mkdir(parents=True, exist_ok=True)
    numbers = [int(n) for n in asked.only.split(",")] if asked.only else list(range(asked.nets))
    conditions = asked.rows.split(",") if asked.rows else CONDITIONS
    seeds = [int(seed) for seed in asked.seed.split(",")]
    found = {j.key: j for j in judged(asked.out)}
    for number in numbers:
        facts = prepare(number, asked.cache)
        for condition, seed in () if asked.train_only else itertools.product(conditions, seeds):
            if (number, condition, seed) in found:
                continue
            known = facts["held-out" if condition == "held-out" else "training"]
            j = judge(number, condition, asked.cache, seed, known["state"])
            found[j.key] = j
            keep(asked.out, j)
            print(line(j, known), flush=True)
    print(table([j for j in found.values() if j.seed == seeds[0]]))
    print()
    print(errors([j for j in found.values() if j.seed == seeds[0]]))
    print()
    print(repeats(list(found.values())))


def keep(out: pathlib.Path | None, j: Judgement) -> None:
    if out is not None:
        with out.open("a") as lines:
            lines.write(json.dumps(dataclasses.asdict(j)) + "\n")


def line(j: Judgement, known: dict) -> str:
    loss = ", ".join(f"{value:.3g}" for value in known["loss"])
    wrong = ", ".join(f"{value:.3f}" for value in known["wrong"])
    return (
        f"{j.number:3d} {j.condition:10s} {j.seed} {j.state:8s} -> {j.verdict:8s} {j.rule:5s} "
        f"{j.seconds:5.1f} s | moving, population, converged: loss {loss}; wrong {wrong} | "
        f"{plan(j.number)}"
    )


if __name__ == "__main__":
    main()
