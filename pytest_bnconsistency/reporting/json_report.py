"""The record as JSON, in ASCII: no name in it does anything to a terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def render(record: Mapping[str, Any]) -> str:
    return json.dumps(record, indent=1, allow_nan=False) + "\n"
