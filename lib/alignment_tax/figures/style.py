"""One look for the whole course: colours, markers, panels, alt text, showing, saving."""

from __future__ import annotations

import base64
import io
import os
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

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
from alignment_tax.labels import ALGORITHM_NAMES, METHOD_NAMES
from alignment_tax.results.points import TableError
from alignment_tax.spec import out_of_rounds, unaveraged

# Okabe and Ito's eight colours, told apart with every common form of colour blindness.
BLACK = "#000000"
ORANGE, SKY, GREEN, YELLOW = "#E69F00", "#56B4E9", "#009E73", "#F0E442"
BLUE, VERMILLION, PURPLE = "#0072B2", "#D55E00", "#CC79A7"
OKABE_ITO = (BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILLION, PURPLE)
GREY, BROWN = "#6E6E6E", "#8B6D00"  # beside the eight
INK = "#333333"  # axes, zero lines, error bars of bars

WIDE, PANELS, DPI = (8.5, 5.2), (11.0, 7.4), 120
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
    marker: str = ""
    hatch: str = ""  # of bars


# Every (colour, marker) pair occurs once; a colour a kind of method.
METHODS: dict[str, Look] = {
    name: Look(METHOD_NAMES[name], colour, marker)
    for colour, marks in {
        BLUE: {"average": "o", "distil+average": "D"},
        VERMILLION: {
            "early_stopping": "s",
            "distil": "P",
            "hma_released": "X",
        },
        SKY: {"l1": "^", "l2": "v", "part": "H", "hma_kl": "D"},
        PURPLE: {"kl": "<", "kd": ">", "kd_squared": "h", "adamerging": "p"},
        GREEN: {
            "hma": "D",
            "lora": "X",
            "lora_mlp": "p",
            "hma_eq11": "v",
            "hma_grid": "s",
            "learning_rate": "^",
        },
        ORANGE: {"replay": ">", "replay_other": "X", "hma_reward": "v", "kl_coef": "s"},
        BROWN: {"sma": "o", "ema": "^", "bema": "v", "pattern": "D", "hma_kl_other": "s"},
        BLACK: {"graft": "d", "graft_random": "s", "graft_learnt": "^"},
    }.items()
    for name, marker in marks.items()
}
# Models as trained, by the words of the `algorithm` column.
ALGORITHMS: dict[str, Look] = {
    name: Look(ALGORITHM_NAMES[name], colour, marker)
    for name, colour, marker in (
        ("sft", BLACK, "*"),
        ("rsf", VERMILLION, "s"),
        ("rsf_random", GREY, "d"),
        ("dpo", PURPLE, "v"),
        ("ppo", ORANGE, "^"),
        ("rloo", SKY, "D"),
    )
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
    "negligible": Look("negligible", GREEN, "v"),
    "inconclusive": Look("inconclusive", GREY, "D"),
}
# What may end a method's word, and how it is said; such curves have hollow markers.
VARIANTS = {unaveraged: "then averaging", out_of_rounds: "inside the rounds"}

#: What the course sets above matplotlib's "seaborn-v0_8-whitegrid".
SETTINGS: dict[str, Any] = {
    **dict.fromkeys(("figure.dpi", "savefig.dpi"), DPI),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False),
    **dict.fromkeys(("xtick.labelsize", "ytick.labelsize", "legend.fontsize"), 12),
    **dict.fromkeys(("xtick.major.pad", "ytick.major.pad"), 6),
    "font.size": 12.5,
    "axes.titlesize": 14,
    "axes.titlelocation": "left",
    "axes.labelsize": 13,
    "axes.linewidth": 1.25,
    "axes.edgecolor": INK,
    "axes.prop_cycle": cycler(color=OKABE_ITO),
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.8,
    "lines.linewidth": 2.0,
    "lines.markersize": 8,
    "patch.edgecolor": "white",
    "patch.force_edgecolor": True,
}


def look_of(algorithm: str, method: str) -> Look:
    """Return how a row of the points is drawn (TableError: it has no look yet)."""
    if algorithm not in ALGORITHMS:
        known = ", ".join(ALGORITHMS)
        raise TableError(f"No look for algorithm {algorithm!r} (known: {known}): add one.")
    if method == "none":
        return METHODS["early_stopping"] if algorithm == "rsf" else ALGORITHMS[algorithm]
    for without, words in VARIANTS.items():
        if (own := without(method)) != method and method not in METHODS:
            look = look_of(algorithm, own)
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
    with plt.style.context(["seaborn-v0_8-whitegrid", SETTINGS]):
        yield


def panels(
    rows: int = 1,
    columns: int = 1,
    size: tuple[float, float] = WIDE,
    *,
    used: int | None = None,
    xlabel: str = "",
    ylabel: str = "",
    **subplots: Any,
) -> tuple[Figure, np.ndarray]:
    """Return an empty figure, known to no backend, and its grid of axes (rows, columns).

    Of the axes only the first `used` are seen; the lowest of each column has tick labels and the
    label of the x axis, the first of each row that of the y axis. Others as `Figure.subplots`.
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
        axes.set_xlabel(xlabel)
    for axes in grid[:, 0]:
        axes.set_ylabel(ylabel)
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

    With `legend_columns` > 0 a legend stands below the title, one entry per label. `head` is a
    sentence of the figure's own in its alt text.
    """
    lines = textwrap.fill(caption, int(CAPTION_PER_INCH * figure.get_figwidth()))
    figure.supxlabel(lines, x=0.99, ha="right", multialignment="right", fontsize=10, color=GREY)
    entries: dict[str, Artist] = {}
    for axes in figure.axes if legend_columns else ():
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    figure.legend(
        list(entries.values()), list(entries), loc="outside upper left", title=title,
        ncols=max(1, legend_columns), title_fontproperties=TITLE_FONT, alignment="left",
        handletextpad=0.5, columnspacing=1.4, borderpad=0.1, borderaxespad=0.2,
    )  # fmt: skip
    _TABLES[figure] = table.reset_index(drop=True)
    # A figure's label is drawn nowhere; it carries the alt text along with the figure.
    figure.set_label(describe(title, caption, table, head))
    return figure


def table(figure: Figure) -> pd.DataFrame:
    """Return the table of the numbers that a figure of the course shows (TableError: has none)."""
    if figure not in _TABLES:
        raise TableError("This figure has no table: figures of alignment_tax.figures have one.")
    return _TABLES[figure].copy()


def alt_text(figure: Figure) -> str:
    """Return the words made from the numbers a figure of the course shows (TableError: none)."""
    if text := str(figure.get_label()):
        return text
    raise TableError(
        "This figure has no alt text. Figures of alignment_tax.figures carry their own; "
        "for another one write show(figure, alt='what it shows, with its numbers')."
    )


def png(figure: Figure, dpi: int = DPI, description: str = "") -> bytes:
    """Return the figure as PNG bytes, the same for the same data (no date, no versions).

    A palette takes a third of the bytes: the 64 most frequent colours, and 192 of the others.
    """
    drawn, small = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=dpi, pil_kwargs={"compress_level": 1})
    pixels = np.asarray(Image.open(drawn).convert("RGB"))
    colours, places, counts = np.unique(
        pixels @ np.array([1 << 16, 1 << 8, 1]), return_inverse=True, return_counts=True
    )
    rgb = np.stack([colours >> 16, colours >> 8 & 255, colours & 255], axis=1).astype(np.float32)
    spread = Image.fromarray(rgb[None].astype(np.uint8)).quantize(192, dither=Image.Dither.NONE)
    others = np.array(spread.getpalette(), dtype=np.float32).reshape(-1, 3)
    palette = np.vstack([rgb[np.argsort(-counts, kind="stable")[:64]], others])[:256]
    apart = (palette**2).sum(axis=1) - 2 * rgb @ palette.T  # from each colour, but for a constant
    nearest = apart.argmin(axis=1)[places].reshape(pixels.shape[:2])
    image = Image.fromarray(nearest.astype(np.uint8))
    image.putpalette(palette.astype(np.uint8).tobytes())
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
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        temporary.write_bytes(png(figure, dpi=dpi, description=str(figure.get_label())))
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return target
