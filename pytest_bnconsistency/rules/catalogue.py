"""The catalogue of rules. Each has a page, `docs/rules/<id>.md`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Rule:
    id: str
    slug: str


STATE_MOVES = Rule("BN001", "inference-changes-state")
NOT_REPEATABLE = Rule("BN002", "inference-not-repeatable")
ENTRIES_DISAGREE = Rule("BN003", "entry-points-disagree")

ROWS_MIX = Rule("BN101", "rows-mix")
TRAINING_MODE = Rule("BN102", "training-mode-in-inference")
BATCH_AXIS_LOST = Rule("BN103", "batch-axis-lost")
SIZE_MATTERS = Rule("BN104", "batch-size-matters")
POSITION_MATTERS = Rule("BN105", "position-matters")
PADDING = Rule("BN106", "padding-matters")

STALE = Rule("BN201", "stale-moving-statistics")
LAGGING = Rule("BN202", "lagging-moving-statistics")
NEVER_UPDATED = Rule("BN203", "never-updated-statistics")
DISAGREES = Rule("BN204", "training-and-evaluation-disagree")
VARIANCE_SHIFT = Rule("BN205", "dropout-variance-shift")

SMALL_MOMENTUM = Rule("BN206", "momentum-too-small")
ORDER = Rule("BN207", "batches-in-order")
TINY_BATCHES = Rule("BN208", "tiny-batches")
SHIFT = Rule("BN209", "data-shift")
DOMAINS = Rule("BN210", "one-layer-many-domains")
SEVERAL_UPDATES = Rule("BN211", "several-updates-per-step")
MISPLACED = Rule("BN212", "statistics-misplaced")
OTHER_WEIGHTS = Rule("BN213", "statistics-of-other-weights")
ANOTHER_FORM = Rule("BN214", "variance-in-another-form")
STEP_WRITES = Rule("BN215", "step-writes-statistics")

FROZEN_MOVES = Rule("BN301", "frozen-state-moves")
FROZEN_BY_BATCH = Rule("BN302", "frozen-layer-uses-the-batch")
INFERENCE_OVERRIDDEN = Rule("BN303", "inference-call-overridden")
RECOMPILE_MISSING = Rule("BN304", "recompile-missing")
CHILD_TRAINABLE = Rule("BN305", "trainable-under-frozen-parent")
NOT_FROZEN = Rule("BN306", "expected-frozen-but-trainable")

NOT_FINITE = Rule("BN401", "statistics-not-finite")
NEGATIVE_VARIANCE = Rule("BN402", "negative-variance")
MOMENTUM = Rule("BN403", "degenerate-momentum")
NARROW = Rule("BN404", "half-precision-statistics")
DEAD_CHANNELS = Rule("BN405", "dead-channels")
EPSILON = Rule("BN406", "unusual-epsilon")
WRONG_AXIS = Rule("BN407", "wrong-channel-axis")
NOT_ADAPTED = Rule("BN408", "not-adapted")
FED_BY_DROPOUT = Rule("BN409", "dropout-feeds-a-normaliser")
FAR_OFF = Rule("BN410", "far-from-the-population")
UNTRAINED = Rule("BN411", "initial-statistics")

ALL = tuple(value for value in globals().values() if isinstance(value, Rule))
