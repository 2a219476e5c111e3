"""The facts of a model as it is now, from what the checks of this run made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from pytest_bnconsistency import libraries
from pytest_bnconsistency.checks.baseline import digests
from pytest_bnconsistency.checks.baseline.facts import (
    DISTANCE,
    RUN_BY,
    SAMPLING,
    Block,
    Blocks,
    Facts,
    Value,
)
from pytest_bnconsistency.checks.baseline.verdicts import verdict_facts
from pytest_bnconsistency.checks.check_context import CheckContext
from pytest_bnconsistency.checks.entry_points import (
    Entry,
    calls_of,
    entry,
    few_rows,
    is_random,
    methods_of,
)
from pytest_bnconsistency.checks.layer_facts import layer_facts
from pytest_bnconsistency.checks.population_statistics import Estimated
from pytest_bnconsistency.data.arrays import Array, Nest, flatten, map_nest, rows_of
from pytest_bnconsistency.data.generation import generate, specs_like
from pytest_bnconsistency.errors import DataError, RefusedError
from pytest_bnconsistency.measurement.population_distances import distances_by_layer
from pytest_bnconsistency.measurement.stored_statistics import attributes
from pytest_bnconsistency.measurement.tracked_variables import tracked_candidates
from pytest_bnconsistency.models import Subject
from pytest_bnconsistency.results import CheckResult

NAME = "baseline"
FEWEST_BATCHES = 4
"""Batches that a distance to the population is put down from."""
OWN_ROWS = "baseline rows"
"""The name of the batch, where the checks run on others."""
VERSIONS = ("python", "numpy", "tensorflow", "keras", "tf-keras", "pytest-bnconsistency")
DATASET = "predict(dataset)"
"""It runs as `predict` does."""


def facts_of(context: CheckContext, name: str) -> Facts:
    """What is so of the model, and what the checks of this run said of it."""
    holders = _holders(context.subject)
    found = Facts(
        model=name,
        batch=_described(context),
        versions=_versions(context),
        graph=tuple(holder.line for holder in holders[:-1]),
        weights=digests.weights_facts(_weights(holders)),
        inventory=_inventory(context),
        statistics=_statistics(holders, _distances(context)),
        outputs=_outputs(context),
        verdicts=verdict_facts(_results(context)),
    )
    return found.shortened()


def _versions(context: CheckContext) -> Block:
    """The versions of the libraries, and which of them the model is of."""
    kinds = [kind.__module__.partition(".")[0] for kind in type(context.subject.model).__mro__]
    known = libraries.versions()
    run_by = next((kind for kind in kinds if kind.replace("_", "-") in known), None)
    return {**{name: known[name] for name in VERSIONS}, RUN_BY: run_by}


def _results(context: CheckContext) -> dict[str, CheckResult]:
    """What the checks said whose verdicts are put down, by name."""
    wanted = context.settings.baselined
    return {
        name: result
        for name, result in sorted(context.results.items())
        if name != NAME and (wanted is None or name in wanted)
    }


@dataclass(frozen=True)
class Holder:
    """A layer with the arrays that it holds itself, and those of them that no optimizer trains.

    `label` is its path, and tells layers of one path apart.
    """

    layer: Any
    label: str
    own: list[Any]
    kept: list[Any]

    @property
    def line(self) -> str:
        shapes = [str(tuple(variable.shape)).replace(" ", "") for variable in self.own]
        return ": ".join(filter(None, (self.label, " ".join(shapes))))


def _holders(subject: Subject) -> list[Holder]:
    """The layers, in the order in which the model holds them, and the model itself at the end."""
    found, known = list[Holder](), Counter[str]()
    for layer in (*_in_order(subject), subject.model):
        path = subject.name if layer is subject.model else subject.path(layer)
        own = subject.own_variables(layer)
        kept = tracked_candidates(subject, layer) if own else []
        found.append(Holder(layer, _label(path, known), own, kept))
    return found


def _in_order(subject: Subject) -> list[Any]:
    """The layers, those inside of one behind it, in the order that it tells itself.

    Generations of Keras list the layers of a model inside of a model in another order.
    """
    known = {id(layer): layer for layer in subject.layers()}
    found: dict[int, Any] = {}
    stack = [subject.model]
    while stack:
        layer = stack.pop()
        if id(layer) not in found:
            found[id(layer)] = layer
            inside = [each for each in getattr(layer, "layers", ()) if id(each) in known]
            stack += reversed(inside)
    return [layer for layer in {**found, **known}.values() if layer is not subject.model]


def _weights(holders: Sequence[Holder]) -> Iterator[Array]:
    """What trains, each array once."""
    seen = {id(variable) for holder in holders for variable in holder.kept}
    for holder in holders:
        for variable in holder.own:
            if id(variable) not in seen and variable.dtype.is_floating:
                seen.add(id(variable))
                yield variable.numpy()


def _distances(context: CheckContext) -> dict[int, Block]:
    """How far stored vectors are from the population's, by identity, where a check measured it.

    A single batch has no sampling error: of that, nothing is put down.
    """
    known: Estimated | None = context.known("estimated")
    if known is None or known.estimate.batches < FEWEST_BATCHES:
        return {}
    by_layer = distances_by_layer(known.tracked, known.estimate)
    by_role = {(layer, d.role): d for layer, own in by_layer.items() for d in own}
    found = {id(t.variable): by_role[id(t.layer), t.role] for t in known.tracked}
    return {key: {DISTANCE: d.off, SAMPLING: d.error} for key, d in found.items()}


def _statistics(holders: Sequence[Holder], distances: Mapping[int, Block]) -> Blocks:
    """The digest of each vector that a layer stores and no optimizer trains."""
    found: dict[str, Block] = {}
    for holder in holders:
        names = {id(variable): name for name, variable in attributes(holder.layer).items()}
        for place, variable in enumerate(holder.kept):
            name = names.get(id(variable), f"variable {place}")
            # The signs hang on no name of a layer: a library counts these up.
            digest = digests.vector_facts(variable.numpy(), name)
            found[f"{holder.label} {name}"] = {**digest, **distances.get(id(variable), {})}
    return found


def _inventory(context: CheckContext) -> Blocks:
    found: dict[str, Block] = {}
    known = Counter[str]()
    for layer in layer_facts(context):
        facts = dict(_flat(asdict(layer)))
        if facts["frozen_by"] == context.subject.name:
            facts["frozen_by"] = "the model"
        found[_label(layer.path, known)] = facts
    return found


def _label(path: str, known: Counter[str]) -> str:
    """The path of a layer, told from those in `known`, which it joins: several may have one."""
    known[path] += 1
    return path if known[path] == 1 else f"{path} ({known[path]})"


def _flat(facts: Mapping[str, Any]) -> Iterator[tuple[str, Value]]:
    """Facts of a layer, each with a plain value."""
    for name, value in facts.items():
        if name == "path":
            continue
        if isinstance(value, Mapping):
            for inner, said in value.items():
                yield f"{name} {inner}", said
        elif isinstance(value, (tuple, list)):
            yield name, ", ".join(map(str, value))
        else:
            yield name, value


def _outputs(context: CheckContext) -> Blocks:
    """The digests of what each entry point gives for rows that are made from the seed."""
    batch, x = batch_of(context)
    found: dict[str, Block] = {}
    for name in names_of(context):
        try:
            outputs = _given(context, batch, x, name)
        except RefusedError as error:
            found[name] = {"raises": type(error.refusal).__name__}
            continue
        if outputs is None:
            found[name] = {"random": True}
            continue
        for place, output in enumerate(outputs):
            key = name if len(outputs) == 1 else f"{name} output {place + 1}"
            found[key] = digests.row_facts(output, rows_of(x))
    return found


def names_of(context: CheckContext) -> list[str]:
    """The entry points, by name."""
    methods = [name for name in methods_of(context) if name != DATASET]
    return [*methods, *reversed(calls_of(context))]


def _described(context: CheckContext) -> str:
    """The rows that outputs are of, in words."""
    _, x = batch_of(context)
    shapes = " and ".join(str(leaf.shape[1:]) for leaf in flatten(x))
    return f"{rows_of(x)} rows of {shapes} from seed {context.settings.seed}"


def _given(context: CheckContext, batch: str, x: Nest, name: str) -> list[Array] | None:
    """What an entry point gives; None if that hangs on random numbers."""
    entry_point: Entry = entry(context, name)
    seen = entry_point.run(batch, x, (0, 0))
    return None if is_random(context, entry_point) else seen.outputs


def batch_of(context: CheckContext) -> tuple[str, Nest]:
    """The rows that are made from the seed, and the batch's name: those of the checks if so made.

    They are few, and have the shapes of the given ones, if some were given; texts are the given
    ones.
    """
    name, x = few_rows(context)
    if context.data is None:
        return name, x
    return OWN_ROWS, context.once(OWN_ROWS, lambda: _made_like(context, x))


def _made_like(context: CheckContext, given: Nest) -> Nest:
    known = context.subject.inputs()
    specs = specs_like(given)
    if known is not None and len(flatten(known)) == len(flatten(specs)):
        vocabularies = iter(flatten(known))
        specs = map_nest(
            lambda spec: replace(spec, vocabulary=next(vocabularies).vocabulary), specs
        )
    try:
        return generate(specs, rows_of(given), context.settings.seed, 1)
    except DataError:
        return given
