"""The pages of recorded results as Markdown, each made of claims.csv and the tables beside it."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from alignment_tax import labels, presets, prose, settings, store
from alignment_tax.figures import alt_text, remedy_fronts, save, tax_bars
from alignment_tax.labels import ALPHA, FAMILIES, FAMILY_NAMES, SLOTS, markdown, number, page
from alignment_tax.merge.layout import THIRDS
from alignment_tax.notebooks import find_chapters, read_notebook, reading_minutes, write_notebook
from alignment_tax.results import replies
from alignment_tax.results.points import as_trained, main_line
from alignment_tax.results.recorded import Recorded, recorded, recorded_items
from alignment_tax.results.select import Selection
from alignment_tax.spec import DISTIL, DISTILLED_AVERAGE
from alignment_tax.stats import claims, methods
from alignment_tax.stats.capped_bleu import lost_to_talk
from alignment_tax.stats.claim_list import CLAIMS, REASONS, SESOI
from alignment_tax.stats.compare import interval

TABLES_PAGE, REMEDIES_PAGE, ROBUST_PAGE = "README.md", "remedies.md", "robust.md"
REMEDIES_FIGURE, TAX_FIGURE, DPI = "remedies.png", "tax.png", 120
SCORES = (*SLOTS, "skill", "forgetting", "reward", "gold")
#: The preset of the real model: recorded for one seed, on a page of its own.
REAL = "small"
#: The chapters of the short course.
SHORT = ("00", "01", "02", "03", "04", "05", "09")
#: The main line of the course, in the README.
MAIN = """
    gain.rsf. tax.rsf.skill tax.rsf.commonsense tax.rsf.reading tax.rsf.translation
    tax.rsf_random.skill tax.rsf.skill_beyond_control average_vs_early.rsf.skill
    average_vs_early.rsf.skill_at_equal_gold average_vs_learning_rate.skill average.rsf@0.4.gold
""".split()
#: The headline claims, asked again in every changed preset.
HEADLINES = {
    "gain.rsf.reward": "RSF's reward",
    "gain.rsf.gold": "its gold",
    "tax.rsf.forgetting": "its forgetting",
    "tax.rsf.forgetting_beyond_control": "the same beyond the control",
    "average_vs_early.rsf.forgetting": "averaging minus stopping early",
    "average_vs_early.rsf.skill": "the same as written",
}


# --- the README -----------------------------------------------------------------------------------
def readme(run: Recorded, items: pd.DataFrame, found: pd.DataFrame) -> dict[str, str]:
    """Return what stands in the README between the two marks of each name."""
    every = find_chapters(settings.notebooks_folder())
    minutes = {chapter.number: reading_minutes(chapter.path) for chapter in every}
    short, whole = sum(minutes.get(name, 0) for name in SHORT), sum(minutes.values())
    hours = (
        f"**Time:** {number(short / 60)} hours to read the short course (chapters 00 to 05 and "
        f"09), {number(whole / 60)} for all; the exercises take about as long again."
    )
    lines = []
    for each in every:
        link, machine = f"[{each.name}](notebooks/{each.path.name})", f"{each.minutes['tiny']:g}"
        lines.append([link, each.question, f"{minutes[each.number]:.0f}", machine])
    heads = ["Chapter", "The question", "Minutes to read", "Machine minutes"]
    said = {"hours": hours, "replies": told(run), "chapters": markdown(heads, lines, heads[2:])}
    return said | {"results": results(run, items, found)}


def told(run: Recorded, seed: int = 0) -> str:
    """Return what one seed's models say at each stage of the course, if that is recorded."""
    if run.replies.empty:
        return "(Not recorded yet: `alignment-tax record tiny --methods rsf --seeds 0`.)"
    table = replies.said(run.replies, seed)
    asked = [f"- {line}" for line in replies.asked(run.replies, seed)]
    heads, lines = ["model", *map(str, table.columns)], table.reset_index().to_numpy().tolist()
    return "\n".join(asked) + "\n\n" + markdown(heads, lines, ("reward", "gold"))


def results(run: Recorded, items: pd.DataFrame, found: pd.DataFrame) -> str:
    """Return the README's section: what was run, the table of skills, the main line's claims."""
    points = main_line(run.points)
    families = "; ".join(f"{FAMILY_NAMES[f]}: {', '.join(slots)}" for f, slots in FAMILIES.items())
    own = {"families": families, "skills": skill_table(points), "n_items": points["n_items"].max()}
    lost = interval(100 * lost_to_talk(points, items))
    return page("results", run=run, **own, lost=lost, claims=claims.markdown(found, *MAIN)).rstrip()


def skill_table(points: pd.DataFrame) -> str:
    """Return the table of skills: base, theta_0, RSF, its control and three averages."""
    rows = Selection(points)
    last = int(rows.model("rsf/last")["rounds"].max())
    models = {"base": "base", "theta_0": "sft", f"RSF, {last} rounds": "rsf/last"}
    models["control: random reply kept"] = "rsf_random/last"
    models |= {f"average, alpha {alpha}": f"rsf/average@{alpha}" for alpha in (0.2, ALPHA, 0.8)}
    lines = [[name] for name in models]
    for line, selector in zip(lines, models.values(), strict=True):
        for score in SCORES:
            mean, low, high = interval(rows.model(selector)[score].dropna().astype(float))
            digits, half = 2 if score in ("reward", "gold") else 1, (high - low) / 2
            wide = f" ± {half:.{digits}f}" if half >= 0.5 * 10**-digits else ""
            line.append(f"{mean:.{digits}f}{wide}")
    heads = ["skill, format forgiven" if score == "forgetting" else score for score in SCORES]
    return markdown(["Model", *heads], lines)


# --- the pages beside the tables ------------------------------------------------------------------
def tables_page(run: Recorded, found: pd.DataFrame) -> str:
    """Return the page with a table for everything that was compared beside the main line."""

    def ids(*patterns: str) -> list[str]:
        return [name for each in patterns for name in found["id"] if re.fullmatch(each, name)]

    sided = ids(r"gain\..*\.shared", r"tax\..*\.shared", r"average_vs_early\..*\.shared")
    searched = ids(r".*_vs_average\.(.*\.)?skill")
    chosen = {
        "algorithms": [*sided, "front.", "kl_coef.", "average_vs_kl_coef."],
        "remedies": ids(r"average_vs_(?!early|kl_coef|.*rsf).*\.skill"),
        "ratios": [*searched, "hma_vs_average.", "hma_k9_vs_k3.", "pattern."],
        "thirds": [f"part.{own}{part}." for own in ("", "dpo.", "ppo.") for part in THIRDS],
    }
    tables = {
        name: claims.markdown(found, *starts) if len(claims.pick(found, *starts)) else ""
        for name, starts in chosen.items()
    }
    fronts = alt_text(remedy_fronts(run.points, recorded=True)) if tables["remedies"] else ""
    return page("tables", **tables, fronts=fronts, key=run.key)


def remedies_page(run: Recorded, found: pd.DataFrame) -> str:
    """Return the page on mitigation."""

    def table(average: str, score: str = "skill", all_methods: bool = False) -> str:
        rows = methods.method_table(points, run.costs, average, found, score)
        compared = rows["method"].isin(methods.COMPARED)
        return methods.method_markdown(rows if all_methods else rows[compared])

    points, rows, families = run.points, Selection(run.points), list(FAMILIES)
    gains = (rows.model(f"rsf/{DISTIL}")[families] - rows.model("sft")[families]).mean()
    moved = [f"{number(gain, 1, sign=True)} ({FAMILY_NAMES[str(f)]})" for f, gain in gains.items()]
    told = claims.pick(found[found["place"] != ""], "")
    opposites = told[told["verdict"] == "opposite"].to_dict("records")
    return page(
        "remedies", run=run, n_items=points["n_items"].max(), moved=", ".join(moved),
        where={s: f"{claims.reference(points, s)[1]:g}" for s in ("skill", "forgetting")},
        distilled=table(DISTILLED_AVERAGE), plain=table("average", all_methods=True),
        forgiven=table(DISTILLED_AVERAGE, "forgetting"), told=len(told),
        counts=", ".join(f"{n} {name}" for name, n in told["verdict"].value_counts().items()),
        smallest=", ".join(f"{size:g} {unit}" for unit, size in SESOI.items()),
        chapters={c: claims.markdown(found, *ids) for c, ids in told.groupby("chapter")["id"]},
        opposites=[(row, claims.effect(row), REASONS.get(row["id"])) for row in opposites],
    )  # fmt: skip


# --- one number changed at a time -----------------------------------------------------------------
def changed() -> list[str]:
    """Return the presets of `presets.CHANGES` that are recorded."""
    names = [f"tiny-{change}" for change in presets.CHANGES]
    return [name for name in names if (settings.results_folder() / name / "points.csv").is_file()]


def robust_page() -> str:
    """Return the page of headline claims under `presets.CHANGES`, of those that are recorded."""
    lines = []
    for name in ("tiny", *changed()):
        run, found = recorded(name), claims.read(name)
        said = [claims.said(claims.one(found, claim)) for claim in HEADLINES]
        lines.append([f"`{name}`", f"`{run.key}`", str(len(run.seeds)), *said])
    heads = ["preset", "recording", "seeds", *HEADLINES.values()]
    slow = beside_small_steps() if "tiny-small-steps" in changed() else None
    return page("robust", claims=markdown(heads, lines, ("seeds",)), slow=slow)


def beside_small_steps() -> list[str]:
    """Return averaging minus stopping early a run of half its steps' size, forgiven, as written."""
    every, slow = recorded().points, recorded("tiny-small-steps").points
    rounds = as_trained(slow, "rsf").assign(study="tiny")  # of the same theta_0: paired by seed
    rest = every.drop(index=as_trained(every, "rsf").index)
    both = pd.concat([rest[rest["seed"].isin(rounds["seed"])], rounds])
    asked = (CLAIMS[f"average_vs_early.rsf.{score}"] for score in ("forgetting", "skill"))
    return [claims.said(row) for _, row in claims.table(both, asked).iterrows()]


# --- the real model: few seeds, and intervals over their items ------------------------------------
def tax_figure(points: pd.DataFrame, items: pd.DataFrame) -> Figure:
    """Draw what RSF changed in every slot and family, with the bootstrap's intervals over items."""
    rows, bounds, draws = Selection(points), {}, claims.drawn(items)
    for score in ("skill", *FAMILIES, *_scored(points)):
        claim = claims.Claim("", "", "", "rsf/last", "sft", score)
        _, change = claims.over_items(rows, claim, draws)
        bounds[score] = (change.low, change.high)
    return tax_bars(points, intervals=bounds, recorded=True)


def models_table(points: pd.DataFrame) -> str:
    """Return one row per recorded model: skills in percent, reward, the judge's reward, KL."""
    names = labels.names_of(str(points["study"].iloc[0]))
    scores = [*_scored(points), "skill"]
    digits = dict.fromkeys(scores, 1) | {"reward": 3, "gold": 3, "kl": 2}
    lines = [
        [str(row["seed"]), _model_name(row), *(f"{row[name]:.{n}f}" for name, n in digits.items())]
        for row in points.to_dict("records")
    ]
    heads = ["Seed", "Model", *(names[score] for score in scores), "reward", "judge", "KL"]
    return markdown(heads, lines, heads[2:])


def _scored(points: pd.DataFrame) -> list[str]:
    return [slot for slot in SLOTS if points[slot].notna().any()]


def _model_name(row: Mapping[Any, Any]) -> str:
    if row["method"] == "average":
        return f"average, alpha {row['alpha']:g}"
    control = " (control: random reply kept)" if row["algorithm"] == "rsf_random" else ""
    starts = {"base": "SmolLM2-135M-Instruct", "sft": "theta_0"}
    return starts.get(row["algorithm"], f"RSF, round {int(row['rounds'])}{control}")


def real_claims(run: Recorded, items: pd.DataFrame) -> pd.DataFrame:
    """Return a run's claims over items, of all its seeds and, if several, each alone (ID.seedN)."""
    found = [_real_claims(run.points, run.pairs, items)]
    for seed in run.seeds if len(run.seeds) > 1 else ():
        alone = _real_claims(*(t[t["seed"] == seed] for t in (run.points, run.pairs, items)))
        found.append(alone.assign(id=alone["id"] + f".seed{seed}"))
    return pd.concat(found, ignore_index=True)


def _real_claims(points: pd.DataFrame, pairs: pd.DataFrame, items: pd.DataFrame) -> pd.DataFrame:
    names = labels.names_of(REAL)
    against = {"": ("", "sft"), "_beyond_control": (" beyond its control", "rsf_random/last")}
    each = [
        claims.Claim(f"tax.rsf.{slot}{end}", "12", f"RSF costs {names[slot]}{told}",
                     "rsf/last", other, slot, direction=-1)
        for end, (told, other) in against.items() for slot in _scored(points)
    ]  # fmt: skip
    told = claims.table(points, [*CLAIMS.values(), *each], items)
    return pd.concat([claims.of_pairs(pairs), told], ignore_index=True)


def real_page(run: Recorded, items: pd.DataFrame, found: pd.DataFrame) -> str:
    """Return the page of a run of few seeds, whose intervals are over items."""
    points, told = main_line(run.points), claims.markdown(found.assign(place=""))
    alone = claims.by_seed(found, "tax.", "gain.", "average")
    return page(
        "real", run=run, effect=claims.effect, claims=told, models=models_table(points),
        alone=markdown(list(alone.columns), alone.to_numpy().tolist()),
        tax=alt_text(tax_figure(points, items)),
        beyond=claims.one(found, "reward_model.pairs_beyond_chance"),
        n_pairs=run.pairs["model"].eq("reward_model").sum() // len(run.seeds),
    )  # fmt: skip


# --- writing --------------------------------------------------------------------------------------
def fill(text: str, generated: str, name: str = "results") -> str:
    """Return `text` with `generated` between the two marks of this name; it must hold them."""
    start, end = (f"<!-- {name}: {which} -->" for which in ("start", "end"))
    if text.count(start) != 1 or text.count(end) != 1 or text.index(start) > text.index(end):
        raise ValueError(f"The page must hold {start} and then {end}, once each.")
    before, after = text.split(start)[0], text.split(end)[1]
    return f"{before}{start}\n\n{generated}\n\n{end}{after}"


def write_pages() -> None:
    """Write the recorded results into README.md, and pages beside the tables they are made of."""
    root, folder = settings.repo_root(), settings.results_folder() / "tiny"
    run, home = recorded(), root / "README.md"
    found = claims.table(run.points)
    for name in changed():
        claims.write(claims.table(recorded(name).points), folder.parent / name / "claims.csv")
    if ((real := folder.parent / REAL) / "points.csv").is_file():
        write_real(real)
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        notebook = read_notebook(path)
        if prose.fill_notebook(notebook, found, run.points):
            write_notebook(path, notebook)
    claims.write(found, folder / "claims.csv")
    texts = {path: path.read_text("utf-8") for path in (home, *(root / "docs").glob("*.md"))}
    for name, each in readme(run, recorded_items(), found).items():
        texts[home] = fill(texts[home], each, name)
    for path, text in texts.items():
        store.write_whole(path, prose.fill(text, found, run.points))
    store.write_whole(folder / TABLES_PAGE, tables_page(run, found))
    if (run.points["method"] == DISTIL).any():
        store.write_whole(folder / REMEDIES_PAGE, remedies_page(run, found))
        save(remedy_fronts(run.points, recorded=True), folder / REMEDIES_FIGURE, DPI, run.key)
    store.write_whole(folder / ROBUST_PAGE, robust_page())
    print(f"The recorded results are in {home} and in {folder}.")


def write_real(folder: Path) -> None:
    """Write the page of the real model, its claims and its figure into the folder of its tables."""
    real, items = recorded(REAL), recorded_items(REAL)
    found = real_claims(real, items)
    store.write_whole(folder / "README.md", real_page(real, items, found))
    claims.write(found, folder / "claims.csv")
    save(tax_figure(main_line(real.points), items), folder / TAX_FIGURE, DPI, real.key)
    print(f"The results of the real model are in {folder}.")
