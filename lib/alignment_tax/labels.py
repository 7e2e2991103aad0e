"""Names of skills, families, methods and algorithms; how a number and an interval are written."""

import json
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from alignment_tax.presets import PRESETS
from alignment_tax.registry import REMEDIES

TEMPLATES = Path(__file__).parent / "templates"
#: The average that the course recommends: chosen on the validation items of seed 100, which is not
#: among the recorded ones, before these were looked at.
ALPHA = 0.4
SLOTS = ("one_hop", "two_hop", "piqa_like", "race_like", "span", "counting", "bleu")
FAMILIES: dict[str, tuple[str, ...]] = {
    "commonsense": ("one_hop", "two_hop", "piqa_like", "race_like"),
    "reading": ("span", "counting"),
    "translation": ("bleu",),
}
# counts of matching and of all n-grams (n = 1..4), length of the prediction and of the reference
BLEU_COLUMNS = [f"{what}_{n}" for what in ("matches", "ngrams") for n in range(1, 5)]
BLEU_COLUMNS += ["length", "reference_length"]
#: The same with format forgiven: of the translation cut where its sentence (or line) ends.
CUT_COLUMNS = [f"cut_{name}" for name in BLEU_COLUMNS]
#: Scores with format forgiven, by the score as written that each stands beside.
FORGIVEN = {**{family: f"{family}_forgiven" for family in FAMILIES}, "skill": "forgetting"}
#: By world, in the order of `SLOTS`.
SLOT_NAMES = {
    "tiny": "one-hop facts|two-hop facts|which to use|passage, 4 choices|span answers|counting|"
    "French to English",
    "real": "ARC-Easy|ARC-Challenge|PIQA|RACE|SQuAD|DROP|WMT14 fr-en",
}
FAMILY_NAMES = {"commonsense": "common sense", "reading": "reading", "translation": "translation"}
FAMILY_NAMES |= {f"{f}_forgiven": f"{name}, format forgiven" for f, name in FAMILY_NAMES.items()}
FAMILY_NAMES |= {"skill": "mean of three families", "forgetting": "mean skill, format forgiven"}
METHOD_NAMES = {
    **{name: remedy.title for name, remedy in REMEDIES.items()},
    "early_stopping": "stopping RSF early", "hma": "HMA", "distil": "the distilled run",
    "distil+average": "averaging the distilled run", "part": "averaging one part",
    "pattern": "ratios set by hand", "hma_eq11": "HMA by Eq. 11",
    "hma_grid": "best point of a grid", "hma_released": "HMA as released",
    "hma_reward": "the reward itself (Eq. 3)", "hma_kl": "HMA with a KL term",
    "hma_kl_other": "HMA with a KL term, other formats", "adamerging": "AdaMerging",
    "kl_coef": "another KL coefficient", "learning_rate": "smaller steps",
}  # fmt: skip
ALGORITHM_NAMES = {
    "sft": "before RLHF (θ₀)", "rsf": "RSF", "rsf_random": "control: a random reply",
    "dpo": "DPO", "ppo": "PPO", "rloo": "RLOO", "grpo": "GRPO",
}  # fmt: skip
SCORES = [*SLOTS, *FAMILIES, "skill", *FORGIVEN.values()]
AXIS_NAMES = {
    "skill": "skill as written (%)",
    "commonsense": "common sense: accuracy (%)",
    "reading": "reading: EM or F1 (%)",
    "translation": "translation: BLEU",
    **{name: f"{text} (%)" for name, text in FAMILY_NAMES.items() if name.endswith("_forgiven")},
    "forgetting": "skill with format forgiven (%)",
    "reward": "reward (reward model's units)",
    "gold": "gold reward",
}


def names_of(study: str) -> dict[str, str]:
    """Return the names of slots and families as this study's readers know them."""
    world = PRESETS[study].world if study in PRESETS else "tiny"
    return {**dict(zip(SLOTS, SLOT_NAMES[world].split("|"), strict=True)), **FAMILY_NAMES}


def seeds_text(seeds: Iterable[int]) -> str:
    """Return which seeds these are: "seed 3", "seeds 0-4", "seeds 0, 2" (else a ValueError)."""
    numbers = sorted({int(seed) for seed in seeds})
    if not numbers:
        raise ValueError("A caption needs at least one seed.")
    if len(numbers) == 1:
        return f"seed {numbers[0]}"
    unbroken = numbers[-1] - numbers[0] == len(numbers) - 1
    return "seeds " + (f"{numbers[0]}-{numbers[-1]}" if unbroken else ", ".join(map(str, numbers)))


def number(value: float, digits: int = 1, sign: bool = False) -> str:
    """Return a number as it is written in figures, tables and alt texts ("-3.2", "0.0")."""
    text = f"{value:+.{digits}f}" if sign else f"{value:.{digits}f}"
    return text.lstrip("+-") if float(text) == 0 else text


def markdown(
    heads: Sequence[str], rows: Iterable[Iterable[object]], right: Collection[str] | None = None
) -> str:
    """Return a table as Markdown; `right` are set flush right, all but the first if None."""
    right = heads[1:] if right is None else right
    sides = ["---:" if head in right else "---" for head in heads]
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in (heads, sides, *rows))


def spread(
    mean: float, low: float = np.nan, high: float = np.nan, digits: int = 1, sign: bool = False
) -> str:
    """Return "mean (low to high)", the mean alone where there is no interval, "-" for no mean."""
    if np.isnan(mean):
        return "-"
    middle, *ends = (number(value, digits, sign) for value in (mean, low, high))
    return middle if np.isnan(low) else f"{middle} ({ends[0]} to {ends[1]})"


def value_text(value: Any) -> str:
    """Return a JSON value as one short line: floats with six significant digits."""
    return f"{value:.6g}" if isinstance(value, float) else json.dumps(value, ensure_ascii=False)


def page(template: str, kind: str = "md", /, **values: Any) -> str:
    """Return a page of `templates` (NAME.KIND.j2) with these values, in HTML escaped, in it."""
    how: dict[str, Any] = {"undefined": StrictUndefined, "keep_trailing_newline": True}
    pages = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=kind == "html", **how)
    pages.filters |= {"number": number, "value_text": value_text}
    return pages.get_template(f"{template}.{kind}.j2").render(values)
