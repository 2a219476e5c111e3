"""Checks at once in threads of one process say what they say alone, and leave no trace."""

import sys
import threading

import pytest
from six_kinds import Trained
from surroundings import assert_same_code, assert_unchanged, code_of_libraries, surroundings

from pytest_bnconsistency import check_consistency
from pytest_bnconsistency.testing import leaves_no_trace


def said(trained):
    report = check_consistency(trained.model, trained.x, trained.y, **trained.options)
    return [(r.check, str(r.verdict), [f.rule for f in r.findings]) for r in report]


@pytest.mark.thorough
def test_two_checks_at_once():
    several = [Trained("functional"), Trained("tf_keras")]
    alone = [said(trained) for trained in several]
    together = [None, None]

    def run(number):
        together[number] = said(several[number])

    before, code = surroundings(), code_of_libraries()
    often = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with leaves_no_trace(several[0].model), leaves_no_trace(several[1].model):
            threads = [threading.Thread(target=run, args=(number,)) for number in (0, 1)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    finally:
        sys.setswitchinterval(often)
    assert_unchanged(before)
    assert_same_code(code)
    assert together == alone
