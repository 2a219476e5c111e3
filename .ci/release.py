"""Builds an sdist and a wheel, checks what is in them, and uses the wheel in a bare environment.

    python .ci/release.py dist

Needs `build` and `twine`; leaves both files in the folder. `tox -e release` and `.ci/run` run it.
"""

import re
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = "pytest_bnconsistency"
IN_SDIST = ("README.md", "CHANGELOG.md", "LICENSE", "pyproject.toml", "tox.ini", "docs", "tests")


def run(*command: object, folder: Path = ROOT) -> str:
    given = list(map(str, command))
    done = subprocess.run(given, cwd=folder, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout


def built(folder: Path) -> tuple[Path, Path]:
    run(sys.executable, "-m", "build", "--outdir", folder)
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    run(sys.executable, "-m", "twine", "check", "--strict", sdist, wheel)
    return sdist, wheel


def check_contents(sdist: Path, wheel: Path) -> None:
    """Every file of the package is in both; the wheel holds nothing else, the sdist the rest."""
    inside = (path for path in (ROOT / PACKAGE).rglob("*") if "__pycache__" not in path.parts)
    ours = [path.relative_to(ROOT).as_posix() for path in inside if path.is_file()]
    names = set(zipfile.ZipFile(wheel).namelist())
    others = {name for name in names if not name.split("/")[0].endswith(".dist-info")}
    assert others == set(ours), sorted(others ^ set(ours))
    assert any(name.endswith("/licenses/LICENSE") for name in names), "the wheel has no licence"
    metadata = next(name for name in names if name.endswith(".dist-info/METADATA"))
    told = zipfile.ZipFile(wheel).read(metadata).decode()
    assert not re.search(r"\]\((?!https?://)", told), "the description links to files"
    with tarfile.open(sdist) as archive:
        archived = {name.partition("/")[2] for name in archive.getnames()}
    missing = [name for name in ours if name not in archived]
    missing += [top for top in IN_SDIST if not any(n.split("/")[0] == top for n in archived)]
    assert not missing, f"the sdist lacks {missing}"


def use(wheel: Path) -> None:
    """The wheel in an environment of its own, with what pip brings and no TensorFlow."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        venv.create(folder, with_pip=True)
        scripts = folder / ("Scripts" if sys.platform == "win32" else "bin")
        run(scripts / "python", "-m", "pip", "install", "-q", wheel)
        page = run(scripts / "pytest", "--bn-explain", "BN201", folder=folder)
        assert page.startswith("# BN201"), page[:200]
        script = Path(__file__).with_name("without_tensorflow.py")
        run(scripts / "python", script, folder=folder)


def main(folder: Path) -> None:
    sdist, wheel = built(folder)
    check_contents(sdist, wheel)
    use(wheel)
    sys.stdout.write(f"{sdist.name} and {wheel.name}: whole, installed and used\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
