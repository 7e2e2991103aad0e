"""Figures: the tables behind them by hand, what is drawn, and what is refused."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from alignment_tax.figures.reward import calibration_error
from IPython.core.displaypub import CapturingDisplayPublisher
from IPython.core.interactiveshell import InteractiveShell
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image

from alignment_tax import figures
from alignment_tax.cli import main
from alignment_tax.figures import FigureError, alt_text
from alignment_tax.figures.look import FAMILY_LOOKS
from alignment_tax.figures.parts import SEARCH_LOOKS
from alignment_tax.mitigate import REMEDIES
from alignment_tax.presets import TINY
from alignment_tax.stats import compare

SLOTS = ["one_hop", "two_hop", "piqa_like", "race_like", "span", "counting", "bleu"]
CAPTION = "this run: tiny, seed 0"


def row(
    seed: int, algorithm: str, score: float, reward: float, **more: object
) -> dict[str, object]:
    """A point whose every score is `score`; gold is half the reward."""
    scores = dict.fromkeys([*SLOTS, "commonsense", "reading", "translation", "skill"], score)
    return {
        "study": "tiny", "seed": seed, "algorithm": algorithm, "method": "none",
        "strength": np.nan, "alpha": np.nan, "part": np.nan, "rounds": 0,
        "reward": reward, "gold": reward / 2, **scores,
        "kl": 0.0, "n_items": 6000, "key": f"{seed}-{algorithm}", **more,
    }  # fmt: skip


def make_points(seeds: int = 2) -> pd.DataFrame:
    """theta_0 (0, 80); RSF (2, 70), (4, 60); averaging (0, 80), (3, 75), (4, 60).

    Seed s has s more reward and 2 s more skill everywhere.
    """
    rows = []
    for s in range(seeds):
        up, more = 2.0 * s, float(s)
        rows += [
            row(s, "base", 90 + up, -9),
            row(s, "sft", 80 + up, 0 + more),
            row(s, "rsf", 70 + up, 2 + more, rounds=1, kl=1.0),
            row(s, "rsf", 60 + up, 4 + more, rounds=2, kl=3.0),
            row(s, "rsf_random", 78 + up, 0 + more, rounds=2),
            row(s, "rsf", 80 + up, 0 + more, method="average", alpha=0.0, rounds=2),
            row(s, "rsf", 75 + up, 3 + more, method="average", alpha=0.5, rounds=2),
            row(s, "rsf", 60 + up, 4 + more, method="average", alpha=1.0, rounds=2),
        ]
    return pd.DataFrame(rows)


@pytest.fixture
def points() -> pd.DataFrame:
    return make_points()


def words(figure: Figure) -> str:
    """Every text a figure draws, in one string."""
    figure.canvas.draw()
    texts = [text.get_text() for text in figure.findobj(plt.Text)]  # type: ignore[attr-defined]
    return "\n".join(text for text in texts if text)


def axes_of(figure: Figure) -> list[Axes]:
    return [axes for axes in figure.axes if axes.get_visible()]


def test_front_table_by_hand(points: pd.DataFrame) -> None:
    table = figures.front_table(points)
    assert set(table["algorithm"]) == {"sft", "rsf"}
    half = table[table["alpha"] == 0.5].iloc[0]
    assert half["reward"] == pytest.approx(3)  # over theta_0 of the same seed, in both seeds
    gold = figures.front_table(points, reward="gold")
    assert gold.loc[gold["alpha"] == 0.5, "gold"].item() == pytest.approx(1.75)  # as it is
    assert half["skill"] == pytest.approx(76)
    # two seeds 75 and 77: sd sqrt(2), s.e. 1, t(0.975, df 1) = 12.7062
    assert half["skill_low"] == pytest.approx(76 - 12.7062, abs=1e-3)
    assert half["skill_high"] == pytest.approx(76 + 12.7062, abs=1e-3)
    assert half["reward_kept"] == pytest.approx(3 / 4)
    assert half["tax_recovered"] == pytest.approx(15 / 20)
    assert half["seeds"] == 2


def test_one_seed_has_no_interval() -> None:
    table = figures.front_table(make_points(1))
    assert table[["skill_low", "skill_high", "reward_low"]].isna().all(axis=None)
    assert "interval" not in words(figures.front(make_points(1)))


def test_dominated_points_are_marked_and_faded(points: pd.DataFrame) -> None:
    table = figures.front_table(points)
    early = table[(table["method"] == "none") & (table["rounds"] == 1)].iloc[0]
    assert early["dominated"]  # (2, 70) lies under the averaged (3, 75)
    assert not table.loc[table["alpha"] == 0.5, "dominated"].any()
    lines = figures.front(points).axes[0].get_lines()
    drawn = {
        (line.get_xdata()[0], line.get_marker()): line.get_alpha()
        for line in lines
        if len(line.get_xdata()) == 1
    }
    assert drawn[(2, "s")] < 0.5
    assert drawn[(3, "o")] == 1


def test_no_tax_gives_no_recovered_share() -> None:
    points = make_points()
    points["skill"] = 80.0
    table = figures.front_table(points)
    assert table["tax_recovered"].isna().all()
    assert "of the tax" not in alt_text(figures.front(points))


def test_front_shows_ends_methods_and_run(points: pd.DataFrame) -> None:
    text = words(figures.front(points, recorded=True))
    for piece in (
        "α = 0", "α = 1", "before RLHF (θ₀)", "after RLHF (RSF)", "averaging the weights",
        "stopping RSF early", "recorded run tiny, seeds 0-1, 6000 items",
    ):  # fmt: skip
        assert piece in text
    assert "this run: tiny, seed 0, 6000 items" in words(figures.front(make_points(1)))


def test_early_stopping_starts_at_theta_0(points: pd.DataFrame) -> None:
    lines = [line for line in figures.front(points).axes[0].get_lines() if line.get_zorder() == 2]
    early = next(line for line in lines if to_hex(line.get_color()).upper() == "#D55E00")
    assert early.get_xdata().tolist() == [0, 2, 4]
    assert early.get_ydata().tolist() == [81, 71, 61]


def test_front_alt_text_holds_the_numbers(points: pd.DataFrame) -> None:
    alt = alt_text(figures.front(points))
    for piece in ("reward 0.00", "81.0", "61.0", "-20.0 points", "alpha 0.5 keeps 75 %"):
        assert piece in alt
    assert "recovers 75 % of the tax" in alt


def test_front_on_gold_and_on_a_family(points: pd.DataFrame) -> None:
    points["translation"] = points["translation"] - 10
    table = figures.front_table(points, "translation", "gold")
    assert table.loc[table["alpha"] == 0.5, ["gold", "translation"]].iloc[0].tolist() == [1.75, 66]
    assert "gold reward" in words(figures.front(points, "translation", "gold"))


def test_a_validated_early_stop_is_not_counted_twice(points: pd.DataFrame) -> None:
    stop = points[(points["algorithm"] == "rsf") & (points["rounds"] == 1)]
    more = pd.concat([points, stop.assign(method="early_stopping")])
    pd.testing.assert_frame_equal(figures.front_table(more), figures.front_table(points))


def test_fronts_has_four_panels_with_their_families(points: pd.DataFrame) -> None:
    points["reading"] = points["reading"] - 5
    figure = figures.fronts(points)
    titles = [axes.get_title(loc="left") for axes in axes_of(figure)]
    assert len(titles) == 4
    assert [title.split(":")[0] for title in titles] == [
        "common sense", "reading", "translation", "skill",
    ]  # fmt: skip
    table = figures.fronts_table(points)
    reading = table[(table["family"] == "reading") & (table["alpha"] == 0.5)]
    assert reading["score"].tolist() == [71]


def test_a_front_rings_the_average_that_is_asked_for(points: pd.DataFrame) -> None:
    figure = figures.front(points, at=0.5)
    assert alt_text(figure).startswith("Ringed: alpha 0.5, reward 3.00, 76.0 mean of three")
    [ring] = [line for line in figure.axes[0].get_lines() if line.get_markersize() == 22]
    assert (ring.get_xdata()[0], ring.get_ydata()[0]) == (3, 76)
    with pytest.raises(FigureError, match="no average at alpha"):
        figures.front(points, at=0.7)


@pytest.mark.parametrize("seeds", [1, 2])
@pytest.mark.parametrize("draw", [figures.front, figures.fronts, figures.signature])
def test_labels_stay_inside_their_panel(draw: Callable[..., Figure], seeds: int) -> None:
    points = make_points(seeds)
    # one panel as flat as the others are steep, another upside down
    points["commonsense"] = 90 + points["commonsense"] / 1000
    points["reading"] = 150 - points["reading"]
    figure = draw(points)
    figure.draw_without_rendering()
    for axes in axes_of(figure):
        frame = axes.get_window_extent()
        labels = [text for text in axes.texts if "α" in text.get_text()]
        assert len(labels) >= 2
        for label in labels:
            patch = label.get_bbox_patch()
            assert patch is not None
            box = patch.get_window_extent()
            assert frame.y0 < box.y0 < box.y1 < frame.y1, label.get_text()


def test_signature_speaks_to_a_newcomer(points: pd.DataFrame) -> None:
    text = words(figures.signature(points))
    assert "reward model's score gained over θ₀" in text
    assert "α = 0.5" in text
    assert "skills kept" in text
    assert "recorded run" in text
    assert len(figures.signature_table(points)) == 6


def with_remedies(seeds: int = 2) -> pd.DataFrame:
    """make_points with every remedy at the strengths of the preset, on lines of their own."""
    rows = []
    for s in range(seeds):
        for n, grid in enumerate(TINY.remedies):
            for i, strength in enumerate(grid.strengths, start=1):
                way = i / (len(grid.strengths) + 1)
                score = 80 - 20 * way**2 - n / 3 + (-1) ** i * s / 2
                place = {"method": grid.method, "strength": strength, "rounds": 2}
                rows.append(row(s, "rsf", score, 4 * way + s, **place))
        rows.append(row(s, "rsf", 61, 4 + s, method="distil", rounds=2))
        for alpha in (0.25, 0.5, 0.75):
            for name in ("distil+average", "l2+average", "l2_in_rounds"):
                place = {"method": name, "alpha": alpha, "rounds": 2}
                rows.append(row(s, "rsf", 80 - 18 * alpha**2 - s, 4 * alpha + s, **place))
    return pd.concat([make_points(seeds), pd.DataFrame(rows)], ignore_index=True)


def test_every_remedy_has_a_look_of_its_own_and_a_curve() -> None:
    assert set(REMEDIES) | {"distil", "distil+average"} <= set(figures.METHODS)
    points = with_remedies()
    text = words(figures.fronts(points))
    for grid in TINY.remedies:
        assert figures.METHODS[grid.method].label in text
    assert "L2, then averaging" in text
    assert "L2, inside the rounds" in text
    table = figures.front_table(points)
    assert len(table) == 6 + sum(len(grid.strengths) for grid in TINY.remedies) + 1 + 3 * 3
    assert (table["seeds"] == 2).all()


def test_a_front_of_some_methods_shows_these_beside_the_models_as_trained() -> None:
    points = with_remedies()
    text = words(figures.front(points, methods=["average", "l1"]))
    assert "L1" in text
    assert "stopping RSF early" in text
    assert "LoRA" not in text
    with pytest.raises(FigureError, match="no method 'l3'; they have average"):
        figures.fronts(points, methods=["l3"])
    pd.testing.assert_frame_equal(
        figures.signature_table(points), figures.signature_table(make_points())
    )
    assert "L1" not in words(figures.signature(points))


def test_methods_differ_by_colour_and_marker() -> None:
    looks = [*figures.METHODS.values()]
    assert len({(look.colour, look.marker) for look in looks}) == len(looks)
    now = [figures.METHODS[name] for name in ("average", "early_stopping", "hma")]
    assert len({look.colour for look in now}) == len({look.marker for look in now}) == 3
    # chapter 11 draws these in one figure
    curves = [("average", 1), ("hma_reward", 3), ("hma_kl", 3), ("hma_kl", 9), ("hma_kl_other", 3),
              ("adamerging", 9)]  # fmt: skip
    looks = [SEARCH_LOOKS.get(curve, figures.METHODS[curve[0]]) for curve in curves]
    assert len({look.colour for look in looks}) == len({look.marker for look in looks}) == 6
    families = list(FAMILY_LOOKS.values())
    assert len({look.colour for look in families}) == len({look.marker for look in families}) == 4


def test_other_algorithms_and_methods_get_their_own_curve(points: pd.DataFrame) -> None:
    dpo = row(0, "dpo", 72, 1, rounds=1)
    averaged = row(0, "dpo", 78, 0.8, method="average", alpha=0.5)
    l2 = row(0, "rsf", 66, 3, method="l2", strength=0.1)
    text = words(figures.front(pd.concat([points, pd.DataFrame([dpo, averaged, l2])])))
    for piece in ("DPO", "DPO: averaging the weights", "L2"):
        assert piece in text
    unknown = pd.DataFrame([row(0, "rsf", 66, 3, method="magic")])
    with pytest.raises(FigureError, match="'magic'"):
        figures.front(pd.concat([points, unknown]))


def test_rsf_rounds_by_hand(points: pd.DataFrame) -> None:
    table = figures.rsf_rounds_table(points).set_index(["algorithm", "rounds"])
    assert table.loc[("rsf", 0), "skill"] == table.loc[("rsf_random", 0), "skill"] == 81
    # the reward is the gain over theta_0 of the same seed, 4 in both seeds; gold is as it is
    assert table.loc[("rsf", 2), ["reward", "gold", "skill"]].tolist() == [4, 2.25, 61]
    assert table.loc[("rsf", 2), ["reward_low", "reward_high"]].tolist() == [4, 4]
    assert table.loc[("rsf_random", 2), "skill"] == 79
    figure = figures.rsf_rounds(points)
    assert len(axes_of(figure)) == 6
    assert "control: a random reply (only round 2 was scored)" in words(figure)
    assert "reward over θ₀ from 0.00 to 4.00" in alt_text(figure)


def test_rsf_rounds_without_gold_reward(points: pd.DataFrame) -> None:
    figure = figures.rsf_rounds(points.assign(gold=np.nan))
    assert len(axes_of(figure)) == 5
    assert "gold" not in words(figure)


def test_tax_is_paired_by_seed(points: pd.DataFrame) -> None:
    table = figures.tax_table(points, alpha=0.5).set_index(["model", "score"])
    # every seed loses exactly 20, so the paired interval has no width though the levels differ
    assert table.loc[("RSF", "skill"), ["tax", "low", "high"]].tolist() == [-20, -20, -20]
    assert table.loc[("averaging at α = 0.5", "translation"), "tax"] == -5
    points.loc[(points["seed"] == 1) & (points["rounds"] == 2), "one_hop"] -= 2
    one_hop = figures.tax_table(points).set_index("score").loc["one_hop"]
    # differences -20 and -22
    assert one_hop["tax"] == -21
    assert one_hop["high"] == pytest.approx(-21 + 12.7062, abs=1e-3)


def test_tax_bars_draw_one_bar_a_score_and_model(points: pd.DataFrame) -> None:
    figure = figures.tax_bars(points, alpha=0.5)
    widths = [bar.get_width() for bar in figure.axes[0].patches]
    assert widths == [-20] * 10 + [-5] * 10
    assert "-20.0 (-20.0 to -20.0)" in alt_text(figure)
    assert "one-hop facts" in words(figure)
    assert "ARC-Easy" in words(figures.tax_bars(points.assign(study="small")))


def test_tax_bars_take_given_intervals() -> None:
    figure = figures.tax_bars(make_points(1), intervals={"skill": (-22.0, -18.0)})
    assert "mean of three families -20.0 (-22.0 to -18.0)" in alt_text(figure)


def test_tax_refuses_an_alpha_that_was_not_measured(points: pd.DataFrame) -> None:
    with pytest.raises(FigureError, match=r"0\.3; the points have 0, 0\.5, 1"):
        figures.tax_bars(points, alpha=0.3)


def test_alpha_curves_by_hand(points: pd.DataFrame) -> None:
    table = figures.alpha_table(points).set_index("alpha")
    assert table["skill"].tolist() == [0, -5, -20]
    assert table["reward"].tolist() == [0, 3, 4]  # gained over theta_0 of the same seed
    figure = figures.alpha_curves(points)
    assert len(axes_of(figure)) == 2
    assert "Alpha 0.5: reward gained 3.00" in alt_text(figure)


def test_reward_hacking_shows_where_gold_turns(points: pd.DataFrame) -> None:
    points.loc[points["rounds"] == 2, "gold"] -= 1.5
    table = figures.reward_hacking_table(points)
    assert table["reward_share"].tolist() == [0, 0.5, 1]
    assert table["gold_share"].tolist() == pytest.approx([0, 1, 0.5])
    figure = figures.reward_hacking(points)
    assert "Gold is highest, 1.25, at round 1" in alt_text(figure)
    assert figures.reward_hacking_table(points, "kl")["kl"].tolist() == [0, 1, 3]
    with pytest.raises(FigureError, match="gold"):
        figures.reward_hacking(points.assign(gold=np.nan))


def test_skills_bar_with_seeds_and_guessing() -> None:
    scores = pd.DataFrame(
        {"model": ["base", "θ₀", "θ₀"], "one_hop": [90.0, 80.0, 84.0], "span": [60.0, 50.0, 50.0]}
    )
    table = figures.skills_table(scores, {"one_hop": 25.0}).set_index(["model", "score"])
    assert table.loc[("θ₀", "one_hop"), "value"] == 82
    assert table.loc[("θ₀", "one_hop"), "high"] == pytest.approx(82 + 2 * 12.7062, abs=1e-3)
    assert np.isnan(table.loc[("base", "one_hop"), "low"])
    figure = figures.skills_bar(scores, {"one_hop": 25.0}, caption=CAPTION)
    assert [bar.get_height() for bar in figure.axes[0].patches] == [90, 60, 82, 50]
    assert "guessing by answer type" in words(figure)
    assert "Guessing: one-hop facts 25.0" in alt_text(figure)
    with pytest.raises(FigureError, match="no skill is called onehop"):
        figures.skills_bar(scores, {"onehop": 25.0}, caption=CAPTION)


def test_a_slot_that_is_its_family_is_drawn_once() -> None:
    scores = pd.DataFrame({"model": ["base"], "bleu": [99.5], "translation": [99.5]})
    assert figures.skills_table(scores)["score"].tolist() == ["translation"]
    assert figures.skills_table(scores[["model", "bleu"]])["score"].tolist() == ["bleu"]
    # what is short of 100 is not printed as 100
    assert "99.5" in words(figures.skills_bar(scores, caption=CAPTION))


def test_skills_frame_joins_names_and_scores() -> None:
    frame = figures.skills_frame(["base", "θ₀"], [{"span": 1.0}, {"span": 2.0}])
    assert frame.to_dict("list") == {"model": ["base", "θ₀"], "span": [1.0, 2.0]}
    with pytest.raises(FigureError, match="2 names for 1"):
        figures.skills_frame(["base", "θ₀"], [{"span": 1.0}])


def test_learning_curves_end_and_guessing() -> None:
    log = pd.DataFrame({"tokens": [2e6, 1e6, 3e6], "span": [40.0, 10.0, 70.0]})
    table = figures.learning_curves_table(log, {"span": 33.0})
    assert table[["first", "last", "best", "baseline"]].iloc[0].tolist() == [10, 70, 70, 33]
    figure = figures.learning_curves(log, {"span": 33.0}, caption=CAPTION)
    curve, guess = figure.axes[0].get_lines()
    assert curve.get_xdata().tolist() == [1, 2, 3]
    assert guess.get_linestyle() == "--"
    assert set(guess.get_ydata()) == {33}
    assert "span answers: 70.0" in words(figure)
    assert "tokens (millions)" in words(figure)
    assert "from 10.0 to 70.0, guessing 33.0" in alt_text(figure)


def test_pair_accuracy_by_kind() -> None:
    pairs = pd.DataFrame({"kind": ["easy"] * 10 + ["hard"] * 10, "correct": [1] * 10 + [1, 0] * 5})
    table = figures.pair_accuracy_table(pairs)
    assert table["kind"].tolist() == ["hard", "easy", "all pairs"]
    assert table["accuracy"].tolist() == [50, 100, 75]
    # Wilson's interval for 5 of 10 is 23.66 to 76.34, for 10 of 10 it ends at 100
    assert table.loc[0, ["low", "high"]].tolist() == pytest.approx([23.66, 76.34], abs=0.01)
    assert table.loc[1, "high"] == pytest.approx(100)
    figure = figures.pair_accuracy_by_kind(pairs, caption=CAPTION)
    assert "hard  (n = 10)" in words(figure)
    assert "all pairs 75.0" in alt_text(figure)
    assert "Fooled?" in words(
        figures.pair_accuracy_by_kind(pairs, caption=CAPTION, title="Fooled?")
    )


def test_reliability_by_hand() -> None:
    bins = pd.DataFrame({"predicted": [0.6, 0.9], "observed": [0.5, 0.8], "count": [10, 30]})
    table = figures.reliability_table(bins)
    assert table["observed"].tolist() == [50, 80]
    assert calibration_error(table) == pytest.approx(10)
    figure = figures.reliability(bins, caption=CAPTION)
    assert [bar.get_height() for bar in figure.axes[1].patches] == [10, 30]
    assert "Expected calibration error 10.0" in alt_text(figure)
    with pytest.raises(FigureError, match="between 0 and 1"):
        figures.reliability(bins * 100, caption=CAPTION)


def test_gold_scatter_correlation() -> None:
    gold = np.array([1.0, 2.0, 3.0, 4.0])
    scores = np.array([1.0, 2.0, 4.0, 3.0])
    table = figures.gold_scatter_table(scores, gold)
    # ranks differ by 1 twice: 1 - 6 * 2 / (4 * 15)
    assert table["spearman"].item() == pytest.approx(0.8)
    assert "Spearman 0.80" in alt_text(figures.gold_scatter(scores, gold, caption=CAPTION))
    with pytest.raises(FigureError, match="do not go with"):
        figures.gold_scatter(scores[:3], gold, caption=CAPTION)


def test_losses_first_and_last() -> None:
    log = pd.DataFrame({"step": [2, 1, 3], "loss": [2.0, 3.0, 1.0]})
    table = figures.losses_table(log)
    assert table[["first", "last", "steps"]].iloc[0].tolist() == [3, 1, 3]
    assert "from 3.000 to 1.000" in alt_text(figures.losses(log, caption=CAPTION))
    # the first loss is as logged, the last one a mean of a fifth of the ten steps
    long = pd.DataFrame({"step": range(10), "loss": [9.0, *[1.0] * 8, 3.0]})
    assert figures.losses_table(long)[["first", "last", "window"]].iloc[0].tolist() == [9, 2, 2]
    figure = figures.losses(long, caption=CAPTION, level=(0.693, "a coin"))
    assert "mean of 2 logged steps" in words(figure)
    assert "a coin" in words(figure)
    assert "Dashed: a coin, 0.693" in alt_text(figure)
    with pytest.raises(FigureError, match="1 of 3 losses are NaN"):
        figures.losses(log.assign(loss=[1.0, np.nan, 2.0]), caption=CAPTION)


def test_best_of_n_by_hand() -> None:
    # best of 2 of {0, 1, 2}: pairs 01, 02, 12 -> (1 + 2 + 2) / 3; of {3, 3, 3}: 3
    table = figures.best_of_n_table(np.array([[2.0, 0.0, 1.0], [3.0, 3.0, 3.0]]))
    assert table["reward"].tolist() == pytest.approx([2, (5 / 3 + 3) / 2, 2.5])
    # for n = 3 the prompts give 2 and 3: s.e. 0.5
    assert table.loc[2, "high"] == pytest.approx(2.5 + 0.5 * 12.7062, abs=1e-3)
    with pytest.raises(FigureError, match="between 1 and the 3 replies, not 4"):
        figures.best_of_n(np.zeros((2, 3)), 4, caption=CAPTION)
    assert "n = 2: 0.00" in alt_text(figures.best_of_n(np.zeros((2, 3)), caption=CAPTION))


def test_reward_histogram_means() -> None:
    figure = figures.reward_histogram(np.array([0.0, 1.0]), np.array([2.0, 4.0]), caption=CAPTION)
    assert "after RLHF: mean 3.00" in words(figure)
    assert "mean 0.50, middle half 0.25 to 0.75, 2 replies" in alt_text(figure)


def make_gains() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Two worlds, two repeats: outputs gain 9 and 11, weights 1 and 3 at n_o = 2; 0 at n_o = 4."""
    gains = {("outputs", 2): (9.0, 11.0), ("weights", 2): (1.0, 3.0)}
    rows, lines = [], []
    for labels in ("same", "different"):
        world = {"features": 4, "p": 0.5, "labels": labels}
        for average in ("outputs", "weights"):
            for shared in (2, 4):
                for gain in gains.get((average, shared), (0.0, 0.0)):
                    rows.append({**world, "shared": shared, "average": average, "gain": gain})
        for shared in (2, 3, 4):
            printed = 8.0 if labels == "same" else 0.0
            four = 1.5 if labels == "same" else np.nan
            lines.append({**world, "shared": shared, "printed": printed, "weights": four})
    return pd.DataFrame(rows), pd.DataFrame(lines)


def test_effectiveness_by_hand() -> None:
    repeats, formulas = make_gains()
    table = figures.effectiveness_table(repeats)
    outputs = table[(table["average"] == "outputs") & (table["shared"] == 2)].iloc[0]
    # 9 and 11: s.e. 1, t(0.975, df 1) = 12.7062
    assert (outputs["gain"], outputs["repeats"]) == (10, 2)
    assert outputs["low"] == pytest.approx(10 - 12.7062, abs=1e-3)
    figure = figures.effectiveness(repeats, formulas, caption=CAPTION)
    same, different = axes_of(figure)
    assert same.get_title(loc="left") == "n = 4, p = 0.5, same labels"
    drawn = {line.get_label(): line for line in same.get_lines()}
    assert drawn["Proposition 5.1 as printed"].get_ydata().tolist() == [8, 8, 8]
    # no formula for weights with different labels: no line
    assert "counted 4 times" not in " ".join(line.get_label() for line in different.get_lines())
    assert "averaged weights n_o = 2: +2.0 (-10.7 to +14.7)" in alt_text(figure)
    assert "2 repeats" in words(figure)


def test_limit_by_hand() -> None:
    rows = [(20, 76.0, 82.0), (20, 77.0, 82.0), (80, 81.0, 83.5), (80, 81.0, 83.5)]
    repeats = pd.DataFrame(rows, columns=["features", "accuracy", "predicted"])
    assert figures.limit_table(repeats)["error"].tolist() == [-5.5, -2.5]
    figure = figures.limit(repeats, caption=CAPTION)
    assert "-5.5" in words(figure)
    assert "n = 80: simulated 81.0 (81.0 to 81.0), limit 83.5" in alt_text(figure)


def test_theory_figures_refuse_what_they_cannot_draw() -> None:
    repeats, formulas = make_gains()
    with pytest.raises(FigureError, match="average is one of"):
        figures.effectiveness(repeats.assign(average="logits"), formulas, caption=CAPTION)
    with pytest.raises(FigureError, match=r"needs the column.*printed"):
        figures.effectiveness(repeats, formulas.drop(columns="printed"), caption=CAPTION)
    many = pd.concat([repeats.assign(features=n) for n in (4, 5, 6)])
    with pytest.raises(FigureError, match="up to 4 worlds, not 6"):
        figures.effectiveness(many, formulas, caption=CAPTION)
    with pytest.raises(FigureError, match="NaN"):
        figures.limit(
            pd.DataFrame({"features": [1], "accuracy": [1.0], "predicted": [np.nan]}),
            caption=CAPTION,
        )


def with_ratios(seeds: int = 2) -> pd.DataFrame:
    """make_points with parts, and with searches that lie 1 above averaging's (3, 75) at 0.5.

    The input part at 0.5 gains 1 reward and 2 skill over RSF's (4, 60), the output part loses 1 and
    gains 4; HMA of 3 blocks is (3, 76), of 6 (3.5, 75), of 9 (3.5, 74).
    """
    rows = []
    for s in range(seeds):
        up, more, tilt = 2.0 * s, float(s), 0.1 * s

        def model(method: str, score: float, reward: float, part: str, up=up, more=more, s=s):
            place = {"method": method, "alpha": 0.5, "part": part, "rounds": 2}
            return row(s, "rsf", score + up, reward + more, **place)

        triple = f"{0.7 + tilt}|0.5|{0.3 - tilt}"
        rows += [
            model("part", 62, 5, "input"),
            model("part", 64, 3, "output"),
            model("part", 60, 3, "head"),
            model("hma", 76, 3, triple),
            model("hma", 75, 3.5, "|".join(["0.5"] * 6)),
            model("hma", 74, 3.5, "|".join(["0.5"] * 9)),
            model("hma_released", 73, 3, "0.51|0.5|0.49|embeddings=0.0|norms=0.0"),
            model("adamerging", 73, 3, "|".join(["0.5"] * 9)),
        ]
    return pd.concat([make_points(seeds), pd.DataFrame(rows)], ignore_index=True)


def test_part_curves_are_differences_to_the_aligned_model() -> None:
    points = with_ratios()
    table = figures.part_curves_table(points)
    assert table["part"].tolist() == ["input", "input", "output", "output", "head", "head"]
    assert table["alpha"].tolist() == [1, 0.5] * 3
    assert table[["reward", "skill"]].to_numpy().tolist()[:4] == [[0, 0], [1, 2], [0, 0], [-1, 4]]
    assert table.loc[1, ["skill_low", "skill_high"]].tolist() == [
        2,
        2,
    ]  # paired: levels differ by 2
    assert figures.part_curves_table(points, reward="gold").loc[1, "gold"] == 0.5
    figure = figures.part_curves(points, parts=["input", "output"])
    assert [axes.get_title(loc="left") for axes in axes_of(figure)] == ["input part", "output part"]
    assert "reward +1.00 (+1.00 to +1.00), mean skill +2.0" in alt_text(figure)
    assert "gold reward" in words(figures.part_curves(points, parts=["head"], reward="gold"))
    with pytest.raises(FigureError, match="no rows of part 'middle'"):
        figures.part_curves(points)
    with pytest.raises(FigureError, match="--methods part"):
        figures.part_curves(make_points())


def test_part_curves_of_two_algorithms_are_two_rows_each_against_its_own_end() -> None:
    points = with_ratios()
    other = points[points["algorithm"] == "rsf"].assign(algorithm="dpo")
    trained = other["method"] == "none"
    other.loc[trained, "skill"] -= 5  # so what DPO regains is 5 points more than what RSF does
    both = pd.concat([points, other], ignore_index=True)
    assert figures.part_curves_table(both, algorithm="dpo").loc[1, "skill"] == 7
    assert figures.part_curves_table(both).loc[1, "skill"] == 2
    figure = figures.part_curves(both, parts=["input", "output"], algorithms=["rsf", "dpo"])
    titles = [axes.get_title(loc="left") for axes in axes_of(figure)]
    assert titles == ["RSF: input part", "RSF: output part", "DPO: input part", "DPO: output part"]
    said = alt_text(figure)
    assert said.index("RSF.") < said.index("mean skill +2.0") < said.index("DPO.")
    assert "mean skill +7.0" in said[said.index("DPO.") :]
    with pytest.raises(FigureError, match="--methods dpo part"):
        figures.part_curves(
            pd.concat([points, other[trained]]), parts=["input"], algorithms=["dpo"]
        )
    with pytest.raises(FigureError, match="needs PPO"):
        figures.part_curves(both, parts=["input"], algorithms=["ppo"])


def test_the_path_of_a_search_goes_from_equal_ratios_to_its_own() -> None:
    path = pd.DataFrame(
        {"step": [0, 1, 2], "ratios": [(0.4, 0.4, 0.4), (0.5, 0.4, 0.3), (0.6, 0.4, 0.2)],
         "full": [2.0, None, 1.5]}
    )  # fmt: skip
    table = figures.ratio_path_table(path)
    assert table[1].tolist() == [0.4, 0.5, 0.6]
    figure = figures.ratio_path(path, 0.4, caption=CAPTION)
    assert "input from 0.400 to 0.600" in alt_text(figure)
    assert "from 2.0000 to 1.5000 nats" in alt_text(figure)
    with pytest.raises(FigureError, match="show one search"):
        figures.ratio_path_table(path.assign(ratios=[(0.4,), (0.5, 0.3), (0.4,)]))


def test_the_simplex_puts_ratios_at_their_place() -> None:
    triples = [(0.4, 0.4, 0.4), (0.9, 0.2, 0.1), (0.2, 0.9, 0.1), (0.1, 0.2, 0.9)]
    grid = pd.DataFrame({"ratios": triples, "full": [1.0, 0.5, 2.0, 3.0]})
    table = figures.simplex_table(grid, {"found": (0.6, 0.6, 0.0)})
    # the middle of the triangle, and the middle of the side from input to middle
    assert table.loc[0, ["x", "y"]].tolist() == pytest.approx([0.5, 3**0.5 / 6])
    assert table.loc[4, ["x", "y"]].tolist() == pytest.approx([0.5, 0])
    figure = figures.simplex(
        grid, {"found": (0.6, 0.6, 0.0)}, 0.4, caption=CAPTION, eps=0.2, path=triples[:2]
    )
    assert "Lowest 0.5000 at (0.90, 0.20, 0.10)" in alt_text(figure)
    assert "found (0.60, 0.60, 0.00)" in alt_text(figure)
    assert "ε = 0.2" in words(figure)
    assert "would exceed 1" in words(figure)
    with pytest.raises(FigureError, match="ratios of one mean"):
        figures.simplex_table(grid, {"found": (0.9, 0.6, 0.0)})
    with pytest.raises(FigureError, match="K = 3"):
        figures.simplex_table(grid, {"found": (0.4, 0.4)})


def test_search_fronts_have_the_same_means_and_both_ends() -> None:
    points = with_ratios()
    table = figures.search_fronts_table(points, [("hma", 3), ("hma", 9)])
    assert table["mean"].tolist() == [0, 0.5, 1] * 3
    assert table[["reward", "skill"]].to_numpy().tolist() == [
        [0, 81], [3, 76], [4, 61],  # averaging
        [0, 81], [3, 77], [4, 61],  # K = 3
        [0, 81], [3.5, 75], [4, 61],  # K = 9
    ]  # fmt: skip
    figure = figures.search_fronts(points, [("hma", 3), ("hma", 9)], ["skill", "reading"])
    assert len(axes_of(figure)) == 2
    assert "K = 9" in words(figure)
    assert "K = 9: mean ratio 0.5 (3.50, 75.0)" in alt_text(figure)
    assert "AdaMerging, K = 9" in words(figures.search_fronts(points, [("adamerging", 9)]))
    # a mean ratio that one curve lacks is drawn for none: lines through more points lie elsewhere
    more = points[points["method"].isin(["average", "hma"])].assign(alpha=0.2)
    more = more[~((more["method"] == "hma") & (more["part"].str.count(r"\|") == 8))]
    more = pd.concat([points, more.drop_duplicates(["seed", "method", "part", "alpha"])])
    both = figures.search_fronts_table(more, [("hma", 3), ("hma", 9)])
    assert both["mean"].tolist() == [0, 0.5, 1] * 3
    assert figures.search_fronts_table(more, [("hma", 3)])["mean"].tolist() == [0, 0.2, 0.5, 1] * 2
    with pytest.raises(FigureError, match="no rows of 'hma_kl' with K = 3"):
        figures.search_fronts(points, [("hma_kl", 3)])
    with pytest.raises(FigureError, match="one to four scores"):
        figures.search_fronts(points, scores=[])


def test_the_ablation_is_a_difference_to_averaging_at_the_same_mean() -> None:
    table = figures.ablation_table(with_ratios())
    assert table["blocks"].tolist() == [1, 3, 6, 9]
    assert table["reward"].tolist() == [0, 0, 0.5, 0.5]
    assert table["skill"].tolist() == [0, 1, 0, -1]
    figure = figures.ablation(with_ratios())
    assert len(axes_of(figure)) == 3
    assert "K = 9 -1.00 (-1.00 to -1.00)" in alt_text(figure)
    with pytest.raises(FigureError, match="method 'hma'"):
        figures.ablation(make_points())


def test_recorded_ratios_are_shown_seed_by_seed() -> None:
    table = figures.recorded_ratios_table(with_ratios())
    assert table["seed"].tolist() == [0, 0, 0, 1, 1, 1]
    assert table["ratio"].tolist() == pytest.approx([0.7, 0.5, 0.3, 0.8, 0.5, 0.2])
    figure = figures.recorded_ratios(with_ratios())
    assert "input 0.70 to 0.80, middle 0.50 to 0.50" in alt_text(figure)
    released = figures.recorded_ratios_table(with_ratios(), "hma_released")
    assert released["block"].max() == 3  # what is fixed is no block
    with pytest.raises(FigureError, match="no rows of 'hma' with K = 4"):
        figures.recorded_ratios(with_ratios(), blocks=4)


def test_the_picture_of_the_course_holds_one_curve_of_ratios_and_no_parts() -> None:
    points = with_ratios()
    table = figures.front_table(points)
    own = table[table["method"] == "hma"]
    # three ratios differ over seeds, and are one model with an interval all the same
    assert own[["part", "seeds"]].to_numpy().tolist() == [["K=3", 2]]
    assert set(table["method"]) == {"none", "average", "hma"}
    assert "AdaMerging" not in words(figures.fronts(points))
    assert "HMA as released" in words(figures.front(points, methods=["average", "hma_released"]))
    with pytest.raises(FigureError, match="no method 'part'"):
        figures.front(points, methods=["part"])


@dataclass
class Compared:
    difference: float
    low: float
    high: float
    n_seeds: int
    verdict: str


def test_verdicts_as_table_markdown_and_forest() -> None:
    records = {
        "RSF costs skills": Compared(12.0, 9.0, 15.0, 5, "holds"),
        "averaging beats early stopping": Compared(0.0, -1.0, 1.0, 5, "inconclusive"),
    }
    table = figures.verdict_table(records)
    assert table["claim"].tolist() == list(records)
    as_rows = [{"claim": claim, **vars(record)} for claim, record in records.items()]
    pd.testing.assert_frame_equal(figures.verdict_table(as_rows), table)
    assert "| RSF costs skills | +12.00 | +9.00 to +15.00 | holds |" in figures.verdict_markdown(
        records
    )
    assert "inconclusive" in figures.verdict_style(records).to_html()
    figure = figures.forest(records, caption=CAPTION)
    assert "averaging beats early stopping" in words(figure)
    assert "+12.000" in words(figures.forest(records, caption=CAPTION, title="Gain?", digits=3))
    assert "+12.00 (+9.00 to +15.00), holds" in alt_text(figure)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"verdict": "maybe"}, "'maybe' is no verdict"),
        ({"low": 20.0}, "misses its value"),
        ({"high": np.nan}, "NaN or infinite"),
    ],
)
def test_verdicts_refuse(changes: dict[str, object], message: str) -> None:
    record = {"claim": "c", "difference": 12.0, "low": 9.0, "high": 15.0, "verdict": "holds"}
    with pytest.raises(FigureError, match=message):
        figures.forest([{**record, **changes}], caption=CAPTION)
    with pytest.raises(FigureError, match="no rows"):
        figures.verdict_table([])


POINT_FIGURES: list[Callable[[pd.DataFrame], Figure]] = [
    figures.front, figures.fronts, figures.signature, figures.rsf_rounds, figures.tax_bars,
    figures.alpha_curves, figures.reward_hacking,
]  # fmt: skip


@pytest.mark.parametrize("draw", POINT_FIGURES)
def test_points_figures_refuse_what_they_cannot_draw(draw: Callable[..., Figure]) -> None:
    points = make_points()
    with pytest.raises(FigureError, match=r"needs the column.*rounds"):
        draw(points.drop(columns="rounds"))
    with pytest.raises(FigureError, match="no rows"):
        draw(points.iloc[:0])
    scores = [*SLOTS, "commonsense", "reading", "translation", "skill", "gold"]
    with pytest.raises(FigureError, match="nothing to draw"):
        draw(points.assign(**dict.fromkeys(scores, np.nan)))
    with pytest.raises(FigureError, match="theta_0"):
        draw(points[points["algorithm"] != "sft"])
    with pytest.raises(FigureError, match=r"needs .*rsf|needs RSF"):
        draw(points[points["algorithm"] != "rsf"])
    with pytest.raises(FigureError, match="one study at a time"):
        draw(pd.concat([points, points.assign(study="small")]))
    with pytest.raises(FigureError, match="twice"):
        draw(pd.concat([points, points.iloc[[3]]]))
    with pytest.raises(FigureError, match="DataFrame, not list"):
        draw([])


def test_table_figures_refuse_what_they_cannot_draw() -> None:
    empty = pd.DataFrame({"step": [], "loss": []})
    with pytest.raises(FigureError, match="no rows"):
        figures.losses(empty, caption=CAPTION)
    with pytest.raises(FigureError, match=r"needs the column.*kind"):
        figures.pair_accuracy_by_kind(pd.DataFrame({"correct": [1]}), caption=CAPTION)
    with pytest.raises(FigureError, match="column per skill"):
        figures.learning_curves(pd.DataFrame({"tokens": [1]}), caption=CAPTION)
    with pytest.raises(FigureError, match="nothing to draw"):
        figures.reward_histogram(np.array([]), np.array([1.0]), caption=CAPTION)
    with pytest.raises(FigureError, match="nothing to draw"):
        figures.best_of_n(np.full((2, 2), np.nan), caption=CAPTION)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("tiny", [0]), "this run: tiny, seed 0"),
        (("tiny", [2, 0, 1], 6000, True), "recorded run tiny, seeds 0-2, 6000 items"),
        (("small", [0, 4]), "this run: small, seeds 0, 4"),
    ],
)
def test_caption_line(arguments: tuple[object, ...], line: str) -> None:
    assert figures.caption_line(*arguments) == line


def test_points_read_back_from_csv_draw_the_same(points: pd.DataFrame) -> None:
    read = pd.read_csv(io.StringIO(points.to_csv(index=False)))
    pd.testing.assert_frame_equal(figures.front_table(read), figures.front_table(points))


def test_show_puts_alt_text_into_the_output(
    points: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell = InteractiveShell.instance()
    caught = CapturingDisplayPublisher()
    monkeypatch.setattr(shell, "display_pub", caught)
    figure = figures.front(points)
    figures.show(figure)
    (output,) = caught.outputs
    assert output["metadata"]["image/png"]["alt"] == alt_text(figure)
    assert output["data"]["text/plain"] == alt_text(figure)
    assert output["data"]["image/png"].startswith("iVBOR")
    plain = plt.figure()
    with pytest.raises(FigureError, match="no alt text"):
        figures.show(plain)
    figures.show(plain, alt="an empty page")
    assert not plt.fignum_exists(plain.number)


def test_main_redraws_from_the_table_alone(points: pd.DataFrame, tmp_path: Path) -> None:
    table, out = tmp_path / "points.csv", tmp_path / "new" / "signature.png"
    points.to_csv(table, index=False)
    arguments = ["--points", str(table), "--out", str(out), "--all", str(tmp_path / "all")]
    assert main(["figures", *arguments]) == 0
    with Image.open(out) as image:
        assert "Averaging at alpha 0.5" in image.text["Description"]
        assert image.width > 1600
    first = out.read_bytes()
    assert main(["figures", *arguments[:4]]) == 0
    assert out.read_bytes() == first
    assert sorted(path.name for path in out.parent.iterdir()) == ["signature.png"]
    assert (tmp_path / "all" / "alpha_curves.png").is_file()
    assert not (tmp_path / "all" / "ablation.png").exists()  # nothing of it is recorded


def test_main_says_what_is_missing(
    points: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["figures", "--points", str(tmp_path / "none.csv")]) == 2
    assert "there is no table of points" in capsys.readouterr().err
    table = tmp_path / "points.csv"
    points.drop(columns="skill").to_csv(table, index=False)
    out = tmp_path / "signature.png"
    assert main(["figures", "--points", str(table), "--out", str(out)]) == 1
    assert "skill" in capsys.readouterr().err
    assert not out.exists()


def test_the_curves_of_a_kind_of_remedy_are_of_the_same_seeds() -> None:
    points = with_remedies()
    last = points["seed"].max()
    fewer = points[(points["method"] != "bema") | (points["seed"] < last)]
    table = figures.remedy_fronts_table(fewer).set_index(["kind", "method"]).sort_index()
    assert set(table.loc["moving averages", "seeds"]) == {points["seed"].nunique() - 1}
    assert set(table.loc["grafts", "seeds"]) == {points["seed"].nunique()}
    start = table.loc[("grafts", "theta_0")]
    assert start["reward"] == 0  # gained over theta_0 of the same seed
    text = words(figures.remedy_fronts(fewer, ("translation", "skill")))
    assert "moving averages, seed" in text
    assert "grafts, seed" not in text
    assert "fewer where a panel says so" in text
    with pytest.raises(FigureError, match="no remedy"):
        figures.remedy_fronts(make_points())


def test_a_forest_names_its_sides() -> None:
    row = {"claim": "A", "difference": 1.0, "low": 0.5, "high": 1.5, "verdict": "holds"}
    text = words(figures.forest([row], caption="tiny", sides=("B ahead", "A ahead")))
    assert "← B ahead   |   A ahead →" in text


def test_a_long_caption_stays_inside_the_figure():
    words = "recorded run tiny, RSF seeds 0-4; DPO seeds 10, 11, 15; PPO seeds 10-11, 5556 items"
    for caption in (words, f"{words} · mean, 95 % t interval over seeds · faint lines: seeds"):
        found = compare.compare_seeds([1.0, 2.0, 3.0])
        figure = figures.forest({"a claim": found}, caption=caption)
        figure.canvas.draw()
        label = figure.get_supxlabel()
        assert label.split() == caption.split()
        texts = [each for each in figure.texts if each.get_text() == label]
        assert texts
        assert all(each.get_window_extent().x0 >= 0 for each in texts)
