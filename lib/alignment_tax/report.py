"""What a recorded run says, as Markdown: the skill table and the verdicts, with intervals.

The README holds an answer and the results between marks, and a page beside the tables all that was
compared; `alignment-tax report` writes them, and a test compares them with the recorded run, so
that no number in them can differ from it.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from alignment_tax import algorithms_claims, first_light, heterogeneous, remedies, settings
from alignment_tax.claims import by_seed, last_round, minus, rise
from alignment_tax.figures import alt_text, remedy_fronts, verdict_markdown
from alignment_tax.figures.style import DPI, save
from alignment_tax.labels import FAMILY_NAMES
from alignment_tax.registry import REMEDIES
from alignment_tax.results.points import main_line
from alignment_tax.results.recorded import Recorded, recorded, recorded_items
from alignment_tax.skills import FAMILIES, SLOTS
from alignment_tax.spec import DISTIL, DISTILLED_AVERAGE, PART
from alignment_tax.stats import compare
from alignment_tax.stats.compare import interval
from alignment_tax.store import write_whole
from alignment_tax.talk import lost_to_talk, with_capped

#: What is said of a search for ratios that is better than averaging, one that is worse, the others.
HMA_WORDS = ("ahead", "behind", "undecided")
#: Where all comparisons stand, beside the tables that they are made of.
TABLES_PAGE = "README.md"
SCORES = (*SLOTS, "skill", "reward", "gold")
COSTED = ("skill", "commonsense", "reading", "translation")
VERDICTS_SAY = (
    "A claim holds where the whole interval is above 0, does not hold where all of it is at or "
    "below 0 (the contrary, or no difference at all), and is inconclusive where 0 is inside."
)
#: The preset of the real model: recorded for one seed, on a page of its own.
REAL = "small"

Compared = Mapping[str, compare.Comparison]


def claims(run: Recorded) -> dict[str, compare.Comparison]:
    """Return the comparisons that the course so far can make, by claim.

    Raises:
        ValueError: fewer than two seeds are recorded.
    """
    points, seeds = run.points, run.seeds
    last = last_round(points)
    found = {
        f"RSF costs {name} (theta_0 minus RSF)": compare.compare_seeds(-rise(points, name))
        for name in COSTED
    }
    found["the random control costs skill (theta_0 minus the control)"] = compare.compare_seeds(
        minus(by_seed(points, "sft", "skill"), by_seed(points, "rsf_random", "skill", last))
    )
    for name in ("reward", "gold"):
        found[f"RSF raises {name} (RSF minus theta_0)"] = compare.compare_seeds(rise(points, name))
    found["choosing by reward raises gold (RSF minus the random control)"] = compare.compare_seeds(
        minus(by_seed(points, "rsf", "gold", last), by_seed(points, "rsf_random", "gold", last))
    )
    for reward in ("reward", "gold"):
        averages = [run.curve("average", seed, reward) for seed in seeds]
        stops = [run.curve("early_stopping", seed, reward) for seed in seeds]
        found[f"averaging beats early stopping (skill at equal {reward})"] = (
            compare.compare_at_equal_reward(averages, stops)
        )
    return found


def capped_markdown(run: Recorded, items: pd.DataFrame) -> str:
    """Return the same tax with translations cut at their reference's length, as a paragraph."""
    found = claims(replace(run, points=with_capped(run.points, items)))

    def said(claim: str) -> str:
        each = found[claim]
        return f"{each.difference:+.2f} ({each.low:+.2f} to {each.high:+.2f}), {each.verdict}"

    return (
        "The same tax with translations cut at the reference's length, so that talk behind them "
        "costs nothing (BLEU with the numbers of n-grams and the length capped at those of the "
        "reference): RSF costs translation (theta_0 minus RSF) "
        f"{said('RSF costs translation (theta_0 minus RSF)')}; RSF costs skill "
        f"{said('RSF costs skill (theta_0 minus RSF)')}; averaging beats early stopping (skill at "
        f"equal reward) {said('averaging beats early stopping (skill at equal reward)')}. This "
        "second measure was chosen after seeing the results, and it is an upper bound: it stands "
        "beside BLEU, not in its place."
    )


def skill_table(run: Recorded) -> str:
    """Return the table of skills: base, theta_0, RSF, its control and three averages."""
    points = main_line(run.points)
    start = points[points["algorithm"] == "sft"].set_index("seed")["reward"]
    points = points.assign(reward=points["reward"] - points["seed"].map(start))
    last = last_round(points)
    trained = points["method"] == "none"
    models = {
        "base": points["algorithm"] == "base",
        "theta_0": points["algorithm"] == "sft",
        f"RSF, {last} rounds": (points["algorithm"] == "rsf")
        & trained
        & (points["rounds"] == last),
        "control: random reply kept": points["algorithm"] == "rsf_random",
    }
    for alpha in (0.3, 0.5, 0.8):
        near = (points["alpha"] - alpha).abs() < 1e-9
        models[f"average, alpha {alpha}"] = near & (points["method"] == "average")
    lines = [
        "| Model | " + " | ".join(SCORES) + " |",
        "| --- |" + " ---: |" * len(SCORES),
    ]
    for name, chosen in models.items():
        cells = []
        for score in SCORES:
            values = points.loc[chosen, score].dropna().to_numpy(dtype=float)
            mean, low, high = interval(values)
            digits = 2 if score in ("reward", "gold") else 1
            half = (high - low) / 2
            spread = f" ± {half:.{digits}f}" if half >= 0.5 * 10**-digits else ""
            cells.append(f"{mean:.{digits}f}{spread}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


@dataclass(frozen=True)
class Told:
    """What a recorded run says, as Markdown.

    Attributes:
        answer: The few sentences at the top of the README.
        results: The README's section: the main line with its tables, and a line on all else.
        tables: The page with a table for everything that was compared beside the main line.
    """

    answer: str
    results: str
    tables: str


def told(run: Recorded, items: pd.DataFrame) -> Told:
    """Return what a recorded run says.

    The main line (`figures.main_line`) is told alike whatever else is recorded beside it.

    Args:
        run: The recorded run.
        items: Its items (`results.recorded_items`).
    """
    main = replace(run, points=main_line(run.points))
    found, lost = claims(main), interval(100 * lost_to_talk(main, items))
    algorithms, ratios = algorithms_compared(run.points), ratios_compared(run.points)
    by_bleu, by_capped = remedies_compared(run.points, items)
    parts = parts_compared(run.points)
    results = [
        head_markdown(main),
        skill_table(main),
        verdict_markdown(found),
        lost_markdown(lost),
        capped_markdown(main, items),
    ]
    beside = [
        *algorithms_line(algorithms),
        *remedies_line(by_bleu, by_capped),
        *ratios_line(ratios),
        *parts_line(parts),
    ]
    if beside:
        where = f"data/results/{run.provenance['preset']['name']}/{TABLES_PAGE}"
        results += [f"What else was compared, with every interval on [its own page]({where}):"]
        results += ["\n".join(beside)]
    tables = [
        "# What was compared beside the main line",
        "Generated by `alignment-tax report` from the tables in this folder; do not edit. "
        f"{VERDICTS_SAY} The main line, RSF and plain averaging, is in the README of the project.",
        *algorithms_markdown(run.points, algorithms),
        *remedies_markdown(run.points, by_bleu, by_capped),
        *ratios_markdown(ratios),
        *parts_markdown(run.points, parts),
    ]
    return Told(answer_markdown(found, lost), "\n\n".join(results), "\n\n".join(tables) + "\n")


def answer_markdown(found: Compared, lost: tuple[float, float, float]) -> str:
    """Return the answer of the whole course in a few sentences.

    Args:
        found: What `claims` returned.
        lost: Mean and interval of the share of lost translations that only go on talking, percent.
    """
    reward, gold = (found[f"RSF raises {name} (RSF minus theta_0)"] for name in ("reward", "gold"))
    skill, translation = (
        found[f"RSF costs {name} (theta_0 minus RSF)"] for name in ("skill", "translation")
    )
    averaging = found["averaging beats early stopping (skill at equal reward)"]
    return (
        "**What came out here**, with 95 % intervals over seeds. RLHF by rejection sampling moved "
        f"the reward that it optimised by {_words(reward)}, and the true reward, which it did not "
        f"see, by {_words(gold)}. It cost {_words(skill)} points of mean skill. Translation alone "
        f"fell by {_words(translation)}, and {lost[0]:.0f} % ({lost[1]:.0f} to {lost[2]:.0f}) of "
        "the translations that were lost are right ones with talk behind them. Averaging the "
        "weights before and after RLHF keeps, against stopping RLHF early at the same reward, "
        f"{_words(averaging)} points of skill: {averaging.verdict}."
    )


def _words(each: compare.Comparison) -> str:
    return f"{each.difference:+.2f} ({each.low:+.2f} to {each.high:+.2f})"


def head_markdown(run: Recorded) -> str:
    """Return what was run and how its table is to be read."""
    seeds, source = run.seeds, run.provenance
    n_items = int(run.points["n_items"].max())
    families = "; ".join(f"{FAMILY_NAMES[f]}: {', '.join(slots)}" for f, slots in FAMILIES.items())
    return (
        f"Preset `{source['preset']['name']}`, {len(seeds)} seeds "
        f"({', '.join(map(str, seeds))}), {n_items} reported items a model. Mean and 95 % t "
        "interval over seeds. Skills are in percent (the base is one model, so its skills have no "
        f"interval), and `skill` is the mean of three families ({families}). Reward is what was "
        "gained over theta_0 of the same seed, since each seed has a reward model of its own; gold "
        "is the true reward, which nothing was optimised for. theta_0 is the model before RLHF, "
        "RSF its rejection sampling finetuning, alpha the weight of RSF's last round in an average "
        f"with theta_0. {VERDICTS_SAY}"
    )


def lost_markdown(lost: tuple[float, float, float]) -> str:
    """Return what the loss in translation is made of: mean and interval, percent."""
    mean, low, high = lost
    return (
        "What the loss in translation is made of: of the translations that were right word for "
        f"word before RSF and are not after it, {mean:.0f} % ({low:.0f} to {high:.0f}) still hold "
        "the whole right translation and go on talking, as one does in chat. That part is a habit "
        "in the wrong place, not French that was forgotten; BLEU counts both alike."
    )


# --- beside the main line: a line for the README, tables for a page of their own ------------------


def by_verdict(found: Compared, words: tuple[str, str, str]) -> str:
    """Return names sorted by their verdict: "ahead of: *A*, *B*; behind: *C*; undecided: *D*".

    Args:
        found: Comparison by name.
        words: What to say of those that hold, those that do not, and the inconclusive ones.
    """
    said = []
    verdicts = ("holds", "does not hold", "inconclusive")
    for verdict, word in zip(verdicts, words, strict=True):
        names = [f"*{name}*" for name, each in found.items() if each.verdict == verdict]
        if len(names) == len(found) > 3:
            said.append(f"{word}: all {len(names)}")
        elif names or verdict == "holds":
            said.append(f"{word}: {', '.join(names) or 'none'}")
    return "; ".join(said)


@dataclass(frozen=True)
class Algorithms:
    """Comparisons of RLHF algorithms: by name of the algorithm, fronts by name of the other one."""

    gains: Compared
    taxes: Compared
    averaging: Compared
    fronts: Compared


def algorithms_compared(points: pd.DataFrame) -> Algorithms | None:
    """Return what is compared of RSF, DPO, RLOO and PPO; None where RSF alone is recorded.

    Args:
        points: The columns of points.csv.
    """
    points = algorithms_claims.shared(points)
    found = algorithms_claims.present(points)
    if found == ["rsf"]:
        return None
    names = [algorithms_claims.NAMES[name] for name in found]

    def named(
        names: list[str], each: algorithms_claims.Comparisons
    ) -> dict[str, compare.Comparison]:
        both = zip(names, each.values(), strict=True)
        return {name: one for name, one in both if one is not None}

    return Algorithms(
        gains=named(names, algorithms_claims.gain_claims(points)),
        taxes=named(names, algorithms_claims.tax_claims(points)),
        averaging=named(names, algorithms_claims.averaging_claims(points)),
        fronts=named(
            [name for name in names if name != "RSF"], algorithms_claims.front_claims(points)
        ),
    )


def algorithms_line(found: Algorithms | None) -> list[str]:
    """Return a line on DPO, RLOO and PPO beside RSF, if any of them is recorded."""
    if found is None:
        return []
    taxes = by_verdict(found.taxes, ("Mean skill falls with", "it does not with", "undecided"))
    averaging = by_verdict(found.averaging, ("more for", "less for", "undecided for"))
    return [
        f"- **Other algorithms** (chapter 06). {taxes}. Averaging keeps, against stopping early, "
        f"{averaging}."
    ]


def algorithms_markdown(points: pd.DataFrame, found: Algorithms | None) -> list[str]:
    """Return paragraphs on DPO, RLOO and PPO beside RSF, if any of them is recorded.

    Args:
        points: The columns of points.csv.
        found: What `algorithms_compared` returned.
    """
    if found is None:
        return []
    counted = algorithms_claims.shared(points)
    seeds = {
        algorithms_claims.NAMES[name]: counted.loc[counted["algorithm"] == name, "seed"].nunique()
        for name in algorithms_claims.present(counted)
    }
    said = ", ".join(f"{name} {count}" for name, count in seeds.items())
    texts = (
        ("{} raises reward", found.gains),
        ("{} costs mean skill", found.taxes),
        ("averaging {} keeps more mean skill than stopping it early", found.averaging),
        ("the front of RSF lies above that of {}", found.fronts),
    )
    return [
        "## Other algorithms",
        "With the same reward model and as many sampled replies (chapter 06); "
        f"seeds: {said}. Fronts are the averages of theta_0 with the last round, and what is kept "
        "is compared at equal reward:",
        verdict_markdown(
            {text.format(name): each for text, group in texts for name, each in group.items()}
        ),
    ]


def remedies_compared(points: pd.DataFrame, items: pd.DataFrame) -> tuple[Compared, Compared]:
    """Return averaging against each remedy by BLEU and by capped BLEU, if recorded.

    Args:
        points: The columns of points.csv.
        items: The items behind them (`results.recorded_items`).
    """
    rows = points[points["algorithm"].isin(["sft", "rsf"])]
    rows = rows[rows["method"].isin(["none", DISTIL, DISTILLED_AVERAGE, *REMEDIES])]
    if DISTILLED_AVERAGE not in set(rows["method"]):
        return {}, {}
    by_bleu = remedies.against_averaging(rows)
    return by_bleu, remedies.against_averaging(with_capped(rows, items)) if by_bleu else {}


def remedies_line(by_bleu: Compared, by_capped: Compared) -> list[str]:
    """Return a line on the remedies against averaging, if recorded."""
    if not by_bleu:
        return []
    words = ("ahead of", "behind", "undecided against")
    return [
        f"- **Remedies** (chapters 07, 08). Averaging is {by_verdict(by_bleu, words)}. With talk "
        f"behind translations forgiven it is {by_verdict(by_capped, words)}."
    ]


def remedies_markdown(points: pd.DataFrame, by_bleu: Compared, by_capped: Compared) -> list[str]:
    """Return paragraphs on the remedies against averaging, with their figure, if recorded."""
    if not by_bleu:
        return []
    return [
        "## Remedies",
        *remedies.short_markdown(by_bleu, by_capped),
        f"![{alt_text(remedy_fronts(points, recorded=True))}]({remedies.FIGURE})",
        "What each of them keeps, spans and costs, and the paper's claims on mitigation one by "
        "one, are on [a page of their own](remedies.md).",
    ]


def ratios_compared(points: pd.DataFrame) -> Compared:
    """Return each search for a ratio per block against plain averaging, if recorded.

    Args:
        points: The columns of points.csv.
    """
    rows = points[points["algorithm"].isin(["sft", "rsf"])]
    return {
        heterogeneous.name(curve): heterogeneous.ahead(rows, curve)
        for curve in heterogeneous.recorded_curves(rows)
    }


def ratios_line(found: Compared) -> list[str]:
    """Return a line on searches for a ratio per block, if recorded."""
    if not found:
        return []
    return [
        f"- **A ratio per block** (chapter 11). Of {len(found)} searches for RSF's ratios, against "
        f"plain averaging at the same mean ratios, {by_verdict(found, HMA_WORDS)}."
    ]


def ratios_markdown(found: Compared) -> list[str]:
    """Return paragraphs on searches for a ratio per block against plain averaging, if recorded."""
    if not found:
        return []
    return [
        "## A ratio per block",
        "HMA (heterogeneous model averaging) is the paper's search for a ratio for each block of "
        "layers; Eq. 11 is its way from free numbers to ratios, AdaMerging a search that is given "
        "labelled reading items (chapter 11). Every search against plain averaging at the same "
        "mean ratios:",
        verdict_markdown(
            {f"{name} keeps more skill than averaging at equal reward": each
             for name, each in found.items()}
        ),
    ]  # fmt: skip


def parts_compared(points: pd.DataFrame) -> dict[str, Compared]:
    """Return, by algorithm, what averaging the input part alone does, and HMA where not RSF's.

    Args:
        points: The columns of points.csv.
    """
    found: dict[str, Compared] = {}
    for algorithm in heterogeneous.algorithms_with(points, PART):
        rows = heterogeneous.of_algorithm(points, algorithm)
        if "input" not in heterogeneous.recorded_parts(rows):
            continue
        compared = {
            f"averaging the input part alone raises {score}": (
                heterogeneous.part_effect(rows, "input", score)
            )
            for score in ("reward", "skill")
        }
        if algorithm != "rsf" and algorithm in heterogeneous.algorithms_with(points, "hma"):
            claim = "HMA, K = 3 keeps more skill than averaging at equal reward"
            compared[claim] = heterogeneous.ahead(rows, heterogeneous.HMA)
        found[algorithm] = compared
    return found


def parts_line(found: Mapping[str, Compared]) -> list[str]:
    """Return a line on the input part, algorithm by algorithm, if recorded."""
    if not found:
        return []

    def of(words: str) -> Compared:
        return {
            algorithms_claims.NAMES[algorithm]: each
            for algorithm, compared in found.items()
            for claim, each in compared.items()
            if words in claim
        }

    reward = by_verdict(of("raises reward"), ("raises", "lowers", "undecided"))
    skill = by_verdict(of("raises skill"), ("raises", "lowers", "undecided"))
    line = (
        "- **One third of the layers** (chapter 11). Averaging the input part alone is to raise "
        f"reward and skill, the paper reports. Reward, {reward}. Skill, {skill}."
    )
    if hma := of("HMA"):
        line += f" HMA of these against averaging, {by_verdict(hma, HMA_WORDS)}."
    return [line]


def parts_markdown(points: pd.DataFrame, found: Mapping[str, Compared]) -> list[str]:
    """Return paragraphs on the input part and on HMA, algorithm by algorithm, if recorded.

    Args:
        points: The columns of points.csv.
        found: What `parts_compared` returned.
    """
    if not found:
        return []
    names = {algorithm: algorithms_claims.NAMES[algorithm] for algorithm in found}
    said = []
    for algorithm, name in names.items():
        own = (points["algorithm"] == algorithm) & (points["method"] == PART)
        said.append(f"{name} {points.loc[own, 'seed'].nunique()}")
    return [
        "## One third of the layers",
        "One third of the layers averaged with theta_0 and the others left aligned (chapter 11): "
        "does the input part raise both reward and skill above the aligned model's, as the paper "
        f"reports? Beside it HMA of other algorithms. Seeds: {', '.join(said)}.",
        verdict_markdown(
            {f"{names[algorithm]}: {claim}": each
             for algorithm, compared in found.items() for claim, each in compared.items()}
        ),
    ]  # fmt: skip


def marks(name: str) -> tuple[str, str]:
    """Return the two lines of a page between which generated text of this name stands."""
    return f"<!-- {name}: start -->", f"<!-- {name}: end -->"


def fill(text: str, results: str, name: str = "results") -> str:
    """Return `text` with `results` between the two marks of this name.

    Raises:
        ValueError: the marks are not there, once each and in order.
    """
    start, end = marks(name)
    if text.count(start) != 1 or text.count(end) != 1 or text.index(start) > text.index(end):
        raise ValueError(f"The page must hold {start} and then {end}, once each.")
    before, _, rest = text.partition(start)
    _, _, after = rest.partition(end)
    return f"{before}{start}\n\n{results}\n\n{end}{after}"


def page_of(preset: str) -> str:
    """Return the page of a preset that was recorded for one seed."""
    run = recorded(preset)
    return first_light.markdown(first_light.one_seed(run, recorded_items(preset)), run.pairs)


def main(arguments: Sequence[str] = ()) -> None:
    """Write the recorded results into README.md, and pages beside the tables they are made of."""
    argparse.ArgumentParser(prog="alignment-tax report", description=main.__doc__).parse_args(
        list(arguments)
    )
    page: Path = settings.repo_root() / "README.md"
    run = recorded()
    said = told(run, recorded_items())
    filled = fill(page.read_text(encoding="utf-8"), said.answer, "answer")
    write_whole(page, fill(filled, said.results))
    beside = settings.results_folder() / "tiny" / TABLES_PAGE
    write_whole(beside, said.tables)
    print(f"The recorded results are in {page}, all comparisons in {beside}.")
    if (run.points["method"] == DISTIL).any():
        beside = settings.results_folder() / "tiny" / "remedies.md"
        write_whole(beside, remedies.page(run, recorded_items()) + "\n")
        save(remedy_fronts(run.points, recorded=True), beside.parent / remedies.FIGURE, dpi=DPI)
        print(f"What they say of the remedies is in {beside}.")
    folder = settings.results_folder() / REAL
    if (folder / "points.csv").is_file():
        write_whole(folder / "README.md", page_of(REAL))
        real = first_light.one_seed(recorded(REAL), recorded_items(REAL))
        save(first_light.tax_figure(real), folder / first_light.FIGURE, dpi=DPI)
        print(f"Those of the real model are in {folder / 'README.md'}.")
