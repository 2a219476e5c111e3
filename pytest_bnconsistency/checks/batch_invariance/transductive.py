"""Layers in which rows are declared to meet."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping

from pytest_bnconsistency.checks.check_context import CheckContext
from pytest_bnconsistency.checks.traced_passes import observed
from pytest_bnconsistency.errors import OptionError
from pytest_bnconsistency.models import Call


def declared_layers(context: CheckContext, reasons: Mapping[str, str]) -> dict[Call, str]:
    """The layers that are declared transductive, and why."""
    calls = observed(context, False).calls
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
