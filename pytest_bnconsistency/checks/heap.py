"""Python's garbage collector while checks run."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def at_rest() -> Iterator[None]:
    """Within it, the collector leaves alone what was there before; what is left over then goes.

    Traces make objects by the hundred thousand, so that it would walk through all of TensorFlow's
    a few times in each check. They lie in cycles and hold memory that it does not count, so that
    it would let them lie: a gigabyte for every ten checks of a small MobileNetV2.
    """
    if gc.get_freeze_count():  # somebody else's, who may not want it thawed
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.collect()
        gc.unfreeze()
