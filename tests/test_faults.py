"""What goes wrong on other people's machines and with other people's files: it works, or says why.

Other kinds of fault have their tests beside what they are about: a chapter that ends early, a
summary of another version (test_course), what a generation config or a tokenizer's post-processor
asks for (test_skills), damaged artifacts (test_store), tolerances at zero (test_compare).
"""

import errno
import json
import os
import socket
import stat
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from test_course import write_notebook
from test_models import make_policy, make_tokenizer
from test_parts import llama
from torch import Tensor
from transformers import MixtralConfig, MixtralForCausalLM

from alignment_tax import models, notebooks, settings
from alignment_tax.cli import main
from alignment_tax.merge.average import MergeError, Sweep, average
from alignment_tax.merge.parts import partition
from alignment_tax.mitigate.lora import target_names
from alignment_tax.models import load_policy, load_state, save_policy
from alignment_tax.notebooks import CourseError, run_course
from alignment_tax.pipeline.stages.run import Run
from alignment_tax.presets import SMOKE
from alignment_tax.settings import repo_root
from alignment_tax.skills.scorer import Scorer
from alignment_tax.store import Store, StoreUnusable
from alignment_tax.train.rounds import sub_seed
from alignment_tax.train.sample import sample_replies
from alignment_tax.train.trainer import trainer_arguments
from alignment_tax.world import real

UP = "model.layers.0.mlp.up_proj.weight"
State = dict[str, Tensor]


# --- the checkout and the environment ------------------------------------------------------------


def test_a_clone_with_autocrlf_has_the_very_bytes(tmp_path):
    source, clone = tmp_path / "source", tmp_path / "clone"
    kept = [".gitattributes", ".ci/run", "Makefile", "README.md", "tests/golden/keys.json"]
    kept += [f"data/base/{path.name}" for path in settings.base_folder().iterdir()]
    kept += ["lib/alignment_tax/cli.py", "lib/alignment_tax/templates/course.html.j2"]
    kept += ["data/results/signature.png", "data/results/tiny/points.csv"]
    for name in kept:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((repo_root() / name).read_bytes())

    def git(*words):
        author = ["-c", "user.name=x", "-c", "user.email=x@y"]
        subprocess.run(["git", "-C", source, *author, *words], check=True, capture_output=True)

    git("init")
    git("add", ".")
    git("commit", "-m", "x")
    git("clone", "-c", "core.autocrlf=true", ".", str(clone))
    for name in kept:
        assert (clone / name).read_bytes() == (repo_root() / name).read_bytes(), name


@pytest.fixture
def checkout(tmp_path):
    """A folder with our Makefile, and a python3 whose venv makes an interpreter alone, then fails.

    With a file `fixed` beside it, venv succeeds, and pip is there.
    """
    (tmp_path / "Makefile").write_text((repo_root() / "Makefile").read_text())
    python = tmp_path / "python3"
    python.write_text(
        f"""#!/bin/sh
cd {tmp_path}
case "$*" in
*"-m venv"*) mkdir -p .venv/bin; cp {python} .venv/bin/python; test -e fixed ;;
*"--target"*) mkdir -p .venv/trl-1.12.0.part; test -e fixed ;;
*"-m pip"*) echo "$PIP_USER $*" >> log; test -e fixed ;;
esac
"""
    )
    python.chmod(0o755)
    for name in ("requirements.txt", "pyproject.toml"):
        (tmp_path / name).touch()
    return tmp_path


def make(folder, target):
    words = ["make", "-C", folder, target, f"PYTHON={folder}/python3"]
    return subprocess.run(words, capture_output=True, env={**os.environ, "PIP_USER": "1"}).returncode


@pytest.mark.parametrize("target", [".venv/bin/python", ".venv/.ready-to-run", ".venv/trl-1.12.0"])
def test_no_target_counts_as_made_when_its_recipe_failed(checkout, target):
    for _ in range(2):
        assert make(checkout, target) != 0
        assert not (checkout / target).exists()
    (checkout / "fixed").touch()
    assert make(checkout, target) == 0
    assert (checkout / target).exists()


def test_a_half_made_environment_is_completed(checkout):
    (checkout / ".venv" / "bin").mkdir(parents=True)
    (checkout / ".venv" / "bin" / "python").write_text("#!/bin/sh\nexit 1")
    (checkout / ".venv" / "bin" / "python").chmod(0o755)
    (checkout / "fixed").touch()
    assert make(checkout, ".venv/.ready-to-run") == 0
    assert {line[0] for line in (checkout / "log").read_text().splitlines()} == {"0"}, "PIP_USER"


@pytest.mark.parametrize("seed", [0, 4294967, 20261129, 2**32, 2**40, 2**70])
def test_a_seed_may_be_any_integer_of_0_or_more(seed, tmp_path):
    assert 0 <= sub_seed(seed, 3) < 2**32
    arguments = trainer_arguments(SMOKE.sft, seed, tmp_path)
    assert 0 <= arguments["seed"] == arguments["data_seed"] < 2**32
    ask = [[{"role": "user", "content": "why"}]]
    sampling = {"n": 2, "temperature": 1.0, "max_new_tokens": 4, "batch_size": 2}
    assert sample_replies(make_policy(), make_tokenizer(), ask, seed=seed, **sampling)
    assert Run(SMOKE, seed, Store(tmp_path)).world.prompts(4, seed, "rlhf")


# --- folders -------------------------------------------------------------------------------------


def in_another_account(work):
    """Do something as nobody; return whether it went without an error."""
    if (child := os.fork()) == 0:
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            work()
            os._exit(0)
        except BaseException as error:
            print(error)
            os._exit(1)
    return os.waitpid(child, 0)[1] == 0


def write_weights(folder):
    save_file({"w": torch.ones(2)}, folder / "model.safetensors")
    (folder / "part").mkdir()
    (folder / "part" / "log").write_text("x")


@pytest.mark.parametrize("mode", [0o755, 0o2775, 0o777])
def test_who_may_use_the_folder_of_runs_may_use_what_is_in_it(mode, monkeypatch):
    """Weights were written for their owner alone, whatever the umask; so were lock files."""
    with tempfile.TemporaryDirectory() as top:
        Path(top).chmod(0o755)
        shared = Path(top) / "runs"
        shared.mkdir()
        shared.chmod(mode)
        made = Store(shared / "artifacts").get("sft", {"seed": 0}, write_weights)
        for path in [shared / "artifacts", *(shared / "artifacts").rglob("*")]:
            allowed = mode if path.is_dir() else mode & 0o666
            assert stat.S_IMODE(path.stat().st_mode) == allowed, path
        if os.geteuid() != 0:
            return

        def again(seed=0):
            # it is there: making it would fail
            assert Store(shared / "artifacts").get("sft", {"seed": seed}, None).key == made.key

        def new():
            Store(shared / "artifacts").get("sft", {"seed": 1}, write_weights)

        def refused():
            with pytest.raises(StoreUnusable, match="ALIGNMENT_TAX_RUNS"):
                new()

        assert in_another_account(again)
        assert in_another_account(new if mode == 0o777 else refused)


def test_a_file_in_the_place_of_a_folder_is_named_before_any_work(tmp_path, capsys, monkeypatch):
    file, course = tmp_path / "file", tmp_path / "course"
    course.mkdir()
    write_notebook(course / "01_x.ipynb", "1")
    file.touch()
    monkeypatch.setenv(settings.RUNS_VARIABLE, str(tmp_path / "runs"))
    for out in (file, file / "below"):
        with pytest.raises(settings.SettingsError, match=rf"{file}.*--out"):
            run_course("smoke", out=out, notebooks=course)
        with pytest.raises(StoreUnusable, match=rf"theta_0 .*{file}.*ALIGNMENT_TAX_RUNS"):
            Store(out).get("sft", {}, None, describe="theta_0")
        monkeypatch.setattr(settings, "results_folder", lambda out=out: out)
        assert main(["record", "smoke", "--seeds", "0"]) == 2
        assert str(file) in capsys.readouterr().err
    for line in (["bench", "speed"], ["bench", "ppo", "--trl", "x"], ["figures"]):
        for out in (file / "x.json", tmp_path):
            with pytest.raises(SystemExit) as stop:
                main([*line, "--out", str(out)])
            assert stop.value.code == 2
            assert str(out) in capsys.readouterr().err or str(file) in str(out)
    assert not (tmp_path / "runs" / "artifacts").exists()
    monkeypatch.setenv(settings.RUNS_VARIABLE, str(file))
    assert main(["run", "--preset", "smoke", "--out", str(tmp_path / "o")], course) == 2
    assert "ALIGNMENT_TAX_RUNS" in capsys.readouterr().err


def test_a_disk_without_locks_is_told(tmp_path, monkeypatch):
    def without(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", without)
    with pytest.raises(StoreUnusable, match=r"No locks available .*ALIGNMENT_TAX_RUNS"):
        Store(tmp_path).get("sft", {}, write_weights)


def test_paths_that_a_person_sets_are_absolute_in_every_process(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for word in ("data", "~/data"):
        monkeypatch.setenv(settings.DATA_VARIABLE, word)
        monkeypatch.setenv(settings.RUNS_VARIABLE, word)
        for said in (settings.environment(), notebooks.Kernels(False).manager_class.kernel_spec.env):
            assert said[settings.DATA_VARIABLE] == str(tmp_path / "data")
            assert said[settings.RUNS_VARIABLE] == str(tmp_path / "data")
        with pytest.raises(real.DataUnavailable, match=str(tmp_path / "data")):
            real.load("dolly")
    monkeypatch.delenv(settings.DATA_VARIABLE)
    assert settings.DATA_VARIABLE not in settings.environment()
