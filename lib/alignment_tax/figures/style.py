"""One look for the whole course: colours, markers, panels, alt text, showing, saving."""

from __future__ import annotations

import base64
import io
import os
import tempfile
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from cycler import cycler
from IPython.display import display
from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.layout_engine import ConstrainedLayoutEngine
from PIL import Image, PngImagePlugin

from alignment_tax.figures.words import describe
from alignment_tax.results.points import TableError

# Okabe and Ito's eight colours, told apart with every common form of colour blindness.
BLACK = "#000000"
ORANGE = "#E69F00"
SKY = "#56B4E9"
GREEN = "#009E73"
YELLOW = "#F0E442"
BLUE = "#0072B2"
VERMILLION = "#D55E00"
PURPLE = "#CC79A7"
OKABE_ITO = (BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILLION, PURPLE)
GREY = "#6E6E6E"
BROWN = "#8B6D00"  # beside the eight: darker than orange, lighter than black
INK = "#333333"  # axes, zero lines, error bars of bars

WIDE = (8.5, 5.2)
PANELS = (11.0, 7.4)
DPI = 120
#: Letters of a caption that fit into an inch of a figure's width; a longer one gets a second line.
CAPTION_PER_INCH = 13.3
TITLE_FONT = FontProperties(size=15, weight="bold")
# what a label stands on, so that lines and the small markers of single seeds don't cross it
PAPER = {"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.8}

#: The table that each figure shows; `finish` puts it here.
_TABLES: WeakKeyDictionary[Figure, pd.DataFrame] = WeakKeyDictionary()


@dataclass(frozen=True)
class Look:
    """How one method is drawn: the words of the legend, a colour and a marker."""

    label: str
    colour: str
    marker: str


# The words of the `method` column; every (colour, marker) pair occurs once. The labels are the
# names in text and tables as well (`remedies.NAMES`).
METHODS: dict[str, Look] = {
    "average": Look("averaging the weights", BLUE, "o"),
    "early_stopping": Look("stopping RSF early", VERMILLION, "s"),
    "hma": Look("HMA", GREEN, "D"),
    "distil": Look("distilled, no remedy", VERMILLION, "P"),
    "distil+average": Look("averaging the distilled run", BLUE, "D"),
    # a colour a kind: weights, outputs, rank, replayed text, averages along the path, masks
    "l1": Look("L1", SKY, "^"),
    "l2": Look("L2", SKY, "v"),
    "kl": Look("KL penalty", PURPLE, "<"),
    "kd": Look("KD", PURPLE, ">"),
    "kd_squared": Look("KD, squared", PURPLE, "h"),
    "lora": Look("LoRA", GREEN, "X"),
    "lora_mlp": Look("LoRA on the MLP", GREEN, "p"),
    "replay": Look("replay", ORANGE, ">"),
    "replay_other": Look("replay without the evaluated formats", ORANGE, "X"),
    "sma": Look("SMA", BROWN, "o"),
    "ema": Look("EMA", BROWN, "^"),
    "bema": Look("BEMA", BROWN, "v"),
    "graft": Look("graft", BLACK, "d"),
    "graft_random": Look("graft at random", BLACK, "s"),
    "graft_learnt": Look("learnt graft", BLACK, "^"),
    "part": Look("averaging one part", SKY, "H"),
    "pattern": Look("ratios set by hand", BROWN, "D"),
    "hma_eq11": Look("HMA by Eq. 11", GREEN, "v"),
    "hma_grid": Look("best point of a grid", GREEN, "s"),
    "hma_released": Look("HMA as released", VERMILLION, "X"),
    "hma_reward": Look("the reward itself (Eq. 3)", ORANGE, "v"),
    "hma_kl": Look("HMA with a KL term", SKY, "D"),
    "hma_kl_other": Look("HMA with a KL term, other formats", BROWN, "s"),
    "adamerging": Look("AdaMerging", PURPLE, "p"),
    "kl_coef": Look("another KL coefficient", ORANGE, "s"),
}

# Models as trained, by the words of the `algorithm` column.
ALGORITHMS: dict[str, Look] = {
    "sft": Look("before RLHF (θ₀)", BLACK, "*"),
    "rsf": Look("RSF", VERMILLION, "s"),
    "rsf_random": Look("control: a random reply", GREY, "d"),
    "dpo": Look("DPO", PURPLE, "v"),
    "ppo": Look("PPO", ORANGE, "^"),
    "rloo": Look("RLOO", SKY, "D"),
}

FAMILY_LOOKS: dict[str, Look] = {
    "commonsense": Look("common sense", GREEN, "^"),
    "reading": Look("reading", PURPLE, "v"),
    "translation": Look("translation", SKY, "D"),
    "skill": Look("mean of the three", BLACK, "o"),
}
VERDICTS: dict[str, Look] = {
    "holds": Look("holds", BLUE, "o"),
    "opposite": Look("opposite", VERMILLION, "s"),
    "does not hold": Look("does not hold", VERMILLION, "s"),
    "negligible": Look("negligible", GREEN, "v"),
    "inconclusive": Look("inconclusive", GREY, "D"),
}
# What may end a method's word, and how it is said; such curves have hollow markers.
VARIANTS = {"+average": "then averaging", "_in_rounds": "inside the rounds"}

SETTINGS: dict[str, Any] = {
    "font.size": 12.5,
    "font.sans-serif": ["Arial", "DejaVu Sans", "Liberation Sans", "sans-serif"],
    "text.color": ".15",
    "axes.axisbelow": True,
    "axes.titlesize": 14,
    "axes.titlelocation": "left",
    "axes.labelsize": 13,
    "axes.labelcolor": ".15",
    "axes.linewidth": 1.25,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.prop_cycle": cycler(color=OKABE_ITO),
    "axes.grid": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.8,
    "xtick.labelsize": 12,
    "xtick.color": ".15",
    "xtick.bottom": False,
    "ytick.labelsize": 12,
    "ytick.color": ".15",
    "ytick.left": False,
    "legend.fontsize": 12,
    "legend.frameon": False,
    "lines.linewidth": 2.0,
    "lines.markersize": 8,
    "lines.solid_capstyle": "round",
    "patch.edgecolor": "w",
    "patch.force_edgecolor": True,
    "figure.dpi": DPI,
    "savefig.dpi": DPI,
}


def look_of(algorithm: str, method: str) -> Look:
    """Return how a row of the points is drawn (TableError: it has no look yet)."""
    if algorithm not in ALGORITHMS:
        known = ", ".join(ALGORITHMS)
        raise TableError(f"No look for algorithm {algorithm!r} (known: {known}): add one.")
    if method == "none":
        return METHODS["early_stopping"] if algorithm == "rsf" else ALGORITHMS[algorithm]
    for end, words in VARIANTS.items():
        if method.endswith(end) and method not in METHODS:
            look = look_of(algorithm, method.removesuffix(end))
            return Look(f"{look.label}, {words}", look.colour, look.marker)
    if method not in METHODS:
        known = ", ".join(METHODS)
        raise TableError(f"No look for method {method!r} (known: {known}): add one to METHODS.")
    look = METHODS[method]
    if algorithm == "rsf":
        return look
    return Look(f"{ALGORITHMS[algorithm].label}: {look.label}", look.colour, look.marker)


@contextmanager
def in_style() -> Iterator[None]:
    """Draw in the style of the course: `with in_style():`, or `@in_style()` above a function."""
    with mpl.rc_context(SETTINGS):
        yield


def panels(
    rows: int = 1,
    columns: int = 1,
    size: tuple[float, float] = WIDE,
    *,
    used: int | None = None,
    **subplots: Any,
) -> tuple[Figure, np.ndarray]:
    """Return an empty figure and its grid of axes (rows, columns).

    No window and no notebook backend knows about the figure. Of the axes only the first `used` are
    seen; the lowest of each column keeps its tick labels. Others as `Figure.subplots`.
    """
    room = ConstrainedLayoutEngine(w_pad=0.07, h_pad=0.05, wspace=0.03, hspace=0.03)
    figure = Figure(figsize=size, dpi=DPI, layout=room)
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False, **subplots)
    used = grid.size if used is None else used
    for axes in grid.flat[used:]:
        axes.set_visible(False)
    for axes in grid.flat[max(0, used - columns) : used]:
        axes.tick_params(labelbottom=True)
    return figure, grid


def finish(
    figure: Figure,
    title: str,
    caption: str,
    table: pd.DataFrame,
    *,
    head: str = "",
    legend_columns: int = 0,
) -> Figure:
    """Add title, caption line, the table that the figure shows, and the alt text made from it.

    With `legend_columns` > 0 a legend stands between title and axes, one entry per label, where it
    hides no data. `head` is a sentence of the figure's own in its alt text.
    """
    lines = textwrap.fill(caption, int(CAPTION_PER_INCH * figure.get_figwidth()))
    figure.supxlabel(lines, x=0.99, ha="right", multialignment="right", fontsize=10, color=GREY)
    if legend_columns:
        entries: dict[str, Artist] = {}
        for axes in figure.axes:
            for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
                entries.setdefault(label, handle)
        figure.legend(
            list(entries.values()),
            list(entries),
            loc="outside upper left",
            ncols=legend_columns,
            title=title,
            title_fontproperties=TITLE_FONT,
            alignment="left",
            handletextpad=0.5,
            columnspacing=1.4,
            borderpad=0.1,
            borderaxespad=0.2,
        )
    else:
        figure.suptitle(title, x=0.01, ha="left", fontproperties=TITLE_FONT)
    _TABLES[figure] = table.reset_index(drop=True)
    # A figure's label is drawn nowhere; it carries the alt text along with the figure.
    figure.set_label(describe(title, caption, table, head))
    return figure


def table(figure: Figure) -> pd.DataFrame:
    """Return the table of the numbers that a figure of the course shows.

    Raises:
        TableError: the figure carries none.
    """
    if figure not in _TABLES:
        raise TableError("This figure has no table: figures of alignment_tax.figures have one.")
    return _TABLES[figure].copy()


def alt_text(figure: Figure) -> str:
    """Return the description that was made from the numbers a figure of the course shows.

    Raises:
        TableError: the figure carries none.
    """
    text = str(figure.get_label())
    if not text:
        raise TableError(
            "This figure has no alt text. Figures of alignment_tax.figures carry their own; "
            "for another one write show(figure, alt='what it shows, with its numbers')."
        )
    return text


def png(figure: Figure, dpi: int = DPI, description: str = "") -> bytes:
    """Return the figure as PNG bytes, the same for the same data (no date, no versions).

    A palette of 256 colours takes a third of the bytes, and nobody sees the difference.
    """
    drawn, small = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=dpi, pil_kwargs={"compress_level": 1})
    image = Image.open(drawn).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    words = PngImagePlugin.PngInfo()
    if description:
        words.add_text("Description", description)
    image.save(small, format="png", optimize=True, dpi=(dpi, dpi), pnginfo=words)
    return small.getvalue()


def show(figure: Figure, alt: str | None = None) -> None:
    """Display a figure in a notebook as PNG with alt text, then close it.

    The alt text goes into the output's metadata (metadata["image/png"]["alt"]), from where an
    exported page takes it, and into its plain text, which a terminal falls back to.
    """
    text = alt if alt is not None else alt_text(figure)
    width, height = (round(inches * DPI) for inches in figure.get_size_inches())
    data = base64.b64encode(png(figure, description=text)).decode("ascii")
    display(
        {"image/png": data, "text/plain": text},
        metadata={"image/png": {"alt": text, "width": width, "height": height}},
        raw=True,
    )
    plt.close(figure)


def save(figure: Figure, path: str | Path, dpi: int = 2 * DPI) -> Path:
    """Write the figure as PNG, alt text inside as the Description; whole or not at all."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    data = png(figure, dpi=dpi, description=str(figure.get_label()))
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
        temporary.chmod(0o644)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return target
