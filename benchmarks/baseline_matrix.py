"""Does one baseline serve many versions, and is what was changed on purpose found under each?

Run it with the Pythons of some environments; the first builds the models and records:

    python benchmarks/baseline_matrix.py py312-tf218/bin/python py313-tf221/bin/python ...

Each compares with one and two threads, with and without oneDNN. Four layers are changed then, at
once: a moving mean by 1e-4 of its size, an epsilon by a tenth, a momentum, a flag. Each must be
told, with its layer. `--models` and `--settings` take fewer, `--folder` keeps files and results
and goes on where a run broke off.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypedDict

MODELS = ("transformer", "mobilenetv2", "resnet50")
SETTINGS = ("1 thread", "2 threads", "1 thread, no oneDNN", "2 threads, no oneDNN")
SIDE = 64
COLUMNS = ("TensorFlow", "Keras", "setting", "model", "unchanged", "rounding", "changes told")
CHANGES = ("moving mean", "epsilon", "momentum", "trainable")


class Outcome(TypedDict):
    """What a comparison of a model came to; `found` are the changes that were told."""

    versions: str
    verdict: str
    said: str
    rounding: float
    found: list[str]


def transformer() -> Any:
    import keras

    layers = keras.layers
    h = inputs = keras.Input((16, 8))
    for _ in range(2):
        attended = layers.MultiHeadAttention(2, 8)(h, h)
        h = layers.LayerNormalization()(h + attended)
        dense = layers.Dense(8)(layers.Dense(32, activation="gelu")(h))
        h = layers.BatchNormalization()(h + dense)
    for width in (8, 4):
        h = layers.BatchNormalization()(layers.Dense(width)(h))
    return keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling1D()(h)))


def built(name: str) -> Any:
    """A model with weights from a seed, and statistics as training would leave them."""
    import keras
    import numpy as np

    keras.utils.set_random_seed(0)
    applications = keras.applications
    makers: dict[str, Callable[[], Any]] = {
        "transformer": transformer,
        "mobilenetv2": lambda: applications.MobileNetV2((SIDE, SIDE, 3), weights=None),
        "resnet50": lambda: applications.ResNet50(weights=None, input_shape=(SIDE, SIDE, 3)),
    }
    model, rng = makers[name](), np.random.default_rng(0)
    for layer in normalizations(model):
        layer.moving_mean.assign(rng.normal(0, 0.1, layer.moving_mean.shape))
        layer.moving_variance.assign(rng.uniform(0.5, 1.5, layer.moving_variance.shape))
    return model


def normalizations(model: Any) -> list[Any]:
    return [layer for layer in model.layers if hasattr(layer, "moving_mean")]


def changed(model: Any) -> dict[str, str]:
    """Change four layers, and say which by what is changed."""
    import numpy as np

    every = normalizations(model)
    layers = [every[len(every) * place // 4] for place in range(4)]
    mean, epsilon, momentum, flag = layers
    size = float(np.sqrt(np.mean(np.square(mean.moving_mean.numpy()))))
    mean.moving_mean.assign_add(np.full(mean.moving_mean.shape, 1e-4 * size, np.float32))
    epsilon.epsilon *= 1.1
    momentum.momentum *= 0.9
    flag.trainable = False
    return {what: layer.name for what, layer in zip(CHANGES, layers, strict=True)}


def prepared(setting: str) -> None:
    """TensorFlow as the setting says; before anything of it ran."""
    threads = int(setting[0])
    os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0" if "no oneDNN" in setting else "1"
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)


def record(folder: Path, models: Sequence[str]) -> None:
    """Build, save and record the models that are not there yet."""
    from pytest_bnconsistency import record_baseline

    for name in models:
        if not (folder / f"{name}.json").exists():
            model = built(name)
            model.save(folder / f"{name}.keras")
            record_baseline(model, name, baseline_dir=folder, baseline_checks="none")


def compare(folder: Path, name: str) -> Outcome:
    import keras
    import tensorflow as tf

    from pytest_bnconsistency import ConsistencyFailure, assert_baseline

    def compared(model: Any) -> Any:
        try:
            return assert_baseline(model, name, baseline_dir=folder, baseline_checks="none")
        except ConsistencyFailure as failure:
            return failure.results[0]

    model = keras.saving.load_model(folder / f"{name}.keras", compile=False)
    same = compared(model)
    layers = changed(model)
    told = {
        (each["layer"], what)
        for finding in compared(model).findings
        for each in finding.evidence["differences"]
        for what in CHANGES
        if each["fact"].replace("_", " ").startswith(what)
    }
    return Outcome(
        versions=f"{sys.version.split()[0]} | {tf.__version__} | {keras.__version__}",
        verdict=str(same.verdict.value),
        said="; ".join(finding.headline for finding in same.findings),
        rounding=float(same.evidence["rounding"]),
        found=[what for what in CHANGES if (layers[what], what) in told],
    )


def outcomes(python: str, folder: Path, name: str, setting: str) -> Outcome:
    """What that Python says of a model under a setting, in a process of its own."""
    key = "-".join((*Path(os.path.abspath(python)).parts[-3:-2], name, setting)).replace(" ", "_")
    path = folder / f"{key.replace(',', '')}.outcome"
    if not path.exists():
        arguments = ["--compare", str(path), "--folder", str(folder), "--models", name]
        ran = subprocess.run(
            [python, __file__, *arguments, "--settings", setting],
            capture_output=True,
            text=True,
            check=False,
        )
        if ran.returncode:
            said = ran.stderr.strip().splitlines()[-1]
            return Outcome(versions=python, verdict="error", said=said, rounding=0.0, found=[])
    outcome: Outcome = json.loads(path.read_text(encoding="utf-8"))
    return outcome


def row(setting: str, name: str, outcome: Outcome) -> str:
    found = f"{len(outcome['found'])} of {len(CHANGES)}"
    verdict = ": ".join(filter(None, (outcome["verdict"], outcome["said"])))
    rounding = f"{outcome['rounding']:.2g}"
    return f"| {outcome['versions']} | {setting} | {name} | {verdict} | {rounding} | {found} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("pythons", nargs="*", help="the first builds the models and records")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=SETTINGS)
    parser.add_argument("--folder", type=Path, help="where files and results are kept")
    parser.add_argument("--compare", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--record", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    folder = (given.folder or Path(tempfile.mkdtemp())).absolute()
    if given.record:
        return record(folder, given.models)
    if given.compare:
        prepared(*given.settings)
        text = json.dumps(compare(folder, *given.models))
        given.compare.write_text(text, encoding="utf-8")
        return None
    folder.mkdir(parents=True, exist_ok=True)
    chosen = ["--record", "--folder", str(folder), "--models", *given.models]
    subprocess.run([given.pythons[0], __file__, *chosen], check=True)
    print(" | ".join(("| Python", *COLUMNS)), "|")
    print("|---" * (len(COLUMNS) + 1) + "|")
    for name in given.models:
        for python in given.pythons:
            for setting in given.settings:
                print(row(setting, name, outcomes(python, folder, name, setting)), flush=True)
    return None


if __name__ == "__main__":
    main()
