"""One precedence for all options, and sentences that say what to write instead."""

import dataclasses

import numpy as np
import pytest

from pytest_bnconsistency import (
    assert_batch_invariance,
    assert_consistency,
    check_consistency,
)
from pytest_bnconsistency.errors import OptionError
from pytest_bnconsistency.settings import FIELDS, Ignore, Settings, Shapes, resolve


def test_the_first_layer_is_the_strongest():
    call, marker, line, ini = (
        {"rows": 5},
        {"rows": 6, "seed": 1},
        {"seed": 2, "steps": 3},
        {"steps": 4},
    )
    chosen = resolve(call, marker, line, ini)
    assert (chosen.rows, chosen.seed, chosen.steps) == (5, 1, 3)
    assert chosen.max_rows == Settings().max_rows


def test_no_layers_give_the_defaults():
    assert resolve() == resolve({}, {}) == Settings()


def test_shapes_print_as_they_are_written():
    for text in ("(3, 4)", "a=(3,); b=(4, 5)"):
        assert str(resolve({"shape": text}).shape) == text


def test_none_in_a_call_overrides_a_weaker_value():
    assert resolve({"frozen": None}, {"frozen": "base/*"}).frozen is None


@pytest.mark.parametrize(
    ("given", "value"),
    [
        ({"rows": "12"}, 12),
        ({"rows": np.int64(12)}, 12),
        ({"rows": 12.0}, 12),
        ({"loss_tolerance": "0.5"}, 0.5),
        ({"loss_tolerance": 0}, 0.0),
        ({"updates": None}, None),
        ({"updates": "3"}, 3),
        ({"vacuous": "warn"}, "warn"),
        ({"seed": -1}, -1),
        ({"shape": (np.int64(3), 4)}, Shapes({"": (3, 4)})),
        ({"shape": {"a": [3]}}, Shapes({"a": (3,)})),
        ({"shape": "a=(3,); b=(4, 5)"}, Shapes({"a": (3,), "b": (4, 5)})),
        ({"shape": "7"}, Shapes({"": (7,)})),
        ({"ignore": {"bn104": " why "}}, Ignore({"BN104": "why"})),
        ({"ignore": {"padding-matters  a b/*": "why"}}, Ignore({"BN106 a b/*": "why"})),
        (
            {"ignore": "BN104: why: so\n\nBN303 b/*:why"},
            Ignore({"BN104": "why: so", "BN303 b/*": "why"}),
        ),
        (
            {"ignore": ["BN104: why", "BN303 b:c: why"]},
            Ignore({"BN104": "why", "BN303 b:c": "why"}),
        ),
        ({"ignore": {}}, Ignore()),
    ],
    ids=str,
)
def test_values_are_parsed(given, value):
    (name,) = given
    chosen = getattr(resolve(given), name)
    assert chosen == value
    assert type(chosen) is type(value)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"row": 3}, "unknown option 'row'; did you mean 'rows'?"),
        ({"zzz": 3}, "unknown option 'zzz'; expected one of rows, max_rows"),
        ({"rows": 1}, "option 'rows' is 1; expected 2 or more"),
        ({"rows": 2.5}, "option 'rows' is 2.5; expected a whole number"),
        ({"rows": "many"}, "option 'rows' is 'many'; expected a whole number"),
        ({"rows": True}, "option 'rows' is True; expected a whole number"),
        ({"rows": None}, "option 'rows' is None; expected a whole number"),
        ({"rows": [3]}, "option 'rows' is [3]; expected a whole number"),
        ({"rows": float("inf")}, "option 'rows' is inf; expected a whole number"),
        ({"loss_tolerance": -0.1}, "option 'loss_tolerance' is -0.1; expected 0 or more"),
        ({"loss_tolerance": float("nan")}, "option 'loss_tolerance' is nan; expected a number"),
        ({"vacuous": "pass"}, "option 'vacuous' is 'pass'; expected one of fail, skip, warn"),
        ({"vacuous": True}, "option 'vacuous' is True; expected one of fail, skip, warn"),
        ({"shape": "a=x"}, "option 'shape' is 'a=x'; expected the axes of a row of each input"),
        ({"shape": 7}, "option 'shape' is 7; expected the axes of a row of each input"),
        ({"shape": {}}, "option 'shape' is {}; expected the axes of a row of each input"),
        ({"frozen": ["a"]}, "option 'frozen' is ['a']; expected a pattern of layer paths"),
        ({"frozen": ""}, "option 'frozen' is ''; expected a pattern of layer paths, as in"),
        ({"baseline_dir": ""}, "option 'baseline_dir' is ''; expected the path of a folder"),
        ({"ignore": 3}, "option 'ignore' is 3; expected {'BN104': 'reason'} or"),
        ({"ignore": {"BN104": ""}}, "option 'ignore' gives no reason for 'BN104'; expected one"),
        ({"ignore": {"BN104": None}}, "option 'ignore' gives no reason for 'BN104'; expected one"),
        ({"ignore": "BN104"}, "option 'ignore' gives no reason for 'BN104'; expected one that"),
        ({"ignore": "BN104: "}, "option 'ignore' gives no reason for 'BN104'; expected one that"),
        ({"ignore": {"BN99": "why"}}, "option 'ignore': there is no rule 'BN99'; "),
        ({"ignore": {"padding-matter": "why"}}, "did you mean 'padding-matters'?"),
        ({"ignore": {"": "why"}}, "option 'ignore': there is no rule ''; "),
        ({"ignore": {3: "why"}}, "option 'ignore': there is no rule '3'; "),
    ],
    ids=str,
)
def test_what_cannot_be_used_is_refused(given, sentence):
    with pytest.raises(OptionError) as caught:
        resolve(given)
    assert sentence in str(caught.value)


@pytest.mark.parametrize("vacuous", [["fail"], {"fail": 1}], ids=str)
def test_a_choice_that_is_no_string(vacuous):
    with pytest.raises(OptionError, match="expected one of fail, skip, warn"):
        resolve({"vacuous": vacuous})


def test_a_weaker_layer_is_checked_as_well():
    with pytest.raises(OptionError):
        resolve({"rows": 5}, {"rows": "many"})


def test_what_is_ignored_prints_as_it_is_written():
    text = "BN104: why: so\nBN303 b/*: why"
    assert str(resolve({"ignore": text}).ignore) == text


def test_options_are_a_dict():
    with pytest.raises(OptionError, match="options is 3; expected a dict"):
        resolve(3)


def test_settings_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().rows = 3


def test_every_option_has_a_help():
    assert all(field.metadata["help"] for field in FIELDS.values())


@pytest.mark.parametrize(("wrong", "meant"), [("cheks", "checks"), ("train_stp", "train_step")])
def test_a_wrong_name_may_be_meant_for_an_argument(wrong, meant):
    for call in (check_consistency, assert_consistency):
        with pytest.raises(OptionError, match=f"'{wrong}'; did you mean '{meant}'"):
            call(object(), **{wrong: ["batch_invariance"]})
    with pytest.raises(OptionError, match=f"'{wrong}'; expected one of rows"):
        assert_batch_invariance(object(), **{wrong: ["batch_invariance"]})
