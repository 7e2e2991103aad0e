"""One look for the whole course: colours, markers, panels, alt text, showing, saving."""

import base64
import io
import os
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from cycler import cycler
from IPython.display import display
from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from PIL import Image, PngImagePlugin

from alignment_tax import labels
from alignment_tax.labels import ALGORITHM_NAMES, FAMILY_NAMES, METHOD_NAMES, number, spread
from alignment_tax.results.points import TableError

# Okabe and Ito's eight colours, told apart with every common form of colour blindness.
BLACK = "#000000"
ORANGE, SKY, GREEN, YELLOW = "#E69F00", "#56B4E9", "#009E73", "#F0E442"
BLUE, VERMILLION, PURPLE = "#0072B2", "#D55E00", "#CC79A7"
OKABE_ITO = (BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILLION, PURPLE)
GREY, BROWN = "#6E6E6E", "#8B6D00"  # beside the eight
INK = "#333333"  # axes, zero lines, error bars of bars

WIDE, PANELS, DPI = (8.5, 5.2), (11.0, 7.4), 120
#: Labels of axes that several figures have.
GAIN, ALONG = "reward gained over θ₀  →", "α   (0 = before RLHF, 1 = after)"
#: How the caption of a figure of the reader's own models begins, and on what such a figure stands.
YOURS, YOUR_PAPER = "your run: ", "#FFF3D6"
# what a label stands on, so that lines and the small markers of single seeds don't cross it
PAPER = {"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.8}

#: The table that each figure shows; `finish` puts it here.
_TABLES: WeakKeyDictionary[Figure, pd.DataFrame] = WeakKeyDictionary()
#: An alt text names so many rows at most; of more it names the ends and the extremes.
MOST_ROWS = 24
# columns that are named by their values alone
PLAIN = "line claim name model label kind method algorithm verdict series".split()
# how the words of some columns are said
WORDS: dict[str, Mapping[str, str]] = {
    "algorithm": ALGORITHM_NAMES,
    "method": {**METHOD_NAMES, "none": ""},
    "family": FAMILY_NAMES,
}


class Look(NamedTuple):
    """How one method is drawn: the words of the legend, a colour and a marker."""

    label: str
    colour: str
    marker: str = ""
    hatch: str = ""  # of bars


# Every (colour, marker) pair occurs once; in a panel of `pareto.KINDS` every colour does.
METHODS: dict[str, Look] = {
    name: Look(METHOD_NAMES[name], colour, marker)
    for colour, marks in {
        BLUE: {"average": "o", "distil+average": "D"},
        VERMILLION: {"early_stopping": "s", "distil": "P"},
        SKY: {"l1": "^", "ema": "s", "graft_learnt": "v", "slerp": "o", "ewc": "<"},
        PURPLE: {"kd": ">", "replay_other": "X", "warp": "p", "kl_average": "v"},
        GREEN: {"kd_squared": "h", "lora": "X", "learning_rate": "^", "dare": "v"}
        | {"null_space": "s", "soup": "D", "replay_lost": "d"},
        ORANGE: {"lora_mlp": "p", "replay": ">", "kl_coef": "s", "fisher": "d", "ties": "^"}
        | {"replay_self": "v"},
        BROWN: {"l2": "v", "sma": "o", "ogpsa": "s", "on_dare": "D"},
        BLACK: {"kl": "<", "graft": "d", "expo": "X"},
        GREY: {"bema": "v", "graft_random": "s", "relearn": "p"},
        INK: {"oplora": "D", "on_ties": "o"},
    }.items()
    for name, marker in marks.items()
}
# Models as trained, by the words of the `algorithm` column; in the order of these.
_COLOURS, _MARKERS = (BLACK, VERMILLION, GREY, PURPLE, ORANGE, SKY, GREEN), "*sdv^Do"
ALGORITHMS: dict[str, Look] = {
    name: Look(ALGORITHM_NAMES[name], colour, marker)
    for name, colour, marker in zip(ALGORITHM_NAMES, _COLOURS, _MARKERS, strict=True)
}
VERDICTS: dict[str, Look] = {
    "holds": Look("holds", BLUE, "o"),
    "opposite": Look("opposite", VERMILLION, "s"),
    "negligible": Look("negligible", GREEN, "v"),
    "inconclusive": Look("inconclusive", GREY, "D"),
}
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


@contextmanager
def in_style() -> Iterator[None]:
    """Draw in the style of the course: `with in_style():`, or `@in_style()` above a function."""
    with plt.style.context(["seaborn-v0_8-whitegrid", SETTINGS]):
        yield


def panels(
    rows: int = 1, columns: int = 1, size: tuple[float, float] = WIDE, *, used: int | None = None,
    xlabel: str = "", ylabel: str = "", **subplots: Any,
) -> tuple[Figure, np.ndarray]:  # fmt: skip
    """Return an empty figure that no backend knows, and its axes, the first `used` of them seen."""
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
    figure: Figure, title: str, caption: str, table: pd.DataFrame, *, head: str = "",
    legend_columns: int = 0,
) -> Figure:  # fmt: skip
    """Add title, caption line, table, alt text (with the sentence `head`), and perhaps a legend."""
    lines = textwrap.fill(caption, int(13.3 * figure.get_figwidth()))  # letters an inch
    if caption.startswith(YOURS):  # seen at a glance: no recorded result
        figure.set(facecolor=YOUR_PAPER)
    figure.supxlabel(lines, x=0.99, ha="right", multialignment="right", fontsize=10, color=GREY)
    entries: dict[str, Artist] = {}
    for axes in figure.axes if legend_columns else ():
        own = axes.get_legend()
        told = {text.get_text().replace("\n", " ") for text in own.get_texts()} if own else set()
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            if label not in told:
                entries.setdefault(label, handle)
    figure.legend(
        list(entries.values()), list(entries), loc="outside upper left", title=title,
        title_fontproperties={"size": 15, "weight": "bold"}, ncols=max(1, legend_columns),
        alignment="left", handletextpad=0.5, columnspacing=1.4, borderpad=0.1, borderaxespad=0.2,
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
    raise TableError("This figure has no alt text: write show(figure, alt='what it shows').")


def png(figure: Figure, dpi: int = DPI, **told: str) -> bytes:
    """Return PNG bytes, the same for the same data, in 256 colours; `told` is text kept inside."""
    drawn, small = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=dpi, pil_kwargs={"compress_level": 1})
    image = Image.open(drawn).convert("RGB").quantize(256, kmeans=3, dither=Image.Dither.NONE)
    words = PngImagePlugin.PngInfo()
    for name, text in told.items():
        words.add_text(name, text)
    image.save(small, format="png", optimize=True, dpi=(dpi, dpi), pnginfo=words)
    return small.getvalue()


def show(figure: Figure, alt: str | None = None) -> None:
    """Display a figure in a notebook as PNG, its alt text in metadata and plain text; close it."""
    text = alt if alt is not None else alt_text(figure)
    width, height = (round(inches * DPI) for inches in figure.get_size_inches())
    data = base64.b64encode(png(figure, Description=text)).decode("ascii")
    told = {"image/png": {"alt": text, "width": width, "height": height}}
    display({"image/png": data, "text/plain": text}, metadata=told, raw=True)
    plt.close(figure)


def save(figure: Figure, path: str | Path, dpi: int = 2 * DPI, recording: str = "") -> Path:
    """Write the figure as PNG, whole or not at all, its alt text and its recording's key inside."""
    told, target = {"Description": str(figure.get_label()), "Recording": recording}, Path(path)
    data = png(figure, dpi, **{name: text for name, text in told.items() if text})
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    temporary.write_bytes(data)
    return temporary.replace(target)


# --- what is said of a figure ---------------------------------------------------------------------
def caption_line(
    study: str, seeds: Iterable[int], n_items: int | None = None, recorded: bool = False
) -> str:
    """Return which run a figure shows, e.g. "recorded run tiny, seeds 0-4, 6000 items"."""
    parts = [f"recorded run {study}" if recorded else f"{YOURS}{study}", labels.seeds_text(seeds)]
    return ", ".join(parts if n_items is None else [*parts, f"{n_items} items"])


def run_caption(rows: pd.DataFrame, recorded: bool = False, skills: bool = True) -> str:
    """Return the caption line of the rows that are drawn; it names every seed, and skill items."""
    items = rows["n_items"] if skills and "n_items" in rows else pd.Series(dtype=float)
    items = pd.to_numeric(items, errors="coerce").dropna()
    count = None if items.empty else int(items.max())
    line = caption_line(str(rows["study"].iloc[0]), rows["seed"], count, recorded)
    return line + " · mean, 95 % t interval over seeds" * (rows["seed"].nunique() > 1)


def describe(title: str, caption: str, table: pd.DataFrame, head: str = "") -> str:
    """Return an alt text: what, which run, and the rows in words, of many ends and extremes."""
    table = table.reset_index(drop=True)
    unsaid = ("low", "high", "score") if "name" in table else ("low", "high")
    columns = [c for c in map(str, table) if not c.endswith(("_low", "_high")) and c not in unsaid]
    columns.sort(key=lambda c: pd.api.types.is_numeric_dtype(table[c]))
    alike = [c for c in columns if len(table) > 1 and table[c].nunique(dropna=False) == 1]
    same = [c for c in alike if _ends(table, c) is None]
    other = [c for c in columns if c not in same]
    told, parts = _told(table, other), [f"{title} ({caption}).", head]
    if common := _cells(table, 0, same):
        parts.append(f"All rows: {common}.")
    if len(told) < len(table):
        parts.append(f"{len(told)} of {len(table)} rows, ends and extremes:")
    said = "; ".join(_cells(table, place, other) for place in told)
    return " ".join([*filter(None, parts), f"{said}."])


def _told(table: pd.DataFrame, columns: list[str]) -> list[int]:
    """Return the places of the rows that an alt text names, in the order of the table."""
    if len(table) <= MOST_ROWS:
        return list(range(len(table)))
    numbers = [c for c in columns if pd.api.types.is_numeric_dtype(table[c])]
    names = [c for c in columns if c not in numbers]
    told = {0, len(table) - 1}
    for column in numbers:
        if table[column].notna().any():
            told |= {int(table[column].argmin()), int(table[column].argmax())}
    groups = table.groupby(names, dropna=False).indices.values() if names else ()
    ends = {int(place) for own in groups for place in (own[0], own[-1])}
    return sorted(told | ends if len(told | ends) <= MOST_ROWS else told)


def _cells(table: pd.DataFrame, place: int, columns: Iterable[str]) -> str:
    return ", ".join(filter(None, (_cell(table, place, column) for column in columns)))


def _cell(table: pd.DataFrame, place: int, column: str) -> str:
    """Return one cell in words, with its interval; "" for an empty one."""
    value: Any = table[column].iloc[place]
    name = FAMILY_NAMES.get(column, column.replace("_", " "))
    if isinstance(value, (bool, np.bool_)):
        return name if value else ""
    if not isinstance(value, (int, float, np.number)):
        text = WORDS.get(column, {}).get(value, str(value)) if value is not None else ""
        return text if column in PLAIN or not text else f"{name} {text}"
    if np.isnan(value):
        return ""
    ends = _ends(table, column)
    digits = _digits(table[column], ends is not None)
    if ends is None or pd.isna(table[ends[0]].iloc[place]):
        return f"{name} {f'{value:g}' if digits == 0 else number(float(value), digits)}"
    low, high = (table[end].iloc[place] for end in ends)
    return f"{name} {spread(float(value), low, high, digits)}"


def _ends(table: pd.DataFrame, column: str) -> tuple[str, str] | None:
    """Return the columns of the interval of a value, None if it has none."""
    names = [*map(str, table), ""]
    if f"{column}_low" in names:
        return f"{column}_low", f"{column}_high"
    return ("low", "high") if names[names.index(column) + 1] == "low" else None


def _digits(values: pd.Series, measured: bool) -> int:
    """Return how many digits a column is said with: 0 where `:g` says all of each value."""
    known = pd.to_numeric(values, errors="coerce").dropna()
    if not measured and (known.round(2) == known).all():
        return 0
    apart, largest = float(known.max() - known.min()), float(known.abs().max())
    for digits, least in ((1, 0.5), (2, 0.1), (3, 0.01)):
        if (apart >= least or apart == 0) and (digits > 1 or largest >= 10):
            return digits
    return 4
