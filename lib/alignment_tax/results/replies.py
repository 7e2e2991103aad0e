"""What the stages of the course say to the same three things, for a reader (see replies.csv)."""

import pandas as pd

from alignment_tax.labels import number
from alignment_tax.results.points import NotRecorded

HEADS = {"request": "to the request", "bleu": "to the French", "span": "to the question"}


def _stage(row: pd.Series) -> str:
    if row["method"] == "average":
        return f"average, α = {row['alpha']:g}"
    return {"base": "base model", "sft": "θ₀, after SFT"}.get(row["algorithm"], "θ, after RLHF")


def asked(replies: pd.DataFrame, seed: int) -> list[str]:
    """Return what was asked of a seed's models, a Markdown line each, with the right answer."""
    own = replies[replies["seed"] == seed] if len(replies) else replies
    if own.empty:
        raise NotRecorded(f"No replies of seed {seed}: alignment-tax record writes them.")
    names = {"request": "The request", "bleu": "The French", "span": "The question"}
    lines = []
    for row in own.drop_duplicates("slot").to_dict("records"):
        expected = row["expected"]  # nothing, or NaN, of the request
        right = f" Right: *{expected.strip()}*" if isinstance(expected, str) and expected else ""
        lines.append(f"{names[row['slot']]}: *{row['question'].strip()}*{right}")
    return lines


def said(replies: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Return what a seed's models said: a row a stage, a column a question, and rewards."""
    own = replies[replies["seed"] == seed]
    own = own.assign(stage=[_stage(row) for _, row in own.iterrows()])
    wide = own.pivot(index="stage", columns="slot", values="reply").reindex(own["stage"].unique())
    table = wide[[slot for slot in HEADS if slot in wide]].rename(columns=HEADS)
    scores = own[own["slot"] == "request"].set_index("stage")
    for place, name in enumerate(("reward", "gold"), start=1):
        table.insert(place, name, [number(value, 1) for value in scores.loc[table.index, name]])
    return table.rename_axis(None, axis=1)
