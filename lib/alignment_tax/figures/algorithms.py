"""RSF, its control, DPO, RLOO and PPO side by side, of the seeds that all of them have."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from alignment_tax.figures import primitives as draw, style
from alignment_tax.figures.style import ALGORITHMS, Look, run_caption
from alignment_tax.labels import ALGORITHM_NAMES, AXIS_NAMES, FAMILY_NAMES, FORGIVEN, number
from alignment_tax.results import points as select
from alignment_tax.results.points import TableError
from alignment_tax.stats import forgetting
from alignment_tax.stats.compare import summarise

# How the two ways through one algorithm are drawn: its rounds, and the averages of its ends.
ROUNDS = Look("as trained, round by round", style.BLACK, "s")
AVERAGES = Look("average of θ₀ and the last round", style.BLUE, "o")
LABELLED_ALPHAS = (0.2, 0.5, 0.8)
CONTROLLED = ("rsf", "rsf_random")
WAYS = ("as written", "format forgiven")  # the two ways in which a skill is scored


def _since(
    points: pd.DataFrame, values: list[str], names: Sequence[str], changed: list[str]
) -> tuple[pd.DataFrame, list[str]]:
    """Return the rows of seeds with all of these algorithms, `changed` since theta_0; the names."""
    rows = select.prepare(points, values, changed)
    if there := select.present(rows, names):
        return select.shared(rows, names), there
    raise TableError(f"algorithms: there are no rounds of {', '.join(names)}.")


@style.in_style()
def taxes(
    points: pd.DataFrame, names: Sequence[str] = CONTROLLED, recorded: bool = False
) -> Figure:
    """Draw what algorithms cost, family by family: as written left, with format forgiven right."""
    scores = [*FORGIVEN, *FORGIVEN.values()]
    rows, names = _since(points, scores, names, scores)
    ends = pd.concat([select.last_round(rows, name) for name in names])
    long = ends.melt(["algorithm", "seed"], scores, "score", "tax")
    families = {forgiven: family for family, forgiven in FORGIVEN.items()}
    long["family"] = long["score"].replace(families).map(FAMILY_NAMES)
    long["way"] = np.where(long["score"].isin(families), WAYS[1], WAYS[0])
    table = summarise(long, ["way", "algorithm", "family"], ["tax"])
    lines = [FAMILY_NAMES[family] for family in ("skill", "commonsense", "reading", "translation")]
    size = (style.PANELS[0], 2.6 + 0.75 * max(len(names), 2))
    label = "points since θ₀ (left of 0: lost)"
    figure, [line] = style.panels(1, 2, size, sharey=True, xlabel=label)
    for axes, way in zip(line, WAYS, strict=True):
        for place, name in enumerate(names):
            own = table[(table["algorithm"] == name) & (table["way"] == way)]
            aside = 0.7 / len(names) * (place - (len(names) - 1) / 2)
            draw.forest(axes, own, name="family", value="tax", looks=[ALGORITHMS[name]] * len(own),
                        names=lines, aside=aside, digits=None)  # fmt: skip
        axes.axvline(0, color=style.INK, linewidth=1.4)
        axes.set_title(way)
        axes.set_ylim(len(lines) - 0.5, -0.5)
        for edge in range(1, len(lines)):
            axes.axhline(edge - 0.5, color="#E4E4E4", linewidth=0.8)
    title = "What is lost: with talk around the answer counted, and with it forgiven"
    return style.finish(figure, title, run_caption(rows, recorded), table, legend_columns=4)


@style.in_style()
def rounds(
    points: pd.DataFrame, names: Sequence[str] = CONTROLLED, recorded: bool = False
) -> Figure:
    """Draw the change in mean skill over the rounds: as written, and with format forgiven."""
    values = ["skill", "forgetting"]
    rows, names = _since(points, values, names, values)
    rows = pd.concat([select.rounds_from_0(rows, name) for name in names])
    table = summarise(rows, ["algorithm", "rounds"], values)
    label = "change in mean skill since θ₀ (points)"
    size, looks = (style.PANELS[0], 4.9), {name: ALGORITHMS[name] for name in names}
    figure, [line] = style.panels(1, 2, size, sharey=True, xlabel="rounds", ylabel=label)
    for axes, y, way in zip(line, values, WAYS, strict=True):
        draw.curves(axes, table, "algorithm", "rounds", y, looks, seeds=rows, order="rounds",
                    apart=0.12)  # fmt: skip
        draw.level(axes, 0)
        axes.set_title(way)
        axes.xaxis.get_major_locator().set_params(integer=True)
    title = "How the tax grows, round by round"
    return style.finish(figure, title, run_caption(rows, recorded), table, legend_columns=4)


@style.in_style()
def algorithm_fronts(
    points: pd.DataFrame, score: str = "forgetting", recorded: bool = False
) -> Figure:
    """Draw a skill against reward, a panel an algorithm: rounds and averages (paper Fig. 14)."""
    values = ["reward", score]
    mixed, names = _since(points, values, select.RLHF, ["reward"])
    rows = pd.concat([select.rounds_from_0(mixed, name) for name in names])
    mixed = mixed[(mixed["method"] == "average") & mixed["algorithm"].isin(names)]
    rows = pd.concat([rows, mixed], ignore_index=True)
    table = summarise(rows, ["algorithm", "method", "rounds", "alpha"], values)
    averages = table[table["method"] == "average"].sort_values("alpha")
    across, down = min(2, len(names)), (len(names) + 1) // 2
    figure, grid = style.panels(
        down, across, (style.PANELS[0], 1.0 + 3.8 * down), used=len(names), sharex=True,
        sharey=True, xlabel="reward gained over θ₀", ylabel=AXIS_NAMES[score],
    )  # fmt: skip
    for axes, name in zip(grid.flat, names, strict=False):
        if name != "rsf" and len(behind := averages[averages["algorithm"] == "rsf"]):
            look = Look("the averages of RSF", style.GREY)
            draw.line(axes, behind, "reward", score, look, linestyle=":", linewidth=1.4, zorder=1)
        mine = averages[averages["algorithm"] == name]
        draw.line(axes, mine, "reward", score, Look("_", style.BLUE), zorder=1.5)
        inner = mine[mine["alpha"].between(0, 1, inclusive="neither")]
        few = LABELLED_ALPHAS if name == "rsf" else LABELLED_ALPHAS[1:2]  # others lie close
        shown = inner["alpha"].round(3).isin(few)
        draw.curve(axes, draw.barless(inner, ~shown), "reward", score, AVERAGES, bars="y")
        for x, y, alpha in inner.loc[shown, [*values, "alpha"]].to_numpy():
            draw.note(axes, f"α {alpha:g}", x, y, (1, 1), far=6, color=style.BLUE, fontsize=10)
        own = select.as_trained(table, name).sort_values("rounds")
        ends = draw.barless(own, own["rounds"] < own["rounds"].max())
        draw.curve(axes, ends, "reward", score, ROUNDS, bars="y")
        draw.star(axes, *own[values].iloc[0], label="θ₀")
        axes.set_title(ALGORITHM_NAMES[name])
    title = f"{FAMILY_NAMES[score].capitalize()}, against reward"
    return style.finish(figure, title, run_caption(rows, recorded), table, legend_columns=4)


@style.in_style()
def kl_penalty(
    points: pd.DataFrame, own: float, score: str = "forgetting", recorded: bool = False
) -> Figure:
    """Draw skill against reward: PPO's KL coefficients, `own` among them, and averages (Fig. 8)."""
    values = ["reward", score]
    rows = select.prepare(points, values, since=["reward"])
    ppo = rows[rows["algorithm"] == "ppo"]
    swept = ppo[ppo["method"] == "kl_coef"]
    if swept.empty:
        raise TableError("kl_penalty needs PPO under another KL coefficient: none is recorded.")
    plain = select.last_round(ppo, "ppo").assign(method="kl_coef", strength=own)
    rows = pd.concat([swept, plain, ppo[ppo["method"] == "average"]], ignore_index=True)
    rows = rows[rows["seed"].isin(swept["seed"])]
    rows = rows.assign(dial=rows["strength"].fillna(rows["alpha"]))
    drawn = summarise(rows, ["method", "strength", "alpha", "dial"], values)
    size, label = (style.PANELS[0], style.WIDE[1]), f"{AXIS_NAMES[score]}  →"
    figure, [[axes]] = style.panels(size=size, xlabel=style.GAIN, ylabel=label)
    looks = {"kl_coef": style.METHODS["kl_coef"], "average": AVERAGES}
    draw.curves(axes, drawn, "method", "reward", score, looks, seeds=rows, order="dial", bars="y")
    for x, y, strength in drawn.loc[drawn["method"] == "kl_coef", [*values, "strength"]].to_numpy():
        draw.note(axes, f"{strength:g}", x, y, (1, 1), far=6, color=looks["kl_coef"].colour)
    title, table = "A heavier KL penalty, or averaging?", drawn.drop(columns="dial")
    return style.finish(figure, title, run_caption(rows, recorded), table, legend_columns=2)


@style.in_style()
def razor(points: pd.DataFrame, recorded: bool = False) -> Figure:
    """Draw forgetting against KL both ways, and one curve for all models."""
    select.need(points, ["algorithm", "method", "seed", "kl", "forgetting"])
    rows = forgetting.forgetting(points)
    xs = [name for name in forgetting.X_NAMES if rows[name].nunique() >= 4]  # what a fit needs
    if not xs:
        raise TableError("razor has nothing to draw: fewer models than a fit needs.")
    label = "forgotten: points of mean skill,\nformat forgiven"
    figure, [line] = style.panels(1, len(xs), (style.PANELS[0], 5.2), sharey=True, ylabel=label)
    table = []
    for axes, x in zip(line, xs, strict=True):
        for (name, swept), own in rows.groupby(["algorithm", rows["method"] == "kl_coef"]):
            look = ALGORITHMS[str(name)]
            draw.curve(
                axes, own, x, "tax", look, hollow=bool(swept), bars="", linestyle="none",
                markersize=6, alpha=1 if name == "rsf_random" else 0.75,
                label=look.label + ", other KL coefficients" * bool(swept),
            )  # fmt: skip
        found = forgetting.fit(rows, x)
        way = pd.DataFrame({x: np.linspace(0.0, rows[x].max(), 300)})
        fitted = Look("one curve for all", style.BLACK)
        draw.line(axes, way.assign(tax=found(way[x].to_numpy())), x, "tax", fitted, zorder=3)
        draw.level(axes, 0)
        draw.star(axes, 0, 0, label="θ₀", size=15)
        root = (lambda values: np.sqrt(np.maximum(values, 0.0)), np.square)
        axes.set_xscale("function", functions=root)
        axes.set_xlim(0, 1.08 * rows[x].max())
        axes.set_xlabel(f"{forgetting.X_NAMES[x]}, nats a reply (root scale)")
        axes.set_title(f"R² = {number(found.r_squared, 2)}", fontsize=12.5)
        table.append({"line": forgetting.X_NAMES[x], "models": len(rows), "R²": found.r_squared})
    title, caption = "Does KL tell how much is forgotten?", run_caption(rows, recorded)
    caption = f"{caption.split(' · ')[0]} · a marker: a model"
    return style.finish(figure, title, caption, pd.DataFrame(table), legend_columns=4)
