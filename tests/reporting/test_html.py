"""The page of a record, as a browser reads it: what is on it, and that it does no harm."""

import base64
import dataclasses
import hashlib
import json
import re
import time
from collections import Counter
from html.parser import HTMLParser

import pytest

from pytest_bnconsistency.__main__ import main
from pytest_bnconsistency.errors import MissingDependencyError
from pytest_bnconsistency.reporting import formats, html, pictures
from pytest_bnconsistency.reporting.record import Ending, Place, build, check_entry
from pytest_bnconsistency.results import CheckResult, Finding, Ignored, Run, Table, Verdict

ENDING = Ending("2026-01-31T09:30:00+00:00", 1.5, 1)
ATTACK = "</script></style><img src=x onerror=alert(1)>\" onfocus='alert(1)"
PLAIN = {"kind": "error", "title": "", "message": "m", "test": "t", "path": "a.py", "line": 1}


class Page(HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, source):
        super().__init__()
        self.tags, self.words, self.inside = [], [], []
        self.feed(source)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.inside.append(tag)

    def handle_data(self, data):
        self.words.append((self.inside[-1] if self.inside else "", data))

    @property
    def text(self):
        return " ".join(data for tag, data in self.words if tag not in ("script", "style"))

    @property
    def harm(self):
        """What could run, or ask for something elsewhere."""
        given = [(key, value) for _, attributes in self.tags for key, value in attributes.items()]
        asks = [
            value
            for key, value in given
            if key in ("src", "href", "action", "srcset", "data") and not value.startswith("#")
        ]
        return asks + [key for key, _ in given if key.startswith("on") or key == "style"]


def finding(words, rule="BN101", **evidence):
    told = {key: f"{key} of {words}" for key in ("message", "cause", "remedy", "tested", "bound")}
    table = Table((words, "b"), ((words, "1"),), 2)
    return Finding(
        cause_tested=True,
        rule=rule,
        slug="s",
        layer=words,
        code=words,
        table=table,
        evidence=evidence,
        **told,
    )


def result(words="dense", count=1, **more):
    given = {
        "check": "batch_invariance",
        "verdict": Verdict.FAILED,
        "findings": tuple(finding(f"{words}{i}", largest_change=i + 1.5) for i in range(count)),
        "warnings": (finding(f"{words} warned", "BN406"),),
        "ignored": (Ignored(finding(f"{words} ignored", "BN104"), f"{words} reason", ("BN104",)),),
        "unmatched": (f"{words} unmatched",),
        "notes": (f"{words} note",),
        "run": Run(words, {"rows": (7, "call"), "seed": (0, "default")}, 2.5, 3),
    }
    return CheckResult(**given | more)


def record(*results, title="models:build", errors=()):
    entries = [
        check_entry(one, outcome, Place(f"{title}{i}", f"a.py::{i}", "a.py", 3, "pytest a.py"))
        for i, (one, outcome) in enumerate(results)
    ]
    return build(entries, errors, ENDING, {"python": "3.12", "keras": None})


def shown(run):
    return Page(html.render(run))


@pytest.mark.parametrize(
    "words",
    [ATTACK, "layer" * 800, "\u05e9\u05db\u05d1\u05d4", "\x1b[31mred\u202e", "x\ud800\n::error"],
    ids=["markup", "long", "right to left", "ansi", "surrogate"],
)
def test_what_a_user_wrote_stays_text(words):
    error = PLAIN | {"message": words, "test": words, "path": words}
    run = record((result(words), "fail"), title=words, errors=[error])
    page = shown(run)
    assert page.harm == []
    assert Page(ATTACK).harm  # the same eye sees what is not escaped
    plain = Counter(tag for tag, _ in shown(record((result(), "fail"), errors=[PLAIN])).tags)
    told = Counter(tag for tag, _ in page.tags)
    assert told.keys() == plain.keys()
    assert (told["script"], told["style"]) == (1, 1)
    assert html._harmless(words) in page.text
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", page.text)


def test_the_policy_lets_only_the_own_style_and_script_run():
    page = shown(record((result(), "fail")))
    (policy,) = (a["content"] for _, a in page.tags if "http-equiv" in a)
    assert policy.startswith("default-src 'none'; ")
    for tag, kind in (("style", "style-src"), ("script", "script-src")):
        (own,) = (data for inside, data in page.words if inside == tag and data.strip())
        digest = base64.b64encode(hashlib.sha256(own.encode()).digest()).decode()
        assert f"{kind} 'sha256-{digest}'" in policy
        assert "http" not in own


def test_everything_that_was_found_is_on_the_page():
    run = record((result(count=3), "fail"), (result("other", findings=()), "warn"))
    text = shown(run).text
    for model in run["models"]:
        for check in model["checks"]:
            ignored = [one["finding"] for one in check["ignored"]]
            for one in [*check["findings"], *check["warnings"], *ignored]:
                told = ("headline", "layer", "cause", "tested", "remedy", "bound", "code")
                assert all(one[key] in text for key in told)
                assert one["table"]["rows"][0][0] in text
            assert all(words in text for words in (*check["notes"], *check["unmatched"]))
            assert check["ignored"][0]["reason"] in text
    assert "7 (call)" in " ".join(text.split())
    assert "a row moves by 3.5" in text
    assert "A row's result changes when only the other rows" in text  # the page of BN101


def test_verdicts_are_words_and_links_lead_somewhere():
    passed = result(verdict=Verdict.PASSED, findings=(), summary="fine")
    vacuous = result(verdict=Verdict.VACUOUS, findings=(), summary="constant")
    page = shown(record((result(), "fail"), (passed, "pass"), (vacuous, "fail")))
    given = [a["data-verdict"] for tag, a in page.tags if "data-verdict" in a]
    assert given == ["failed", "passed", "inconclusive"]
    assert [("open" in a) for _, a in page.tags if "data-verdict" in a] == [True, False, True]
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    assert {a["href"][1:] for tag, a in page.tags if tag == "a"} <= set(ids)
    assert next(json.loads(a["data-rules"]) for _, a in page.tags if "data-rules" in a) == [
        "BN101",
        "BN406",
        "BN104",
    ]


def test_two_models_of_one_test_have_names_of_their_own():
    one, other = (result(words, findings=()) for words in ("dense", "conv"))
    run = record((one, "pass"), (other, "pass"))
    for model in run["models"]:
        model["title"] = "a.py::test_both"
    page = shown(run)
    labels = [a["aria-labelledby"] for tag, a in page.tags if a.get("class") == "model"]
    ids = {a["id"] for _, a in page.tags if "id" in a}
    assert labels == ["m1-title m1-name", "m2-title m2-name"]
    assert set(" ".join(labels).split()) <= ids


def test_what_nothing_fails_shows_what_is_unusual_or_ignored():
    accepted = result(verdict=Verdict.PASSED, findings=(), warnings=(), summary="fine")
    text = shown(record((accepted, "pass"))).text
    assert "ignored: BN104 s: message of dense ignored" in text
    unusual = result(verdict=Verdict.PASSED, findings=(), summary="fine")
    text = shown(record((unusual, "pass"))).text
    assert "unusual: BN406 s: message of dense warned" in text
    assert "ignored: BN104 s: message" not in text


def test_a_picture_is_a_table_of_its_numbers():
    evidence = {
        "moving": {"loss": 2.5},
        "population": {"loss": 0.5},
        "training": {"loss": "nan"},
        "margin": 4.0,
        "sizes": [1, 2],
        "outputs": [{"floor": 1e-7, "bound": 4e-7, "scale": 1.0}],
    }
    drawn = {one.caption: one for one in pictures.of_check(evidence)}
    losses = drawn["loss: evaluation beside training"]
    assert [(bar.said, bar.length) for bar in losses.bars] == [
        ("2.5", 100),
        ("0.5", 20),
        ("nan", 0),
    ]
    (noise,) = (one for caption, one in drawn.items() if "noise bounds" in caption)
    assert (noise.bars[0].length, noise.line) == (100, 25)
    (wide,) = (one for caption, one in drawn.items() if "logarithmic" in caption)
    assert [bar.length for bar in wide.bars] == [2, 10.4, 100]
    gap = [
        {"layer": "a", "closes": -2.0, "opens": 0.25},
        {"layer": "b", "closes": 1.5, "opens": "nan"},
    ]
    closes, opens = pictures.of_finding({"gap_by_layer": gap})
    assert [(bar.label, bar.said, bar.length) for bar in closes.bars] == [
        ("a", "0%", 0),
        ("b", "100%", 100),
    ]
    assert [bar.said for bar in opens.bars] == ["25%"]
    page = shown(record((result(evidence=evidence), "fail")))
    assert sum(tag == "rect" for tag, _ in page.tags) == 3 + 2 + 3
    assert "2.5" in page.text


def test_the_pictures_of_a_dependence_between_rows():
    evidence = {
        "divergence": {
            "row": 3,
            "calls": 9,
            "layers": [
                {"layer": "stem", "change": 0.0, "share": 0.0},
                {"layer": ATTACK, "change": 0.5, "share": 0.25},
                {"layer": "head", "change": "inf", "share": "inf"},
            ],
        },
        "batch": {"variant": "redrawn", "rows": 2, "kept": [0], "moved": [0.0, 2.0]},
    }
    along, batch = pictures.of_finding(evidence)
    assert along.caption.startswith("Row 3, layer by layer")
    assert "(3 of 9 calls)" in along.caption
    assert [(bar.label, bar.said) for bar in along.bars] == [
        ("stem", "0"),
        (ATTACK, "0.25"),
        ("head", "inf"),
    ]
    assert "redrawn" in batch.caption
    assert [(bar.label, bar.length) for bar in batch.bars] == [("row 0, kept", 0), ("row 1", 100)]
    page = shown(record((result(findings=(finding("x", **evidence),)), "fail")))
    assert page.harm == []
    assert ATTACK in page.text


def test_the_change_at_each_size_stands_beside_the_bound():
    by_size = [
        {"rows": 1, "change": 4.0, "bound": 2.0},
        {"rows": 2, "change": 1.0, "bound": "nan"},  # one size told enough
        {"rows": 5, "change": 0.0, "bound": "nan"},
    ]
    (sizes,) = pictures.of_check({"by_size": by_size, "margin": 2.0})
    assert [(bar.label, bar.said) for bar in sizes.bars] == [
        ("batch of 1", "2"),
        ("batch of 2", "0.5"),
        ("batch of 5", "0"),
    ]
    assert sizes.line == 50
    assert not list(pictures.of_check({"by_size": by_size[2:], "margin": 0.0}))


def test_moving_statistics_stand_beside_those_of_the_population():
    shifts = [{"layer": "bn", "closes": 1.0, "opens": 1.0, "mean_shift": 0.5, "variance_ratio": 2}]
    *_, mean, variance = pictures.of_finding({"gap_by_layer": shifts})
    assert (mean.bars[0].said, variance.bars[0].said, variance.line) == ("0.5", "2", 50)


@pytest.mark.parametrize("value", [None, "x", 3, [], {}, [1, None], {"a": None}, True])
@pytest.mark.every_case
def test_evidence_of_another_shape_has_no_picture(value):
    keys = ("moving", "excess", "margin", "sizes", "outputs", "examples", "distances", "by_size")
    evidence = dict.fromkeys(
        (*keys, "entry_points", "exchanges", "gap_by_layer", "divergence", "batch"), value
    )
    evidence |= {"margin": None} if value == 3 else {}
    odd = result(findings=(finding("x", **evidence),), evidence=evidence)
    assert not any(tag == "svg" for tag, _ in shown(record((odd, "fail"))).tags)


def large(models, findings, layers):
    """The record of a run in which every model has so many findings about so many layers."""
    paths = [f"stage_{i}/block_1/bn" for i in range(layers)]
    keys = ("closes", "opens", "mean_shift", "variance_ratio")
    gap = [{"layer": path, **dict.fromkeys(keys, 1.23456789)} for path in paths]
    table = Table(("layer", *keys), tuple((path, *["1.23"] * 4) for path in paths))
    found = tuple(
        dataclasses.replace(
            finding(f"stage_1/block_{i}/bn", gap_by_layer=gap), table=table, layers=tuple(paths)
        )
        for i in range(findings)
    )
    return record(*((result(f"model{i}", findings=found), "fail") for i in range(models)))


@pytest.mark.thorough
def test_a_large_run_is_small_and_quick():
    run = large(40, 20, 20)
    start = time.process_time()
    page = html.render(run)
    assert time.process_time() - start < 5
    assert len(page.encode()) < 5_000_000
    assert page.count("BN101 s: message of") >= 800


@pytest.mark.thorough
@pytest.mark.parametrize(("findings", "crowded"), [(1, False), (60, True)])
@pytest.mark.every_case
def test_where_much_shares_the_page_what_is_long_is_cut_and_counted(findings, crowded):
    page = shown(large(8, findings, 20))
    counts = [int(n) for n in re.findall(r"([0-9]+) more, in the JSON record", page.text)]
    assert (max(counts, default=0) >= 13) is crowded
    assert ("stage_19/block_1/bn" in page.text) is not crowded
    assert "stage_0/block_1/bn" in page.text
    assert ("more characters, in the JSON record" in page.text) is crowded
    assert (("body", {"class": "crowded"}) in page.tags) is crowded


def test_a_record_gives_the_same_bytes_each_time():
    run = record((result(count=3), "fail"))
    assert html.render(run) == html.render(json.loads(json.dumps(run)))


def test_a_saved_record_becomes_a_page(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run = record((result(), "fail"))
    (tmp_path / "run.json").write_text(json.dumps(run))
    assert main(["report", "run.json", "html:out.html"]) == 0
    assert (tmp_path / "out.html").read_text("utf-8") == html.render(run)
    del run["models"][0]["checks"][0]["notes"]
    (tmp_path / "run.json").write_text(json.dumps(run))
    assert main(["report", "run.json", "html:out.html"]) == 2
    assert "is damaged; expected what --bn-report json:PATH wrote" in capsys.readouterr().err


def test_without_its_libraries_the_page_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(formats.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError) as raised:
        formats.outputs(["html:x.html"], tmp_path)
    assert str(raised.value) == (
        "--bn-report html takes jinja2 and markdown_it, not installed here; install with: "
        "pip install 'pytest-bnconsistency[report]'"
    )
