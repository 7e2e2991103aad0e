"""The course as a static site: `make book` (Sphinx, MyST-NB), from the notebooks as executed.

Nothing is loaded from elsewhere: formulas become MathML, which browsers show by themselves. What
Sphinx warns of, a dead link among others, ends the build.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert

ROOT = Path(__file__).resolve().parents[2]
project = html_title = "The alignment tax"
author, copyright = "The alignment-tax course authors", "CC BY 4.0 (text), Apache-2.0 (code)"
extensions = ["myst_nb"]
include_patterns = [
    "README.md",
    "CONTRIBUTING.md",
    "notebooks/*.ipynb",
    "data/*.md",
    "data/**/*.md",
]
exclude_patterns = ["**/.ipynb_checkpoints"]
root_doc, language = "README", "en"

nb_execution_mode = "off"  # as it was executed
nb_render_markdown_format = "myst"
nb_ipywidgets_js: dict[str, Any] = {}  # a slider stands as it stood
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 4
# what a kept output holds beside what is shown
suppress_warnings = ["mystnb.unknown_mime_type"]

html_theme = "pydata_sphinx_theme"
html_theme_options = {
    "navbar_center": [],
    "secondary_sidebar_items": ["page-toc"],
    "footer_end": [],
    "navigation_depth": 1,
}
html_sidebars = {"**": ["globaltoc.html"]}
html_static_path, html_css_files = ["wide.css"], ["wide.css"]
html_show_sourcelink, html_copy_source = False, False
html_math_renderer = "mathml"

LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)#\s]+)\)")


def with_toc(text: str) -> str:
    """Return the first page with the chapters, and the pages of results, behind it."""
    pages = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    pages += sorted((ROOT / "data").rglob("*.md"))
    lines = [str(path.relative_to(ROOT).with_suffix("")) for path in pages] + ["CONTRIBUTING"]
    return "\n".join([text, "```{toctree}", ":hidden:", "", *lines, "```", ""])


def without_folders(text: str, folder: Path) -> str:
    """Return a page whose links to folders go to the README there, or are plain words."""

    def link(found: re.Match[str]) -> str:
        target = folder / found[2]
        if not target.is_dir():
            return found[0]
        page = f"{found[2].rstrip('/')}/README.md"
        return f"[{found[1]}]({page})" if (folder / page).is_file() else found[1]

    return LINK.sub(link, text)


def prepared(notebook: dict[str, Any], folder: Path) -> str:
    """Return a notebook whose figures have their alt text where MyST-NB looks for it."""
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            cell["source"] = without_folders(source, folder)
        for output in cell.get("outputs", []):
            if alt := output.get("metadata", {}).get("image/png", {}).get("alt"):
                cell["metadata"].setdefault("mystnb", {})["image"] = {"alt": alt}
    return json.dumps(notebook)


def read(app: Any, docname: str, content: list[str]) -> None:
    """Change a page as it is read."""
    folder = (ROOT / docname).parent
    if docname.startswith("notebooks/"):
        content[0] = prepared(json.loads(content[0]), folder)
    else:
        text = without_folders(content[0], folder)
        content[0] = with_toc(text) if docname == root_doc else text


def formula(translator: Any, node: Any, display: str) -> None:
    """Write a formula as MathML, its TeX beside it for those who copy it."""
    from docutils.nodes import SkipNode

    translator.body.append(convert(node.astext(), display=display))
    raise SkipNode


def setup(app: Any) -> None:
    """Tell Sphinx of the above."""
    app.connect("source-read", read)
    inline, block = (lambda t, n: formula(t, n, "inline")), (lambda t, n: formula(t, n, "block"))
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
