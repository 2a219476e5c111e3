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
from trained_nets import Plan, load, norms, plan, train

CONDITIONS = ("all", "200", "50", "unlabelled", "held-out")
CONVERGED_DRAWS = 3


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
    rates = {layer: layer.rate for layer in m.layers if isinstance(layer, keras.layers.Dropout)}
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
