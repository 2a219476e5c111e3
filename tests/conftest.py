import ctypes
import gc
import importlib.resources
import importlib.util
import json
import os
import random
import sys
import weakref

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# pytester drops what an inner run imports, and neither library survives a second import.
import numpy as np
import pytest
import tensorflow  # noqa: F401

from pytest_bnconsistency import libraries

pytest_plugins = ["pytester"]

# tf_keras up to 2.18 draws its seeds by randint(1, 1e9), which Python from 3.12 on refuses.
_randint = random.Random.randint
random.Random.randint = lambda self, a, b: _randint(self, int(a), int(b))


def pytest_configure(config):
    # Under pytest-randomly the order is random; what a test draws hangs on its own seed alone.
    if hasattr(config.option, "randomly_reset_seed"):
        config.option.randomly_reset_seed = False


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(items):
    """The quick suite takes the first case of each test: what says otherwise is marked.

    As they are written, before a plugin shuffles them.
    """
    known = set()
    for item in items:
        test = item.nodeid.partition("[")[0]
        later = test in known and not item.get_closest_marker("every_case")
        if later or item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.thorough)
        known.add(test)
    return (yield)


@pytest.fixture(autouse=True, scope="module")
def _memory_is_given_back():
    """Traces leave gigabytes in cycles and in the allocator's pools, file after file."""
    yield
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it
    if trim is not None:
        trim(0)


@pytest.fixture(scope="session")
def versions():
    return libraries.versions()


@pytest.fixture(autouse=True)
def _expectations_are_recorded(request, versions):
    """JUnit's file holds what each test expected: `.ci/fault_table.py` makes a table of it."""
    testing = sys.modules.get("pytest_bnconsistency.testing")
    if testing is None:  # no file of tests has imported it
        yield
        return

    models = []

    def record(expectation):
        known = vars(expectation) | {"versions": versions}
        model = known["model"]
        if not any(one() is model for one in models):
            models.append(weakref.ref(model))
        known["model"] = [one() is model for one in models].index(True)
        request.node.user_properties.append(("expectation", json.dumps(known)))

    token = testing.listener.set(record)
    yield
    testing.listener.reset(token)


@pytest.fixture(autouse=True)
def fixed_weights():
    # Each generation draws its weights from a generator of its own.
    for name in ("tf_keras", "keras"):
        if name in sys.modules:
            sys.modules[name].utils.set_random_seed(1)


@pytest.fixture(params=["keras", "tf_keras"])
def k(request):
    """Either generation of Keras."""
    return pytest.importorskip(request.param)


@pytest.fixture
def x():
    return np.random.default_rng(0).standard_normal((8, 4), np.float32)


def _closed(schema):
    """The schema without room for what it does not name."""
    if isinstance(schema, list):
        return [_closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    more = {"additionalProperties": False} if "properties" in schema else {}
    return more | {key: _closed(part) for key, part in schema.items()}


@pytest.fixture(scope="session")
def valid_record():
    """Fails for a record that the published schema does not describe, to the last key."""
    validators = pytest.importorskip("jsonschema").validators
    package = importlib.resources.files("pytest_bnconsistency.reporting")
    schema = _closed(json.loads((package / "record.schema.json").read_text(encoding="utf-8")))
    return validators.Draft202012Validator(schema).validate


@pytest.fixture(autouse=True)
def _inner_runs_keep_their_order(request, monkeypatch):
    """However the outer run is shuffled: what inner runs print is compared line by line."""
    if "pytester" in request.fixturenames and importlib.util.find_spec("pytest_randomly"):
        request.getfixturevalue("pytester")  # takes the options of the outer run away
        monkeypatch.setenv("PYTEST_ADDOPTS", "-p no:randomly")


@pytest.fixture(autouse=True)
def _every_report_is_valid(request):
    """Whatever inner runs write as JSON keeps to the schema."""
    if "pytester" not in request.fixturenames:
        yield
        return
    folder, check = (
        request.getfixturevalue("pytester").path,
        request.getfixturevalue("valid_record"),
    )
    yield
    for path in folder.rglob("*.json"):
        known = json.loads(path.read_text(encoding="utf-8") or "null")
        if isinstance(known, dict) and "schema_version" in known:
            check(known)
