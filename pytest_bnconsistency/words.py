"""Numbers and lists as in a sentence."""

from __future__ import annotations

import re
import textwrap
import unicodedata
from collections.abc import Iterable

_BEFORE = (
    "Exception encountered when",
    "Graph execution error",
    "Detected at node",
    'File "',
    "[[{{node",
)


WORD = 120
"""Characters of a word, a layer's path for one, that a screen has room for."""


def listed(items: Iterable[object], last: str = "and", most: int | None = None) -> str:
    """Words as in a sentence: `a, b and c`; with `most`, the first of them: `a, b and 3 more`."""
    words = [str(item) for item in items]
    if most is not None and len(words) > most:
        words = [*words[:most], f"{len(words) - most} more"]
    return f" {last} ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


_REORDERING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_COMMAND = re.compile(r"^(\s*):(?=:)|#(?=#(?:\[|vso\[|teamcity\[))")


def printable(text: str) -> str:
    """`text` as one harmless line, whatever names are in it.

    What moves a cursor, hides or reorders text is spelled out, and so is the beginning of what a
    CI server would take for a command (`::error`, `##vso[`).
    """
    shown = "".join(map(_harmless, text))
    return _COMMAND.sub(lambda found: f"{found[1] or ''}\\x{ord(found[0][-1]):x}", shown)


def _harmless(letter: str) -> str:
    hidden = unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") or letter in _REORDERING
    return letter.encode("unicode_escape").decode() if hidden else letter


def shortened(text: str, longest: int = WORD) -> str:
    """`text` without the middle of words that no screen has room for."""
    half = longest // 2
    return re.sub(
        rf"\S{{{longest + 1},}}", lambda found: f"{found[0][:half]}...{found[0][-half:]}", text
    )


def digits(value: float, most: int = 3) -> str:
    """`value` in so many digits, or as many as a whole number has: 310, not 3.1e+02."""
    is_large = 10**most - 0.5 <= abs(value) < 1e6
    return f"{value:.0f}" if is_large else f"{value:.{most}g}"


def counted(number: int, noun: str) -> str:
    """`1 layer`, `2 layers`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def first_line(error: BaseException) -> str:
    """The first line that says something: Keras and TensorFlow put their own before it.

    Of a sentence about what a model raised, that of what it raised.
    """
    error = getattr(error, "refusal", error)
    lines = re.sub(r"\x1b\[\d*m|\{\{function_node [^}]*\}\} ?", "", str(error)).splitlines()
    said = [line for line in map(str.strip, lines) if line]
    own = [line for line in said if not line.startswith(_BEFORE)]
    if said and said[0] == "in user code:":  # then frames of it, and the error at the end
        own = [line for line in own if re.match(r"\w+Error: ", line)] or own
    return next(iter(own or said), type(error).__name__)


def brief_line(error: BaseException) -> str:
    """`first_line` as a part of a sentence: without its own full stop, and what is too long for
    that ends after a word.
    """
    said = shortened(first_line(error)).removesuffix(".")
    return textwrap.shorten(said, 200, placeholder=" ...")
