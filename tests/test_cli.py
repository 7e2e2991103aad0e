"""The command line: what it refuses, what it passes on, its exit codes, and where things are."""

import re
import subprocess
import sys
import types
from unittest.mock import Mock

import pytest

from alignment_tax import settings
from alignment_tax.cli import main, make_parser
from alignment_tax.store import ArtifactError

COMMANDS = (
    "list run regress compare record add report figures outputs base merge audit pool".split()
)
COMMANDS += ["pack-runs", "fetch-runs"]


def test_help_names_every_command_and_every_exit_code(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    said = capsys.readouterr().out
    assert {*COMMANDS, "bench"} <= set(re.findall(r"\n    (\S+)", said))
    assert all(f"\n  {code}" in said for code in (0, 1, 2, 130))
    measures = ("speed", "ppo", "merge", "tune", "faults", "planted", "kill", "instructions")
    for name in (*COMMANDS, *(f"bench {each}" for each in measures)):
        with pytest.raises(SystemExit):
            main([*name.split(), "--help"])
        _, example = capsys.readouterr().out.split("example:\n  alignment-tax ")
        assert example.startswith(name)
        assert callable(make_parser().parse_args(example.split()).do)


@pytest.mark.parametrize(
    "line",
    "|walk|record|list all|bench|bench speed --limit 0|record tiny --jobs two"
    "|compare a b --tolerance 1|compare a".split("|"),
)
def test_a_wrong_command_line_returns_2(line, capsys):
    with pytest.raises(SystemExit) as stop:
        main(line.split())
    assert stop.value.code == 2
    assert "usage: alignment-tax" in capsys.readouterr().err


def test_the_module_is_the_command_and_help_needs_no_torch():
    code = "import sys, alignment_tax.cli as c; c.make_parser(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    command = [sys.executable, "-m", "alignment_tax", "walk"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "usage: alignment-tax" in done.stderr


@pytest.fixture
def calls(monkeypatch):
    """What the commands that need torch were called with."""
    seen = []
    names = ("pipeline.record.record", "results.recorded.merge_results", "report.write_pages")
    for place in (*names, "train.pretrain.make_base"):
        module, _, name = f"alignment_tax.{place}".rpartition(".")

        def called(*given, name=name):
            seen.append((name, *given))
            return [0]

        monkeypatch.setitem(sys.modules, module, types.SimpleNamespace(**{name: called}))
    return seen


def test_the_commands_pass_on_what_they_are_given(calls, capsys, tmp_path):
    assert main(["record", "tiny", "--seeds", "0", "2", "--jobs", "2"]) == 0
    assert main(["record", "huge"]) == main(["add", "huge", str(tmp_path)]) == 2
    line = "record small --methods l2 replay --scheduler tcp://a:1"
    assert main(line.split()) == 0
    assert main(["add", "tiny", str(tmp_path)]) == 0
    assert "seeds 0 are now in" in capsys.readouterr().out
    assert main(["report"]) == main(["base"]) == 0
    assert calls == [
        ("record", "tiny", [0, 2], 2, None, None),
        ("record", "small", [0, 1, 2, 3, 4], 1, ["l2", "replay"], "tcp://a:1"),
        ("merge_results", tmp_path, "tiny"),
        ("write_pages",),
        ("make_base",),
    ]


def test_ctrl_c_and_a_failed_stage_have_codes_of_their_own(calls, monkeypatch, capsys):
    record = sys.modules["alignment_tax.pipeline.record"]
    for error, code in ((KeyboardInterrupt(), 130), (ArtifactError("The disk is full"), 1)):
        monkeypatch.setattr(record, "record", Mock(side_effect=error))
        assert main(["record", "tiny"]) == code
    assert "What is finished is kept" in capsys.readouterr().err


# --- settings ------------------------------------------------------------------------------------
def test_folders_come_from_the_environment_and_the_checkout_from_where_we_are(
    monkeypatch, tmp_path
):
    monkeypatch.setenv(settings.RUNS_VARIABLE, str(tmp_path / "runs"))
    monkeypatch.setenv(settings.DATA_VARIABLE, str(tmp_path))
    assert settings.runs_folder() == tmp_path / "runs"
    assert settings.data_folder() == tmp_path
    monkeypatch.setenv(settings.DATA_VARIABLE, str(tmp_path / "none"))
    with pytest.raises(settings.SettingsError, match="no folder"):
        settings.data_folder()
    monkeypatch.setenv(settings.RUNS_VARIABLE, "")
    monkeypatch.delenv(settings.DATA_VARIABLE)
    assert settings.runs_folder() == settings.repo_root() / "runs"
    assert settings.data_folder() is None
    checkout = tmp_path / "checkout"
    (checkout / "lib" / "alignment_tax").mkdir(parents=True)
    (checkout / "notebooks").mkdir()
    (checkout / "pyproject.toml").write_text('[project]\nname = "alignment-tax"\n')
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "another"\n')
    elsewhere = tmp_path / "site-packages" / "alignment_tax" / "settings.py"
    package = checkout / "lib" / "alignment_tax" / "settings.py"
    assert settings.repo_root(package, tmp_path) == checkout
    assert settings.repo_root(elsewhere, checkout / "notebooks") == checkout
