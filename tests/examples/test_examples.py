"""Each example fails with its fault, for the reason that it demonstrates, and no remedy fails."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


@dataclass(frozen=True)
class Run:
    """What pytest said of one example. `texts` holds the failure texts by the test's name."""

    outcomes: dict[str, str]
    texts: dict[str, str]
    everything: str


def run(scenario: str, *arguments: str, timeout: float = 900) -> Run:
    said = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", str(EXAMPLES / scenario)),
            *("-rA", "--color=no", "-p", "no:cacheprovider", *arguments),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    return parse(said.stdout + said.stderr)


def parse(output: str) -> Run:
    found = re.findall(r"^(PASSED|FAILED|ERROR|SKIPPED) \S+::(\w+)", output, re.MULTILINE)
    parts = re.split(r"^_+ (test_\w+) _+$", output.partition("short test summary")[0], flags=re.M)
    texts = dict(zip(parts[1::2], parts[2::2], strict=True))
    return Run({name: outcome for outcome, name in found}, texts, output)


def folded(text: str) -> str:
    """One line: where the report folds its sentences is no matter of content."""
    return re.sub(r"\s+", " ", re.sub(r"^E ", "", text, flags=re.MULTILINE))


def written_tests(scenario: str) -> list[str]:
    """The tests that run by default, in the order of the file."""
    source = (EXAMPLES / scenario / f"test_{scenario}.py").read_text()
    found = re.findall(r"(^@pytest\.mark\.slow.*\n)?^def (test_\w+)", source, re.MULTILINE)
    return [name for slow, name in found if not slow]


SAID = {
    "adapter": {
        "test_fault_it_learns_while_it_serves": [
            r"BN102 training-mode-in-inference: a row moves by [\d.]+ when only the other rows",
            r"through model\(x\), not through model\(x, learn=False\)",
            r"layer HastyPipeline cause HastyPipeline normalises by the batch",
            r"tested forced into inference mode, every kept row has the same bits",
        ],
        "test_fault_one_batch_of_learning": [
            r"BN201 stale-moving-statistics: evaluate disagrees with train",
            r"momentum 0\.9 after 1 updates leaves 90\.0% of the initial values",
        ],
    },
    "resnet50_three_images": {
        "test_fault_five_epochs": [
            r"BN201 stale-moving-statistics: evaluate disagrees with train: loss \d",
            r"accuracy 0\.33 against 1\.00 \(3 rows\)",
            r"cause momentum 0\.99 after 5 updates leaves 95\.1% of the initial values",
            r"tested with the population statistics of this data, loss .* accuracy 1\.00",
            r"remedy train for 459 updates or more .*; or momentum <= 0\.39 for 5 updates; or "
            r"recalibrate\(model, x\)",
        ]
    },
    "resnet50_single_row": {
        "test_fault_training_mode_baked_in": [
            r"BN102 training-mode-in-inference: a row moves by [\d.]+ when only the other rows",
            r"through model\(x\), not through predict or model\(x, training=False\)",
            r"layer resnet50/conv1_bn cause resnet50/conv1_bn and 52 more layers",
            r"because resnet50 is called with training=True",
            r"tested forced into inference mode, every kept row has the same bits",
        ],
        "test_fault_training_mode_baked_in_legacy": [
            r"BN102 training-mode-in-inference: a row moves by [\d.]+ when only the other rows",
            r"through predict, model\(x\) and model\(x, training=False\)",
            r"layer resnet50/conv1_bn cause resnet50/conv1_bn and 52 more layers",
        ],
    },
    "inceptionv3_frozen": {
        "test_fault_v1_normalises_by_the_batch": [
            r"BN302 frozen-layer-uses-the-batch: in \S+, training mode is [\d.]+ away from "
            r"inference mode",
            r"accuracy 0\.\d+ in training mode and 1\.00 in evaluation; the frozen layers cause "
            r"100% of the gap",
            r"layer batch_normalization",
            r"tested on the identical input, inference mode gives another output",
            r"declared frozen: 188 layers, .*; trainable: top/dense, top/dense_1",
        ],
        "test_fault_inference_mode_overridden": [
            r"BN303 inference-call-overridden: training moves the state of 18 of 170 frozen",
            r"in spite of training=False in the call of inception_v3",
            r"tested with trainable=False on the same layers, their statistics stay",
        ],
    },
}


@pytest.mark.thorough
@pytest.mark.parametrize("scenario", sorted(SAID))
def test_example(scenario: str) -> None:
    seen = run(scenario, "-m", "not slow")
    expected = {
        name: "FAILED" if name.startswith("test_fault_") else "PASSED"
        for name in written_tests(scenario)
    }
    assert seen.outcomes == expected, seen.everything
    assert set(SAID[scenario]) == {name for name in expected if name.startswith("test_fault_")}
    for name, patterns in SAID[scenario].items():
        text = folded(seen.texts[name])
        for pattern in patterns:
            assert re.search(pattern, text), (
                f"{name} does not say {pattern!r}:\n{seen.texts[name]}"
            )


@pytest.mark.thorough
def test_every_example_is_listed() -> None:
    folders = {folder.name for folder in EXAMPLES.iterdir() if list(folder.glob("test_*.py"))}
    assert folders == set(SAID)


@pytest.mark.slow
def test_thousand_epochs() -> None:
    name = "test_remedy_thousand_epochs"
    seen = run("resnet50_three_images", "-m", "slow", "-k", name, timeout=3600)
    assert seen.outcomes == {name: "PASSED"}, seen.everything
