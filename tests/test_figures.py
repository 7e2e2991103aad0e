"""Figures of the main line: the tables they carry, by hand, and what is drawn and refused."""

import io

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from conftest import refuses
from IPython.core.displaypub import CapturingDisplayPublisher
from IPython.core.interactiveshell import InteractiveShell
from PIL import Image
from points import T_1, figure_points, row

from alignment_tax import figures
from alignment_tax.figures import TableError, alt_text, primitives, style
from alignment_tax.figures.pareto import LATER
from alignment_tax.figures.readme import redraw_figures
from alignment_tax.figures.style import MOST_ROWS, describe
from alignment_tax.labels import SCORES
from alignment_tax.registry import REMEDIES
from alignment_tax.results.recorded import recorded
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


# without rows or a column: test_figures_methods, of every figure
def test_what_cannot_be_drawn_is_refused(points):
    nothing = points.assign(**dict.fromkeys([*SCORES, "gold", "reward"], np.nan))
    for table, message in (
        (nothing, "nothing to draw"),
        (points[points["algorithm"] != "sft"], "theta_0"),
        (points[points["algorithm"] != "rsf"], "need RSF"),
        (pd.concat([points, points.assign(study="small")]), "one study at a time"),
        (pd.concat([points, points.iloc[[3]]]), "twice"),
    ):
        refuses(TableError, message, figures.alpha_curves, table)


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


def test_show_puts_alt_text_into_the_output(points, monkeypatch):
    shell = InteractiveShell.instance()
    caught = CapturingDisplayPublisher()
    monkeypatch.setattr(shell, "display_pub", caught)
    figure = figures.front(points)
    figures.show(figure)
    (output,) = caught.outputs
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
