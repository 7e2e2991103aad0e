"""Where things live: two environment variables, and folders inside the checkout."""

import os
import tempfile
from pathlib import Path

#: Names the folder of artifacts and executed notebooks; default: `runs/` in the checkout.
RUNS_VARIABLE = "ALIGNMENT_TAX_RUNS"
#: Names a local folder with the real data sets as NAME.jsonl.gz; default: none, the Hub is used.
DATA_VARIABLE = "ALIGNMENT_TAX_DATA"


class SettingsError(RuntimeError):
    """Raised when a folder that the course needs cannot be found; the message says what to do."""


def repo_root(package: Path | None = None, start: Path | None = None) -> Path:
    """Return the top folder of the checkout: above the package, else above the current folder."""
    package = (package or Path(__file__)).resolve()
    start = (start or Path.cwd()).resolve()
    for folder in (*package.parents, start, *start.parents):
        project = folder / "pyproject.toml"
        if project.is_file() and 'name = "alignment-tax"' in project.read_text(encoding="utf-8"):
            return folder
    place = f"neither above {package} nor above {start}"
    remedy = "Run this from inside the checkout, or install it with: pip install -e ."
    raise SettingsError(f"The course's folder (with notebooks/ and data/) is {place}. {remedy}")


def absolute(named: str) -> Path:
    """Return the path that a person named, wherever it is used from; "~" is the home folder."""
    return Path(named).expanduser().resolve()


def environment() -> dict[str, str]:
    """Return both variables for a process with another current folder, paths made absolute."""
    named = {RUNS_VARIABLE: str(runs_folder()), DATA_VARIABLE: os.environ.get(DATA_VARIABLE)}
    return {name: str(absolute(path)) for name, path in named.items() if path}


def writable(folder: Path, remedy: str) -> Path:
    """Make a folder if it is not there; return it (SettingsError: nothing can be written there)."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        why = error.strerror
        raise SettingsError(f"Nothing can be written to {folder} ({why}). {remedy}") from error


def runs_folder() -> Path:
    """Return the folder of artifacts and executed notebooks (not created here)."""
    named = os.environ.get(RUNS_VARIABLE)
    return absolute(named) if named else repo_root() / "runs"


def data_folder() -> Path | None:
    """Return the local folder with the real data sets, or None when the Hub is to be used."""
    named = os.environ.get(DATA_VARIABLE)
    folder = absolute(named) if named else None
    if folder is not None and not folder.is_dir():
        remedy = "Name one, or unset it to use the Hub."
        raise SettingsError(f"{DATA_VARIABLE} is {folder}, no folder. {remedy}")
    return folder


def base_folder() -> Path:
    """Return the folder of the shipped base model."""
    return repo_root() / "data" / "base"


def results_folder() -> Path:
    """Return the folder of the recorded runs' tables."""
    return repo_root() / "data" / "results"


def notebooks_folder() -> Path:
    """Return the folder of the chapters."""
    return repo_root() / "notebooks"
