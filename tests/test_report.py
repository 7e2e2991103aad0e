"""Pages and sentences are those of the recorded runs; what one seed says is over its items."""

from dataclasses import replace
from itertools import product

import nbformat
import numpy as np
import pandas as pd
import PIL.Image
import pytest
from conftest import golden, refuses
from points import point, table_of

from alignment_tax import prose, report, settings
from alignment_tax.figures import alt_text, kept, remedy_fronts
from alignment_tax.labels import ALPHA, BLEU_COLUMNS, CUT_COLUMNS, SLOTS
from alignment_tax.notebooks import read_notebook
from alignment_tax.results.items import bleu_statistics
from alignment_tax.results.recorded import recorded, recorded_items, recording_key
from alignment_tax.spec import NAMED
from alignment_tax.stats import claims


def test_the_pages_are_those_of_the_recorded_run() -> None:
    folder = settings.results_folder() / "tiny"
    page = (settings.repo_root() / "README.md").read_text(encoding="utf-8")
    run, found = recorded(), claims.read("tiny")
    stale = "the pages and data/results differ: run `alignment-tax report`"
    assert prose.fill(page, found, run.points) == page, stale
    for path in (settings.repo_root() / "docs").glob("*.md"):
        told = path.read_text(encoding="utf-8")
        assert prose.fill(told, found, run.points) == told, stale
    for name, text in report.readme(run, recorded_items(), found).items():
        assert report.fill(page, text, name) == page, stale
    tables, remedies = report.tables_page(run, found), report.remedies_page(run, found)
    assert report.REMEDIES_FIGURE in tables
    assert report.REMEDIES_FIGURE in remedies
    names = (report.TABLES_PAGE, report.REMEDIES_PAGE, report.ROBUST_PAGE)
    for name, text in zip(names, (tables, remedies, report.robust_page()), strict=True):
        assert (folder / name).read_text(encoding="utf-8") == text, stale
        assert f"`{run.key}`" in text
    assert f"`{run.key}`" in page
    description = PIL.Image.open(folder / report.REMEDIES_FIGURE).info["Description"]
    assert description == alt_text(remedy_fronts(run.points, recorded=True))


def test_figures_bear_the_key_of_their_recording() -> None:
    drawn = {"signature.png": "tiny", f"tiny/{report.REMEDIES_FIGURE}": "tiny"}
    for name, preset in (drawn | {f"{report.REAL}/{report.TAX_FIGURE}": report.REAL}).items():
        stamp = PIL.Image.open(settings.results_folder() / name).info.get("Recording")
        assert stamp == recorded(preset).key, f"{name}: alignment-tax report, alignment-tax figures"


def test_the_first_sentences_of_the_readme_are_those_of_the_recording() -> None:
    for preset, relied in golden("readme.yaml").items():
        verdicts = claims.read(preset).set_index("id")["verdict"]
        assert verdicts[[*relied]].to_dict() == relied, preset
    found = claims.read("tiny").set_index("id")
    # ten seeds, five and three, and their processors, as it says of them
    seeds = recorded().points.groupby(["algorithm", "method"])["seed"].nunique()
    assert set(seeds[["base", "sft", "rsf_random"]]) == {10}
    assert set(seeds["rsf"][["none", "average"]]) == {10}
    assert set(seeds[["dpo", "rloo", "ppo"]]) == {5}
    assert {*seeds["grpo"], *seeds["rsf"][["part", "pattern", "learning_rate"]]} == {3}
    kinds = {n: call["processor"].split()[0] for call in recorded().calls for n in call["seeds"]}
    assert kinds == dict.fromkeys(range(8), "AMD") | {9: "Intel(R)", 10: "Intel(R)"}
    assert (seeds["rsf"] == 5).sum() > (seeds["rsf"] == 3).sum(), "most"
    written, forgotten = found.loc[["tax.rsf.skill", "tax.rsf.forgetting"], "difference"]
    assert forgotten / written < 0.5, "more than half is talk"
    at = kept(recorded().points).loc[ALPHA]
    assert at["kept"] > 60, "most of the reward stays"
    assert at["back"] > 85, "nearly all that was forgotten returns"


def test_the_key_of_a_recording_is_that_of_its_points_and_their_origin(tmp_path, monkeypatch):
    monkeypatch.setattr(settings, "results_folder", lambda: tmp_path)
    (tmp_path / "tiny").mkdir()
    keys = set()
    for points, origin in (("a", "b"), ("a", "c"), ("d", "b"), ("b", "a")):
        (tmp_path / "tiny" / "points.csv").write_text(points)
        (tmp_path / "tiny" / "provenance.json").write_text(origin)
        keys.add(recording_key())
    (tmp_path / "tiny" / "other.csv").write_text(origin)
    keys.add(recording_key())
    assert [len(key) for key in keys] == [8] * 4


def test_the_page_of_the_real_model_is_that_of_its_recorded_run() -> None:
    run, items = recorded(report.REAL), recorded_items(report.REAL)
    found = report.real_claims(run, items)
    kept = claims.read(report.REAL)
    assert found["id"].tolist() == kept["id"].tolist()
    np.testing.assert_allclose(found["difference"], kept["difference"], atol=1e-12)
    page = (settings.results_folder() / report.REAL / "README.md").read_text(encoding="utf-8")
    assert page == report.real_page(run, items, kept)
    assert f"`{run.key}`" in page


def test_the_fill_needs_both_marks() -> None:
    start, end = "<!-- results: start -->", "<!-- results: end -->"
    page, filled = (f"a\n{start}\n\n{text}\n\n{end}\nb" for text in ("old", "new"))
    assert report.fill(page, "new") == report.fill(filled, "new") == filled
    refuses(ValueError, "must hold", report.fill, "no marks", "text")
    refuses(ValueError, "answer: start", report.fill, page, "new", "answer")


def test_recorded_run_has_every_model_of_every_seed() -> None:
    run = recorded()
    # an algorithm may be recorded for fewer seeds than RSF, but then whole
    models = run.points.groupby(["algorithm", "method", "seed"]).size()
    assert (models.groupby(["algorithm", "method"]).nunique() == 1).all()
    assert len(run.seeds) >= 5
    averages = run.points[run.points["method"] == "average"]
    for _, alphas in averages.groupby(["algorithm", "seed"])["alpha"]:
        assert sorted(alphas) == pytest.approx([i / 10 for i in range(11)])
    assert not run.points.duplicated(NAMED).any()
    assert run.points[["skill", "reward", "gold", "kl"]].notna().all().all()
    # the ends of an average are theta_0 and the last round
    points = run.points
    theta_0 = points[points["algorithm"] == "sft"].set_index("seed")["key"]
    for (algorithm, seed), rows in averages.groupby(["algorithm", "seed"]):
        ends = rows.set_index("alpha")["key"]
        assert ends[0.0] == theta_0[seed]
        own = (points["algorithm"] == algorithm) & (points["seed"] == seed)
        trained = points[own & (points["method"] == "none")]
        assert ends[1.0] == trained.sort_values("rounds")["key"].iloc[-1]


# --- one seed, over items -------------------------------------------------------------------------
REFERENCE = "the black cat sleeps in the old house"
KEYS = {"sft": "k0", "rsf": "k1", "average": "k2"}


def items(right: dict[str, int], n: int = 40) -> pd.DataFrame:
    """Items of three models: `right` of n items are right in every slot."""
    rows = []
    counts = [bleu_statistics(REFERENCE, said) for said in ("no", REFERENCE)]
    for (model, count), item in product(right.items(), range(n)):
        own = {"seed": 0, "key": KEYS[model], "item": item}
        value = dict.fromkeys(("value", "forgiven"), float(item < count))
        rows += [own | {"slot": slot} | value for slot in ("one_hop", "span")]
        both = zip(BLEU_COLUMNS + CUT_COLUMNS, 2 * counts[item < count], strict=True)
        rows.append(own | {"slot": "bleu"} | dict(both))
    return pd.DataFrame(rows)


def points() -> pd.DataFrame:
    """Theta_0, RSF's last round and their average, scored on these items."""
    own = {"study": "small", "n_items": 120} | dict.fromkeys(SLOTS, 1)
    rows = [point(0, "sft", 0, 90, key="k0"), point(0, "rsf", 0, 50, key="old", rounds=1)]
    rows += [point(0, "rsf", 0, 50, key="k1")]
    rows += [point(0, "rsf", 0, 1, "average", alpha=0.5, key="k2")]
    return table_of([row | own for row in rows])


def test_costs_of_one_seed_are_paired_by_item() -> None:
    found = claims.table(points(), items=items({"sft": 36, "rsf": 20, "average": 30}))
    cost = claims.one(found, "tax.rsf.reading")
    assert cost["difference"] == pytest.approx(-100 * (36 - 20) / 40)
    # 16 of 40 items were lost: the standard error of the paired difference is 7.7 points
    assert cost["high"] == pytest.approx(-40 + 1.96 * 7.75, abs=2.5)
    assert (cost["verdict"], cost["n_seeds"]) == ("holds", 1)
    assert claims.one(found, "average.rsf@0.5.skill")["difference"] > 0
    # what is no skill has no items
    assert not found["id"].str.startswith("gain.").any()
    alike = claims.table(points(), items=items({"sft": 20, "rsf": 20, "average": 20}))
    assert set(alike["verdict"]) == {"negligible"}


def test_of_two_seeds_the_mean_is_resampled_and_each_is_asked_alone() -> None:
    first, second = (items({"sft": 36, "rsf": n, "average": 30}) for n in (20, 34))
    other = second.assign(key=second["key"] + "b", seed=1)
    later = points().assign(seed=1, key=points()["key"] + "b")
    both, every = pd.concat([points(), later]), pd.concat([first, other])
    cost = claims.one(claims.table(both, items=every), "tax.rsf.reading")
    # 16 and 2 of 40 items lost
    assert cost["difference"] == pytest.approx(-(40 + 5) / 2)
    assert (cost["seeds"], cost["n_seeds"]) == ("0 1", 2)
    # the same items are drawn for both: 2 of 40 are lost twice, 14 once
    half = 1.96 * 100 * ((2 * 1 + 14 * 0.25) / 40 - 0.225**2) ** 0.5 / 40**0.5
    assert (cost["high"] - cost["low"]) / 2 == pytest.approx(half, rel=0.1)
    pairs = pd.DataFrame({"margin": 1.0, "model": "judge", "seed": [0, 0, 1]})
    run = replace(recorded(report.REAL), points=both, pairs=pairs)
    found = report.real_claims(run, every)
    shown = claims.by_seed(found, "tax.rsf.span")
    assert list(shown.columns) == ["claim", "all seeds", "seed 0", "seed 1"]
    assert [text.split()[0] for text in shown.iloc[0, 1:]] == ["-22.50", "-40.00", "-5.00"]
    # what one seed says is no claim that a table of all picks up
    assert not claims.pick(found, "").id.str.contains("seed").any()


def test_fronts_and_rewards_of_one_seed_are_paired_by_item_and_reply() -> None:
    rng, given = np.random.default_rng(0), items({"sft": 36, "rsf": 20, "average": 30})
    base = rng.normal(size=200)
    rows = [given]
    for name, gained in (("sft", 0.0), ("rsf", 2.0), ("average", 1.5)):
        own = {"seed": 0, "key": KEYS[name], "slot": "reward", "item": range(200)}
        noise = rng.normal(scale=0.5, size=200)
        rows.append(pd.DataFrame(own | {"value": base + gained + noise - noise.mean()}))
    told = pd.concat(rows, ignore_index=True)
    alone = points()[points()["key"] != "old"]
    average = alone[alone["method"] == "average"]
    ends = [average.assign(alpha=alpha, key=key) for alpha, key in ((0.0, "k0"), (1.0, "k1"))]
    found = claims.table(pd.concat([alone, *ends]), items=told)
    gain = claims.one(found, "gain.rsf.reward")
    assert gain["difference"] == pytest.approx(2.0)
    # what all models share cancels: two noises of 0.5 over 200 replies
    half = 1.96 * 0.5 * 2**0.5 / 200**0.5
    assert (gain["high"] - gain["low"]) / 2 == pytest.approx(half, rel=0.15)
    front = claims.one(found, "average_vs_early.rsf.reading")
    # by hand: 90 at 0 and 50 at 2; the average has 75 at 1.5, where the line has 60
    assert front["difference"] == pytest.approx((15 * 2 / 2) / 2, abs=0.05)
    assert front["low"] < front["difference"] < front["high"]


def test_a_reward_model_is_held_against_a_coin() -> None:
    pairs = pd.DataFrame({"margin": [1.0] * 58 + [-1.0] * 41 + [0.0], "seed": 0})
    both = pd.concat([pairs.assign(model="reward_model"), pairs.assign(model="judge", margin=1.0)])
    found = claims.of_pairs(both).set_index("id")
    row = found.loc["reward_model.pairs_beyond_chance"]
    assert row["difference"] == pytest.approx(8.5)
    # Wilson's interval of 58.5 of 100, by hand: 48.7 to 67.7 %
    assert (row["low"], row["high"]) == pytest.approx((-1.3, 17.7), abs=0.1)
    assert list(found["verdict"]) == ["holds", "inconclusive"]


# --- numbers in sentences -------------------------------------------------------------------------
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


def test_marks_are_filled_with_what_they_name(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(settings, "results_folder", lambda: tmp_path)
    (tmp_path / "other").mkdir()
    claims.write(FOUND.assign(difference=1.0, low=0.0, high=2.0), tmp_path / "other" / "claims.csv")
    told = golden("marks.yaml")
    text, expected = (
        "\n".join(f"before <!--{mark}-->{said}<!--/--> after" for mark, said in marks.items())
        for marks in (dict.fromkeys(told, "old"), told)
    )
    assert prose.fill(text, FOUND, models()) == expected
    assert prose.fill(expected, FOUND, models()) == expected
    wrong = "<!--claim tax.none--><!--/-->"
    refuses(KeyError, r"no claim 'tax.none'", prose.fill, wrong, FOUND, models())


def test_a_verdict_that_the_recording_does_not_give_is_named() -> None:
    relied = {"claims": {"tax.rsf.skill": "negligible", "tax.none": "holds"}}
    cell = nbformat.v4.new_markdown_cell("RSF forgets nothing.", metadata=relied, id="lost")
    one, other = prose.contradictions(nbformat.v4.new_notebook(cells=[cell]), FOUND)
    assert "lost: tax.rsf.skill is holds, the text says negligible" in one
    assert "lost: tax.none is not recorded" in other


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_the_prose_of_a_chapter_is_that_of_the_recording(path) -> None:
    notebook, found = read_notebook(path), claims.read("tiny")
    assert not prose.contradictions(notebook, found)
    stale = "the text and data/results differ: run `alignment-tax report`"
    assert not prose.fill_notebook(notebook, found, recorded().points), stale
