import math

import pytest

from pytest_bnconsistency.checks.train_eval_agreement.attribution import Attribution, Share
from pytest_bnconsistency.results import Table


@pytest.mark.every_case
@pytest.mark.parametrize(
    ("shares", "none"),
    [
        pytest.param([("a", 0.1, 0.9), ("b", 0.6, 0.5)], False, id="the-first-only-opens-it"),
        pytest.param([("a", 0.1, 0.9), ("b", 0.4, 0.5)], True, id="none-closes-half"),
        pytest.param([("a", math.nan, math.nan), ("b", 0.1, 0.1)], False, id="one-is-not-known"),
        pytest.param([("a", 0.1, 0.9)], False, id="one-layer"),
    ],
)
def test_whether_no_layer_alone_closes_half_of_the_gap(shares, none):
    found = Attribution([Share(*share, 0.0, 1.0) for share in shares], Table((), ()))
    assert found.none_by_itself is none
    assert found.worst == "a"
