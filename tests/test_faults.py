"""What goes wrong on other people's machines and with other people's files: it works, or says why.

More have their tests beside what they are about: chapters that end early, full disks, folders of
another run or version (test_course), what a generation config or a tokenizer's post-processor asks
for (test_skills), damaged artifacts (test_store), tolerances at zero (test_results), weights that
do not fit (test_merge), connections that no chapter opens (test_notebooks).
"""

import errno
import os
import re
import stat
import subprocess
import traceback
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import refuses
from malformed import CASES, UP, Refused, escaped, policy, refusal
from safetensors.torch import load_file, save_file
from test_course import write_notebook
from test_merge import llama
from test_models import make_policy, make_tokenizer
from transformers import GgufConfig, LlamaForCausalLM, MixtralConfig

from alignment_tax import models, notebooks, settings
from alignment_tax.merge.layout import kind_of
from alignment_tax.merge.parts import partition
from alignment_tax.mitigate.lora import target_names
from alignment_tax.models import load_policy, load_state
from alignment_tax.pipeline.study import Study
from alignment_tax.settings import repo_root
from alignment_tax.store import ArtifactError, Store
from alignment_tax.train.rounds import sub_seed
from alignment_tax.train.trainer import trainer_arguments
from alignment_tax.world import real

TOLD = (settings.results_folder() / "faults.md").read_text("utf-8")


def test_a_clone_with_autocrlf_has_the_very_bytes(tmp_path):
    source, clone = tmp_path / "source", tmp_path / "clone"
    kept = """.gitattributes .ci/run Makefile README.md tests/golden/keys.json
lib/alignment_tax/cli.py lib/alignment_tax/templates/course.html.j2
data/results/signature.png data/results/tiny/points.csv""".split()
    kept += [f"data/base/{path.name}" for path in settings.base_folder().iterdir()]
    for name in kept:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((repo_root() / name).read_bytes())
    line = "init|add .|-c user.name=x -c user.email=x commit -m x"
    for words in (*line.split("|"), f"clone -c core.autocrlf=true . {clone}"):
        subprocess.run(["git", "-C", source, *words.split()], check=True, capture_output=True)
    assert [n for n in kept if (clone / n).read_bytes() != (repo_root() / n).read_bytes()] == []


@pytest.fixture
def make(tmp_path):
    """Run our Makefile with a python3 whose venv makes an interpreter alone, and then fails.

    With a file `fixed` beside it venv succeeds and pip is there, with `fetched` TRL can be had.
    """
    python = tmp_path / "python3"
    python.write_text(f"""#!/bin/sh
cd {tmp_path}
case "$*" in
*"-m venv"*) mkdir -p .venv/bin; cp {python} .venv/bin/python; test -e fixed ;;
*"--target"*) mkdir -p .venv/trl-1.12.0.part; test -e fetched ;;
*"-m pip"*) echo "$PIP_USER" >> log; test -e fixed ;;
esac
""")  # fmt: skip
    python.chmod(0o755)
    for name in ("requirements.txt", "pyproject.toml"):
        (tmp_path / name).touch()
    words = ["make", "-f", repo_root() / "Makefile", "-C", tmp_path, f"PYTHON={python}"]
    environment = {**os.environ, "PIP_USER": "1"}
    return lambda target: subprocess.run([*words, target], env=environment).returncode


@pytest.mark.parametrize("target", [".venv/bin/python", ".venv/.ready-to-run", ".venv/trl-1.12.0"])
def test_no_target_counts_as_made_when_its_recipe_failed(make, tmp_path, target):
    if "trl" in target:
        (tmp_path / "fixed").touch()
    for _ in range(2):
        assert make(target) != 0
        assert not (tmp_path / target).exists()
    (tmp_path / "fixed").touch()
    (tmp_path / "fetched").touch()
    assert (make(target), (tmp_path / target).exists()) == (0, True)


def test_an_environment_that_a_killed_make_left_is_completed(make, tmp_path):
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\nexit 1")
    python.chmod(0o755)
    (tmp_path / "fixed").touch()
    assert make(".venv/.ready-to-run") == 0
    assert set((tmp_path / "log").read_text().split()) == {"0"}, "nothing goes to the user's site"


@pytest.mark.parametrize("seed", [0, 4294967, 20261129, 2**32, 2**70])
def test_a_seed_may_be_any_integer_of_0_or_more(seed, tmp_path, preset):
    assert 0 <= sub_seed(seed, 3) < 2**32
    arguments = trainer_arguments(preset.sft, seed, tmp_path)
    assert 0 <= arguments["seed"] == arguments["data_seed"] < 2**32
    assert Study(preset, seed, Store(tmp_path)).world.prompts(1, seed, "rlhf")


def write_weights(folder):
    save_file({"w": torch.ones(2)}, folder / "model.safetensors")
    (folder / "part").mkdir()
    (folder / "part" / "log").write_text("x")


# that other accounts then use it, or are refused: test_shipping
@pytest.mark.parametrize("mode", [0o755, 0o2775, 0o777])
def test_who_may_use_the_folder_of_runs_may_use_what_is_in_it(mode, tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs").chmod(mode)
    Store(tmp_path / "runs" / "artifacts").get("sft", {"seed": 0}, write_weights)
    for path in (tmp_path / "runs").rglob("*"):
        allowed = mode if path.is_dir() else mode & 0o666
        assert stat.S_IMODE(path.stat().st_mode) == allowed, path


def test_a_file_in_the_place_of_a_folder_is_named_before_any_work(tmp_path, ends, monkeypatch):
    file, course = tmp_path / "file", tmp_path / "course"
    course.mkdir()
    write_notebook(course / "01_x.ipynb", "1")
    file.touch()
    monkeypatch.setenv(settings.RUNS_VARIABLE, str(tmp_path / "runs"))
    for out in (file, file / "below"):
        run = partial(notebooks.run_course, "smoke", out=out, notebooks=course)
        refuses(settings.SettingsError, f"{file}.*--out", run)
        said = f"theta_0 .*{file}.*ALIGNMENT_TAX_RUNS"
        refuses(ArtifactError, said, Store(out).get, "sft", {}, None, describe="theta_0")
        monkeypatch.setattr(settings, "results_folder", lambda out=out: out)
        ends(str(file), "record", "smoke", "--seeds", 0)
    for words in ("bench speed", "bench ppo --trl x", "figures"):
        for out, said in ((file / "x.json", file), (tmp_path, tmp_path)):
            ends(str(said), *words.split(), "--out", out)
    assert not (tmp_path / "runs").exists()
    monkeypatch.setenv(settings.RUNS_VARIABLE, str(file))
    asked = ("run", "--preset", "smoke", "--out", tmp_path / "o")
    ends("ALIGNMENT_TAX_RUNS", *asked, course=course)


def test_a_disk_without_locks_is_told(tmp_path, monkeypatch):
    def without(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", without)
    said = "No locks available.*ALIGNMENT_TAX_RUNS"
    refuses(ArtifactError, said, Store(tmp_path).get, "sft", {}, write_weights)


@pytest.mark.parametrize("word", ["data", "~/data"])
def test_paths_that_a_person_sets_are_absolute_in_every_process(tmp_path, monkeypatch, word):
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    both = dict.fromkeys((settings.RUNS_VARIABLE, settings.DATA_VARIABLE), str(tmp_path / "data"))
    for name in both:
        monkeypatch.setenv(name, word)
    kernels = notebooks.Kernels(False).manager_class.kernel_spec.env
    assert {name: kernels[name] for name in both} == settings.environment() == both
    refuses(real.DataUnavailable, both[settings.DATA_VARIABLE], real.load, "dolly")


@pytest.mark.parametrize(("change", "config", "said"), [
    (dict, {"tie_word_embeddings": False}, "lacks 'lm_head.weight'"),
    (lambda s: s | {UP: torch.ones(2, 2)}, {}, f"another shape of '{UP}'"),
    (lambda s: {f"_orig_mod.{n}": t for n, t in s.items()}, {}, "lacks .*wrapper"),
    (dict, {"quantization_config": {"quant_method": "fp8"}}, "quantised"),
])  # fmt: skip
def test_what_is_no_whole_plain_policy_is_refused_by_name(tmp_path, change, config, said):
    refuses(ValueError, said, load_policy, policy(tmp_path, change, **config))


def test_code_that_comes_with_a_known_architecture_is_not_run(tmp_path):
    auto_map = {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"}
    (policy(tmp_path, auto_map=auto_map) / "own.py").write_text("raise SystemExit('it ran')")
    assert type(load_policy(tmp_path / "policy")[0]) is LlamaForCausalLM


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}: {case[1]}")
def test_a_malformed_input_is_refused_in_our_own_words_and_nothing_is_written(case, tmp_path):
    error, said = refusal(case[2], tmp_path)
    assert [words for words in case[3:] if words not in said] == [], said
    raised_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
    assert isinstance(error, Refused) or (repo_root() / "lib") in raised_in.parents, raised_in
    assert [path for path in (tmp_path / "runs").rglob("*") if path.is_file()] == []
    assert [path for path in tmp_path.rglob("*") if re.search(r"\.(tmp|part)\b", path.name)] == []
    assert f" | {case[0]} | {case[1]} | {escaped(said)} |\n" in TOLD, "write it again: bench faults"
    assert TOLD.count("\n| ") == len(CASES) + 2 == 52


def test_a_checkpoint_is_whole_by_its_own_index(tmp_path):
    folder = policy(tmp_path)
    names = load_file(folder / "model.safetensors").keys()
    (folder / "model.safetensors").unlink()
    make_policy().save_pretrained(folder, max_shard_size="20KB")
    save_file({"adapter": torch.ones(1)}, folder / "adapter_model.safetensors")
    assert load_state(folder).keys() == names
    _, shard, *more = sorted(folder.glob("model-*.safetensors"))
    assert more
    name, *rest = load_file(shard).items()
    damages = {
        name[0]: lambda: save_file(dict(rest), shard),
        shard.name: shard.unlink,
        "model.safetensors.index.json": (folder / "model.safetensors.index.json").unlink,
    }
    for lacking, damage in damages.items():
        damage()
        for load in (load_state, load_policy):
            refuses(ValueError, f"lacks '{lacking}'", load, folder)


def test_what_was_quantised_in_its_file_can_be_saved(tmp_path):
    """Of a GGUF file: its weights are float32 in memory, but the model is marked as quantised."""
    read = make_policy()
    read.config.quantization_config = GgufConfig(dequantize=True)
    models.save_policy(models._plain(read), make_tokenizer(), tmp_path / "p")
    again = load_policy(tmp_path / "p")[0].cpu().state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in read.state_dict().items())


def test_experts_are_averaged_with_other_matrices_and_lora_does_not_leave_them_out_silently():
    heads = {"num_key_value_heads": 2, "num_local_experts": 2}
    mixtral = llama(0, 2, False, MixtralConfig, **heads)
    before = mixtral.state_dict()
    layers = {n for n in before if ".layers." in n and "norm" not in n}
    assert {n for n, tensor in before.items() if kind_of(n, tensor) == "linear"} == layers
    assert {n for names in partition(mixtral, 2).blocks.values() for n in names} == layers
    refuses(ValueError, "leave out .*experts", target_names, mixtral, "all")
