"""Who puts layers into training mode though nobody asked for training."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pytest_bnconsistency.models import Call, Proceed, Subject
from pytest_bnconsistency.models.owned_objects import is_of_library, mode_argument
from pytest_bnconsistency.results import Explanation
from pytest_bnconsistency.words import listed

Undone = Callable[[Mapping[int, bool]], bool]
"""Whether the symptom is gone once layers, by identity, are told these modes."""


@dataclass(frozen=True)
class Teller:
    """What tells a layer to train, as a clause, and what to change."""

    because: str
    remedy: str


def in_inference(subject: Subject) -> contextlib.AbstractContextManager[None]:
    """Within it, every layer that is called is told `training=False`."""

    def in_inference_mode(call: Call, proceed: Proceed) -> Any:
        if not (call.is_layer and subject.takes_training(call.layer)):
            return proceed(call.args, call.kwargs)
        return proceed(*subject.with_training(call, False))

    return subject.watch(in_inference_mode)


def to_blame(names: Sequence[str], undone: Callable[[Collection[str]], bool]) -> list[str]:
    """The first method of the model's own that undoes the symptom alone; all, if only they do."""
    for name in names:
        if undone([name]):
            return [name]
    return list(names) if len(names) > 1 and undone(names) else []


def own_code_trains(who: str, where: str, mended: str) -> Explanation:
    """That code of the model's own runs layers in training mode, and what is `mended` without."""
    return Explanation(
        cause=f"{who} runs the layers in training mode",
        tested=f"with the library's own in its place, {mended}; so it is with every layer told "
        "training=False",
        remedy=f"in {where}, call the model with training=False",
        established=True,
    )


def pass_training_on(inference_holds: bool) -> str:
    """The remedy where nobody knows who asks for training; `inference_holds` if it is let be."""
    if inference_holds:
        return "call the model with training=False"
    return "pass the argument training on to the layers that take it"


def who_tells(
    subject: Subject,
    call: Call | None,
    called: Sequence[Call],
    undone: Undone,
    *,
    inference_holds: bool = True,
) -> Teller | None:
    """What puts the layer of `call` into training mode; None where that is not established.

    A default of one layer's call reaches others: those inside of it and, in Keras 3, all that run
    after it. So each layer with such a default is told inference, until one of them undoes it: the
    one that started last first, for what it says is what counts. So it is with layers that are
    called with training=True.

    Args:
        called: the calls of the run.
        undone: tests a cause; what `call` itself is told needs no test.
        inference_holds: whether the symptom is gone where the model is called with training=False.
    """
    paths = {id(c.layer): c.path for c in called}
    found = (
        _by_default(subject, call, called, undone, paths)
        or _by_earlier_argument(call, called, undone, paths)
        or _by_argument(call, paths)
        or _by_phase(subject)
    )
    if found is None or not inference_holds:
        return found
    ask = f"call the model with training=False for inference, {subject.call_text(False)}"
    return replace(found, remedy=f"{ask}; or {found.remedy}")


def _by_default(
    subject: Subject,
    call: Call | None,
    called: Sequence[Call],
    undone: Undone,
    paths: Mapping[int, str],
) -> Teller | None:
    model, *layers = _started(subject.model, called, call)
    for layer, in_inference_mode in (model, *reversed(layers)):
        if in_inference_mode is False or subject.training_default(layer) is not True:
            continue
        own = layer is subject.model
        if not (own or undone({id(layer): False})):
            continue
        path = "the model" if own else paths.get(id(layer), type(layer).__name__)
        mode = mode_argument(layer)
        there = (
            f"give {path} {mode}=False where it is called"
            if is_of_library(layer)
            else f"give the argument {mode} of {path}'s call the default None"
        )
        return Teller(f"{path}'s call defaults to {mode}=True", there)
    return None


def _by_earlier_argument(
    call: Call | None, called: Sequence[Call], undone: Undone, paths: Mapping[int, str]
) -> Teller | None:
    """The calls with training=True: the last before that of `call` alone, or else all.

    What they are told may do nothing to themselves, as where they are frozen.
    """
    if call is None:
        return None
    before = itertools.takewhile(lambda each: each.layer is not call.layer, called)
    earlier, everywhere = _asking_beside(call, before), _asking_beside(call, called)
    for layers in (earlier[-1:], everywhere) if earlier else ():
        if undone(dict.fromkeys(map(id, layers), False)):
            return _called_to_train(layers, paths)
    return None


def _asking_beside(call: Call, called: Iterable[Call]) -> list[Any]:
    """The layers that these calls tell to train, but for what runs around or beside `call`.

    What hands its own mode on to the layer of `call` does so to those beside it as well.
    """
    around = [id(layer) for layer in (*call.parents, call.layer)]
    asked = call.called_with.index(True) if True in call.called_with else 0
    hands_on = set(around[:asked][-1:])
    among = {
        id(layer): layer
        for each in called
        if (layer := _asks_to_train(each)) is not None
        and not hands_on & set(map(id, each.parents))
    }
    return [layer for identity, layer in among.items() if identity not in around]


def _by_argument(call: Call | None, paths: Mapping[int, str]) -> Teller | None:
    layer = None if call is None else _asks_to_train(call)
    return None if layer is None else _called_to_train([layer], paths)


def _asks_to_train(call: Call) -> Any:
    """The layer of `call`, or the outermost around it, that is called with training=True."""
    around = zip((*call.parents, call.layer), call.called_with, strict=True)
    return next((layer for layer, training in around if training is True), None)


def _called_to_train(layers: Sequence[Any], paths: Mapping[int, str]) -> Teller:
    names = listed([paths.get(id(layer), type(layer).__name__) for layer in layers])
    return Teller(
        f"{names} {'is' if len(layers) == 1 else 'are'} called with training=True",
        "take training=True out of the call (pass training=None on)",
    )


def _by_phase(subject: Subject) -> Teller | None:
    if not subject.training_phase():
        return None
    return Teller("the global learning phase is set to training", "set it to 0")


def _started(
    model: Any, called: Sequence[Call], call: Call | None
) -> Iterator[tuple[Any, bool | None]]:
    """The model and the layers that run, in the order in which they start, and what they are told.

    Up to the layer of `call`; a layer's call is known when it is over, those inside before it.
    """
    yield model, None
    seen = {id(model)}
    for each in called:
        for layer, in_inference_mode in zip(
            (*each.parents, each.layer), each.called_with, strict=True
        ):
            if id(layer) not in seen:
                seen.add(id(layer))
                yield layer, in_inference_mode
        if call is not None and each.layer is call.layer:
            return
