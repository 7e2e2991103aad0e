"""The command line: what it refuses, what it passes on, its exit codes, and where things are."""

import re
import subprocess
import sys
from unittest.mock import Mock, call

import pytest
from conftest import exit_code, refuses

from alignment_tax import settings
from alignment_tax.cli import main, make_parser
from alignment_tax.store import ArtifactError

COMMANDS = """list run regress compare record add report figures outputs base merge audit pool
pack-runs fetch-runs""".split()


def test_help_names_every_command_and_every_exit_code(capsys):
    assert exit_code(["--help"]) == 0
    said = capsys.readouterr().out
    assert {*COMMANDS, "bench"} <= set(re.findall(r"\n    (\S+)", said))
    assert all(f"\n  {code}" in said for code in (0, 1, 2, 130))
    measures = "speed ppo merge tune faults planted kill instructions".split()
    for name in (*COMMANDS, *(f"bench {each}" for each in measures)):
        refuses(SystemExit, None, main, [*name.split(), "--help"])
        _, example = capsys.readouterr().out.split("example:\n  alignment-tax ")
        assert example.startswith(name)
        assert callable(make_parser().parse_args(example.split()).do)


@pytest.mark.parametrize(
    "line",
    "|walk|record|list all|bench|bench speed --limit 0|record tiny --jobs two"
    "|compare a b --tolerance 1|compare a".split("|"),
)
def test_a_wrong_command_line_returns_2(line, ends):
    ends("usage: alignment-tax", *line.split())


# that it needs no torch: test_merge_files
def test_the_module_is_the_command():
    done = subprocess.run([sys.executable, "-m", "alignment_tax", "walk"], capture_output=True)
    assert (done.returncode, b"usage: alignment-tax" in done.stderr) == (2, True)


@pytest.fixture
def calls(monkeypatch):
    """What the commands that need torch were called with."""
    seen = Mock(**{f"{name}.return_value": [0] for name in ("record", "merge_results")})
    for place in ("pipeline.record", "results.recorded", "report", "train.pretrain"):
        monkeypatch.setitem(sys.modules, f"alignment_tax.{place}", seen)
    return seen


def test_the_commands_pass_on_what_they_are_given(calls, ends, tmp_path):
    assert main(["record", "tiny", "--seeds", "0", "2", "--jobs", "2"]) == 0
    assert main(["record", "huge"]) == main(["add", "huge", str(tmp_path)]) == 2
    assert main("record small --methods l2 replay --scheduler tcp://a:1".split()) == 0
    ends("seeds 0 are now in", "add", "tiny", tmp_path, code=0)
    assert main(["report"]) == main(["base"]) == 0
    assert calls.mock_calls == [
        call.record("tiny", [0, 2], 2, None, None),
        call.record("small", [0, 1, 2, 3, 4], 1, ["l2", "replay"], "tcp://a:1"),
        call.merge_results(tmp_path, "tiny"), call.write_pages(), call.make_base(),
    ]  # fmt: skip


def test_ctrl_c_and_a_failed_stage_have_codes_of_their_own(calls, ends):
    full = ArtifactError("The disk is full")
    for error, code, said in ((KeyboardInterrupt(), 130, "finished is kept"), (full, 1, "full")):
        calls.record.side_effect = error
        ends(said, "record", "tiny", code=code)


def test_folders_come_from_the_environment_the_checkout_from_where_we_are(monkeypatch, tmp_path):
    monkeypatch.setenv(settings.RUNS_VARIABLE, str(tmp_path / "runs"))
    monkeypatch.setenv(settings.DATA_VARIABLE, str(tmp_path))
    assert (settings.runs_folder(), settings.data_folder()) == (tmp_path / "runs", tmp_path)
    monkeypatch.setenv(settings.DATA_VARIABLE, str(tmp_path / "none"))
    refuses(settings.SettingsError, "no folder", settings.data_folder)
    monkeypatch.setenv(settings.RUNS_VARIABLE, "")
    monkeypatch.delenv(settings.DATA_VARIABLE)
    where = (settings.repo_root() / "runs", None)
    assert (settings.runs_folder(), settings.data_folder()) == where
    checkout = tmp_path / "checkout"
    (checkout / "lib" / "alignment_tax").mkdir(parents=True)
    (checkout / "notebooks").mkdir()
    (checkout / "pyproject.toml").write_text('[project]\nname = "alignment-tax"\n')
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "another"\n')
    elsewhere = tmp_path / "site-packages" / "alignment_tax" / "settings.py"
    package = checkout / "lib" / "alignment_tax" / "settings.py"
    for own, where in ((package, tmp_path), (elsewhere, checkout / "notebooks")):
        assert settings.repo_root(own, where) == checkout
