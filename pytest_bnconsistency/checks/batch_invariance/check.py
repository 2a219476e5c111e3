"""A row's result in inference does not depend on its companions, its position or their number.

At a fixed batch shape the answer is exact: a kept row must give the same bits whatever stands
beside it. Between batch sizes kernels differ, and the answer is measured against the noise floor
of the subject.
"""

from __future__ import annotations

import fnmatch
import functools
import itertools
from collections.abc import Collection, Mapping
from dataclasses import replace

from pytest_bnconsistency.checks import entry_points as ways
from pytest_bnconsistency.checks.batch_invariance import explain as mixing
from pytest_bnconsistency.checks.batch_invariance.compiled_sizes import compiled_sizes
from pytest_bnconsistency.checks.batch_invariance.detection_limit import resolution
from pytest_bnconsistency.checks.batch_invariance.explain import Judged
from pytest_bnconsistency.checks.batch_invariance.output_noise import noise_of
from pytest_bnconsistency.checks.batch_invariance.padding import Further, pad_further
from pytest_bnconsistency.checks.batch_invariance.search import searched
from pytest_bnconsistency.checks.batch_invariance.sizes import chunks_of, compare_sizes, untraced
from pytest_bnconsistency.checks.batch_invariance.variants import (
    compare_exchanges,
    compare_otherwise,
)
from pytest_bnconsistency.checks.check_context import Case
from pytest_bnconsistency.checks.entry_points import WHOLE, Entry, measured_noise, rows_between
from pytest_bnconsistency.checks.traced_passes import observed
from pytest_bnconsistency.data.arrays import Nest, all_finite, rows_of
from pytest_bnconsistency.errors import OptionError, RefusedError
from pytest_bnconsistency.execution.accepted_sizes import only_size
from pytest_bnconsistency.execution.batch_variants import joint_exchanges
from pytest_bnconsistency.execution.observations import has_rows, same_outputs
from pytest_bnconsistency.execution.state import preserve_state
from pytest_bnconsistency.measurement.rounding_noise import DROWNED
from pytest_bnconsistency.models import Call
from pytest_bnconsistency.results import CheckResult, Verdict
from pytest_bnconsistency.words import counted, listed

NAME = "batch_invariance"


def check(case: Case) -> CheckResult:
    reason = case.settings.transductive
    if isinstance(reason, str):
        summary = f"the model is declared transductive: {reason}"
        return CheckResult(
            check=NAME, verdict=Verdict.NOT_APPLICABLE, summary=summary, waived=True
        )
    if refusal := only_size(case.subject):
        return CheckResult(check=NAME, verdict=Verdict.NOT_APPLICABLE, summary=refusal)
    x = case.sample()
    with preserve_state(case.subject):
        if not reason:
            return searched(case, x, lambda: _decide(case, x))
        declared = _declared(case, x, reason)
        apart = [id(call.layer) for call in declared]
        result = searched(case, x, lambda: _decide(case, x, apart), apart)
    if result.verdict is not Verdict.PASSED:
        return result
    reasons = "; ".join(f"{call.path}: {why}" for call, why in declared.items())
    summary = f"rows are meant to meet in {reasons}; apart from that, {result.summary}"
    return replace(result, verdict=Verdict.NOT_APPLICABLE, summary=summary, waived=True)


def _declared(case: Case, x: Nest, reasons: Mapping[str, str]) -> dict[Call, str]:
    """The layers that are declared transductive, and why."""
    calls = observed(case, x, False).calls
    found = {}
    for pattern, reason in reasons.items():
        matching = [call for call in calls if fnmatch.fnmatchcase(call.path, pattern)]
        if not matching:
            known = ", ".join(list(dict.fromkeys(call.path for call in calls))[:4])
            raise OptionError(
                f"transductive={{{pattern!r}: ...}} matches no layer; expected a pattern of paths "
                f"such as {known}"
            )
        found.update(dict.fromkeys(matching, reason))
    return found


def _decide(case: Case, x: Nest, apart: Collection[int] = ()) -> CheckResult:
    joint, notes = joint_exchanges(x, case.settings.seed), list[str]()
    groups = _entry_points(case, x, apart, notes)
    noise = measured_noise(case, x, apart)
    for entry, judged in groups:
        mine = noise_of(case, x, entry, apart)
        compare_exchanges(entry, judged, case, x, joint, mine, notes)
        if not judged.differences and not judged.random:
            compare_sizes(entry, judged, x, mine)
            if judged.sizes:
                compare_otherwise(entry, judged, case, x, mine, notes)
        in_rows = [has_rows([output], x) for output in entry.run(WHOLE, x).outputs]
        judged.has_rows = any(in_rows)
        if judged.has_rows and not all(in_rows):
            without = in_rows.count(False)
            notes.append(
                f"{without} of the {counted(len(in_rows), 'output')} of {entry.name} "
                f"{'has' if without == 1 else 'have'} not the rows first: not judged"
            )
        if judged.observed is not None and judged.observed.still:
            notes.append(f"layers that draw random numbers are held still in {entry.name}")
    if not apart:
        groups += untraced(case, x, groups, noise)
    all_judged = [judged for _, judged in groups]
    known = [judged for judged in all_judged if not judged.random]
    holding = [judged for judged in known if judged.word == "holds"]
    rowless = [name for judged in known if not judged.has_rows for name in judged.names]
    if rowless and any(judged.has_rows for judged in known):
        notes.append(f"no output of {listed(rowless)} has the rows first: not judged")
    sizes = sorted({stop - start for start, stop in chunks_of(rows_of(x))})
    evidence = {
        "rows": rows_of(x),
        "entry_points": {name: judged.word for judged in all_judged for name in judged.names},
        "exchanges": [exchange.name for exchange in joint],
        "sizes": sizes,
        "margin": max((judged.margin for judged in known), default=0.0),
    }
    if evidence["margin"]:
        evidence["outputs"] = [
            {"floor": f.floor, "bound": f.bound, "lower": f.lower, "scale": f.scale}
            for f in noise.floors
        ]
    findings, further = tuple(mixing.findings(case.subject, x, all_judged)), Further()
    if not findings and not apart and known == all_judged:
        findings = tuple(compiled_sizes(case, x))
    if not findings and known:
        further = pad_further(case, x, apart)
        findings = tuple(further.findings)
        notes += further.notes
    if findings:
        return CheckResult(
            check=NAME,
            verdict=Verdict.FAILED,
            findings=findings,
            notes=tuple(notes),
            evidence=evidence,
        )

    def unseen(summary: str, hint: str) -> CheckResult:
        return CheckResult(
            check=NAME,
            verdict=Verdict.VACUOUS,
            findings=(),
            summary=summary,
            hint=hint,
            notes=tuple(notes),
            table=None,
            evidence=evidence,
        )

    if not known:
        return unseen(
            "inference is random: the same batch gives other bits in a second run",
            "remove the randomness from inference; inference_purity says where it is",
        )
    if not all(all_finite(entry.run(WHOLE, x).outputs) for entry, _ in groups):
        return unseen(
            "the outputs are NaN or Inf, whatever the batch",
            "statistics_health says whether stored statistics are at fault",
        )
    if not holding:
        whole = [entry.run(WHOLE, x).outputs for entry, judged in groups if not judged.random]
        shapes = listed(
            dict.fromkeys(str(output.shape) for outputs in whole for output in outputs)
        )
        return unseen(
            f"no output has the {rows_of(x)} rows of the batch first: {shapes}",
            "give a model, or a function around it, whose outputs have the rows first",
        )
    if any(judged.dominated for judged in known) or any(m.dominated for m in further.moves):
        return unseen(
            "rounding alone may move the outputs by as much as they are large, so no change of "
            "them between batches of other sizes or lengths tells anything",
            "give rows whose outputs do not cancel to nearly zero, or compute in a higher "
            "precision",
        )
    gathers = any(judged.gathers for judged in known)
    seen = resolution(case, x, apart, noise if gathers else None)
    if gathers and all(share is None for share in seen.values()):
        seen = resolution(case, x, apart)  # no output shows it: hidden bits may
    evidence["resolution"] = {place: share for place, share in seen.items() if share is not None}
    if all(share is None for share in seen.values()):
        return unseen(
            "not even a row moved by 0.1 of its batch's mean would have been seen",
            "give rows that differ, and a model whose layers are not all zero",
        )
    leaks = "; ".join(f"{share:.0e} at {place}" for place, share in seen.items() if share)
    through = listed(mixing.names_of(holding))
    kept = "values within noise" if gathers else "bits"
    within = (
        f"batch sizes {listed(sizes)} stay within {evidence['margin']:.2f} of the noise bound"
        if not any(judged.drowned for judged in known)
        else "batch sizes were not judged, because rounding alone moves the outputs by more than "
        f"{DROWNED:g} of their scale"
    )
    summary = (
        f"each of {rows_of(x)} rows keeps its {kept} in {len(joint)} other batches through "
        f"{through}; {within}{further.holds}; a leak of the batch mean into a row would have been "
        f"seen from {leaks}"
    )
    return CheckResult(
        check=NAME, verdict=Verdict.PASSED, summary=summary, notes=tuple(notes), evidence=evidence
    )


def _entry_points(
    case: Case, x: Nest, apart: Collection[int], notes: list[str]
) -> list[tuple[Entry, Judged]]:
    """The entry points that compute something else, each with the names that it stands for.

    What gives the same bits in every layer, or in the outputs of the whole batch and of a single
    row, computes the same: what holds for the one holds for the other. `predict` cannot run
    layers `apart`.
    """
    subject = case.subject
    inference = ways.traced_entry(case, x, False, apart)
    judged = Judged([subject.spelled(False)], inference.observed)
    groups = [(inference, judged)]
    for name in itertools.islice(subject.entries(), 0 if apart else 1):
        production = ways.entry(case, x, name)
        if refusal := _refusal(production, inference, x):
            notes.append(f"not judged: {refusal}")
        elif _agree(case, production, inference, x):
            judged.names.insert(0, name)
        else:
            again = functools.partial(ways.anew, case, name=name)
            groups.insert(0, (production, Judged([name], anew=again)))
    left_out = subject.spelled(None)
    if left_out == subject.spelled(False):
        return groups
    if not apart and ways.same_in_every_layer(case, x):
        judged.names.insert(-1, left_out)
        return groups
    default = ways.traced_entry(case, x, None, apart)
    assert inference.observed is not None
    assert default.observed is not None
    if default.observed.same_computation(inference.observed):
        judged.names.insert(-1, left_out)
    else:
        groups.append((default, Judged([left_out], default.observed)))
    return groups


def _refusal(production: Entry, inference: Entry, x: Nest) -> str:
    """What an entry point raises on rows that inference takes, "" if it takes them."""
    inference.run(WHOLE, x)
    try:
        production.run(WHOLE, x)
    except RefusedError as error:
        return str(error)
    return ""


def _agree(case: Case, mine: Entry, its: Entry, x: Nest) -> bool:
    for batch, rows in ((WHOLE, x), rows_between(x, 0, 1)):
        try:
            both = its.run(batch, rows), mine.run(batch, rows)
        except Exception:
            return False  # what it refuses, it is judged on
        moved = any(ways.moves_layers(case, x, seen) for seen in both)
        if moved or not same_outputs(*(seen.outputs for seen in both)):
            return False
    return True
