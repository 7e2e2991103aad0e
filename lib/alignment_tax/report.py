"""The pages of recorded results as Markdown, each made of claims.csv and the tables beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from alignment_tax import prose, settings
from alignment_tax.figures import alt_text, remedy_fronts, save, tax_bars
from alignment_tax.labels import (
    ALPHA,
    FAMILIES,
    FAMILY_NAMES,
    FORGIVEN,
    SLOTS,
    markdown,
    names_of,
    number,
)
from alignment_tax.notebooks import (
    find_chapters,
    read_notebook,
    reading_minutes,
    write_notebook,
)
from alignment_tax.presets import CHANGES
from alignment_tax.results import replies
from alignment_tax.results.points import main_line
from alignment_tax.results.recorded import Recorded, recorded, recorded_items
from alignment_tax.results.select import Selection
from alignment_tax.spec import DISTIL, DISTILLED_AVERAGE
from alignment_tax.stats import claims, methods
from alignment_tax.stats.capped_bleu import lost_to_talk
from alignment_tax.stats.claim_list import CLAIMS, REASONS, SESOI, forgiven_id
from alignment_tax.stats.compare import VERDICTS_SAY, interval
from alignment_tax.store import write_whole

TABLES_PAGE, REMEDIES_PAGE, ROBUST_PAGE = "README.md", "remedies.md", "robust.md"
REMEDIES_FIGURE, TAX_FIGURE = "remedies.png", "tax.png"
DPI = 120
SCORES = (*SLOTS, "skill", "forgetting", "reward", "gold")
#: The preset of the real model: recorded for one seed, on a page of its own.
REAL = "small"
FORGIVING = (
    "Format forgiven: a reply is cut where its sentence ends, and of choices the likeliest counts, "
    "so that talk behind a right answer costs nothing. What is lost then is forgotten; the rest of "
    "the loss as written is format: the right answer is there, and not alone."
)
#: The chapters of the short course.
SHORT = ("00", "01", "02", "03", "04", "05", "09")
#: The main line of the course, in the README.
MAIN = (
    "gain.rsf.",
    *(f"tax.rsf.{score}" for score in ("skill", "commonsense", "reading", "translation")),
    "tax.rsf_random.skill",
    "tax.rsf.skill_beyond_control",
    "average_vs_early.rsf.skill",
    "average_vs_early.rsf.skill_at_equal_gold",
    "average_vs_learning_rate.skill",
    "average.rsf@0.4.gold",
)


# --- the README -----------------------------------------------------------------------------------


def told(run: Recorded, seed: int = 0) -> str:
    """Return what one seed's models say at each stage of the course, if that is recorded."""
    if run.replies.empty:
        return "(Not recorded yet: `alignment-tax record tiny --methods rsf --seeds 0`.)"
    table = replies.said(run.replies, seed)
    asked = [f"- {line}" for line in replies.asked(run.replies, seed)]
    heads, lines = ["model", *map(str, table.columns)], table.reset_index().to_numpy().tolist()
    return "\n".join(asked) + "\n\n" + markdown(heads, lines, ("reward", "gold"))


def chapters() -> str:
    """Return the table of chapters: the question, and how long it takes to read and to run."""
    lines = []
    for each in find_chapters(settings.notebooks_folder()):
        link = f"[{each.name}](notebooks/{each.path.name})"
        minutes = f"{each.minutes['tiny']:g}"
        lines.append([link, each.question, f"{reading_minutes(each.path):.0f}", minutes])
    heads = ["Chapter", "The question", "Minutes to read", "Machine minutes"]
    return markdown(heads, lines, heads[2:])


def hours() -> str:
    """Return how long the short course and the whole take to read."""
    every = find_chapters(settings.notebooks_folder())
    minutes = {chapter.number: reading_minutes(chapter.path) for chapter in every}
    short, whole = sum(minutes.get(name, 0) for name in SHORT), sum(minutes.values())
    return (
        f"**Time:** {number(short / 60)} hours to read the short course (chapters 00 to 05 and "
        f"09), {number(whole / 60)} for all; the exercises take about as long again."
    )


def results(run: Recorded, found: pd.DataFrame, lost: tuple[float, float, float]) -> str:
    """Return the README's section: what was run, the table of skills, the main line's claims."""
    points, name = main_line(run.points), run.provenance["preset"]["name"]
    families = "; ".join(f"{FAMILY_NAMES[f]}: {', '.join(slots)}" for f, slots in FAMILIES.items())
    return "\n\n".join(
        [
            f"Preset `{name}`, {len(run.seeds)} seeds ({', '.join(map(str, run.seeds))}), "
            f"{int(points['n_items'].max())} reported items a model. Mean and 95 % t interval over "
            "seeds. Skills are in percent (the base is one model, so its skills have no interval), "
            f"and `skill` is the mean of three families ({families}). Reward is what was gained "
            "over theta_0 of the same seed, since each seed has a reward model of its own; gold is "
            "the true reward, which nothing was optimised for. theta_0 is the model before RLHF, "
            "RSF its rejection sampling finetuning, alpha the weight of RSF's last round in an "
            "average with theta_0.",
            skill_table(points),
            f"Each difference is a later model minus an earlier one: a loss is negative. "
            f"{VERDICTS_SAY}",
            claims.markdown(found, *MAIN),
            f"{FORGIVING} What the loss in translation is made of: of the translations that were "
            f"right word for word before RSF and are not after it, {lost[0]:.0f} % ({lost[1]:.0f} "
            f"to {lost[2]:.0f}) still hold the whole right translation and go on talking, as one "
            "does in chat. That part is a habit in the wrong place, not French that was forgotten; "
            "BLEU counts both alike.",
            "Other algorithms, remedies, a ratio per block and one third of the layers, with every "
            f"interval, are on [a page of their own](data/results/{name}/{TABLES_PAGE}).",
        ]
    )


def skill_table(points: pd.DataFrame) -> str:
    """Return the table of skills: base, theta_0, RSF, its control and three averages."""
    rows = Selection(points)
    last = int(rows.model("rsf/last")["rounds"].max())
    models = {"base": "base", "theta_0": "sft", f"RSF, {last} rounds": "rsf/last"}
    models["control: random reply kept"] = "rsf_random/last"
    models |= {f"average, alpha {alpha}": f"rsf/average@{alpha}" for alpha in (0.2, ALPHA, 0.8)}
    lines = []
    for name, selector in models.items():
        cells = [name]
        for score in SCORES:
            mean, low, high = interval(rows.model(selector)[score].dropna().astype(float))
            digits = 2 if score in ("reward", "gold") else 1
            half = (high - low) / 2
            wide = f" ± {half:.{digits}f}" if half >= 0.5 * 10**-digits else ""
            cells.append(f"{mean:.{digits}f}{wide}")
        lines.append(cells)
    heads = ["skill, format forgiven" if score == "forgetting" else score for score in SCORES]
    return markdown(["Model", *heads], lines)


# --- the pages beside the tables ------------------------------------------------------------------


def tables_page(points: pd.DataFrame, found: pd.DataFrame) -> str:
    """Return the page with a table for everything that was compared beside the main line."""
    sections = {
        "Other algorithms": (
            "With the same reward model and as many sampled replies (chapter 06), on the seeds "
            "that have all of them. Fronts are the averages of theta_0 with the last round, and "
            "what is kept is compared at equal reward.",
            [row for name in ("gain.", "tax.", "average_vs_early.") for row in found["id"]
             if row.startswith(name) and row.endswith(".shared")]
            + ["front.", "kl_coef.", "average_vs_kl_coef."],
        ),
        "Remedies": (
            "Remedies that act while the model learns, or along its path (chapters 07 and 08), in "
            "the paper's distillation style: theta_0 learns once from RSF's best replies under the "
            "remedy. Averaging is that of the run without a remedy.",
            [row for row in found["id"]
             if row.startswith("average_vs_") and row.endswith(".skill") and "rsf" not in row
             and not row.startswith(("average_vs_early", "average_vs_kl_coef"))],
        ),
        "A ratio per block": (
            "HMA (heterogeneous model averaging) is the paper's search for a ratio for each block "
            "of layers (chapter 11); Eq. 11 is its way from free numbers to ratios, AdaMerging a "
            "search that is given labelled reading items. Every search, and ratios set by hand, "
            "against plain averaging at the same mean ratios.",
            [row for row in found["id"] if "_vs_average." in row and row.endswith(".skill")]
            + ["hma_vs_average.", "hma_k9_vs_k3.", "pattern."],
        ),
        "One third of the layers": (
            "One third of the layers averaged with theta_0 and the others left aligned (chapter "
            "11): does the input part raise both reward and skill above the aligned model's, as "
            "the paper reports?",
            [f"part.{own}{part}." for own in ("", "dpo.", "ppo.")
             for part in ("input", "middle", "output")],
        ),
    }  # fmt: skip
    page = [
        "# What was compared beside the main line",
        "Generated by `alignment-tax report` from claims.csv in this folder, which has every "
        f"comparison at full precision; do not edit. {VERDICTS_SAY} {FORGIVING} The main line, RSF "
        "and plain averaging, is in the README of the project.",
    ]
    for title, (text, starts) in sections.items():
        if len(claims.pick(found, *starts)):
            page += [f"## {title}", text, claims.markdown(found, *starts)]
            if title == "Remedies":
                alt = alt_text(remedy_fronts(points, recorded=True))
                page += [f"![{alt}]({REMEDIES_FIGURE})"]
                page += ["What each of them keeps, spans and costs, and the paper's claims on "
                         f"mitigation, are on [a page of their own]({REMEDIES_PAGE})."]  # fmt: skip
    return "\n\n".join(page) + "\n"


def remedies_page(run: Recorded, found: pd.DataFrame) -> str:
    """Return the page on mitigation."""

    def table(average: str, score: str = "skill", all_methods: bool = False) -> str:
        rows = methods.method_table(points, run.costs, average, found, score)
        compared = rows["method"].isin(methods.COMPARED)
        return methods.method_markdown(rows if all_methods else rows[compared])

    points, rows = run.points, Selection(run.points)
    start, end = rows.model("sft"), rows.model(f"rsf/{DISTIL}")
    means = {FAMILY_NAMES[family]: (end[family] - start[family]).mean() for family in FAMILIES}
    moved = ", ".join(f"{number(mean, 1, sign=True)} ({name})" for name, mean in means.items())
    where = {name: claims.reference(points, name)[1] for name in ("skill", "forgetting")}
    told = claims.pick(found[found["place"] != ""], "")
    counts = ", ".join(f"{n} {name}" for name, n in told["verdict"].value_counts().items())
    chapters = []
    for chapter, own in told.groupby("chapter"):
        named = zip(own["id"], own["score"], strict=True)
        twins = [forgiven_id(name, score) for name, score in named if score in FORGIVEN]
        twins_too = pd.concat([own, found[found["id"].isin(twins)]])
        chapters += [f"### Chapter {chapter}", claims.markdown(twins_too)]
    return "\n\n".join(
        [
            "# The paper's claims on mitigation, on the recorded run",
            "Generated by `alignment-tax report` from the tables in this folder; do not edit. "
            f"Preset `{run.provenance['preset']['name']}`, seeds {', '.join(map(str, run.seeds))}, "
            f"{int(points['n_items'].max())} reported items a model. Reward is what was gained "
            "over theta_0 of the same seed; intervals are 95 % t intervals of differences paired "
            f"by seed. alpha is the weight of the aligned model. {VERDICTS_SAY}",
            "Remedies are compared in the paper's distillation style: theta_0 is finetuned once on "
            "the best-of-n samples of the same RSF run, in as many steps for all. Their curves run "
            "from theta_0 over the strengths to the distilled run without a remedy (that of LoRA "
            "and BEMA ends at the weakest strength). Hypervolume is the area above reward 0 and "
            f"skill {where['skill']:g}; of two curves the finer one is thinned to as many points "
            "as the other has.",
            "Every remedy beside the averages of the distilled run, a panel for each kind, with "
            "means and intervals over the seeds that all curves of the panel have.",
            f"![Skill with format forgiven against reward, every remedy]({REMEDIES_FIGURE})",
            "## Methods against the average of the distilled run",
            table(DISTILLED_AVERAGE),
            "## Methods against the average of RSF itself",
            table("average", all_methods=True),
            "\"Averaging ahead by\" is averaging's hypervolume minus the method's, and the verdict "
            'that of the claim that averaging is ahead. "At equal reward" is the same by a second '
            "measure: averaging's skill minus the method's, mean over the rewards that both reach, "
            'with straight lines between the models of a curve. "Reward kept" is the gain that is '
            'left where the curve still has that share of theta_0\'s skill, "rewards spanned" goes '
            "from the lowest on the curve beyond theta_0 to the highest, all in percent of the "
            "gain of RSF's last round: a remedy whose range begins high or ends low never comes "
            "near theta_0, or never reaches RSF's reward. By hypervolume, rewards that a remedy "
            "cannot be dialled to count as lost; at equal reward they do not count. Minutes and "
            "memory are of one training, all libraries included; a dash means no training beyond "
            "RSF.",
            "## Methods against the average of the distilled run, format forgiven",
            f"{FORGIVING} Hypervolume is above skill {where['forgetting']:g} here.",
            table(DISTILLED_AVERAGE, "forgetting"),
            "## Claim by claim",
            f"{len(told)} claims: {counts}. Each is tested by itself: of many that are tried, one "
            "in twenty intervals misses its value by chance. Smallest effects of interest: "
            + ", ".join(f"{size:g} {unit}" for unit, size in SESOI.items())
            + ".",
            *chapters,
            "## Where the opposite of the paper's claim came out",
            "Numbers are measured; what begins with \"We think\" is our reading of them, and not "
            "tested. The plain distilled run moves the families by "
            f"{moved}: where little is lost there is little to keep.",
            opposites(found),
        ]
    ) + "\n"  # fmt: skip


def opposites(found: pd.DataFrame) -> str:
    """Return the paper's claims whose opposite came out, and why we think so, as a list."""
    rows = claims.pick(found[(found["verdict"] == "opposite") & (found["place"] != "")], "")
    lines = [
        f"- **{row['place']}: {row['claim']}**: {claims.effect(row)} {row['unit']}."
        + (f" We think: {REASONS[row['id']]}" if row["id"] in REASONS else "")
        for row in rows.to_dict("records")
    ]
    return "\n".join(lines) or "None of the paper's claims came out opposite."


# --- one number changed at a time -----------------------------------------------------------------

#: The headline claims, asked again in every changed preset.
HEADLINES = {
    "gain.rsf.reward": "RSF's reward",
    "gain.rsf.gold": "its gold",
    "tax.rsf.forgetting": "its forgetting",
    "tax.rsf.forgetting_beyond_control": "the same beyond the control",
    "average_vs_early.rsf.forgetting": "averaging minus stopping early",
    "average_vs_early.rsf.skill": "the same as written",
}


def robust_page() -> str:
    """Return the page of headline claims under `presets.CHANGES`, of those that are recorded."""
    lines = []
    for name in ("tiny", *(f"tiny-{change}" for change in CHANGES)):
        if not (settings.results_folder() / name / "points.csv").is_file():
            continue
        run = recorded(name)
        found = claims.table(run.points, (CLAIMS[claim] for claim in HEADLINES))
        said = [f"{claims.effect(row)}, {row['verdict']}" for _, row in found.iterrows()]
        lines.append([f"`{name}`", str(len(run.seeds)), *said])
    asked = markdown(["preset", "seeds", *HEADLINES.values()], lines, ("seeds",))
    return "\n\n".join(
        [
            "# Do the headline claims hang on a number of the world?",
            "Generated by `alignment-tax report`; do not edit. Each preset changes one number of "
            "`tiny` (`CHANGES` in presets.py): RSF's learning rate halved and doubled, SFT on half "
            "as many demonstrations and over twice as many epochs, a reward model of a quarter of "
            "the pairs, half as many rounds again; what the table lacks is not recorded yet. "
            "Differences have 95 % t intervals over paired seeds; of skill they are in points, a "
            "loss is negative. Forgetting is the change in mean skill with format forgiven. "
            f"{VERDICTS_SAY}",
            asked,
        ]
    ) + "\n"  # fmt: skip


# --- the real model: one seed ---------------------------------------------------------------------


def tax_figure(points: pd.DataFrame, items: pd.DataFrame) -> Figure:
    """Draw what RSF changed in every slot and family, with the bootstrap's intervals over items."""
    bounds = {}
    for score in ("skill", *FAMILIES, *_scored(points)):
        change = claims.over_items(
            points, claims.Claim("", "", "", "rsf/last", "sft", score), items
        )
        bounds[score] = (change.low, change.high)
    return tax_bars(points, intervals=bounds, recorded=True)


def models_table(points: pd.DataFrame) -> str:
    """Return one row per recorded model: skills in percent, reward, the judge's reward, KL."""
    names = names_of(str(points["study"].iloc[0]))
    scores = [*_scored(points), "skill"]
    head = ["Model", *(names[score] for score in scores), "reward", "judge", "KL"]
    digits = dict.fromkeys(scores, 1) | {"reward": 3, "gold": 3, "kl": 2}
    lines = [
        [_model_name(row), *(f"{row[name]:.{n}f}" for name, n in digits.items())]
        for row in points.to_dict("records")
    ]
    return markdown(head, lines)


def _scored(points: pd.DataFrame) -> list[str]:
    return [slot for slot in SLOTS if points[slot].notna().any()]


def _model_name(row: Mapping[Any, Any]) -> str:
    if row["algorithm"] in ("base", "sft"):
        return {"base": "SmolLM2-135M-Instruct", "sft": "theta_0"}[row["algorithm"]]
    if row["method"] == "average":
        return f"average, alpha {row['alpha']:g}"
    control = " (control: random reply kept)" if row["algorithm"] == "rsf_random" else ""
    return f"RSF, round {int(row['rounds'])}{control}"


def one_seed_page(run: Recorded, items: pd.DataFrame, found: pd.DataFrame) -> str:
    """Return the page of a run of one seed, whose intervals are over items (else ValueError)."""
    if len(run.seeds) != 1:
        raise ValueError(f"The run has {len(run.seeds)} seeds: compare them, not their items.")
    points, source, preset = main_line(run.points), run.provenance, run.provenance["preset"]
    rsf, rewards = preset["rsf"], preset["reward"]
    right = float(np.mean(run.pairs["margin"] > 0))
    half = 1.96 * float(np.sqrt(right * (1 - right) / len(run.pairs)))
    trust = (
        "That interval holds 50 %: at this size the reward model may be no better than a coin, so "
        "this run shows that the pipeline works on real input, and not what RLHF does to it."
        if right - half <= 0.5
        else "It is better than a coin, so what it chose was chosen by something people share."
    )
    minutes = float(source["seconds_of_stages_last_seed"]["all stages"]) / 60
    return "\n\n".join(
        [
            f"# Recorded run of `{preset['name']}`",
            f"Preset `{preset['name']}`, seed {run.seeds[0]}, on {source['device']} with "
            f"{source['threads']} threads, {minutes:.0f} minutes: {preset['sft']['documents']} "
            f"demonstrations drawn, {rewards['pairs']} preference pairs drawn for the reward model "
            f"and {preset['judge']['pairs']} others for the judge, {rsf['rounds']} rounds of RSF "
            f"with {rsf['prompts_per_round']} prompts and n = {rsf['n']}, replies of at most "
            f"{rsf['max_new_tokens']} tokens, the first {preset['eval']['limit']} items of each "
            "benchmark. What is too long for that size is left out.",
            f"Of {len(run.pairs)} held-out pairs of HH-RLHF the reward model orders "
            f"{100 * right:.0f} % ± {100 * half:.0f} as people did. {trust} Skills are in percent: "
            "accuracy, F1 and BLEU; the intervals below are a bootstrap over items, paired, and "
            "say nothing about another seed. The judge is a reward model trained on other pairs, "
            "which nothing was optimised for. KL is in nats a reply, from theta_0. "
            f"{VERDICTS_SAY}",
            models_table(points),
            claims.markdown(found.drop(columns="place").assign(place="")),
            f"![{alt_text(tax_figure(points, items))}]({TAX_FIGURE})",
        ]
    ) + "\n"  # fmt: skip


# --- writing --------------------------------------------------------------------------------------


def fill(text: str, generated: str, name: str = "results") -> str:
    """Return `text` with `generated` between the two marks of this name; it must hold them."""
    start, end = (f"<!-- {name}: {which} -->" for which in ("start", "end"))
    if text.count(start) != 1 or text.count(end) != 1 or text.index(start) > text.index(end):
        raise ValueError(f"The page must hold {start} and then {end}, once each.")
    before, after = text.split(start)[0], text.split(end)[1]
    return f"{before}{start}\n\n{generated}\n\n{end}{after}"


def readme(run: Recorded, items: pd.DataFrame, found: pd.DataFrame) -> dict[str, str]:
    """Return what stands in the README between the two marks of each name."""
    lost = interval(100 * lost_to_talk(main_line(run.points), items))
    said = {"hours": hours(), "replies": told(run), "chapters": chapters()}
    return said | {"results": results(run, found, lost)}


def write_pages() -> None:
    """Write the recorded results into README.md, and pages beside the tables they are made of."""
    page: Path = settings.repo_root() / "README.md"
    run, folder = recorded(), settings.results_folder() / "tiny"
    found = claims.table(run.points)
    for path in sorted((settings.repo_root() / "notebooks").glob("*.ipynb")):
        notebook = read_notebook(path)
        if prose.fill_notebook(notebook, found, run.points):
            write_notebook(path, notebook)
    claims.write(found, folder / "claims.csv")
    text = page.read_text(encoding="utf-8")
    for name, each in readme(run, recorded_items(), found).items():
        text = fill(text, each, name)
    write_whole(page, prose.fill(text, found, run.points))
    write_whole(folder / TABLES_PAGE, tables_page(run.points, found))
    if (run.points["method"] == DISTIL).any():
        write_whole(folder / REMEDIES_PAGE, remedies_page(run, found))
        save(remedy_fronts(run.points, recorded=True), folder / REMEDIES_FIGURE, dpi=DPI)
    write_whole(folder / ROBUST_PAGE, robust_page())
    print(f"The recorded results are in {page} and in {folder}.")
    folder = settings.results_folder() / REAL
    if (folder / "points.csv").is_file():
        real, items = recorded(REAL), recorded_items(REAL)
        found = claims.table(main_line(real.points), items=items)
        claims.write(found, folder / "claims.csv")
        write_whole(folder / "README.md", one_seed_page(real, items, found))
        save(tax_figure(main_line(real.points), items), folder / TAX_FIGURE, dpi=DPI)
        print(f"Those of the real model are in {folder}.")
