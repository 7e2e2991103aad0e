"""What a run leaves on the disk is whole, is what its key says, and survives crashes."""

import errno
import json
import signal
import subprocess

import pytest
from conftest import python, refuses, until

from alignment_tax import store
from alignment_tax.provenance import git_commit
from alignment_tax.store import ArtifactError, Store, artifact_key, verify_folder


class Counting:
    """A stage that writes two files and counts how often it runs."""

    def __init__(self, text="weights"):
        self.text, self.runs = text, 0

    def __call__(self, folder):
        self.runs += 1
        (folder / "model.txt").write_text(self.text)
        (folder / "log").mkdir()
        (folder / "log" / "steps.jsonl").write_text('{"step": 1}\n')


def get(store, make, inputs=None, **more):
    return store.get("sft", inputs or {"seed": 0}, make, describe="theta_0", **more)


def leftovers(root):
    return [path.name for path in root.glob("*/.*.tmp-*")]


def start_python(code, *arguments):
    """Start a Python process that has `Store` at hand; its standard error is a pipe."""
    head = "import sys, time, pathlib\nfrom alignment_tax.store import Store\n"
    pipe = {"start": subprocess.Popen, "stderr": subprocess.PIPE, "text": True}
    return python(head + code, *arguments, **pipe)


def test_what_exists_is_not_made_again_and_what_is_made_is_told(tmp_path, capsys):
    make = Counting()
    first = get(Store(tmp_path), make)
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("Making theta_0 ...\nMade theta_0 in ")
    again = get(Store(tmp_path), make)
    assert (make.runs, again) == (1, first)
    assert (again.path / "model.txt").read_text() == "weights"
    assert again.path == tmp_path / "sft" / again.key[:16]
    assert capsys.readouterr().err == ""


def test_whatever_determines_the_result_changes_the_key_and_a_label_does_not(tmp_path):
    store, make = Store(tmp_path), Counting()
    one, two = (store.get("base", {"seed": n}, Counting(str(n))) for n in (1, 2))
    changes = [{}, {"inputs": {"seed": 1}}, {"inputs": {"seed": 0, "learning_rate": 1e-4}}]
    changes += [{"version": 2}, {"parents": {"base": one}}, {"parents": {"base": two}}]
    assert len({get(store, make, **change).key for change in changes}) == make.runs == 6
    get(store, make, config={"note": "shown, not used"}, seed=3)
    assert make.runs == 6
    # neither does the order, or what a list is written as
    a = artifact_key("sft", {"lr": 0.1, "alphas": (0, 0.5)}, 1, {"x": "1", "y": "2"})
    assert a == artifact_key("sft", {"alphas": [0, 0.5], "lr": 0.1}, 1, {"y": "2", "x": "1"})
    said, nan = r"inputs of sft\['model'\] is a object", {"lr": float("nan")}
    refuses(TypeError, said, get, store, make, {"model": object()})
    refuses(ValueError, r"inputs of sft\['lr'\] is nan", get, store, make, nan)


def test_meta_says_how_it_came_about(tmp_path):
    store = Store(tmp_path)
    parent = get(store, Counting())
    more = {"parents": {"theta_0": parent}, "seed": 3, "config": {"n": 8}}
    meta = store.get("rsf", {"round": 1}, Counting("rsf"), **more).meta
    assert meta == json.loads((tmp_path / "rsf" / meta["key"][:16] / "meta.json").read_text())
    assert (meta["stage"], meta["seed"], meta["config"]) == ("rsf", 3, {"n": 8})
    assert meta["parents"] == {"theta_0": parent.key}
    assert set(meta["versions"]) >= {"torch", "transformers", "trl", "datasets", "lm_eval"}
    assert meta["seconds"] >= 0 < meta["threads"]
    # sha256 of b"rsf", from sha256sum
    sha256 = "b8dde45084eca2f60dfff1647f525b1a9e91a20b2dc15bd9ab002f2d78247a69"
    assert meta["files"]["model.txt"] == {"sha256": sha256, "bytes": 3}
    assert "log/steps.jsonl" in meta["files"]


def damage(path, change):
    """Change the bytes of a file, or take it away."""
    path.unlink() if change is None else path.write_bytes(change(path.read_bytes()))


DAMAGES = [
    ("model.txt", lambda old: old[:-1], "model.txt has 6 bytes instead of 7"),
    ("model.txt", lambda old: bytes([old[0] ^ 1]) + old[1:], "model.txt was altered"),
    ("model.txt", None, "model.txt is missing"),
    ("meta.json", lambda old: old[:-20], "truncated or altered"),
    ("meta.json", lambda old: old.replace(b'"seed": null', b'"seed": 7'), "truncated or altered"),
    ("meta.json", None, "meta.json is missing"),
]


@pytest.mark.parametrize(("name", "change", "said"), DAMAGES)
def test_a_damaged_artifact_is_moved_aside_and_made_again(tmp_path, capsys, name, change, said):
    make = Counting()
    first = get(Store(tmp_path), make)
    damage(first.path / name, change)
    capsys.readouterr()
    again = get(Store(tmp_path), make)
    assert (make.runs, (again.path / "model.txt").read_text()) == (2, "weights")
    message = capsys.readouterr().err
    assert all(each in message for each in ("theta_0", name, said))
    damage(again.path / name, change)
    get(Store(tmp_path), make)
    for n in (1, 2):
        assert (first.path.parent / f"{first.path.name}.damaged-{n}").is_dir()


@pytest.mark.parametrize(("name", "change", "said"), DAMAGES)
def test_a_shipped_folder_can_be_a_parent_and_is_refused_when_damaged(tmp_path, name, change, said):
    shipped = tmp_path / "base"
    shipped.mkdir()
    Counting()(shipped)
    (shipped / "README.md").write_text("a card")
    sealed = store.write_manifest(shipped, {"stage": "base", "seed": None}, "the base model")
    (shipped / "README.md").write_text("a better card")
    assert verify_folder(shipped) == sealed
    made = Store(tmp_path / "runs").get("sft", {}, Counting(), parents={"base": sealed})
    assert made.meta["parents"] == {"base": sealed.key}
    damage(shipped / name, change)
    refuses(store.DamagedArtifact, rf"{said}.* It is not used", verify_folder, shipped, "the base")


def test_what_is_missing_is_named_and_nothing_is_made(tmp_path):
    missing = (tmp_path / "base", "the base model")
    refuses(ArtifactError, "the base model is not in", verify_folder, *missing)
    gone = {"base": store.Artifact(tmp_path / "base", "b" * 64, {})}
    said = "starts from 'base', which does not exist"  # a maker of None would fail otherwise
    refuses(ArtifactError, said, get, Store(tmp_path), None, parents=gone)


@pytest.mark.parametrize(("error", "told", "message"), [
    (ValueError("loss is NaN at step 7"), ValueError, "step 7"),
    (KeyboardInterrupt("stopped"), KeyboardInterrupt, "stopped"),
    (None, ArtifactError, "wrote no file"),
    (OSError(errno.ENOSPC, "full"), ArtifactError, r"theta_0 could not .* ALIGNMENT_TAX_RUNS"),
    (RuntimeError("No space left on device (os error 28)"), ArtifactError, "is full"),
])  # fmt: skip
def test_a_stage_that_fails_says_why_and_leaves_nothing(tmp_path, error, told, message):
    def fail(folder):
        if error is not None:
            (folder / "model.txt").write_text("half")
            raise error

    refuses(told, message, get, Store(tmp_path), fail)
    assert leftovers(tmp_path) == []
    make = Counting()
    get(Store(tmp_path), make)
    assert make.runs == 1


KILLED = """
def make(folder):
    (folder / "model.txt").write_text("half")
    pathlib.Path(sys.argv[2]).touch()
    time.sleep(60)
Store(pathlib.Path(sys.argv[1])).get(sys.argv[3], {"seed": 0}, make, describe="theta_0")
"""


def test_a_killed_run_leaves_nothing_that_is_used_and_is_cleaned_up(tmp_path):
    store = tmp_path / "runs"
    # the second is making something that nobody asks for again
    stages = ("sft", "given_up")
    processes = [start_python(KILLED, store, tmp_path / stage, stage) for stage in stages]
    until(lambda: all((tmp_path / stage).exists() for stage in stages))
    for process in processes:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert len(leftovers(store)) == 2
    make = Counting()
    assert (get(Store(store), make).path / "model.txt").read_text() == "weights"
    assert (make.runs, leftovers(store)) == (1, [])


SLOW = """
def make(folder):
    with open(sys.argv[2], "a") as log:
        log.write("run\\n")
    while not pathlib.Path(sys.argv[3]).exists():
        time.sleep(0.02)
    (folder / "model.txt").write_text("weights")
Store(pathlib.Path(sys.argv[1])).get("sft", {"seed": 0}, make, describe="theta_0")
"""


def test_two_runs_at_once_make_it_once_and_the_second_waits(tmp_path):
    log, finish = tmp_path / "log", tmp_path / "finish"
    first = start_python(SLOW, tmp_path / "runs", log, finish)
    until(log.exists)
    second = start_python(SLOW, tmp_path / "runs", log, finish)
    assert second.stderr.readline() == "Waiting for another run that is making theta_0 ...\n"
    # a third run that makes something else must not take the first one's folder for a leftover
    Store(tmp_path / "runs").get("other", {}, Counting())
    finish.touch()
    first_said, second_said = first.communicate()[1], second.communicate()[1]
    assert (first.returncode, second.returncode) == (0, 0), first_said + second_said
    assert (log.read_text(), second_said) == ("run\n", "")


# no archive; one; a checkout without git, where what git would have replaced is still there
@pytest.mark.parametrize("commit", ["", "a1" * 20, "$Format:%H$"])
def test_an_archive_without_git_still_names_its_commit(tmp_path, commit):
    git_commit.cache_clear()
    if commit:
        (tmp_path / ".git_archival.txt").write_text(f"node: {commit}\n")
    (tmp_path / "lib").mkdir()
    assert git_commit(tmp_path / "lib") == (commit if commit.isalnum() else None)
