"""The README's results are the recorded run's."""

import PIL.Image
import pytest

from alignment_tax import remedies, report, settings
from alignment_tax.figures import alt_text, remedy_fronts
from alignment_tax.results.recorded import IDENTITY, recorded, recorded_items
from alignment_tax.stats import compare


def test_readme_shows_the_recorded_results():
    page = (settings.repo_root() / "README.md").read_text(encoding="utf-8")
    tables = (settings.results_folder() / "tiny" / report.TABLES_PAGE).read_text(encoding="utf-8")
    said = report.told(recorded(), recorded_items())
    assert report.fill(report.fill(page, said.answer, "answer"), said.results) == page, (
        "README.md and data/results differ: run `alignment-tax report`"
    )
    assert said.tables == tables, (
        "the page of all comparisons and the tables differ: run `alignment-tax report`"
    )


def test_the_page_of_remedies_is_that_of_the_recorded_run():
    folder = settings.results_folder() / "tiny"
    page = (folder / "remedies.md").read_text(encoding="utf-8")
    assert page == remedies.page(recorded(), recorded_items()) + "\n", (
        "remedies.md and the tables differ: run `alignment-tax report`"
    )
    assert remedies.FIGURE in page
    description = PIL.Image.open(folder / remedies.FIGURE).info["Description"]
    assert description == alt_text(remedy_fronts(recorded().points, recorded=True))


def test_every_refuted_claim_of_the_paper_has_a_reason():
    table = remedies.claim_table(recorded().points)
    refuted = table[(table["verdict"] == "does not hold") & (table["place"] != remedies.OURS)]
    assert len(refuted)
    assert [claim for claim in refuted["claim"] if not remedies.reason(claim)] == []


def test_names_are_told_by_their_verdicts():
    words = ("ahead of", "behind", "undecided")
    found = {
        name: compare.compare_seeds(gaps)
        for name, gaps in {"A, 1": [1, 1.1], "B": [-1, -1.1], "C": [-1, 1], "D": [2, 2.1]}.items()
    }
    said = report.by_verdict(found, words)
    assert said == "ahead of: *A, 1*, *D*; behind: *B*; undecided: *C*"
    assert report.by_verdict({"C": found["C"]}, words) == "ahead of: none; undecided: *C*"
    assert report.by_verdict(dict.fromkeys("CDEF", found["C"]), words) == (
        "ahead of: none; undecided: all 4"
    )


def test_the_fill_needs_both_marks():
    with pytest.raises(ValueError, match="must hold"):
        report.fill("no marks", "text")
    start, end = report.marks("results")
    page = f"a\n{start}\nold\n{end}\nb"
    filled = report.fill(page, "new")
    assert "old" not in filled
    with pytest.raises(ValueError, match="answer: start"):
        report.fill(page, "new", "answer")
    assert filled.startswith("a\n")
    assert filled.endswith("\nb")
    assert report.fill(filled, "new") == filled


def test_recorded_run_has_every_model_of_every_seed():
    run = recorded()
    # an algorithm may be recorded for fewer seeds than RSF, but then whole
    models = run.points.groupby(["algorithm", "method", "seed"]).size()
    assert (models.groupby(["algorithm", "method"]).nunique() == 1).all()
    assert len(run.seeds) >= 2
    averages = run.points[run.points["method"] == "average"]
    for _, alphas in averages.groupby(["algorithm", "seed"])["alpha"]:
        assert sorted(alphas) == pytest.approx([i / 10 for i in range(11)])
    assert not run.points.duplicated(IDENTITY).any()
    assert run.points[["skill", "reward", "gold", "kl"]].notna().all().all()


def test_five_seeds_are_recorded():
    assert len(recorded().seeds) >= 5


def test_ends_of_an_average_are_theta_0_and_the_last_round_in_the_record():
    points = recorded().points
    theta_0 = points[points["algorithm"] == "sft"].set_index("seed")["key"]
    averages = points[points["method"] == "average"]
    for (algorithm, seed), rows in averages.groupby(["algorithm", "seed"]):
        ends = rows.set_index("alpha")["key"]
        assert ends[0.0] == theta_0[seed]
        own = (points["algorithm"] == algorithm) & (points["seed"] == seed)
        trained = points[own & (points["method"] == "none")]
        assert ends[1.0] == trained.sort_values("rounds")["key"].iloc[-1]
