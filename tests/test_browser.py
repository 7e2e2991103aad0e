"""The sliders in a real browser, by keyboard alone, in JupyterLab on this machine.

Skipped where there is no browser: it needs Debian's chromium (`apt-get install chromium`) or
Chrome, which `make test` cannot install. Playwright downloads none here.
"""

import re
import shutil
import socket
import subprocess
import sys

import nbformat
import pytest
from conftest import until
from nbformat.v4 import new_code_cell, new_notebook

from alignment_tax import settings
from alignment_tax.notebooks import code_cells

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
names = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, names)), None)
pytestmark = pytest.mark.skipif(
    BROWSER is None, reason="no browser: apt-get install chromium, which needs root, and run again"
)

CODE = """
from IPython.display import display
from alignment_tax import figures, results
from alignment_tax.widgets import alpha_slider

points = figures.main_line(results.recorded().points)
alphas = [float(alpha) for alpha in figures.kept(points).index]
display(alpha_slider(lambda a: (f"here is {a:g}", figures.front(points, a)), alphas, 0.4))
"""
PATIENCE = 180_000  # milliseconds; a busy machine starts a kernel slowly
IDLE = "text=/[|] Idle/"  # in the status bar; what is run before the kernel is there is lost
SHOWN = ".widget-vbox:has-text('At α')"


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """JupyterLab on this machine alone, with a slider and the playground: its address."""
    folder = tmp_path_factory.mktemp("lab")
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}  # else Lab asks
    notebook = new_notebook(cells=[new_code_cell(CODE)], metadata=kernel)
    nbformat.write(notebook, folder / "dial.ipynb")
    [chapter] = settings.notebooks_folder().glob("13_*.ipynb")
    bare = nbformat.read(chapter, as_version=4)
    for cell in code_cells(bare):
        cell.source = cell.source.replace('preset = "tiny"', 'preset = "recorded"')
        cell.outputs = []
    nbformat.write(bare, folder / "playground.ipynb")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "jupyterlab", "--allow-root", "--no-browser", f"--port={port}"]
    command += ["--ip=127.0.0.1", "--IdentityProvider.token=dial", f"--notebook-dir={folder}"]
    with pytest.MonkeyPatch.context() as patch, (folder / "log").open("w") as log:
        for name, value in settings.environment().items():
            patch.setenv(name, value)
        with subprocess.Popen(command, stderr=log) as server:
            try:
                until(lambda: f":{port}/lab" in (folder / "log").read_text())
                yield f"http://127.0.0.1:{port}/lab/tree/NOTEBOOK?token=dial&reset"
            finally:
                server.terminate()


@pytest.fixture
def page():
    """An empty page; after the test its console must hold no error."""
    errors = []
    with playwright.sync_playwright() as session:
        browser = session.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 1400})
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
        yield page
        browser.close()
    assert errors == []


def test_the_arrow_keys_move_the_slider_its_sentence_and_its_figure(lab, page):
    page.goto(lab.replace("NOTEBOOK", "dial.ipynb"))
    page.wait_for_selector(IDLE)
    page.click(".jp-CodeCell .cm-content")
    page.keyboard.press("Shift+Enter")
    page.wait_for_selector("text=here is 0.4")
    figure = page.get_attribute(".widget-vbox img", "src")
    page.focus("[role=slider]")
    for key, alpha in (("ArrowRight", "0.5"), ("End", "1"), ("Home", "0")):
        page.keyboard.press(key)
        page.wait_for_selector(f"text=/^here is {alpha}$/")
        before, figure = figure, page.get_attribute(".widget-vbox img", "src")
        assert figure != before
        spoken = page.get_attribute("[role=slider]", "aria-valuetext")
        assert float(spoken) == float(alpha), "a screen reader is told alpha, not its place"


def test_the_playground_is_moved_by_keyboard_and_names_its_controls(lab, page, tmp_path):
    page.goto(lab.replace("NOTEBOOK", "playground.ipynb"))
    page.wait_for_selector(IDLE)
    page.click("text=Run >> nth=0")
    page.click("text=Run All Cells")
    shown = page.locator(SHOWN).first
    shown.wait_for()

    def state():
        return shown.locator("img").get_attribute("src"), shown.locator("table").first.inner_text()

    def wait_for(text):
        page.wait_for_selector(f"{SHOWN} >> text=/{text}/")
        shown.screenshot(path=tmp_path / f"{len(list(tmp_path.iterdir()))}.png")

    wait_for("At α = 0.4:")
    first = state()
    shown.get_by_role("spinbutton", name="α of the whole model").focus()
    page.keyboard.press("Tab")  # from the number box to its slider
    page.keyboard.press("ArrowRight")
    wait_for("At α = 0.5:")
    second = state()
    assert all(one != other for one, other in zip(first, second, strict=True))
    shown.get_by_role("spinbutton", name="α of the middle third").focus()
    page.keyboard.press("ArrowUp")
    wait_for("Thirds 0.4 . 0.5 . 0.3 are not recorded: the nearest are 0.4")
    shown.get_by_role("checkbox", name="seed 0").focus()
    page.keyboard.press("Space")
    wait_for("At α = 0.5: .* seeds 1-2")
    assert state() != second
    assert shown.get_by_role("img", name=re.compile("Single models")).count() == 1
    page.wait_for_selector("text=Left out: this needs")
