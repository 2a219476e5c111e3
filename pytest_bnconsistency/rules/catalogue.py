"""The catalogue of rules. Each has a page beside this file, `<id>.md`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pytest_bnconsistency.results import Explanation, Finding, Table


@dataclass(frozen=True)
class Rule:
    """What a finding is called: its id, its name, and in a line what is wrong."""

    id: str
    slug: str
    summary: str

    def finding(
        self,
        *,
        layer: str,
        message: str,
        explanation: Explanation,
        bound: str = "",
        table: Table | None = None,
        evidence: Mapping[str, Any] | None = None,
        layers: Iterable[str] = (),
    ) -> Finding:
        """A violation of this rule, at a layer, or between two; `layers` are all, if several."""
        return Finding(
            rule=self.id,
            slug=self.slug,
            layer=layer,
            message=message,
            cause=explanation.cause,
            cause_tested=explanation.established,
            remedy=explanation.remedy,
            tested=explanation.tested,
            bound=bound,
            table=table,
            evidence=evidence or {},
            layers=tuple(layers),
        )


STATE_MOVES = Rule("BN001", "inference-changes-state", "inference changes a variable of a layer")
NOT_REPEATABLE = Rule(
    "BN002", "inference-not-repeatable", "the same batch gives other bits the second time"
)
ENTRIES_DISAGREE = Rule(
    "BN003", "entry-points-disagree", "two entry points give different answers on the same rows"
)

ROWS_MIX = Rule(
    "BN101", "rows-mix", "rows mix in inference mode, too: an operation over the batch axis"
)
TRAINING_MODE = Rule(
    "BN102",
    "training-mode-in-inference",
    "rows mix because a normalization layer runs in training mode",
)
BATCH_AXIS_LOST = Rule(
    "BN103",
    "batch-axis-lost",
    "the output's shape depends on the rows or their number, or a small batch raises",
)
SIZE_MATTERS = Rule(
    "BN104", "batch-size-matters", "a row's result depends on the batch size, beyond float noise"
)
POSITION_MATTERS = Rule(
    "BN105", "position-matters", "a row's result depends on its place in the batch"
)
PADDING = Rule(
    "BN106", "padding-matters", "a sequence's result depends on how far its batch is padded"
)

STALE = Rule(
    "BN201",
    "stale-moving-statistics",
    "the initial values are still in the moving statistics, or in them again",
)
LAGGING = Rule(
    "BN202",
    "lagging-moving-statistics",
    "the moving statistics lag behind weights that still moved when training ended",
)
NEVER_UPDATED = Rule(
    "BN203",
    "never-updated-statistics",
    "trained, and the statistics are exactly their initial values",
)
DISAGREES = Rule(
    "BN204",
    "training-and-evaluation-disagree",
    "evaluation is worse than training, and no cause that was tried explains it",
)
VARIANCE_SHIFT = Rule(
    "BN205", "dropout-variance-shift", "the statistics were taken with dropout or noise on"
)

SMALL_MOMENTUM = Rule(
    "BN206", "momentum-too-small", "the statistics are about the last batches only"
)
ORDER = Rule(
    "BN207",
    "batches-in-order",
    "the rows came in an order: batches of one kind each, or rows of one kind last",
)
TINY_BATCHES = Rule(
    "BN208",
    "tiny-batches",
    "training ran on batches of one to four rows, or ended epochs on one row",
)
SHIFT = Rule("BN209", "data-shift", "the data, or a layer of preprocessing, is not as in training")
DOMAINS = Rule(
    "BN210",
    "one-layer-many-domains",
    "one step gives one normalization layer inputs of unlike distribution",
)
SEVERAL_UPDATES = Rule(
    "BN211", "several-updates-per-step", "a step updates the statistics more than once"
)
SWAPPED = Rule(
    "BN212",
    "statistics-misplaced",
    "stored vectors stand in another place or order, or are those of another layer",
)
OTHER_WEIGHTS = Rule(
    "BN213",
    "statistics-of-other-weights",
    "the weights were changed after the last step, and the statistics were not",
)
ANOTHER_FORM = Rule(
    "BN214",
    "variance-in-another-form",
    "what is stored for a variance is its root, its inverse, its logarithm",
)
STEP_WRITES = Rule(
    "BN215",
    "step-writes-statistics",
    "a step writes to the statistics beside the layers' own updates",
)
OTHER_FORMULA = Rule(
    "BN216",
    "modes-compute-otherwise",
    "a layer computes otherwise in evaluation than in training, from the same statistics",
)

FROZEN_MOVES = Rule(
    "BN301", "frozen-state-moves", "a frozen layer's variables change in a training step"
)
FROZEN_BY_BATCH = Rule(
    "BN302", "frozen-layer-uses-the-batch", "a frozen layer normalises by the batch in training"
)
INFERENCE_OVERRIDDEN = Rule(
    "BN303", "inference-call-overridden", "`training=False` in a call is overridden by `fit`"
)
RECOMPILE_MISSING = Rule(
    "BN304",
    "recompile-missing",
    "frozen after compiling or tracing; `fit`, or a `tf.function`, runs what was traced before",
)
CHILD_TRAINABLE = Rule(
    "BN305", "trainable-under-frozen-parent", "a layer's own flag is True under a frozen parent"
)
NOT_FROZEN = Rule(
    "BN306", "expected-frozen-but-trainable", "a layer matches `frozen=...`, and nothing froze it"
)

NOT_FINITE = Rule("BN401", "statistics-not-finite", "a statistic is NaN or infinite")
NEGATIVE_VARIANCE = Rule("BN402", "negative-variance", "a variance is negative")
MOMENTUM = Rule("BN403", "degenerate-momentum", "the momentum is outside (0, 1)")
NARROW = Rule("BN404", "half-precision-statistics", "the statistics are kept in 16 bits")
DEAD_CHANNELS = Rule("BN405", "dead-channels", "channels without variance")
EPSILON = Rule("BN406", "unusual-epsilon", "epsilon is unusual, or large against the variances")
WRONG_AXIS = Rule(
    "BN407", "wrong-channel-axis", "the statistics lie along another axis than the channels"
)
NOT_ADAPTED = Rule("BN408", "not-adapted", "a preprocessing layer was never adapted")
FED_BY_DROPOUT = Rule(
    "BN409", "dropout-feeds-a-normaliser", "dropout or noise stands before a normalization layer"
)
FAR_OFF = Rule("BN410", "far-from-the-population", "the statistics are far from those of the data")
UNTRAINED = Rule(
    "BN411",
    "initial-statistics",
    "the model was trained, and a layer's statistics are exactly their initial values",
)

INVENTORY_CHANGED = Rule(
    "BN701",
    "inventory-changed",
    "a layer, its place or what is so of a normalization layer is not as in the baseline",
)
STATISTICS_MOVED = Rule(
    "BN702", "statistics-moved", "stored statistics are not those of the baseline"
)
OUTPUTS_MOVED = Rule(
    "BN703", "outputs-moved", "an entry point gives other outputs than in the baseline"
)
SEES_LESS = Rule("BN704", "check-sees-less", "a check sees less than it did in the baseline")
NEW_WARNING = Rule(
    "BN705", "new-warning", "a check finds or warns of something that the baseline does not hold"
)

_CHECKS = {
    "0": "inference_purity",
    "1": "batch_invariance",
    "2": "train_eval_agreement",
    "3": "frozen_stability",
    "4": "statistics_health",
    "7": "baseline",
}


def check_of(rule: str) -> str:
    """The name of the check that a rule belongs to, by the first digit of its id."""
    return _CHECKS[rule[2]]


ALL = tuple(value for value in globals().values() if isinstance(value, Rule))
