"""What one seed of a recorded run says, as Markdown: intervals over items, since seeds give none.

The real model is recorded for one seed. Its differences are paired by item and their intervals are
a bootstrap over items: they say how far other questions would change the number, and nothing about
another run of RLHF. data/results/<preset>/README.md holds this text (`alignment-tax report`), and a
test compares the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from alignment_tax.figures import tax_bars, verdict_markdown
from alignment_tax.figures.style import alt_text
from alignment_tax.labels import names_of
from alignment_tax.results.points import main_line
from alignment_tax.results.recorded import Recorded
from alignment_tax.skills import FAMILIES, SLOTS, SkillScores, family_percent
from alignment_tax.stats import compare

Items = Mapping[str, np.ndarray]

DRAWS = 2000
#: The figure beside the page.
FIGURE = "tax.png"


@dataclass(frozen=True)
class OneSeed:
    """The main line of one seed's recorded run: its points, and each model's items by key."""

    points: pd.DataFrame
    items: Mapping[str, dict[str, np.ndarray]]
    provenance: Mapping[str, Any]

    def key(self, algorithm: str, method: str = "none", alpha: float | None = None) -> str:
        """Return the key of a model: the last of its rounds.

        Raises:
            ValueError: it is not recorded.
        """
        rows = self.points
        chosen = (rows["algorithm"] == algorithm) & (rows["method"] == method)
        if alpha is not None:
            chosen &= np.isclose(rows["alpha"], alpha)
        if not chosen.any():
            raise ValueError(f"The recorded run has no model {algorithm}, {method}, alpha {alpha}.")
        return str(rows[chosen].sort_values("rounds")["key"].iloc[-1])

    @property
    def slots(self) -> list[str]:
        """The slots that were scored, in the order of the table of points."""
        return [slot for slot in SLOTS if self.points[slot].notna().any()]


def one_seed(run: Recorded, items: pd.DataFrame) -> OneSeed:
    """Return the main line of a recorded run of one seed (`figures.main_line`) with its items.

    Args:
        run: The recorded run.
        items: Its items.parquet.

    Raises:
        ValueError: it has several seeds: their spread is the interval to show then.
    """
    if len(run.seeds) != 1:
        raise ValueError(f"The run has {len(run.seeds)} seeds: compare them, not their items.")
    by_key = {
        str(key): SkillScores({}, rows).values()
        for key, rows in items.groupby("key", observed=True)
    }
    return OneSeed(main_line(run.points), by_key, run.provenance)


def claims(run: OneSeed) -> dict[str, compare.Comparison]:
    """Return theta_0 minus RSF, paired by item, for the mean of the families and for each.

    Beside it, what the middle of the averaging sweep gives back.
    """
    start, end = run.items[run.key("sft")], run.items[run.key("rsf")]
    middle = run.items[run.key("rsf", "average", 0.5)]
    pairs = {f"RSF costs {name} (theta_0 minus RSF)": (start, end, name) for name in families()}
    pairs["averaging gives skill back (alpha 0.5 minus RSF)"] = (middle, end, "skill")
    return {claim: difference(*pair) for claim, pair in pairs.items()}


def difference(a: Items, b: Items, score: str) -> compare.Comparison:
    """Return a minus b in a slot, a family or the mean of all, paired by item."""
    return compare.paired_bootstrap(
        [only(a, score)],
        [only(b, score)],
        rng=np.random.default_rng(0),
        n_boot=DRAWS,
        statistic=family_percent(score),
    )


def tax_figure(run: OneSeed) -> Figure:
    """Draw what RSF changed in every slot and family, with the bootstrap's intervals over items."""
    start, end = run.items[run.key("sft")], run.items[run.key("rsf")]
    changes = {score: difference(end, start, score) for score in (*families(), *run.slots)}
    bounds = {score: (change.low, change.high) for score, change in changes.items()}
    return tax_bars(run.points, intervals=bounds, recorded=True)


def families() -> tuple[str, ...]:
    """Return what is compared: the mean of the families, then each."""
    return ("skill", *FAMILIES)


def only(items: Mapping[str, np.ndarray], family: str) -> dict[str, np.ndarray]:
    """Return the slots that a family (or the mean of all) is made of; a slot is itself."""
    slots = FAMILIES.get(family, SLOTS if family == "skill" else (family,))
    return {slot: values for slot, values in items.items() if slot in slots}


def skill_table(run: OneSeed) -> str:
    """Return one row per recorded model: skills in percent, reward, the judge's reward, KL."""
    names = names_of(str(run.points["study"].iloc[0]))
    scores = [*run.slots, "skill"]
    head = ["Model", *(names[score] for score in scores), "reward", "judge", "KL"]
    lines = [f"| {' | '.join(head)} |", "| --- |" + " ---: |" * (len(head) - 1)]
    for row in run.points.to_dict("records"):
        cells = [f"{row[score]:.1f}" for score in scores]
        cells += [f"{row['reward']:.3f}", f"{row['gold']:.3f}", f"{row['kl']:.2f}"]
        lines.append(f"| {' | '.join([model_name(row), *cells])} |")
    return "\n".join(lines)


def model_name(row: Mapping[Any, Any]) -> str:
    """Return what a row of the table of points is called."""
    if row["algorithm"] in ("base", "sft"):
        return {"base": "SmolLM2-135M-Instruct", "sft": "theta_0"}[row["algorithm"]]
    if row["method"] == "average":
        return f"average, alpha {row['alpha']:g}"
    control = " (control: random reply kept)" if row["algorithm"] == "rsf_random" else ""
    return f"RSF, round {int(row['rounds'])}{control}"


def markdown(run: OneSeed, pairs: pd.DataFrame) -> str:
    """Return the page of a run: what it was, the table of skills, the verdicts, its provenance.

    Args:
        run: The run.
        pairs: Its held-out preference pairs: column margin.
    """
    source, preset = run.provenance, run.provenance["preset"]
    rsf, rewards = preset["rsf"], preset["reward"]
    right = float(np.mean(pairs["margin"] > 0))
    half = 1.96 * float(np.sqrt(right * (1 - right) / len(pairs)))
    trust = (
        "That interval holds 50 %: at this size the reward model may be no better than a coin, so "
        "this run shows that the pipeline works on real input, and not what RLHF does to it."
        if right - half <= 0.5
        else "It is better than a coin, so what it chose was chosen by something people share."
    )
    minutes = float(source["seconds_of_stages_last_seed"]["all stages"]) / 60
    size = (
        f"Preset `{preset['name']}`, seed {int(run.points['seed'].iloc[0])}, on "
        f"{source['device']} with {source['threads']} threads, {minutes:.0f} minutes: "
        f"{preset['sft']['documents']} demonstrations drawn, {rewards['pairs']} preference pairs "
        f"drawn for the reward model and {preset['judge']['pairs']} others for the judge, "
        f"{rsf['rounds']} rounds of RSF with {rsf['prompts_per_round']} prompts and "
        f"n = {rsf['n']}, replies of at most {rsf['max_new_tokens']} tokens, the first "
        f"{preset['eval']['limit']} items of each benchmark. What is too long for that size is "
        "left out."
    )
    reading = (
        f"Of {len(pairs)} held-out pairs of HH-RLHF the reward model orders "
        f"{100 * right:.0f} % ± {100 * half:.0f} as people did. {trust} "
        "Skills are in percent: accuracy, "
        "F1 and BLEU; the intervals below are a bootstrap over items, paired, and say nothing "
        "about another seed. The judge is a reward model trained on other pairs, which nothing "
        "was optimised for. KL is in nats a reply, from theta_0."
    )
    figure = f"![{alt_text(tax_figure(run))}]({FIGURE})"
    tables = [skill_table(run), verdict_markdown(claims(run)), figure]
    return "\n\n".join([f"# Recorded run of `{preset['name']}`", size, reading, *tables]) + "\n"
