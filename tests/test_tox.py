"""What tox.ini says of environments is what pyproject.toml allows, and each can be read."""

import configparser
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LISTED = re.compile(r"^(\S+) +-> (.+)$", re.M)


@pytest.fixture
def listed(capfd):
    """The environments of `tox list`, with their descriptions."""
    tox = pytest.importorskip("tox.run")
    assert tox.main(["list", "-c", str(ROOT / "tox.ini")]) == 0
    return dict(LISTED.findall(capfd.readouterr().out))


def project():
    tomllib = pytest.importorskip("tomllib")
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def section(name):
    tox = configparser.ConfigParser(interpolation=None)
    tox.read(ROOT / "tox.ini", encoding="utf-8")
    return tox[name]


def test_every_environment_says_what_it_is(listed):
    assert len(listed) > 60
    assert not [name for name, told in listed.items() if "[no description]" in told]
    told = listed["py311-tf216-keras30-np1"]
    assert told == (
        "The quick suite on Python 3.11 with TensorFlow 2.16 and Keras 3.0 on numpy 1.26"
    )


def test_every_factor_is_explained_and_every_python_is_supported(listed):
    matrix = [name for name in listed if re.match(r"py\d+-", name) and "jax" not in name]
    factors = {factor for name in matrix for factor in name.split("-")}
    explained = set(re.findall(r"^(\w+):", section("testenv")["description"], re.M))
    assert factors == explained
    supported = {
        kind.rpartition(" ")[2].replace(".", "")
        for kind in project()["classifiers"]
        if re.search(r":: 3\.\d+$", kind)
    }
    assert {factor[2:] for factor in factors if factor.startswith("py3")} == supported


def test_the_lowest_versions_are_the_bounds_of_the_project():
    lowest = dict(re.findall(r"^lowest: ([\w-]+)==([\d.]+)$", section("testenv")["deps"], re.M))
    extras = project()["optional-dependencies"]
    optional = [extras[name] for name in ("tensorflow", "tf-keras", "search", "report")]
    bounds = dict(
        requirement.split(">=") for requirement in sum(optional, project()["dependencies"])
    )
    for name, bound in bounds.items():
        assert lowest[name].startswith(bound), name


def test_what_lints_is_what_a_developer_has():
    lints = set(section("testenv:lint")["deps"].split())
    extras = project()["optional-dependencies"]
    known = {r for name in ("dev", "search", "report") for r in extras[name]}
    known |= set(project()["dependencies"])
    names = {re.split(r"[<>=]", requirement)[0] for requirement in known}
    assert {re.split(r"[<>=]", requirement)[0] for requirement in lints} <= names
    assert section("testenv:lint")["skip_install"] == "true"
