"""What a recorded run says, as Markdown: the skill table and the verdicts, with intervals.

The README holds this text between two marks; `alignment-tax report` writes it there, and a test
compares the two, so that no number in the README can differ from the recorded run.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from alignment_tax import algorithms_claims, first_light, front, heterogeneous, remedies, settings
from alignment_tax.artifacts import write_whole
from alignment_tax.claims import by_seed, last_round, minus, rise
from alignment_tax.figures import alt_text, interval, main_line, remedy_fronts, verdict_markdown
from alignment_tax.figures.look import DPI, save
from alignment_tax.mitigate import REMEDIES
from alignment_tax.results import Recorded, recorded, recorded_items
from alignment_tax.skills import SLOTS
from alignment_tax.study import DISTIL, DISTILLED_AVERAGE, PART
from alignment_tax.talk import lost_to_talk, with_capped

START, END = "<!-- results: start -->", "<!-- results: end -->"
SCORES = (*SLOTS, "skill", "reward", "gold")
FAMILIES = ("skill", "commonsense", "reading", "translation")
#: The preset of the real model: recorded for one seed, on a page of its own.
REAL = "small"


def claims(run: Recorded) -> dict[str, front.Comparison]:
    """Return the comparisons that the course so far can make, by claim.

    Raises:
        ValueError: fewer than two seeds are recorded.
    """
    points, seeds = run.points, run.seeds
    last = last_round(points)
    found = {
        f"RSF costs {name} (theta_0 minus RSF)": front.compare_seeds(-rise(points, name))
        for name in FAMILIES
    }
    found["the random control costs skill (theta_0 minus the control)"] = front.compare_seeds(
        minus(by_seed(points, "sft", "skill"), by_seed(points, "rsf_random", "skill", last))
    )
    for name in ("reward", "gold"):
        found[f"RSF raises {name} (RSF minus theta_0)"] = front.compare_seeds(rise(points, name))
    found["choosing by reward raises gold (RSF minus the random control)"] = front.compare_seeds(
        minus(by_seed(points, "rsf", "gold", last), by_seed(points, "rsf_random", "gold", last))
    )
    for reward in ("reward", "gold"):
        averages = [run.curve("average", seed, reward) for seed in seeds]
        stops = [run.curve("early_stopping", seed, reward) for seed in seeds]
        found[f"averaging beats early stopping (skill at equal {reward})"] = (
            front.compare_at_equal_reward(averages, stops)
        )
    return found


def capped_markdown(run: Recorded, items: pd.DataFrame) -> str:
    """Return the same tax with translations cut at their reference's length, as a paragraph."""
    points = with_capped(run.points, items)
    found = claims(replace(run, points=points))

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


def results_markdown(run: Recorded, items: pd.DataFrame) -> str:
    """Return the whole text of the README's results: what was run, skills, verdicts.

    It tells of the main line (`figures.main_line`), whatever else is recorded beside it.

    Args:
        run: The recorded run.
        items: Its items (`results.recorded_items`).
    """
    beside = [
        *algorithms_markdown(run.points),
        *remedies_markdown(run.points, items),
        *ratios_markdown(run.points),
        *parts_markdown(run.points),
    ]
    run = replace(run, points=main_line(run.points))
    seeds, source = run.seeds, run.provenance
    n_items = int(run.points["n_items"].max())
    head = (
        f"Preset `{source['preset']['name']}`, {len(seeds)} seeds "
        f"({', '.join(map(str, seeds))}), {n_items} reported items a model. Mean and 95 % t "
        "interval over seeds. Skills are in percent (the base is one model, so its skills have no "
        "interval); reward is what was gained over theta_0 of the same seed, since each seed has "
        "a reward model of its own; gold is the true reward, which nothing was optimised for. "
        "theta_0 is the model before RLHF, RSF its rejection sampling finetuning, alpha the weight "
        "of RSF's last round in an average with theta_0."
    )
    mean, low, high = interval(100 * lost_to_talk(run, items))
    habit = (
        "What the loss in translation is made of: of the translations that were right word for "
        f"word before RSF and are not after it, {mean:.0f} % ({low:.0f} to {high:.0f}) still hold "
        "the whole right translation and go on talking, as one does in chat. That part is a habit "
        "in the wrong place, not French that was forgotten; BLEU counts both alike."
    )
    parts = [head, skill_table(run), verdict_markdown(claims(run)), habit]
    return "\n\n".join([*parts, capped_markdown(run, items), *beside])


def algorithms_markdown(points: pd.DataFrame) -> list[str]:
    """Return paragraphs on DPO, RLOO and PPO beside RSF, if any of them is recorded.

    Args:
        points: The columns of points.csv.
    """
    points = algorithms_claims.shared(points)
    found = algorithms_claims.present(points)
    if found == ["rsf"]:
        return []
    seeds = {
        algorithms_claims.NAMES[name]: points.loc[points["algorithm"] == name, "seed"].nunique()
        for name in found
    }
    compared = {
        **algorithms_claims.gain_claims(points),
        **algorithms_claims.tax_claims(points),
        **algorithms_claims.averaging_claims(points),
        **algorithms_claims.front_claims(points),
    }
    said = ", ".join(f"{name} {count}" for name, count in seeds.items())
    return [
        "Other algorithms with the same reward model and as many sampled replies (chapter 06); "
        f"seeds: {said}. Fronts are the averages of theta_0 with the last round, and what is kept "
        "is compared at equal reward:",
        verdict_markdown({claim: each for claim, each in compared.items() if each is not None}),
    ]


def remedies_markdown(points: pd.DataFrame, items: pd.DataFrame) -> list[str]:
    """Return paragraphs on the remedies against averaging, with their figure, if recorded.

    Args:
        points: The columns of points.csv.
        items: The items behind them (`results.recorded_items`).
    """
    rows = points[points["algorithm"].isin(["sft", "rsf"])]
    rows = rows[rows["method"].isin(["none", DISTIL, DISTILLED_AVERAGE, *REMEDIES])]
    if DISTILLED_AVERAGE not in set(rows["method"]):
        return []
    found = remedies.short_markdown(rows, with_capped(rows, items))
    if not found:
        return []
    return [
        *found,
        f"![{alt_text(remedy_fronts(points, recorded=True))}](data/results/tiny/{remedies.FIGURE})",
        "What each of them keeps, spans and costs, and the paper's claims on mitigation one by "
        "one, are on [a page of their own](data/results/tiny/remedies.md).",
    ]


def ratios_markdown(points: pd.DataFrame) -> list[str]:
    """Return paragraphs on searches for a ratio per block against plain averaging, if recorded.

    Args:
        points: The columns of points.csv.
    """
    rows = points[points["algorithm"].isin(["sft", "rsf"])]
    curves = heterogeneous.recorded_curves(rows)
    if not curves:
        return []
    compared = {
        f"{heterogeneous.name(curve)} keeps more skill than averaging at equal reward": (
            heterogeneous.ahead(rows, curve)
        )
        for curve in curves
    }
    return [
        "A ratio for each block of layers instead of one for all (chapter 11), every search "
        "against plain averaging at the same mean ratios:",
        verdict_markdown(compared),
    ]


def parts_markdown(points: pd.DataFrame) -> list[str]:
    """Return paragraphs on the input part and on HMA, algorithm by algorithm, if recorded.

    Args:
        points: The columns of points.csv.
    """
    compared, said = {}, []
    for algorithm in heterogeneous.algorithms_with(points, PART):
        name = algorithms_claims.NAMES[algorithm]
        rows = heterogeneous.of_algorithm(points, algorithm)
        if "input" not in heterogeneous.recorded_parts(rows):
            continue
        for score in ("reward", "skill"):
            claim = f"{name}: averaging the input part alone raises {score}"
            compared[claim] = heterogeneous.part_effect(rows, "input", score)
        if algorithm != "rsf" and algorithm in heterogeneous.algorithms_with(points, "hma"):
            claim = f"{name}: HMA, K = 3 keeps more skill than averaging at equal reward"
            compared[claim] = heterogeneous.ahead(rows, heterogeneous.HMA)
        said.append(f"{name} {len(set(rows.loc[rows['method'] == PART, 'seed']))}")
    if not compared:
        return []
    return [
        "One third of the layers averaged with theta_0 and the others left aligned (chapter 11): "
        "does the input part raise both reward and skill above the aligned model's, as the paper "
        f"reports? Beside it HMA of other algorithms. Seeds: {', '.join(said)}.",
        verdict_markdown(compared),
    ]


def fill(text: str, results: str) -> str:
    """Return `text` with `results` between the two marks.

    Raises:
        ValueError: the marks are not there, once each and in order.
    """
    if text.count(START) != 1 or text.count(END) != 1 or text.index(START) > text.index(END):
        raise ValueError(f"The page must hold {START} and then {END}, once each.")
    before, _, rest = text.partition(START)
    _, _, after = rest.partition(END)
    return f"{before}{START}\n\n{results}\n\n{END}{after}"


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
    results = results_markdown(run, recorded_items())
    write_whole(page, fill(page.read_text(encoding="utf-8"), results))
    print(f"The recorded results are in {page}.")
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
