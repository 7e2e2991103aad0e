"""Write the badges that start the course elsewhere, for this very repository or fork.

`make badges` asks git where `origin` is, and fills the README and the start page for Colab.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
START = "notebooks/00_the_whole_story.ipynb"
MARKS = re.compile(r"(<!-- badges: start -->\n).*?(<!-- badges: end -->)", re.DOTALL)


def repository(url: str) -> str:
    """Return "owner/name" of the address of a repository on GitHub (ValueError: it is none)."""
    found = re.search(r"github\.com[:/]([\w.-]+/[\w.-]+?)(?:\.git)?/?$", url.strip())
    if found is None:
        raise ValueError(
            f"origin is {url.strip() or 'not set'}: Binder and Colab start what lies on GitHub. "
            "Push the course there, or set it: git remote add origin https://github.com/OWNER/NAME"
        )
    return found[1]


def badges(name: str) -> str:
    """Return the badges of a repository "owner/name" as Markdown."""
    binder = f"https://mybinder.org/v2/gh/{name}/HEAD?labpath={START}"
    colab = f"https://colab.research.google.com/github/{name}/blob/HEAD/web/colab.ipynb"
    return f"**Start without installing:** [Binder]({binder}) · [Colab, to read]({colab})"


def fill(root: Path, name: str) -> None:
    """Write a repository's name into the README and the start page for Colab."""
    readme, colab = root / "README.md", root / "web" / "colab.ipynb"
    text = MARKS.sub(rf"\g<1>\n{badges(name)}\n\n\g<2>", readme.read_text(encoding="utf-8"))
    readme.write_text(text, encoding="utf-8")
    page = colab.read_text(encoding="utf-8")
    page = re.sub(r'repository = \\"[^"]*\\"', rf'repository = \\"{name}\\"', page)
    colab.write_text(page, encoding="utf-8")


def main() -> int:
    """Fill them, or say in one line why not."""
    asked = ["git", "-C", str(ROOT), "remote", "get-url", "origin"]
    url = subprocess.run(asked, capture_output=True, text=True, check=False).stdout
    try:
        fill(ROOT, repository(url))
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
