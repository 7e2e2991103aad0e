"""The recorded side of the course in a browser, without an installation: `make lite PYODIDE=...`.

A static folder comes out that any web server can serve, and that asks nobody else for anything:
JupyterLite, Pyodide (Python compiled for the browser), the library, the chapters on the preset
`recorded`, and the recorded tables. Pyodide with its numpy, pandas, scipy and matplotlib is in no
registry of packages, so its full distribution has to be there already: a folder, or an archive.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat

from alignment_tax.notebooks import without_outputs
from alignment_tax.presets import RECORDED

ROOT = Path(__file__).resolve().parents[2]
#: Of Python alone: they work in any Python, and Pyodide has none of them.
PURE = (
    "ipywidgets",
    "jupyterlab_widgets",
    "widgetsnbextension",
    "comm",
    "sacrebleu",
    "portalocker",
)
PURE += ("tabulate", "colorama", "tqdm", "filelock", "cycler")
#: What the library needs of the distribution, by the names of its lock file.
NEEDED = ("numpy", "pandas", "scipy", "matplotlib", "pillow", "pyarrow", "lxml", "regex")
KERNEL = "@jupyterlite/pyodide-kernel-extension:kernel"
SETUP = """
# of this folder: nothing is loaded from elsewhere
%pip install -q alignment_tax sacrebleu ipywidgets tqdm filelock cycler
import no_models  # what would need a model is left out
"""


class LiteError(ValueError):
    """What the build needs is not there; the message says what to do."""


def check_distribution(folder: Path) -> None:
    """Refuse a folder that is not a full Pyodide distribution."""
    lock = folder / "pyodide-lock.json"
    if not lock.is_file():
        raise LiteError(
            f"{folder} is no Pyodide distribution: it has no pyodide-lock.json. Unpack the archive "
            "pyodide-VERSION.tar.bz2 of a release of Pyodide (the full one, not -core), and name "
            "the folder with that file: make lite PYODIDE=FOLDER"
        )
    packages = json.loads(lock.read_text(encoding="utf-8"))["packages"]
    files = {name: packages.get(name, {}).get("file_name", name) for name in NEEDED}
    if lacking := [name for name, file in files.items() if not (folder / file).is_file()]:
        raise LiteError(
            f"{folder} lacks the wheels of {', '.join(lacking)}: it is the core of Pyodide alone. "
            "The full archive has them."
        )


def staged(notebook: Path) -> nbformat.NotebookNode:
    """Return a chapter for the browser: no outputs, on the preset `recorded`, with its set-up."""
    node = without_outputs(notebook, RECORDED)
    node.cells.insert(1, nbformat.v4.new_code_cell(SETUP.strip()))
    node.metadata["kernelspec"] = {"name": "python", "display_name": "Python (Pyodide)"}
    return node


def stage(folder: Path) -> None:
    """Write what the browser sees as its files: chapters, tables, and where the course's top is."""
    for name in ("notebooks", "data"):
        (folder / name).mkdir(parents=True)
    shutil.copy(ROOT / "pyproject.toml", folder)
    shutil.copy(Path(__file__).with_name("no_models.py"), folder / "notebooks")
    for path in sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb")):
        nbformat.write(staged(path), folder / "notebooks" / path.name)
    shutil.copytree(ROOT / "data" / "results", folder / "data" / "results")


def wheels(folder: Path) -> list[Path]:
    """Put the library and what it needs of pure Python into a folder as wheels; return them."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", folder, ROOT], check=True)
    only = ["--no-deps", "--only-binary", ":all:", "--platform", "any"]
    subprocess.run([*pip, "download", *only, "-d", folder, *PURE], check=True)
    return sorted(folder.glob("*.whl"))


def build(pyodide: Path, out: Path, apps: tuple[str, ...] = ("lab", "notebooks")) -> None:
    """Write the site into `out`, whole or not at all."""
    check_distribution(pyodide)
    work = out.with_name(f"{out.name}.part")
    shutil.rmtree(work, ignore_errors=True)
    lite = work / "lite"
    stage(work / "files")
    (lite / "static").mkdir(parents=True)
    (lite / "static" / "pyodide").symlink_to(pyodide)
    options = {"disablePyPIFallback": True, "loadPyodideOptions": {"packages": list(NEEDED)}}
    settings = {"jupyter-lite-schema-version": 0, "jupyter-config-data": {
        "appName": "The alignment tax", "litePluginSettings": {KERNEL: options}}}  # fmt: skip
    (lite / "jupyter-lite.json").write_text(json.dumps(settings), encoding="utf-8")
    command = [sys.executable, "-m", "jupyter", "lite", "build", "--lite-dir", lite]
    command += ["--contents", work / "files", "--output-dir", work / "site", "--no-sourcemaps"]
    for app in apps:
        command += ["--apps", app]
    for wheel in wheels(work / "wheels"):
        command += ["--piplite-wheels", wheel.resolve()]
    subprocess.run(command, check=True, cwd=lite)
    shutil.rmtree(out, ignore_errors=True)
    (work / "site").replace(out)
    shutil.rmtree(work)


def main() -> int:
    """Build, or say in one line why not."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pyodide", help="folder of an unpacked Pyodide distribution")
    parser.add_argument("out", type=Path, help="folder for the site")
    given = parser.parse_args()
    try:
        build(Path(given.pyodide).expanduser().resolve(), given.out.resolve())
    except LiteError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
