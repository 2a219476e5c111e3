"""`python -m pytest_bnconsistency report run.json html:out.html ...`: reports without a run."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from pytest_bnconsistency import __version__
from pytest_bnconsistency.errors import BNConsistencyError, OptionError
from pytest_bnconsistency.reporting import formats
from pytest_bnconsistency.words import printable

USAGE = "python -m pytest_bnconsistency report RUN.json FORMAT:PATH ..."


def main(arguments: Sequence[str]) -> int:
    """Write the reports that `arguments` name; the exit code, 0 if all is written."""
    try:
        for line in _answer(arguments):
            sys.stdout.write(f"{printable(line)}\n")
    except BNConsistencyError as error:
        return _ended(str(error))
    return 0


def _answer(arguments: Sequence[str]) -> list[str]:
    if arguments in (["-h"], ["--help"]):
        return [f"usage: {USAGE}", f"formats: {', '.join(formats.FORMATS)}"]
    return [__version__] if arguments == ["--version"] else _convert(arguments)


def _convert(arguments: Sequence[str]) -> list[str]:
    if len(arguments) < 3 or arguments[0] != "report":
        raise OptionError(f"expected: {USAGE}, with a format of {', '.join(formats.FORMATS)}")
    _, source, *specs = arguments
    here = Path.cwd()
    outputs = formats.outputs(specs, here, "the report")
    record = formats.read(here / source)
    for output in outputs:
        try:
            output.write(record)
        except OSError as error:
            why = f"{output.name} report {output.path} not written: {error.strerror}"
            raise OptionError(why) from None
        except (AttributeError, LookupError, TypeError, ValueError):
            raise OptionError(
                f"{source!r} is damaged; expected what --bn-report json:PATH wrote"
            ) from None
    return [f"{output.name} {output.path}" for output in outputs]


def _ended(why: str) -> int:
    sys.stderr.write(f"{printable(why)}\n")
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
