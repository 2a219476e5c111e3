import pytest

from pytest_bnconsistency.testing import expect_failure

SAID = {
    "BN201": ["leaves", "of the initial values are"],
    "BN202": ["lag behind"],
    "BN203": ["training mode", "inference mode"],
    "BN205": ["feeds a normalization layer"],
    "BN206": ["of the last batches only"],
    "BN207": ["came in an order", "each batch held"],
    "BN208": ["training ran on batches", "ended with a batch"],
    "BN209": ["preprocessed"],
    "BN210": ["unlike distribution"],
    "BN212": ["in each other's place"],
    "BN215": ["to the statistics of"],
    "BN401": ["NaN"],
    "BN403": ["of the old value"],
}
"""What the cause of each rule says, and that of no other."""


@pytest.fixture
def disagrees():
    """Training and evaluation disagree: one finding, its cause tested, no neighbour named."""

    def expected(model, *data, rule, **options):
        others = {other: words for other, words in SAID.items() if other != rule}
        without = [
            "not established",
            *others,
            *(said for words in others.values() for said in words),
        ]
        return expect_failure(
            "train_eval_agreement",
            model,
            *data,
            rule=rule,
            cause_tested=True,
            without=without,
            **options,
        )

    return expected
