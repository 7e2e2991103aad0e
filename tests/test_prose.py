"""Numbers in sentences come from the recording, and a verdict that fails is named by its cell."""

import nbformat
import pandas as pd
import pytest
from points import point, table_of

from alignment_tax import prose, settings
from alignment_tax.notebooks import read_notebook
from alignment_tax.results.recorded import recorded
from alignment_tax.stats import claims

CHAPTERS = sorted((settings.repo_root() / "notebooks").glob("*.ipynb"))
FOUND = pd.DataFrame(
    [["tax.rsf.skill", "points", -7.94, -12.0, -3.9, "holds", 5]],
    columns=["id", "unit", "difference", "low", "high", "verdict", "n_seeds"],
)


def models() -> pd.DataFrame:
    """Two seeds of theta_0, RSF's last round and an average."""
    rows = [("sft", 1, 90), ("rsf", 5, 80), ("rsf", 4, 88, "average")]
    alphas = {"average": 0.5}
    return table_of([point(s, *row, alpha=alphas.get(row[-1])) for s in (0, 1) for row in rows])


MARKS = {
    "claim tax.rsf.skill": "-7.9 (-12.0 to -3.9)",
    "claim tax.rsf.skill difference": "-7.9", "claim tax.rsf.skill verdict": "holds",
    "claim tax.rsf.skill n_seeds": "5", "claim tax.dpo.skill": "(not recorded)",
    "mean rsf/average@0.5 skill": "88.0", "mean rsf/last reward": "4.00",
    "kept rsf/average@0.5 reward": "75 %", "kept rsf/average@0.5 skill": "20 %",
    "claim other:tax.rsf.skill": "+1.0 (0.0 to +2.0)",
    "claim absent:tax.rsf.skill verdict": "(not recorded)",
}  # fmt: skip


def test_marks_are_filled_with_what_they_name(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(settings, "results_folder", lambda: tmp_path)
    (tmp_path / "other").mkdir()
    claims.write(FOUND.assign(difference=1.0, low=0.0, high=2.0), tmp_path / "other" / "claims.csv")
    text, expected = (
        "\n".join(f"before <!--{mark}-->{said}<!--/--> after" for mark, said in marks.items())
        for marks in (dict.fromkeys(MARKS, "old"), MARKS)
    )
    assert prose.fill(text, FOUND, models()) == expected
    assert prose.fill(expected, FOUND, models()) == expected
    with pytest.raises(KeyError, match=r"no claim 'tax.none'"):
        prose.fill("<!--claim tax.none--><!--/-->", FOUND, models())


def test_a_verdict_that_the_recording_does_not_give_is_named() -> None:
    relied = {"claims": {"tax.rsf.skill": "negligible", "tax.none": "holds"}}
    cell = nbformat.v4.new_markdown_cell("RSF forgets nothing.", metadata=relied, id="lost")
    said = prose.contradictions(nbformat.v4.new_notebook(cells=[cell]), FOUND)
    assert said == [
        "lost: tax.rsf.skill is holds, the text says negligible",
        "lost: tax.none is not recorded, the text says holds",
    ]


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_the_prose_of_a_chapter_is_that_of_the_recording(path) -> None:
    notebook, found = read_notebook(path), claims.read("tiny")
    assert not prose.contradictions(notebook, found)
    stale = "the text and data/results differ: run `alignment-tax report`"
    assert not prose.fill_notebook(notebook, found, recorded().points), stale
