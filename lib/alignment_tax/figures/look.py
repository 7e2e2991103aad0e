"""One look for the whole course: colours, markers, sizes, captions, alt text, showing, saving."""

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

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from cycler import cycler
from IPython.display import display
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import ArrayLike

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

WIDE = (8.5, 5.2)
#: Letters of a caption that fit into an inch of a figure's width; a longer one gets a second line.
CAPTION_PER_INCH = 13.3
PANELS = (11.0, 7.4)
DPI = 120
TITLE_FONT = FontProperties(size=15, weight="bold")
# what a label stands on, so that lines and the small markers of single seeds don't cross it
PAPER = {"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.8}


FigureError = TableError


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


@contextmanager
def style() -> Iterator[None]:
    """Draw everything inside the `with` block in the style of the course."""
    settings: dict[Any, Any] = {
        "font.size": 12.5,
        "axes.titlesize": 14,
        "axes.titlelocation": "left",
        "axes.labelsize": 13,
        "xtick.labelsize": 12,
        "ytick.labelsize": 12,
        "legend.fontsize": 12,
        "legend.frameon": False,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": "#333333",
        "axes.prop_cycle": cycler(color=OKABE_ITO),
        "grid.color": "#E4E4E4",
        "grid.linewidth": 0.8,
        "lines.linewidth": 2.0,
        "lines.markersize": 8,
        "figure.dpi": DPI,
        "savefig.dpi": DPI,
    }
    with mpl.rc_context(), sns.axes_style("whitegrid"), sns.plotting_context("notebook"):
        mpl.rcParams.update(settings)
        yield


def canvas(size: tuple[float, float] = WIDE) -> Figure:
    """Return an empty figure that no window and no notebook backend knows about."""
    room = ConstrainedLayoutEngine(w_pad=0.07, h_pad=0.05, wspace=0.03, hspace=0.03)
    figure = Figure(figsize=size, dpi=DPI, layout=room)
    FigureCanvasAgg(figure)
    return figure


def finish(figure: Figure, title: str, caption: str, alt: str, legend_columns: int = 0) -> Figure:
    """Add the title, the caption line and the alt text; with `legend_columns` > 0 the legend.

    The legend stands between title and axes and holds one entry per label, so it hides no data.
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
    # A figure's label is drawn nowhere; it carries the alt text along with the figure.
    figure.set_label(alt)
    return figure


def alt_text(figure: Figure) -> str:
    """Return the description that was made from the numbers a figure of the course shows.

    Raises:
        FigureError: the figure carries none.
    """
    text = str(figure.get_label())
    if not text:
        raise FigureError(
            "This figure has no alt text. Figures of alignment_tax.figures carry their own; "
            "for another one write show(figure, alt='what it shows, with its numbers')."
        )
    return text


def png(figure: Figure, dpi: int = DPI, description: str = "") -> bytes:
    """Return the figure as PNG bytes, the same for the same data (no date, no versions)."""
    buffer = io.BytesIO()
    metadata = {"Software": None, "Description": description or None}
    figure.savefig(buffer, format="png", dpi=dpi, metadata=metadata)
    return buffer.getvalue()


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


def bar_lengths(y: ArrayLike, low: ArrayLike, high: ArrayLike) -> np.ndarray | None:
    """Return the lengths below and above (2, n) of error bars, or None where there is none.

    An interval of no width may miss its mean by a rounding error: that length is 0.
    """
    middle, below, above = (np.asarray(each, dtype=float) for each in (y, low, high))
    lengths = np.maximum(np.nan_to_num(np.vstack([middle - below, above - middle])), 0)
    return lengths if lengths.any() else None


def draw_line(
    axes: Axes,
    x: np.ndarray,
    y: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    look: Look,
    dashed: bool = False,
) -> None:
    """Draw means as a line with markers and their intervals (where there are any) as bars."""
    axes.errorbar(
        x,
        y,
        yerr=bar_lengths(y, low, high),
        color=look.colour,
        marker=look.marker,
        markeredgecolor="white",
        markeredgewidth=0.8,
        linestyle="--" if dashed else "-",
        elinewidth=1.3,
        label=look.label,
    )
