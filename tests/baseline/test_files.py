"""A damaged file ends in one sentence with the line, never in a traceback, and never passes."""

import dataclasses
import json
import random
from pathlib import Path

import pytest

from pytest_bnconsistency.checks.baseline import file
from pytest_bnconsistency.checks.baseline.aligned import aligned
from pytest_bnconsistency.checks.baseline.compare import compared
from pytest_bnconsistency.checks.baseline.facts import Facts
from pytest_bnconsistency.errors import BaselineError

PATH = Path("bn-baseline/net.json")
FACTS = Facts(
    model="models:net",
    batch="2 rows of (4,) from seed 0",
    versions={"keras": "3.15.0", "tf-keras": None},
    graph=("dense: (4,5) (5,)", "bn: (5,) (5,)", "relu"),
    weights={"size": 0.25, "projection 1": -0.125},
    inventory={
        "bn": {"momentum": 0.99, "epsilon": 1e-3, "trainable": True, "frozen_by": None},
        "bn2": {"momentum": 0.9, "epsilon": 1e-3, "trainable": False, "frozen_by": "bn2"},
    },
    statistics={"bn mean": {"mean": 0.1, "deviation": 1.5, "projection 1": 0.7}},
    outputs={"predict": {"shape": "(rows, 2)", "row 0 size": 1.25, "noise": 1e-7}},
    verdicts={"statistics_health": {"verdict": "passed", "BN406 bn": "warning"}},
)
TEXT = file.written(FACTS)


def line_of(error):
    return int(str(getattr(error, "value", error)).partition(", line ")[2].partition(":")[0])


def test_what_is_written_is_read():
    assert file.parsed(TEXT, PATH) == FACTS
    assert file.written(file.parsed(TEXT, PATH)) == TEXT
    odd = dataclasses.replace(FACTS, outputs={"f": {"row 0 size": float("nan"), "a": "\n\x00ä"}})
    assert file.parsed(file.written(odd), PATH) == odd.shortened()
    assert json.loads(TEXT)["inventory"][0]["name"] == "bn"


def test_one_fact_stands_on_a_line():
    edited = dataclasses.replace(
        FACTS, inventory={**FACTS.inventory, "bn": {**FACTS.inventory["bn"], "momentum": 0.95}}
    )
    lines = set(file.written(edited).splitlines()) - set(TEXT.splitlines())
    assert {line.partition(":")[0].strip() for line in lines} == {'"momentum"', '"sum"'}
    said = file.diff(TEXT, file.written(edited), PATH)
    assert said == ["-inventory bn: momentum 0.99", "+inventory bn: momentum 0.95"]


def test_what_a_fact_was_and_is_stand_together():
    bn = {**FACTS.inventory["bn"], "momentum": 0.95, "axis": 1}
    edited = dataclasses.replace(
        FACTS, graph=("-odd", *FACTS.graph[1:]), inventory={**FACTS.inventory, "bn": bn}
    )
    assert file.diff(TEXT, file.written(edited), PATH) == [
        f"-graph {FACTS.graph[0]}",
        "+graph -odd",
        "-inventory bn: momentum 0.99",
        "+inventory bn: momentum 0.95",
        "+inventory bn: axis 1",
    ]
    assert file.diff(TEXT, TEXT, PATH) == []


@pytest.mark.every_case
@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"momentum": 0.99', '"momentum": 0.98', "is the checksum of other facts"),
        ('"momentum": 0.99', '"momentum": [0.99]', "gives 'momentum' no plain value"),
        ('"momentum": 0.99,', '"momentum": 0.99, "momentum": 0.99,', "a second time"),
        ('"momentum": 0.99', "<<<<<<< ours", "no JSON"),
        ('"name": "bn2"', '"name": "bn"', "is the checksum of other"),
        ('"format": 1', '"format": 2', "is a format that is not 1"),
        ('"relu"', '"gelu"', "says graph"),
        ('"statistics": [', '"numbers": [', "'statistics' is missing"),
    ],
)
def test_the_sentence_says_what_and_where(old, new, said):
    damaged = TEXT.replace(old, new, 1)
    with pytest.raises(BaselineError, match=said) as error:
        file.parsed(damaged, PATH)
    assert str(error.value).count("\n") == 0
    assert "pytest --bn-update-baseline" in str(error.value)
    at = TEXT[: TEXT.index(old)].count("\n") + 1
    if said in ("no JSON", "gives 'momentum' no plain value", "a second time"):
        assert line_of(error) == at


def test_a_diff_says_first_what_a_reviewer_reads():
    bn2 = {**FACTS.inventory["bn2"], "trainable": True, "frozen_by": None}
    edited = dataclasses.replace(
        FACTS,
        weights={"size": 0.5},
        inventory={**FACTS.inventory, "bn2": bn2},
        outputs={"predict": {**FACTS.outputs["predict"], "row 0 size": 2.5}},
        verdicts={"statistics_health": {"verdict": "failed"}},
    )
    said = file.diff(TEXT, file.written(edited), PATH)
    assert [line for line in said if line.startswith("+")][2:] == [
        "+verdicts statistics_health: verdict failed",
        "+outputs predict: row 0 size 2.5",
        "+weights: size 0.5",
    ]
    assert said[:4] == [
        "-inventory bn2: frozen_by bn2",
        "+inventory bn2: frozen_by null",
        "-inventory bn2: trainable false",
        "+inventory bn2: trainable true",
    ]


def test_a_merge_conflict_is_named():
    lines = TEXT.splitlines()
    lines[30:31] = ["<<<<<<< HEAD", lines[30], "=======", lines[30], ">>>>>>> branch"]
    with pytest.raises(
        BaselineError, match="line 31: a merge conflict begins; take the facts of one side"
    ):
        file.parsed("\n".join(lines), PATH)


def test_text_that_is_none_is_named(tmp_path):
    for content, line in ((b"{\n\xff\xfe}", 2), (b"", 1), (b"[1]", 1), (b"{}", 1)):
        path = tmp_path / "net.json"
        path.write_bytes(content)
        with pytest.raises(BaselineError) as error:
            file.read(path)
        assert line_of(error) == line
    with pytest.raises(BaselineError, match="can't be read"):
        file.read(tmp_path)


def damaged(seed):
    """The text with a random damage that is more than space between its words."""
    draw, text = random.Random(seed), TEXT
    places = [i for i, letter in enumerate(text) if not letter.isspace()]
    at, lines = draw.choice(places), text.splitlines(keepends=True)
    line, other = draw.randrange(len(lines)), draw.randrange(len(lines))
    swapped = list(lines)
    swapped[line], swapped[other] = lines[other], lines[line]
    return draw.choice(
        [
            text[:at] + draw.choice('0123456789abcxyz"{}[],:-. \\\n\x00é') + text[at + 1 :],
            text[:at] + text[at + 1 :],
            text[:at],
            text[:at] + draw.choice('07e"x{[,') + text[at:],
            "".join(lines[:line] + lines[line + 1 :]),
            "".join(lines[:line] + lines[line : line + 1] + lines[line:]),
            "".join(swapped),
            text[:at] + text[places[other % len(places)] :],
        ]
    )


def is_a_sentence(error):
    return "\n" not in str(error) and line_of(error) > 0


def outcome(text):
    """What a check comes to that finds this text, and the model as it was recorded."""
    try:
        was = file.parsed(text, PATH)
    except BaselineError as error:
        return "error" if is_a_sentence(error) else "a traceback"
    if was == FACTS:
        return "the same facts"
    if was.model != FACTS.model:
        return "error"  # another model's file
    now, _ = aligned(was, FACTS)
    return "failed" if compared(was, now, lambda name: 0.0, None).moved else "passed"


@pytest.mark.parametrize("start", [0, 1000, 2000, 3000, 4000])
def test_a_fuzzed_file_never_passes(start):
    outcomes = {seed: outcome(damaged(seed)) for seed in range(start, start + 250)}
    assert set(outcomes.values()) <= {"error", "failed", "the same facts"}
    same = [seed for seed, found in outcomes.items() if found == "the same facts"]
    for seed in same:  # a line swapped within its block, or a comma's neighbour
        assert json.loads(damaged(seed))
    assert len(same) < len(outcomes) / 4
