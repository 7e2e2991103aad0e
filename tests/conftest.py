"""What test files share: a study so small that a whole run takes seconds, and its stages."""

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import settings
from IPython.core.displaypub import CapturingDisplayPublisher
from IPython.core.interactiveshell import InteractiveShell

from alignment_tax import presets
from alignment_tax.cli import main
from alignment_tax.pipeline.study import Study
from alignment_tax.settings import repo_root
from alignment_tax.store import Store

# a busy machine is no failure
settings.register_profile("course", deadline=None, max_examples=60)
settings.load_profile("course")


def refuses(error, said, call, *given, **named):
    """Call something, which must fail with this error and say what this pattern finds, if any."""
    with pytest.raises(error, match=said):
        call(*given, **named)


def exit_code(words, course=None):
    """What a command line returns, if need be to argparse."""
    try:
        return main([str(word) for word in words], course)
    except SystemExit as stop:
        return stop.code


@pytest.fixture
def ends(capsys):
    """Check how a command line ends, and that what it says, of an error if so, fits a pattern."""

    def check(said, *words, code=2, course=None):
        assert exit_code(words, course) == code
        told = capsys.readouterr()
        assert re.search(said, told.err if code else told.out)

    return check


@pytest.fixture
def displayed(monkeypatch):
    """What a cell displays, as a list of outputs."""
    shell = InteractiveShell.instance()
    monkeypatch.setattr(shell, "display_pub", CapturingDisplayPublisher(shell=shell))
    yield shell.display_pub.outputs
    InteractiveShell.clear_instance()


def golden(name):
    """Read a table of golden/ that was worked out by hand."""
    text = (Path(__file__).parent / "golden" / name).read_text("utf-8")
    return json.loads(text) if name.endswith(".json") else yaml.safe_load(text)


def python(code, *arguments, start=subprocess.run, **options):
    """Start a Python process that finds the library and the tests."""
    paths = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), str(repo_root() / "lib")])}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return start(command, env=os.environ | paths, **options)


def until(true, seconds=300):
    """Wait for something that another process does."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "the other process did not get there in time"
        time.sleep(0.02)


def miniature(**changes) -> presets.Preset:
    """The smoke preset cut down further, under a name of its own; `changes` are of its fields.

    Whoever takes its theta_0, reward model or RSF as they are shares them with all test files.
    """
    smoke = presets.get("smoke")
    rounds = {"rounds": 2, "prompts_per_round": 4, "n": 2}
    rsf = replace(smoke.rsf, **rounds, batch_size=2, learning_rate=2e-3)
    ratios = replace(
        presets.TINY_RATIOS, prompts=8, n=4, epochs=6, batch_size=4, evaluate_every=2,
        grid_step=0.2, reward_step=0.3, reward_prompts=4, kept_texts=4, labelled=4,
        parts=(("input", (0.5,)), ("linear", (0.5,))),
        grids=(("hma", 3, (0.3,)), ("hma_grid", 3, (0.3,))),
    )  # fmt: skip
    grids = {"l2": (0.1, 1.0), "lora": (4,), "sma": (0.5, 1.0), "ema": (0.5,), "graft": (0.2, 0.5)}
    # learning rates at which even a few steps change what the model says, and enough of them for
    # replies that end: RSF keeps no others
    steps = {"batch_size": 4, "learning_rate": 2e-3}
    small = replace(
        smoke, name="miniature", threads=1, sft=replace(smoke.sft, documents=96, epochs=4, **steps),
        reward=replace(smoke.reward, pairs=16, validation_pairs=8, **steps),
        rsf=rsf, dpo=None, rloo=None, ppo=None, kl_coefs=(), distil=presets.DistilConfig.like(rsf),
        remedies=tuple(grids.items()), replay_documents=60, ratios=ratios,
        eval=replace(smoke.eval, limit=4, batch_size=32, reward_prompts=4),
    )  # fmt: skip
    return replace(small, **changes)


@pytest.fixture(scope="session")
def preset():
    return miniature()


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """The folder of runs that all test files share; with xdist one for all workers together."""
    top, session = tmp_path_factory.getbasetemp(), os.environ.get("PYTEST_XDIST_TESTRUNUID")
    folder = top.parent / f"runs-{session}" if session else top / "runs"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def store(runs):
    """The store of the shared stages: each is trained once in a session of tests."""
    return Store(runs / "artifacts")


@pytest.fixture(scope="session")
def study(store):
    return Study(miniature(), 0, store)
