"""Many checks in one process: neither memory nor time grows with them."""

import gc
import os
import resource
import statistics
import threading
import time
from pathlib import Path

import pytest
from six_kinds import CHECKS, Trained

from pytest_bnconsistency import check_consistency


def megabytes():
    """What the process holds now, or held at most where the system tells no more."""
    told = Path("/proc/self/statm")
    if told.exists():
        return int(told.read_text().split()[1]) * resource.getpagesize() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def open_files():
    folder = Path("/proc/self/fd")
    return len(os.listdir(folder)) if folder.exists() else 0


def rounds(count):
    """What each round of the five checks on two models took and left behind."""
    models = [Trained("functional"), Trained("tf_keras")]
    found = []
    for _ in range(count):
        begun = time.process_time()
        for trained in models:
            for check in CHECKS:
                check_consistency(
                    trained.model, trained.x, trained.y, checks=[check], **trained.options
                )
        took = time.process_time() - begun
        gc.collect()
        left = megabytes(), len(gc.get_objects()), threading.active_count(), open_files()
        found.append((took, *left))
    return found


def assert_flat(found, before):
    """What the last rounds took and left is what the first did, after `before` to warm up."""
    found = found[before:]
    third = max(1, len(found) // 3)
    first, last = found[:third], found[-third:]
    took, memory, objects, threads, files = (
        [statistics.median(values) for values in (own, its)]
        for own, its in zip(zip(*first, strict=True), zip(*last, strict=True), strict=True)
    )
    assert took[1] < 2 * took[0], found
    assert memory[1] - memory[0] < 20 + len(found), found  # megabytes, of 10 checks a round
    assert objects[1] - objects[0] < 100 * len(found), found
    assert threads[1] == threads[0], found
    assert files[1] == files[0], found


@pytest.mark.thorough
def test_some_checks():
    assert_flat(rounds(3), before=1)


@pytest.mark.slow
def test_three_hundred_checks():
    found = rounds(30)
    for took, memory, objects, threads, files in found:
        print(
            f"{took:.2f} s, {memory:.0f} MB, {objects} objects, {threads} threads, {files} files"
        )
    assert_flat(found, before=5)
