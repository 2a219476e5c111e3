"""Inference changes no state, repeats itself, and means the same through every entry point."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from pytest_bnconsistency.checks import examples
from pytest_bnconsistency.checks.case import Case
from pytest_bnconsistency.checks.passes import measured_noise, observed
from pytest_bnconsistency.checks.words import counted, listed
from pytest_bnconsistency.data import Array, Nest, flatten, map_nest, rows_of
from pytest_bnconsistency.diagnosis import rules
from pytest_bnconsistency.probes import noise
from pytest_bnconsistency.probes.state import (
    Variables,
    preserve_state,
    reachable_variables,
    same_bits,
)
from pytest_bnconsistency.probes.taps import Pass
from pytest_bnconsistency.results import CheckResult, Finding, Verdict

NAME = "inference_purity"


@dataclass(frozen=True)
class Seen:
    """One entry point, run twice: its outputs, whether they repeat, the variables that moved."""

    name: str
    outputs: list[Array]
    repeats: bool
    moved: tuple[Any, ...]


def check(case: Case) -> CheckResult:
    x = case.sample()
    with preserve_state(case.subject):
        return examples.of_state(case, x, lambda: _decide(case, x))


def _decide(case: Case, x: Nest) -> CheckResult:
    subject = case.subject
    default, inference = observed(case, x, None), observed(case, x, False)
    owners = {
        id(variable): call.path
        for call in reversed([*default.calls, *inference.calls])
        if call.is_layer
        for variable in subject.own_variables(call.layer)
    }
    # Metrics and the states of seed generators may move: no layer holds them as its own.
    held = [v for v in [*reachable_variables(subject), *default.variables] if id(v) in owners]
    tensors = map_nest(tf.convert_to_tensor, x)
    rows = rows_of(x)
    entries: dict[str, Callable[[], Nest]] = {
        "predict": lambda: subject.predict(x, rows),
        "predict_on_batch": lambda: subject.predict_on_batch(x),
        "model(x)": lambda: subject.forward(tensors, None),
        "model(x, training=False)": lambda: (
            subject.forward(tensors, False)
            if inference.random_layers
            else inference.run(x, keep=True).outputs
        ),
    }
    data = case.data
    if data is not None and data.y is not None and subject.compiled:
        entries["evaluate"] = lambda: list(subject.evaluate(data.take(slice(0, 32)), 32).values())
    seen = [_run_twice(name, run, held) for name, run in entries.items()]
    floors, _ = measured_noise(case, x)
    comparable = [s for s in seen if s.name != "evaluate" and s.repeats and not s.moved]
    findings = [
        *_state(case, x, seen, owners),
        *_repeatability(seen, default),
        *_agreement(comparable, floors),
    ]
    names = listed([s.name for s in seen])
    evidence = {
        "entry_points": {
            s.name: {"repeats": s.repeats, "moved": sorted({owners[id(v)] for v in s.moved})}
            for s in seen
        },
        "outputs": [{"floor": f.floor, "bound": f.bound, "scale": f.scale} for f in floors],
    }
    if findings:
        return CheckResult(NAME, Verdict.FAILED, tuple(findings), evidence=evidence)
    if not all(
        np.isfinite(output.astype(float)).all() for s in comparable for output in s.outputs
    ):
        return CheckResult(
            NAME,
            Verdict.VACUOUS,
            summary="the outputs are NaN or Inf",
            hint="statistics_health says whether stored statistics are at fault",
            evidence=evidence,
        )
    held_by = counted(len(set(owners.values())), "layer")
    summary = (
        f"{names} leave {counted(len(held), 'variable')} of {held_by} as they are, give the same "
        f"bits twice, and agree within the noise bound on {rows} rows"
    )
    return CheckResult(NAME, Verdict.PASSED, summary=summary, evidence=evidence)


def _run_twice(name: str, run: Callable[[], Nest], held: list[Any]) -> Seen:
    before = Variables(held)
    try:
        first, moved = _arrays(run()), tuple(before.moved())
        second = _arrays(run())
    finally:
        before.restore()
    repeats = all(same_bits(a, b) for a, b in zip(first, second, strict=True))
    return Seen(name, first, repeats or name == "evaluate", moved)


def _arrays(outputs: Nest) -> list[Array]:
    return [np.asarray(leaf) for leaf in flatten(outputs) if leaf is not None]


def _state(case: Case, x: Nest, seen: list[Seen], owners: dict[int, str]) -> list[Finding]:
    moving = [s for s in seen if s.moved]
    if not moving:
        return []
    layers = list(dict.fromkeys(owners[id(v)] for s in moving for v in s.moved))
    still = [s.name for s in seen if not s.moved]
    where = f"; {listed(still)} {'does' if len(still) == 1 else 'do'} not" if still else ""
    ours = {id(v) for s in moving for v in s.moved}
    training = None if any(s.name == "model(x)" for s in moving) else False
    told = [c.layer for c in Pass(case.subject, x, training=training).calls if c.is_layer]
    modes = {id(layer): False for layer in told if case.subject.takes_training(layer)}
    forced = Pass(case.subject, x, training=training, modes=modes)
    tested = not any(id(v) in ours for v in forced.run(x).moved)
    runs = "the layer runs" if len(layers) == 1 else "these layers run"
    verb = "moves" if len(moving) == 1 else "move"
    return [
        Finding(
            rules.STATE_MOVES.id,
            rules.STATE_MOVES.slug,
            layers[0],
            f"{listed([s.name for s in moving])} {verb} the state of "
            f"{counted(len(layers), 'layer')}{where}",
            f"{runs} in training mode though no training was asked for"
            if tested
            else "not established",
            tested,
            "take training=True out of calls and defaults (training=None); "
            "call model(x, training=False)",
            "with every layer told training=False, all of their state stays"
            if tested
            else "every layer told training=False",
            "no tolerance: bitwise",
            evidence={"moves": [s.name for s in moving], "holds": still, "layers": layers},
        )
    ]


def _repeatability(seen: list[Seen], default: Pass) -> list[Finding]:
    random = [s.name for s in seen if not s.repeats]
    if not random:
        return []
    drawing = list(
        dict.fromkeys(
            next((c.path for c in default.calls if c.layer is layer), layer.name)
            for layer in default.random_layers
        )
    )
    return [
        Finding(
            rules.NOT_REPEATABLE.id,
            rules.NOT_REPEATABLE.slug,
            drawing[0] if drawing else "not located",
            f"the same batch gives other bits the second time, through {listed(random)}",
            f"not established; random operations run in {listed(drawing)}"
            if drawing
            else "not established; no random operation was seen in a layer",
            False,
            "draw random numbers in training mode only; keep augmentation outside the model",
            "the other entry points" if len(random) < len(seen) else "",
            "no tolerance: bitwise",
            evidence={"random": random, "layers": drawing},
        )
    ]


def _agreement(seen: list[Seen], floors: list[noise.Floor]) -> list[Finding]:
    if len(seen) < 2:
        return []
    reference = next((s for s in seen if s.name.endswith("training=False)")), seen[0])
    apart: dict[str, str] = {}
    for other in seen:
        for index, (mine, its) in enumerate(zip(reference.outputs, other.outputs, strict=False)):
            if mine.shape != its.shape:
                apart[other.name] = f"gives shape {its.shape}, {reference.name} gives {mine.shape}"
                break
            change = np.abs(mine.astype(float) - its.astype(float))
            change[np.isnan(mine.astype(float)) & np.isnan(its.astype(float))] = 0
            worst = float(np.nan_to_num(change, nan=np.inf).max(initial=0.0))
            # Each side has noise of its own: eager and graph, fused and not.
            bound = 2 * floors[index].bound if index < len(floors) else 0.0
            if worst > bound:
                apart[other.name] = (
                    f"is {worst:.3g} away from {reference.name}; noise explains {bound:.3g}"
                )
                break
    if not apart:
        return []
    name, how = next(iter(apart.items()))
    return [
        Finding(
            rules.ENTRIES_DISAGREE.id,
            rules.ENTRIES_DISAGREE.slug,
            "the model's output",
            f"{name} {how}",
            "not established; batch_invariance tells whether an entry point runs in training mode",
            False,
            "call the model with training=False wherever it is used for inference",
            "the same rows through every entry point",
            f"{2 * noise.MULTIPLE:g} noise floors, half of them for each side, measured on this "
            "model",
            evidence={"apart": apart, "reference": reference.name},
        )
    ]
