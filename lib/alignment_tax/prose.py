"""Numbers in sentences: marks in Markdown that `alignment-tax report` fills from the recording.

A mark is a comment that no page shows, the number behind it, and a comment that closes it:

    <!--claim tax.rsf.forgetting-->-7.9 (-12.0 to -3.9)<!--/-->   difference and interval
    <!--claim tax.rsf.forgetting difference-->-7.9<!--/-->         or low, high, verdict, n_seeds
    <!--claim tiny-more-rounds:tax.rsf.forgetting-->...<!--/-->   the same claim of another preset
    <!--mean rsf/average@0.5 gold-->2.6<!--/-->                    mean over seeds, reward as a gain
    <!--kept rsf/average@0.5 reward-->90 %<!--/-->                 its share of what RSF changed

A cell whose prose needs a verdict names it in its metadata, {"claims": {"tax.rsf.forgetting":
"holds"}}: `contradictions` finds the cells that a new recording makes false.
"""

import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import pandas as pd

from alignment_tax.labels import number
from alignment_tax.results.select import Selection
from alignment_tax.stats import claims
from alignment_tax.stats.claim_list import CLAIMS

MARK = re.compile(r"(<!--(claim|mean|kept) ([^\s>]+)(?: (\w+))?-->)(.*?)(<!--/-->)")
#: Digits of what is given in points or percent, and in units of a reward.
POINTS, REWARDS = 1, 2


def fill(text: str, found: pd.DataFrame, points: pd.DataFrame) -> str:
    """Fill a text's marks from claims and one study's points (KeyError, NotRecorded: a name)."""
    if not MARK.search(text):
        return text
    rows = Selection(points)

    def filled(mark: re.Match[str]) -> str:
        opening, kind, name, column, _, closing = mark.groups()
        if kind == "claim":
            row = _row(found, name)
            if row is None and name.rpartition(":")[2] not in CLAIMS:
                raise KeyError(f"The table holds no claim {name!r}.")
            said = "(not recorded)" if row is None else _claimed(row, column or "effect")
        elif kind == "mean":
            digits = REWARDS if column in ("reward", "gold") else POINTS
            said = number(rows.model(name)[column].mean(), digits)
        else:
            start, end, own = (rows.model(m)[column].mean() for m in ("sft", "rsf/last", name))
            said = f"{number(100 * (own - start) / (end - start), 0)} %"
        return f"{opening}{said}{closing}"

    return MARK.sub(filled, text)


def _row(found: pd.DataFrame, name: str) -> pd.Series | None:
    """Return the row of CLAIM or PRESET:CLAIM, None if it is not recorded."""
    preset, _, claim = name.rpartition(":")
    with suppress(FileNotFoundError, KeyError):
        return claims.one(claims.read(preset) if preset else found, claim)
    return None


def _claimed(row: pd.Series, column: str) -> str:
    digits = POINTS if row["unit"] == "points" else REWARDS
    if column == "effect":
        return claims.effect(row, digits)
    if isinstance(row[column], str) or column == "n_seeds":
        return str(row[column])
    return number(row[column], digits, sign=True)


def fill_notebook(notebook: Mapping[str, Any], found: pd.DataFrame, points: pd.DataFrame) -> bool:
    """Fill the marks of every Markdown cell of a notebook, in place; return whether any changed."""
    changed = False
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            before, cell["source"] = cell["source"], fill(cell["source"], found, points)
            changed |= cell["source"] != before
    return changed


def contradictions(notebook: Any, found: pd.DataFrame) -> list[str]:
    """Return, for each verdict that a cell relies on and the recording does not give, a line."""
    relied = [(c, *own) for c in notebook["cells"] for own in c.metadata.get("claims", {}).items()]
    rows = [(c.get("id"), name, told, _row(found, name)) for c, name, told in relied]
    said = [(*each, "not recorded" if row is None else row["verdict"]) for *each, row in rows]
    return [f"{i}: {name} is {v}, the text says {told}" for i, name, told, v in said if v != told]
