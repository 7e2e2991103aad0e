"""The README's figures: the course in one drawing, and both drawn from the table of points."""

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from alignment_tax import settings
from alignment_tax.figures import style
from alignment_tax.figures.pareto import front
from alignment_tax.results.points import TableError
from alignment_tax.results.recorded import RecordError, read_table, recording_key

#: name, what happens, chapter, place (of the middle of a box) and colour
STAGES = (
    ("base model", "pretrained on text:\nfacts, passages, French", "01", 0.0, 0.0, style.GREY),
    ("θ₀", "instruction tuning (SFT):\nit answers requests", "02", 1.0, 0.0, style.SKY),
    ("reward model", "learns from pairs which\nreply people prefer", "03", 1.5, 1.0, style.GREEN),
    ("θ", "RLHF: sample, keep what\nis rewarded, finetune", "04-06", 2.0, 0.0, style.VERMILLION),
    ("average", "(1 − α) θ₀ + α θ:\nweights of both, mixed", "09-11", 3.0, 0.0, style.BLUE),
)
LEFT, RIGHT, TOP, BOTTOM = (-1, 0), (1, 0), (0, 1), (0, -1)
#: Where each arrow begins and ends: a box and one of its sides; and its bend.
ARROWS = (
    ("base model", RIGHT, "θ₀", LEFT, 0.0),
    ("θ₀", RIGHT, "θ", LEFT, 0.0),
    ("θ₀", TOP, "reward model", LEFT, -0.25),
    ("reward model", RIGHT, "θ", TOP, -0.25),
    ("θ", RIGHT, "average", LEFT, 0.0),
    ("θ₀", BOTTOM, "average", BOTTOM, 0.34),
)
HALF = (0.41, 0.32)  # of a box


@style.in_style()
def pipeline() -> Figure:
    """Draw the pipeline: base model, SFT, reward model, RLHF, average; the tax is marked."""
    figure, [[axes]] = style.panels(size=(style.PANELS[0], 4.4))
    places = {name: (x, y) for name, _, _, x, y, _ in STAGES}
    for start, begins, end, ends, bend in ARROWS:
        tail, head = (
            [places[name][i] + side[i] * HALF[i] for i in (0, 1)]
            for name, side in ((start, begins), (end, ends))
        )
        arrow = {"arrowstyle": "-|>", "color": style.INK, "linewidth": 1.6, "mutation_scale": 16}
        axes.annotate("", head, tail, arrowprops=arrow | {"connectionstyle": f"arc3,rad={bend}"})
    for name, what, chapter, x, y, colour in STAGES:
        box = FancyBboxPatch(
            (x - HALF[0], y - HALF[1]), 2 * HALF[0], 2 * HALF[1], facecolor="white", zorder=2,
            edgecolor=colour, linewidth=2.6, boxstyle="round,pad=0,rounding_size=0.08",
        )  # fmt: skip
        axes.add_patch(box)
        axes.text(x, y + 0.18, name, ha="center", va="center", weight="bold", size=15)
        axes.text(x, y - 0.04, what, ha="center", va="center", size=10.5, linespacing=1.3)
        axes.text(x, y - 0.23, f"chapter {chapter}", ha="center", va="center", size=9,
                  color=style.GREY)  # fmt: skip
    axes.text(
        2.0, -0.5, "here skills are lost: the tax", ha="center", size=12, weight="bold",
        color=style.VERMILLION,
    )  # fmt: skip
    axes.set(xlim=(-0.45, 3.45), ylim=(-1.05, 1.36))
    axes.axis("off")
    table = pd.DataFrame([stage[:3] for stage in STAGES], columns=["name", "what", "chapter"])
    words = (
        "Base model, then instruction tuning makes θ₀, then RLHF with the help of a reward model "
        "makes θ, then the average of the weights of θ₀ and θ."
    )
    table["what"] = table["what"].str.replace("\n", " ")
    return style.finish(figure, "How a model is aligned", "θ: the weights", table, head=words)


def redraw_figures(points: Path | None = None, out: Path | None = None) -> None:
    """Redraw reward against skills (`out`), and the pipeline beside (SettingsError: no table)."""
    table = points or settings.results_folder() / "tiny" / "points.csv"
    target = out or settings.results_folder() / "signature.png"
    if not table.is_file():
        raise settings.SettingsError(
            f"There is no table of points at {table}. Name one with --points, or record one with: "
            "alignment-tax record tiny"
        )
    try:
        figure = front(read_table(table), recorded=True)
    except TableError as error:
        raise RecordError(f"{table}: {error} Name another table with --points.") from error
    key = "" if points else recording_key()
    drawing = target.with_name("pipeline.png")  # has no numbers
    for each, path, stamp in ((figure, target, key), (pipeline(), drawing, "")):
        print(f"{style.save(each, path, recording=stamp)}\n  {style.alt_text(each)}")
