"""Packed stages are put in place whole, checked, and never over what is there; two accounts."""

import hashlib
import io
import os
import tempfile
import zipfile
from pathlib import Path

import pytest
from conftest import refuses

from alignment_tax import settings, shipping
from alignment_tax.store import ArtifactError, DamagedArtifact, Store


def make(folder):
    (folder / "model").mkdir()
    (folder / "model" / "w").write_bytes(bytes(range(256)) * 40)
    (folder / "log").write_text("1")


def get(store, stage="sft", seed=0, preset="tiny", make=make):
    inputs = {"seed": seed, "preset": preset}
    return store.get(stage, inputs, make, seed=seed, config={"name": preset})


@pytest.fixture
def packed(tmp_path):
    """A file with two stages of seed 0, and its sha256; other runs lie beside them."""
    store = Store(tmp_path / "there" / "artifacts")
    for row in ("sft 0 tiny", "reward 0 tiny", "sft 1 tiny", "sft 0 smoke"):
        stage, seed, preset = row.split()
        get(store, stage, int(seed), preset)
    file = tmp_path / "seed0.zip"
    return file, shipping.pack_runs(store.root, "tiny", 0, file)


def test_what_was_packed_is_loaded_and_nothing_made(packed, tmp_path, monkeypatch, ends):
    file, sha256 = packed
    assert sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    monkeypatch.setenv(settings.RUNS_VARIABLE, str(tmp_path / "here"))
    ends("2 stages are new", "fetch-runs", file, "--sha256", sha256, code=0)
    here = Store(tmp_path / "here" / "artifacts")
    for stage in ("sft", "reward"):
        assert get(here, stage, make=None).path.is_dir()  # a maker of None would fail
    refuses(TypeError, None, get, here, seed=1, make=None)
    ends("0 stages are new", "fetch-runs", file, code=0)
    ends("begins with https://", "fetch-runs", "http://example.org/seed0.zip", code=1)


def test_a_damaged_or_foreign_file_changes_nothing(packed, tmp_path):
    file, root = packed[0], tmp_path / "here"
    text, other, bad = (tmp_path / name for name in ("text", "other.zip", "bad.zip"))
    text.write_text("no zip")
    with zipfile.ZipFile(other, "w") as zipped:
        zipped.writestr("a", "b")
    # one byte of a weight is another, and the hashes of the zip are right
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(bad, "w") as new:
        for name in old.namelist():
            data = bytearray(old.read(name))
            data[0] ^= name.endswith("/w")
            new.writestr(name, bytes(data))
    fetch, differs = shipping.fetch_runs, r"sha256 differs.*Nothing was changed"
    refuses(ArtifactError, "another sha256", fetch, str(file), root, "0" * 64)
    refuses(ArtifactError, "damaged, or no file", fetch, str(text), root)
    refuses(ArtifactError, "holds no stage", fetch, str(other), root)
    refuses(DamagedArtifact, differs, fetch, str(bad), root)
    assert list(root.iterdir()) == []


def test_a_path_that_leads_elsewhere_stays_inside(packed, tmp_path):
    with zipfile.ZipFile(packed[0], "a") as more:
        more.writestr("../../outside", "x")
    shipping.fetch_runs(str(packed[0]), tmp_path / "a" / "b")
    assert not any((folder / "outside").exists() for folder in (tmp_path, tmp_path / "a"))


def test_where_there_is_nothing_to_pack_it_is_said_what_to_run(tmp_path, monkeypatch, ends):
    monkeypatch.setenv(settings.RUNS_VARIABLE, str(tmp_path))
    said, out = "alignment-tax run --preset tiny --seed 7", tmp_path / "x.zip"
    ends(said, "pack-runs", out, "--seed", 7, code=1)
    assert not out.exists()


def test_a_file_comes_from_an_address_as_well(packed, tmp_path, monkeypatch):
    asked = []

    def urlopen(address, timeout):
        asked.append(address)
        answer = io.BytesIO(packed[0].read_bytes())
        answer.headers = {"Content-Length": str(packed[0].stat().st_size)}
        return answer

    monkeypatch.setattr(shipping.urllib.request, "urlopen", urlopen)
    made = shipping.fetch_runs("https://example.org/seed0.zip", tmp_path / "here", packed[1])
    assert (asked, len(made)) == (["https://example.org/seed0.zip"], 2)


# --- a class with one folder ---------------------------------------------------------------------
CLASS = 4100  # a group that only the students are in


def as_student(user, work):
    """Return what `work` returns, or how it is refused, in another account of the class."""
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        try:
            os.setgroups([CLASS])
            os.setgid(user)
            os.setuid(user)
            os.umask(0o077)
            try:
                said = work()
            except ArtifactError as error:
                said = str(error)
            os.write(writing, said.encode())
        finally:
            os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with os.fdopen(reading) as answer:
        return answer.read()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may act for two accounts")
def test_two_accounts_share_a_folder_and_a_read_only_one():
    """What README says of a class: `mkdir; chgrp; chmod 2775`, or made once and left read-only."""
    with tempfile.TemporaryDirectory(dir="/tmp") as top:
        Path(top).chmod(0o755)
        shared = Path(top, "class")
        shared.mkdir()
        os.chown(shared, 0, CLASS)
        shared.chmod(0o2775)

        def student(user, seed):
            def make(folder):
                (folder / "w").write_text(f"made by {user}")

            def work():
                made = get(Store(shared / "artifacts"), seed=seed, make=make)
                return (made.path / "w").read_text()

            return as_student(user, work)

        # each makes one, and has the other's without making it
        assert [student(4001, 0), student(4002, 0)] == ["made by 4001"] * 2
        assert [student(4002, 1), student(4001, 1)] == ["made by 4002"] * 2
        # left read-only: what is there is used, what is not there is refused with what to do
        for path in [shared, *shared.rglob("*")]:
            path.chmod(path.stat().st_mode & ~0o222)
        assert student(4001, 1) == "made by 4002"
        assert "ALIGNMENT_TAX_RUNS" in student(4001, 2)
