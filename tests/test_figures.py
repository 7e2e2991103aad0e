"""Figures: the tables they carry, by hand, what is drawn and refused, the main line alone."""

import io
from dataclasses import replace
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from conftest import golden, refuses
from PIL import Image
from points import T_1, figure_points, row

from alignment_tax import figures, report
from alignment_tax.figures import TableError, alt_text, primitives, style
from alignment_tax.figures.pareto import LATER
from alignment_tax.figures.readme import redraw_figures
from alignment_tax.figures.style import MOST_ROWS, describe
from alignment_tax.labels import SCORES
from alignment_tax.registry import REMEDIES
from alignment_tax.results.recorded import recorded, recorded_items
from alignment_tax.settings import SettingsError
from alignment_tax.stats import compare

CAPTION = "your run: tiny, seed 0"


@pytest.fixture
def points():
    return figure_points()


def words(figure):
    """Every text a figure draws, in one string."""
    figure.canvas.draw()
    return "\n".join(filter(None, (each.get_text() for each in figure.findobj(plt.Text))))


def axes_of(figure):
    return [axes for axes in figure.axes if axes.get_visible()]


# without rows or a column: below, of every figure
def test_what_cannot_be_drawn_is_refused(points):
    nothing = points.assign(**dict.fromkeys([*SCORES, "gold", "reward"], np.nan))
    both = pd.concat([points, points.assign(study="small")])
    doubled = pd.concat([points, points[3:4]])
    refuses(TableError, "nothing to draw", figures.alpha_curves, nothing)
    refuses(TableError, "theta_0", figures.alpha_curves, points[points["algorithm"] != "sft"])
    refuses(TableError, "need RSF", figures.alpha_curves, points[points["algorithm"] != "rsf"])
    refuses(TableError, "one study at a time", figures.alpha_curves, both)
    refuses(TableError, "twice", figures.alpha_curves, doubled)


# --- primitives ----------------------------------------------------------------------------------
def test_curve_bars_and_forest_draw_the_numbers_of_their_table():
    _, [[left, middle, right]] = style.panels(1, 3)
    look = style.Look("me", style.BLUE, "o")
    table = pd.DataFrame({"x": [0, 1], "y": [2.0, 3.0], "seed": [0, 1], "y_low": 1.0, "y_high": 4})
    primitives.curve(left, table, "x", "y", look, seeds=table, order="x")
    assert [line.get_ydata().tolist() for line in left.get_lines()][-1] == [2, 3]
    [segments] = [each for each in left.collections if len(each.get_segments()) == 2]
    assert segments.get_segments()[0].tolist() == [[0, 1], [0, 4]]
    long = pd.DataFrame({"g": ["b", "b", "a"], "s": ["m", "n", "m"], "v": [1.0, -2.0, 3.0]})
    looks = {"n": look, "m": style.Look("other", style.ORANGE, "s")}
    assert primitives.bars(middle, long, "g", "s", "v", looks, digits=1) == ["b", "a"]
    heights = [bar.get_height() for bar in middle.patches]
    assert (heights[0], *heights[2:]) == (-2, 1, 3)
    claims = pd.DataFrame({"claim": ["A", "B"], "difference": [1.0, 2.0], "low": [0.5, -1.0],
                           "high": [1.5, 5.0], "verdict": ["holds", "inconclusive"]})  # fmt: skip
    primitives.forest(right, claims)
    assert [text.get_text() for text in right.texts] == ["+1.0", "+2.0"]
    assert right.get_ylim()[0] > right.get_ylim()[1]  # the first row on top


def test_an_alt_text_says_rows_with_intervals_and_cuts_many():
    rewards = {"reward": [1.0, 2.25], "reward_low": [0.5, 2], "reward_high": [1.5, 2.5]}
    table = pd.DataFrame({"method": ["l1", "none"], **rewards, "seeds": 5, "skill": [np.nan, 80]})
    assert describe("Title", "run", table, "Head.") == (
        "Title (run). Head. All rows: seeds 5. L1, reward 1.00 (0.50 to 1.50); "
        "reward 2.25 (2.00 to 2.50), mean of three families 80."
    )
    said = describe("Title", "run", pd.DataFrame({"x": range(100), "y": [50, -9, *range(97), 200]}))
    assert len(said.split(";")) < MOST_ROWS
    assert all(each in said for each in ("of 100 rows", "x 0, y 50", "y -9", "x 99, y 200"))


def test_methods_differ_by_colour_and_marker():
    assert set(REMEDIES) | {"distil", "distil+average"} <= set(figures.METHODS)
    for looks in (figures.METHODS, figures.ALGORITHMS):
        assert len({(look.colour, look.marker) for look in looks.values()}) == len(looks)
    assert all(getattr(figures, name) for name in figures.__all__)
    refuses(AttributeError, "no attribute 'fornt'", getattr, figures, "fornt")


# --- fronts --------------------------------------------------------------------------------------
def test_a_front_marks_what_averaging_gives_back(points):
    figure = figures.front(points, 0.5)
    assert figures.kept(points).loc[0.5, ["kept", "paid", "back"]].tolist() == [75, 25, 75]
    said = "Marked: α = 0.5 keeps 75 % of the reward and gives back 75 % of what was forgotten."
    # of the alphas that there are, the nearest
    assert said in alt_text(figure) == alt_text(figures.front(points, 0.4))
    drawn = words(figure)
    pieces = ("before RLHF (θ₀)", "averaging", "early", "seeds 0-1, 6000", "keeps 75 %")
    assert [piece for piece in pieces if piece not in drawn] == []


def test_fronts_show_every_curve_that_is_recorded(points):
    smaller = [row(s, "rsf", 75, 1, method="learning_rate", strength=2e-4) for s in (0, 1)]
    table = figures.table(figures.fronts(pd.concat([points, pd.DataFrame(smaller)])))
    steps = table[table["method"] == "learning_rate"]
    assert steps["reward"].tolist() == [0, 1, 4]  # theta_0, smaller steps, RSF's own
    assert "learning_rate" not in set(figures.table(figures.fronts(points))["method"])
    other = figures.table(figures.fronts(points, ["translation"])).set_index("alpha")
    assert other.loc[0.5, ["reward", "translation"]].tolist() == [3, 76]


def test_the_pipeline_is_drawn_without_numbers():
    figure = figures.pipeline()
    assert "reward model" in words(figure)
    assert "with the help of a reward model" in alt_text(figure)


@pytest.mark.parametrize("seeds", [1, 2])
def test_a_label_stays_inside_its_panel(seeds):
    figure = figures.front(figure_points(seeds))
    figure.draw_without_rendering()
    [axes] = axes_of(figure)
    [label] = [text for text in axes.texts if "α" in text.get_text()]
    box, frame = label.get_bbox_patch().get_window_extent(), axes.get_window_extent()
    assert frame.y0 < box.y0 < box.y1 < frame.y1


def test_the_curves_of_a_kind_of_remedy_are_of_the_same_seeds():
    points = figure_points(2, "remedies")
    figure = figures.remedy_fronts(points[(points["method"] != "bema") | (points["seed"] < 1)])
    table = figures.table(figure).set_index(["kind", "method"]).sort_index()
    assert [set(table.loc[kind, "seeds"]) for kind in ("moving averages", "grafts")] == [{1}, {2}]
    assert (table.loc[("grafts", "theta_0"), ["reward", "forgetting"]] == 0).all().all()
    # (4, 61) of theta_0's (0, 80)
    assert table.loc[("grafts", "distil"), "forgetting"] == -19
    own = figures.table(figures.remedy_fronts(points, methods=["l2", "lora"]))
    assert set(own["kind"]) == {"penalties on weights", "low rank"}
    assert "kd" not in set(own["method"])
    said = words(figure)
    told = ("moving averages, seed 0", "\ngrafts\n", "fewer where a panel says so")
    assert [each for each in told if each not in said] == []


def test_no_recorded_figure_has_more_panels_or_names_than_one_reads():
    run, kinds = recorded(), list(LATER.values())
    main, points = figures.main_line(run.points), run.points
    of_main = (figures.front, figures.alpha_curves, figures.rsf_rounds, figures.reward_hacking)
    of_all = (figures.part_curves, figures.search_fronts, figures.fronts, figures.shares_along,
              figures.algorithm_fronts, figures.remedy_fronts)  # fmt: skip
    drawn = [draw(main, recorded=True) for draw in of_main]
    drawn += [draw(points, recorded=True) for draw in of_all]
    drawn += [draw(points, ["rsf", "rsf_random"]) for draw in (figures.rounds, figures.taxes)]
    later = [sum(own, ()) for own in (kinds[4:], kinds[:4])]  # as chapter 15 has them
    drawn += [figures.razor(points), *(figures.remedy_fronts(points, own) for own in later)]
    for figure in drawn:
        names = [axes.get_legend() for axes in axes_of(figure)] + figure.legends
        assert max(len(each.get_texts()) for each in names if each) <= 8, alt_text(figure)
        assert len(axes_of(figure)) <= 6, alt_text(figure)
    # no name stands twice: those of one panel stand in it
    told = [text.get_text() for each in names if each for text in each.get_texts()]
    assert len(told) == len(set(told)) > 8


# --- skills and taxes ----------------------------------------------------------------------------
def test_tax_is_paired_by_seed(points):
    # every seed loses exactly 20
    assert [bar.get_width() for bar in figures.tax_bars(points).axes[0].patches] == [-20] * 10
    points.loc[(points["seed"] == 1) & (points["rounds"] == 2), "one_hop"] -= 2
    one_hop = figures.table(figures.tax_bars(points)).set_index("score").loc["one_hop"]
    assert one_hop[["tax", "tax_high"]].tolist() == pytest.approx([-21, -21 + T_1], abs=1e-3)
    assert "ARC-Easy" in words(figures.tax_bars(points.assign(study="small")))
    given = figures.tax_bars(figure_points(1), intervals={"skill": (-22.0, -18.0)})
    assert "mean of three families, family, tax -20.0 (-22.0 to -18.0)" in alt_text(given)


def test_what_has_no_gold_reward_shows_none(points):
    without = points.assign(gold=np.nan)  # of real data nobody knows it
    assert "gold" not in figures.table(figures.alpha_curves(without))
    rounds = [figures.rsf_rounds(each) for each in (points, without)]
    assert [len(axes_of(each)) for each in rounds] == [2, 1]
    assert "gold" not in words(rounds[1])


def test_skills_bar_with_seeds_and_guessing():
    scores = pd.DataFrame(
        {"model": ["base", "θ₀", "θ₀"], "one_hop": [90.0, 80.0, 84.0], "span": [60.0, 50.0, 50.0]}
    )
    figure = figures.skills_bar(scores, {"one_hop": 25.0}, caption=CAPTION)
    table = figures.table(figure).set_index(["model", "score"])
    theta = table.loc[("θ₀", "one_hop"), ["value", "value_high", "baseline"]].astype(float)
    assert theta.tolist() == pytest.approx([82, 82 + 2 * T_1, 25], abs=1e-3)
    assert np.isnan(table.loc[("base", "one_hop"), "value_low"])
    assert [bar.get_height() for bar in figure.axes[0].patches] == [90, 60, 82, 50]
    assert "guessing by answer type" in words(figure)
    # a slot that is its family is drawn once; what is short of 100 is not printed as 100
    bleu = pd.DataFrame({"model": ["base"], "bleu": [99.6], "translation": [99.6]})
    drawn = figures.skills_bar(bleu, caption=CAPTION)
    assert (figures.table(drawn)["score"].item(), "99.6" in words(drawn)) == ("translation", True)
    # a model has one colour, and stripes where format is forgiven
    both = pd.DataFrame({"model": ["a, as written", "b, as written", "a, forgiven", "b, forgiven"]})
    bars = figures.skills_bar(both.assign(span=50.0), caption=CAPTION).axes[0].patches
    assert bars[0].get_facecolor() == bars[2].get_facecolor() != bars[1].get_facecolor()
    assert [bar.get_hatch() for bar in bars] == ["", "", "//", "//"]


# --- training ------------------------------------------------------------------------------------
def test_reward_hacking_shows_where_gold_turns(points):
    points.loc[points["rounds"] == 2, "gold"] -= 1.5
    assert "Gold is highest, 1.25, at round 1" in alt_text(figures.reward_hacking(points))


def test_the_reward_model_by_hand():
    pairs = pd.DataFrame({"kind": ["easy"] * 10 + ["hard"] * 10, "correct": [1] * 10 + [1, 0] * 5})
    figure = figures.pair_accuracy_by_kind(pairs, caption=CAPTION)
    table = figures.table(figure)
    told = [["hard", 50], ["easy", 100], ["all pairs", 75]]
    assert table[["kind", "accuracy"]].values.tolist() == told
    # Wilson's interval for 5 of 10 is 23.66 to 76.34, for 10 of 10 it ends at 100
    ends = [*table.loc[0, ["low", "high"]], table.loc[1, "high"]]
    assert ends == pytest.approx([23.66, 76.34, 100], abs=0.01)
    assert "hard  (n = 10)" in words(figure)
    worse = pairs.assign(fooled=1 - pairs["correct"])
    fooled = figures.table(figures.pair_accuracy_by_kind(worse, caption=CAPTION, fooled=True))
    told = [["hard", 50], ["easy", 0], ["all replies", 25]]
    assert fooled[["kind", "fooled"]].values.tolist() == told
    gold, scores = np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 2.0, 4.0, 3.0])
    scatter = figures.table(figures.gold_scatter(scores, gold, caption=CAPTION))
    # ranks differ by 1 twice: 1 - 6 * 2 / (4 * 15)
    assert scatter["spearman"].item() == pytest.approx(0.8)


def test_losses_and_best_of_n_by_hand():
    # the first loss is as logged, the last one a mean of a fifth of the ten steps
    log = pd.DataFrame({"step": range(10), "loss": [9.0, *[1.0] * 8, 3.0]}).iloc[::-1]
    figure = figures.losses(log, caption=CAPTION, level=(0.693, "a coin"))
    assert figures.table(figure)[["first", "last", "window"]].iloc[0].tolist() == [9, 2, 2]
    assert "mean of up to 2 logged steps" in words(figure)
    assert "Dashed: a coin, 0.693" in alt_text(figure)
    # best of 2 of {0, 1, 2}: pairs 01, 02, 12 -> (1 + 2 + 2) / 3; of {3, 3, 3}: 3
    best = figures.best_of_n(np.array([[2.0, 0.0, 1.0], [3.0, 3.0, 3.0]]), caption=CAPTION)
    table = figures.table(best)
    assert table["reward"].tolist() == pytest.approx([2, (5 / 3 + 3) / 2, 2.5])
    assert table.loc[2, "high"] == pytest.approx(2.5 + 0.5 * T_1, abs=1e-3)  # 2 and 3: s.e. 0.5


# --- captions, showing, saving -------------------------------------------------------------------
def test_a_figure_of_the_readers_own_models_looks_otherwise(points):
    yours, recorded = figures.front(points), figures.front(points, recorded=True)
    assert (words(yours).count("your run: tiny"), words(recorded).count("your run")) == (1, 0)
    corner = [png(each)[:3, :3].reshape(-1, 3).mean(axis=0) for each in (yours, recorded)]
    assert corner[1].tolist() == [255] * 3
    assert np.abs(corner[0] - corner[1]).max() > 30  # seen on a projector, too


def png(figure):
    """What is drawn, as numbers: height, width, and red, green and blue."""
    return np.asarray(Image.open(io.BytesIO(style.png(figure))).convert("RGB")).astype(int)


def test_captions_say_the_run_and_stay_inside_the_figure():
    said = "recorded run tiny, RSF seeds 0-4; DPO seeds 10, 11, 15; PPO seeds 10-11, 5556 items"
    caption = f"{said} · mean, 95 % t interval over seeds · faint lines: seeds"
    figure = figures.forest({"a claim": compare.compare_seeds([1.0, 2.0])}, caption=caption)
    figure.canvas.draw()
    label = figure.get_supxlabel()
    assert label.split() == caption.split()
    [text] = [each for each in figure.texts if each.get_text() == label]
    assert text.get_window_extent().x0 >= 0
    lines = [figures.caption_line("tiny", *own) for own in ([[0]], [[2, 0, 1], 6000, True])]
    assert lines == [CAPTION, "recorded run tiny, seeds 0-2, 6000 items"]


def test_show_puts_alt_text_into_the_output(points, displayed):
    figure = figures.front(points)
    figures.show(figure)
    (output,) = displayed
    told = output["metadata"]["image/png"]["alt"], output["data"]["text/plain"]
    assert told == (alt_text(figure), alt_text(figure))
    assert output["data"]["image/png"].startswith("iVBOR")
    plain = plt.figure()
    refuses(TableError, "no alt text", figures.show, plain)
    refuses(TableError, "no table", figures.table, plain)
    figures.show(plain, alt="an empty page")
    assert not plt.fignum_exists(plain.number)


def test_a_palette_keeps_size_and_colours_of_a_png(points):
    figure, plain = figures.tax_bars(points), io.BytesIO()
    figure.savefig(plain, format="png", dpi=style.DPI)
    assert len(style.png(figure)) < len(plain.getvalue()) / 2
    large, small = np.asarray(Image.open(plain).convert("RGB")).astype(int), png(figure)
    assert small.shape == large.shape
    assert np.abs(small - large).mean() < 0.1


def test_figures_are_redrawn_from_the_table_alone(points, tmp_path):
    table, out = tmp_path / "points.csv", tmp_path / "new" / "signature.png"
    points.to_csv(table, index=False)
    redraw_figures(table, out)
    with Image.open(out) as image:
        assert "Marked: α = 0.5 keeps 75 %" in image.text["Description"]
        assert image.width > 1600
    first = out.read_bytes()
    redraw_figures(table, out)
    assert out.read_bytes() == first
    assert sorted(path.name for path in out.parent.iterdir()) == ["pipeline.png", "signature.png"]
    refuses(SettingsError, "no table of points", redraw_figures, tmp_path / "none.csv")


# --- rows of other methods change nothing of the main line ----------------------------------------
#: Rows as they are recorded beside the main line: same rounds of RSF, or another algorithm's. That
#: claims stay is told in test_stats.
OTHERS = [
    {"method": "part", "alpha": 0.4, "part": "linear"},
    {"method": "part", "alpha": 0.0, "part": "norms"},
    {"method": "hma", "alpha": 0.4, "part": "0.6|0.4|0.2"},
    {"method": "hma_eq11", "alpha": 0.4, "part": "0.5|0.4|0.3"},
    {"method": "distil"}, {"method": "distil+average", "alpha": 0.3},
    {"method": "l2", "strength": 0.1}, {"method": "none", "algorithm": "dpo"},
    {"method": "average", "algorithm": "dpo", "alpha": 0.3},
]  # fmt: skip


def with_others(points):
    """Every seed with a row of each method, better than anything that was recorded."""
    ends = points[(points["algorithm"] == "rsf") & (points["method"] == "none")]
    ends = ends[ends["rounds"] == ends["rounds"].max()].reset_index(drop=True)
    better = ends[[*SCORES, "reward", "gold", "kl"]] + 20
    rows = [
        ends.assign(**better, n_items=99_999, key=f"other-{n}-" + ends["seed"].astype(str), **other)
        for n, other in enumerate(OTHERS)
    ]
    # as they are merged into the table: seed by seed
    both = pd.concat([points, *rows], ignore_index=True)[points.columns]
    return both.sort_values("seed", kind="stable", ignore_index=True)


def test_the_main_line_is_what_is_left():
    run = recorded()
    main = figures.main_line(run.points)
    both = with_others(main)
    assert len(both) == len(main) + len(OTHERS) * len(run.seeds)
    # a seed without RSF, in which all is 10 points better
    later = main[main["seed"].eq(0) & main["algorithm"].isin(["base", "sft"])]
    later = later.assign(seed=99, **{score: later[score] + 10 for score in SCORES})
    left = figures.main_line(pd.concat([both, later], ignore_index=True)).reset_index(drop=True)
    pd.testing.assert_frame_equal(left, main.reset_index(drop=True), check_dtype=False)
    # a table that was just made has None where a stored one has "none"
    unnamed = main.assign(method=main["method"].mask(lambda m: m == "none", None))
    assert len(figures.main_line(unnamed)) == len(main)
    refuses(figures.TableError, "needs the column", figures.main_line, main.drop(columns="method"))


def test_the_page_of_the_real_model_lists_the_main_line_alone():
    real, items = recorded(report.REAL), recorded_items(report.REAL)
    pages = []
    for points in (real.points, with_others(real.points)):
        run = replace(real, points=points)
        pages.append(report.real_page(run, items, report.real_claims(run, items)))
    assert pages[0] == pages[1]


# --- what holds for every figure ------------------------------------------------------------------
POINTS = figure_points(2, "remedies", "ratios", "algorithms")


def with_rows(points, *rows):
    return pd.concat([points, pd.DataFrame(rows)], ignore_index=True)


#: PPO, (4, 72) under its own coefficient 0.1, beside 0 and 0.4; its average at 0.5.
PENALTIES = [
    [row(s, "ppo", 70, 6, "kl_coef", strength=0.0), row(s, "ppo", 79, 1, "kl_coef", strength=0.4),
     row(s, "ppo", 77, 2, "average", alpha=0.5)]
    for s in (0, 1)
]  # fmt: skip
WITH_PENALTIES = with_rows(POINTS, *PENALTIES[0], *PENALTIES[1])
#: Models of seed 3: theta_0, the plain run (4, 70), its average (2, 78), L2 (2, 76).
LIVE = pd.DataFrame([
    row(3, "sft", 80, 0), row(3, "rsf", 70, 4, "distil"),
    row(3, "rsf", 78, 2, "distil+average", alpha=0.5), row(3, "rsf", 76, 2, "l2", strength=0.06),
])  # fmt: skip
#: Of what RSF loses in reading a fifth is format.
WITH_FORMAT = figure_points(2, "algorithms")
WITH_FORMAT["reading_forgiven"] += 4 * (WITH_FORMAT["algorithm"] == "rsf")
#: Ratios per block, and an average at a mean that no search has.
ANOTHER_MEAN = with_rows(figure_points(2, "ratios"), row(0, "rsf", 99, 1, "average", alpha=0.1))
LOST = pd.DataFrame({"name": ["span", "span"], "kind": ["format", "forgotten"],
                     "share": [3.0, 1.0]})  # fmt: skip
GAINS = pd.DataFrame({"features": 20, "p": 0.8, "labels": "same", "shared": [0, 0, 20, 20],
                      "average": "weights", "gain": [10.0, 12.0, 0.0, 0.0]})  # fmt: skip
FORMULAS = pd.DataFrame({"features": 20, "p": 0.8, "labels": "same", "shared": [0, 20],
                         "printed": [11.0, 0.0], "weights": np.nan})  # fmt: skip
PATH = [(0.5, 0.5, 0.5), (0.7, 0.1, 0.7)]
WAYS = pd.DataFrame({"panel": ["a", "a", "b", "b"], "way": "weights", "alpha": [0, 1, 0, 1],
                     "loss": [2.0, 1.0, 1.0, 3.0]})  # fmt: skip
GRID = pd.DataFrame({"ratios": [(0.9, 0.3, 0.3), (0.3, 0.9, 0.3), (0.3, 0.3, 0.9), (0.5, 0.5, 0.5)],
                     "full": [4.0, 3.0, 1.0, 2.0]})  # fmt: skip
CLAIMS = {"a": compare.compare_seeds([1.0, 3.0, 2.0]), "b | c": compare.compare_seeds([-2.0, -1.9])}

#: Figures of points, by the rows they need beside the main line.
MAIN_LINE = ["rsf_rounds", "tax_bars", "alpha_curves", "reward_hacking", "front"]
BESIDE = {
    "": [*MAIN_LINE, "fronts"], "remedies": ["remedy_fronts"],
    "algorithms": ["algorithm_fronts", "taxes", "rounds"],
    "ratios": ["part_curves", "search_fronts", "shares_along"],
}  # fmt: skip
OF_POINTS = {n: (getattr(figures, n), more.split()) for more, own in BESIDE.items() for n in own}
OF_POINTS["rounds"] = partial(figures.rounds, names=["rsf", "ppo"]), ["algorithms"]
#: figure -> (how it is drawn from tables, the tables, a column that the first must have)
FIGURES = {
    **{name: (draw, [figure_points(2, *more)], "rounds")
       for name, (draw, more) in OF_POINTS.items()},
    "taxes": (lambda p: figures.taxes(p, ["rsf", "ppo", "not recorded"]), [WITH_FORMAT], "rounds"),
    "search_fronts": (figures.search_fronts, [ANOTHER_MEAN], "rounds"),
    "kl_penalty": (partial(figures.kl_penalty, own=0.1), [WITH_PENALTIES], "forgetting"),
    "live_remedies": (figures.live_remedies, [LIVE], "forgetting"),
    "razor": (figures.razor, [POINTS], "forgetting"),
    "lost_items": (partial(figures.lost_items, caption=CAPTION), [LOST], "share"),
    "effectiveness": (partial(figures.effectiveness, caption=CAPTION), [GAINS, FORMULAS], "p"),
    "ways": (lambda rows: figures.ways(rows, "loss", ["weights"], "A title", caption=CAPTION),
             [WAYS], "loss"),
    "simplex": (lambda g: figures.simplex(g, {"best": (0.3, 0.3, 0.9)}, 0.5, caption=CAPTION,
                                          path=PATH), [GRID], "full"),
}  # fmt: skip
#: The tables they carry, worked out by hand or checked so when they were written down.
GOLDEN = golden("figures.json")


def drawn(name, *tables):
    draw, usual, _ = FIGURES[name]
    return draw(*[*tables, *usual[len(tables) :]])


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_carries_its_table_and_its_alt_text_holds_its_numbers(name):
    figure = drawn(name)
    table, said = figures.table(figure), alt_text(figure)
    assert len(table)
    if name != "remedy_fronts":  # whose rows are those of the preset's remedies
        texts = table.to_csv(index=False), "\n".join(GOLDEN[name])
        found, wanted = (pd.read_csv(io.StringIO(text)) for text in texts)
        pd.testing.assert_frame_equal(found, wanted, check_dtype=False, rtol=1e-5, atol=1e-9)
    assert "nan" not in f"{said} {words(figure)}".lower().split()
    assert " ".join(figure.get_supxlabel().split()) in said
    for place in (0, -1):
        own = table.select_dtypes("number").iloc[place].dropna()
        values = [f"{abs(value):{form}}" for value in own for form in (".0f", ".1f", ".2f", "g")]
        assert any(value in said for value in values)


@pytest.mark.parametrize("seeds", [1, 2])
@pytest.mark.parametrize("name", OF_POINTS)
def test_a_figure_of_points_says_its_run(name, seeds):
    draw, more = OF_POINTS[name]
    said = alt_text(draw(figure_points(seeds, *more), recorded=True))
    assert "recorded run tiny, seed" in said
    averaged = seeds > 1 and name != "shares_along"  # that one is of means
    assert ("95 % t interval" in said) == averaged


@pytest.mark.parametrize("name", FIGURES)
def test_what_is_missing_is_refused(name):
    table, column = FIGURES[name][1][0], FIGURES[name][2]
    for broken, message in ((table.iloc[:0], None), (table.drop(columns=column), column)):
        refuses(TableError, message, drawn, name, broken)


def triangle(marks):
    return figures.simplex(GRID, marks, 0.5, caption=CAPTION)


#: A call that makes no sense, and what its message says.
REFUSED = [
    (lambda: figures.fronts(POINTS, ["rewrad"]), r"needs the column\(s\) rewrad"),
    (lambda: figures.remedy_fronts(figure_points()), "no remedy"),
    (lambda: figures.reward_hacking(POINTS.assign(gold=np.nan)), "gold"),
    (lambda: figures.gold_scatter(np.ones(3), np.ones(4), caption=CAPTION), "do not go with"),
    (lambda: figures.losses(pd.DataFrame({"step": [0, 1], "loss": [np.nan, 1]}), caption=CAPTION),
     "1 of 2 losses are NaN"),
    (lambda: figures.best_of_n(np.zeros(3), caption=CAPTION), "a matrix"),
    (lambda: figures.taxes(POINTS[POINTS["algorithm"] == "sft"], ["rsf"]), "there are no rounds"),
    (lambda: figures.kl_penalty(POINTS, own=0.1), "none is recorded"),
    (lambda: figures.part_curves(POINTS[POINTS["part"] != "middle"]), "the middle part"),
    (lambda: figures.search_fronts(POINTS[POINTS["method"] != "hma"]), "'hma' and 'average'"),
    (lambda: figures.search_fronts(POINTS[POINTS["method"].ne("hma") | POINTS["seed"].eq(0)]
                                   .query("method != 'average' or seed == 1")), "in common"),
    (lambda: figures.shares_along(POINTS[POINTS["method"] != "average"]), "method 'average'"),
    (lambda: triangle({"other": (0.9, 0.9, 0.9)}), "one mean"),
    (lambda: triangle(dict.fromkeys("abcdef", (0.5, 0.5, 0.5))), "5 markers"),
    (lambda: figures.live_remedies(LIVE[LIVE["method"] != "distil"]), "distilled run"),
    (lambda: drawn("effectiveness", pd.concat([GAINS.assign(features=n) for n in range(5)])),
     "up to 4 worlds, not 5"),
    (lambda: figures.verdict_style({}), "no rows"),
    (lambda: drawn("ways", WAYS.assign(loss=np.inf)), "infinite"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_what_makes_no_sense_is_refused(call, message):
    refuses(TableError, message, call)


# these two are drawn in the order that is given
@pytest.mark.parametrize("name", sorted(FIGURES.keys() - {"simplex", "lost_items"}))
def test_the_order_of_rows_other_columns_and_other_seeds_change_nothing(name):
    more = table = FIGURES[name][1][0]
    if name in OF_POINTS:
        seeds = [row(7, "sft", 10, 9), row(7, "ppo", 20, 9, rounds=1, kl=9.0)]
        others = POINTS[~POINTS["method"].isin(["none", "average"])] if name in MAIN_LINE else None
        more = pd.concat([table, pd.DataFrame(seeds), others])
    both = [drawn(name, each) for each in (table, more[::-1])]
    first, second = map(figures.table, both)
    assert len({figure.get_supxlabel() for figure in both}) == 1  # which says seeds
    by = [column for column in first if first[column].notna().all()]
    pd.testing.assert_frame_equal(
        *(each.sort_values(by, ignore_index=True) for each in (first, second)), check_dtype=False
    )


# --- algorithms ----------------------------------------------------------------------------------
def test_a_coefficient_is_compared_on_the_seeds_that_have_it():
    one = with_rows(POINTS, *PENALTIES[0], PENALTIES[1][-1])
    assert set(figures.table(figures.kl_penalty(one, own=0.1))["seeds"]) == {1}


def test_the_prices_of_three_tokens_by_hand():
    table = figures.table(figures.penalty_distances())
    drops, adds = (table[table["panel"] == name].iloc[:, 2:] for name in ("drops", "adds"))
    for own in (drops, adds):  # each starts at theta_0
        assert own.iloc[0].abs().max() < 1e-9
    # the first token has 0.999 - 1e-6
    gone = 0.6 * np.log(0.6 / 0.998999) + 0.399 * np.log(0.399 / 1e-6)
    assert drops.iloc[-1]["forward"] == pytest.approx(gone)
    assert drops.iloc[-1]["reverse"] == pytest.approx(0.999 * np.log(0.999 / 0.6), abs=1e-4)
    # half for the third token, half for the others: 0.3003, 0.1997
    half = 0.5 * np.log(0.5 / 0.001) + 0.5 * np.log(0.5 / 0.999)
    assert adds.iloc[-1]["reverse"] == pytest.approx(half)


# --- theory and verdicts -------------------------------------------------------------------------
def test_verdicts_as_a_table_and_as_a_forest():
    figure = figures.forest(CLAIMS, caption=CAPTION, sides=("worse", "better"))
    told = figures.table(figure)[["claim", "difference"]].values.tolist()
    assert told == [["a", 2], ["b | c", -1.95]]
    assert "a, inconclusive, difference 2.00 (-0.48 to 4.48)" in alt_text(figure)
    assert "-1.95" in figures.verdict_style(CLAIMS).to_html()
