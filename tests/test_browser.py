"""The slider of alpha in a real browser, by keyboard alone; skipped where there is none.

It needs Debian's chromium (or Chrome) and `pip install playwright`; no browser is downloaded.
"""

import shutil
import socket
import subprocess
import sys
import time

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from alignment_tax import settings

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
names = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, names)), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium is installed")

CODE = """
from IPython.display import display
from alignment_tax import figures, results
from alignment_tax.widgets import alpha_slider

points = figures.main_line(results.recorded().points)
alphas = [float(alpha) for alpha in figures.kept(points).index]
display(alpha_slider(lambda a: (f"here is {a:g}", figures.front(points, a)), alphas, 0.4))
"""


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """JupyterLab on this machine alone, with one notebook that shows the slider: its address."""
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}  # else Lab asks
    notebook = new_notebook(cells=[new_code_cell(CODE)], metadata=kernel)
    nbformat.write(notebook, tmp_path / "dial.ipynb")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    command = [sys.executable, "-m", "jupyterlab", "--allow-root", "--no-browser", f"--port={port}"]
    command += ["--ip=127.0.0.1", "--IdentityProvider.token=dial", f"--notebook-dir={tmp_path}"]
    with (tmp_path / "log").open("w") as log, subprocess.Popen(command, stderr=log) as server:
        try:
            for _ in range(120):
                if f":{port}/lab" in (tmp_path / "log").read_text():
                    break
                time.sleep(0.5)
            yield f"http://127.0.0.1:{port}/lab/tree/dial.ipynb?token=dial&reset"
        finally:
            server.terminate()


def test_the_arrow_keys_move_the_slider_its_sentence_and_its_figure(lab):
    errors = []
    with playwright.sync_playwright() as session:
        browser = session.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(60_000)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
        page.goto(lab)
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
        browser.close()
    assert errors == []
