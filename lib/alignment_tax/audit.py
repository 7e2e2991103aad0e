"""Audit a pair of your own: what the later model lost, what averaging the two gives back.

All are measured in one model in memory, whose weights are mixed in place from the files.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from safetensors import safe_open
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from alignment_tax import labels, models, presets, settings
from alignment_tax.figures import primitives, style
from alignment_tax.merge import average, checkpoint, hma, layout, parts, search
from alignment_tax.provenance import provenance
from alignment_tax.results.items import Array, SkillScores, slot_percent
from alignment_tax.skills.scorer import Chosen, Scorer, named_tasks
from alignment_tax.stats.compare import LEVEL, Comparison, paired_bootstrap
from alignment_tax.store import Store, digest, list_files, write_whole
from alignment_tax.train import loop, sample
from alignment_tax.weights import Checkpoint, check_complete, open_checkpoint
from alignment_tax.world import base

PAGE, TABLE, FRONT, REPLIES = "audit.md", "audit.csv", "front.png", "replies.json"
MEAN, REWARD, JUDGE = "mean", "reward", "judge"
OF_REPLIES = (REWARD, JUDGE, "tokens", "ended")
Values = Mapping[str, Array]
Ends = tuple[Checkpoint, Checkpoint]
LOOKS = 4  # at the intervals of an audit that may stop early, each after as many new items
LEAST = 25  # items of a task between two looks: of fewer the bootstrap is too sure


class AuditError(settings.SettingsError):
    """An audit cannot be made of what was named; the message says what to do."""


@contextlib.contextmanager
def refusing() -> Iterator[None]:
    """Make an AuditError of what is raised for unusable weights, tokenizers and tasks."""
    try:
        yield
    except ValueError as error:
        raise AuditError(str(error)) from error


@dataclass(frozen=True)
class Asked:
    """What an audit is to measure; replies are greedy."""

    before: str
    after: str
    tasks: tuple[str, ...]
    alphas: tuple[float, ...] = (0.2, 0.4, 0.6, 0.8)
    reward: str | None = None
    prompts: Path | None = None
    limit: int | None = None  # items a task; None: all
    batch_size: int = 16
    max_new_tokens: int = 128
    pad: bool = False  # take rows and tokens that only one model has as they are
    stop_early: bool = False  # once intervals decide what averaging gives, and about the `bar`:
    bar: float = 0.0  # whether the tax is beyond so many points
    judge: str | None = None  # another reward model, which has no say in the alpha advised

    @property
    def level(self) -> float:
        """Coverage of an interval, so that of all looks none misses in 95 % (Bonferroni)."""
        return 1 - (1 - LEVEL) / LOOKS if self.stop_early else LEVEL


@dataclass(frozen=True)
class Measured:
    """One model: its scored items, and arrays (n,) of its replies to n prompts, if any."""

    scores: SkillScores
    replies: Values  # reward and judge if asked, tokens, ended (100: by itself, 0: cut off)

    def values(self, score: str, forgiven: bool = False, half: int | None = None) -> Values:
        """Return the values that a score is made of; `half` 0 or 1: every second item alone."""
        every = self.replies if score in self.replies else self.scores.values(forgiven)
        named = every if score == MEAN else {score: every[score]}
        return {n: each if half is None else each[half::2] for n, each in named.items()}


def total(values: Values) -> float:
    """Return the mean over tasks, each in percent, or over replies."""
    if values.keys() <= {*OF_REPLIES}:
        return float(np.mean([*values.values()]))
    return float(np.mean([slot_percent(slot, each) for slot, each in values.items()]))


@dataclass(frozen=True)
class Audit:
    """What was measured: `models` by alpha, from 0 to 1."""

    asked: Asked
    models: dict[float, Measured]
    draws: int = 1000  # of the items, for an interval
    items: dict[str, int] = field(default_factory=dict)  # of each task, measured or not
    added: tuple[str, ...] = ()  # what only one model has
    seconds: float = 0.0  # that measuring took, whenever it was

    def change(self, alpha: float, score: str = MEAN, *, of: float = 0, **which: Any) -> Comparison:
        """Compare alpha with `of`, item by item: points or reward; `which`: `Measured.values`."""
        pair = ([self.models[each].values(score, **which)] for each in (alpha, of))
        rng, level = np.random.default_rng(0), self.asked.level
        draws = round(self.draws * (1 - LEVEL) / (1 - level))  # as many beyond either end
        return paired_bootstrap(*pair, rng=rng, n_boot=draws, statistic=total, level=level)

    @property
    def scores(self) -> list[str]:
        """The tasks, their mean, and what was measured of replies."""
        first = self.models[0.0]
        return [*first.values(MEAN), MEAN, *first.replies]

    @property
    def chosen(self) -> float:
        """The alpha with the most of both on every second item: shares of reward and skill."""

        def gained(score: str) -> dict[float, float]:
            found = {alpha: total(own.values(score, half=0)) for alpha, own in self.models.items()}
            return {alpha: each - found[0.0] for alpha, each in found.items()}

        skill = gained(MEAN)
        if REWARD not in self.scores:  # the largest that loses less than half of the tax
            return max(alpha for alpha in skill if skill[alpha] >= min(skill[1.0], 0.0) / 2)
        reward = gained(REWARD)
        if reward[1.0] <= 0 or skill[1.0] >= 0:  # then there is nothing to trade
            return float(reward[1.0] > 0)
        return max(skill, key=lambda alpha: reward[alpha] / reward[1.0] - skill[alpha] / skill[1.0])

    @property
    def trade(self) -> Comparison | None:
        """What the chosen alpha gives back, on the items that it was not chosen on."""
        return None if self.chosen in (0.0, 1.0) else self.change(self.chosen, of=1.0, half=1)


def measure(asked: Asked, store: Store | None = None) -> Audit:
    """Measure both ends and averages, kept in the store (AuditError: they cannot be, none was)."""
    critics = {n: m for n, m in ((REWARD, asked.reward), (JUDGE, asked.judge)) if m}
    if bool(critics) != bool(asked.prompts):
        raise AuditError("A reward needs --reward or --judge (a model) and --prompts (a file).")
    prompts = read_prompts(asked.prompts) if asked.prompts else []
    with refusing():
        for alpha in asked.alphas:
            layout.check_alpha(alpha)
        ends = open_checkpoint(asked.before), open_checkpoint(asked.after)
        _, added = checkpoint.check_fit(*ends, asked.pad)
        tasks = named_tasks(asked.tasks)
        scorer = Scorer(tasks, asked.limit, asked.batch_size)
        shares = cut_items(scorer.numbers) if asked.stop_early else [scorer.numbers]
        model, tokenizer = models.load_policy(ends[1].folder, chat=bool(prompts))
        if add_rows(model, ends):  # then the tokens are those of BEFORE
            name = str(ends[0].folder)
            tokenizer = models.load_tokenizer(name, bool(prompts), trust_remote_code=False)
        loaded = {name: load_critic(critic) for name, critic in critics.items()}
    inputs = {
        "files": [list_files(each.folder) for each in ends],
        "critics": {n: list_files(open_checkpoint(each).folder) for n, each in critics.items()},
        "tasks": {slot: list(task) for slot, task in tasks.items()},
        "prompts": digest(prompts),
        "numbers": [asked.limit, asked.batch_size, asked.max_new_tokens],
    }

    def make(folder: Path, alpha: float, part: int) -> None:
        write_average(model, ends, alpha)
        scorer.score(model, tokenizer, shares[part]).save(folder)
        said: dict[str, list[float]] = {}
        if prompts and not part:
            room, size = asked.max_new_tokens, asked.batch_size
            groups = sample.sample_replies(model, tokenizer, prompts, 1, 0.0, room, size, seed=0)
            replies = [group[0] for group in groups]
            asking: tuple[Any, ...] = prompts, models.texts(replies), size, 2048  # tokens read
            said = {n: models.score_replies(*own, *asking).tolist() for n, own in loaded.items()}
            said["tokens"] = [len(each.token_ids) for each in replies]
            said["ended"] = [100.0 * each.finished for each in replies]
        write_whole(folder / REPLIES, json.dumps(said))

    kept = store or Store(settings.runs_folder())

    def audited(looks: int, *alphas: float) -> Audit:
        counts, found = {s: len(own) for s, own in scorer.numbers.items()}, dict[float, Measured]()
        seconds = 0.0
        for alpha in sorted({0.0, *map(float, alphas), 1.0}):
            own, what, made = inputs | {"alpha": alpha}, f"the audit at alpha {alpha:g}", []
            for part in range(looks):
                named = own | ({"part": [part, LOOKS]} if asked.stop_early else {})
                doing = partial(make, alpha=alpha, part=part)
                made.append(kept.get("audit", named, doing, describe=what, version=2))
            paths = [each.path for each in made]
            told = json.loads((paths[0] / REPLIES).read_text(encoding="utf-8"))
            seconds += sum(each.meta["seconds"] for each in made)
            items = pd.concat([SkillScores.load(each).items for each in paths], ignore_index=True)
            replies = {name: np.array(each) for name, each in told.items()}
            found[alpha] = Measured(SkillScores({}, items), replies)
        return Audit(asked, found, items=counts, added=tuple(added), seconds=seconds)

    if not asked.stop_early:
        return audited(1, *asked.alphas)
    for looks in range(1, LOOKS + 1):
        found = audited(looks)
        tax = found.change(1.0)
        if looks < LOOKS and tax.low <= -asked.bar <= tax.high:
            continue
        if tax.low <= 0 or found.chosen < 1:  # else no average would be chosen
            found = audited(looks, *asked.alphas)
        if not found.trade or found.trade.verdict != "inconclusive":
            break
    return found


def cut_items(numbers: Chosen) -> list[dict[str, list[int]]]:
    """Cut each task's items, in an order drawn once, into a part a look (AuditError: too few)."""
    rng = np.random.default_rng(0)
    order = {slot: rng.permutation(np.array(own)).tolist() for slot, own in numbers.items()}
    if few := [slot for slot in order if len(order[slot]) < LOOKS * LEAST]:
        told = f"{few[0]!r} has {len(order[few[0]])} items, and --stop-early needs {LOOKS * LEAST}"
        raise AuditError(f"{told}: raise --limit, or leave out --stop-early.")
    return [{slot: own[part::LOOKS] for slot, own in order.items()} for part in range(LOOKS)]


@torch.no_grad()
def write_average(model: PreTrainedModel, ends: Ends, alpha: float) -> None:
    """Write theta(alpha) into a model in place, two tensors of the files at a time if it can be."""
    own, held = average.own_tensors(model), ends[0].tensors.keys() & ends[1].tensors.keys()
    if own.keys() <= held:
        for name, target in own.items():
            target.copy_(mixed(ends, name, alpha))
        return
    # files may hold experts one by one that the model has in a stack: transformers sorts them in
    told: dict[str, Any] = {"config": model.config, "dtype": model.dtype}
    told["state_dict"] = {name: mixed(ends, name, alpha) for name in held}
    with models.quiet_libraries():
        made: Any = type(model).from_pretrained(None, output_loading_info=True, **told)
    check_complete(str(ends[1].folder), made[1])
    average.write_weights(model, average.own_tensors(made[0]))


def mixed(ends: Ends, name: str, alpha: float) -> torch.Tensor:
    """Return a tensor of theta(alpha); rows that only one model has are taken as they are."""
    opened = (safe_open(end.tensors[name].file, "pt") for end in ends)
    before, after = (file.get_tensor(name) for file in opened)
    if before.shape == after.shape:
        return average.mix(before, after, alpha)
    rows = min(len(before), len(after))
    return torch.cat([average.mix(before[:rows], after[:rows], alpha), before[rows:], after[rows:]])


def add_rows(model: PreTrainedModel, ends: Ends) -> bool:
    """Give a model of AFTER the rows of tokens that only BEFORE has; say whether there are such."""
    before, after = map(checkpoint.rows_of, ends)
    if before > after:
        model.resize_token_embeddings(before, mean_resizing=False)
    return before > after


def load_critic(name: str) -> models.Loaded:
    """Load a reward model: a sequence classifier with one label, or one of this course."""
    found, safe = open_checkpoint(name), {"trust_remote_code": False}
    if "head.weight" in found.tensors and any(n.startswith("backbone.") for n in found.tensors):
        return models.load_reward_model(found.folder)
    tokenizer = models.load_tokenizer(str(found.folder), **safe)
    with models.quiet_libraries():
        model, told = AutoModelForSequenceClassification.from_pretrained(
            found.folder, dtype=torch.float32, output_loading_info=True, **safe
        )
    if model.config.num_labels != 1:
        told = f"{name} is no reward model: it has {model.config.num_labels} labels instead of one"
        raise AuditError(f"{told}. Take a sequence classification model with num_labels=1.")
    check_complete(name, {**told, "unexpected_keys": ()})  # left-overs of other heads do no harm
    model.config.pad_token_id = tokenizer.pad_token_id
    return model.to(models.device()).eval(), tokenizer


def read_prompts(path: Path) -> list[base.Prompt]:
    """Return prompts by line: text, or messages or {"prompt": } in JSON (AuditError: no prompt)."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    prompts: list[base.Prompt] = []
    for place, line in enumerate(lines, 1):
        if not line.strip():
            continue
        told: Any = line
        if line.lstrip()[0] in '[{"':
            with contextlib.suppress(ValueError):  # text may begin with a bracket
                told = json.loads(line)
        told = told.get("prompt") if isinstance(told, dict) else told
        turns: Any = base.said("user", told) if isinstance(told, str) else told
        fine = isinstance(turns, list) and all(isinstance(turn, dict) for turn in turns)
        if not fine or not turns or not all({"role", "content"} <= turn.keys() for turn in turns):
            raise AuditError(f"{path}, line {place} is no prompt: text, or messages as JSON.")
        prompts.append(turns)
    if len(prompts) < 2:
        raise AuditError(f"{path} has {len(prompts)} prompts: give at least two, better hundreds.")
    return prompts


def find_ratios(ends: Ends, alpha: float, path: Path | None, pad: bool = False) -> hma.Found:
    """Find three ratios of mean alpha by HMA (paper, section 6), on AFTER's replies to prompts.

    AuditError: the two do not fit (without `pad` in their rows), or what is named cannot be used.
    """
    if path is None:
        raise AuditError("--hma needs --prompts: it learns from AFTER's own replies to them.")
    prompts, room, numbers = read_prompts(path), 128, presets.TINY.ratios
    assert numbers is not None
    with refusing():
        search.check_search("hma", 3, alpha, numbers)
        checkpoint.plan(*ends, checkpoint.Recipe(alpha, (alpha,) * 3, pad))
        model, tokenizer = models.load_policy(ends[1].folder)
        groups = sample.sample_replies(model, tokenizer, prompts, 1, 0.0, room, 16, seed=0)
        pairs = zip(prompts, groups, strict=True)
        examples = [loop.encode(tokenizer, p, g[0], 8 * room) for p, g in pairs if g[0].finished]
        if not examples:
            raise AuditError(f"No reply of {ends[1].folder} ends within {room} tokens.")
        add_rows(model, ends)
        write_average(model, ends, 0.0)
        start = {name: each.clone() for name, each in average.own_tensors(model).items()}
        write_average(model, ends, 1.0)
        end, thirds = average.own_tensors(model), parts.partition(model, 3)
        mixture = parts.Mixture(model, start, end, thirds)  # which copies what is the model's
    likelihood = hma.ReplyLikelihood(model, examples)
    return hma.learn_ratios(mixture, likelihood, search.hma_numbers(numbers, alpha))


def write_page(audit: Audit, out: Path) -> Path:
    """Write audit.md, audit.csv and the figure into a folder; return the page."""
    out.mkdir(parents=True, exist_ok=True)
    found = table(audit)
    write_whole(out / TABLE, found.to_csv(index=False))
    style.save(front(found), out / FRONT)
    write_whole(out / PAGE, page(audit))
    return out / PAGE


def table(audit: Audit) -> pd.DataFrame:
    """Return a row an alpha and score: value, and its change from alpha 0 with its interval."""
    rows = []
    for alpha, score, forgiven in product(audit.models, audit.scores, (False, True)):
        if score not in OF_REPLIES or not forgiven:
            change = audit.change(alpha, score, forgiven=forgiven)
            row = {"alpha": alpha, "score": score, "format_forgiven": forgiven}
            row["value"] = total(audit.models[alpha].values(score, forgiven))
            row |= {"change": change.difference, "low": change.low, "high": change.high}
            every = sum(audit.items.values()) if score == MEAN else audit.items.get(score)
            rows.append({**row, "n": change.n_items, "n_of": every or change.n_items})
    found = pd.DataFrame(rows).assign(level=audit.asked.level)
    blank = found[found["alpha"] == 0.0].assign(n=0)
    blank[["value", "change", "low", "high"]] = np.nan
    skipped = [alpha for alpha in audit.asked.alphas if alpha not in audit.models]
    return pd.concat([found, *(blank.assign(alpha=alpha) for alpha in skipped)], ignore_index=True)


@style.in_style()
def front(found: pd.DataFrame) -> Figure:
    """Draw the mean over tasks of a `table` against reward, or against alpha without a reward."""
    written = found[~found["format_forgiven"] & (found["n"] > 0)]
    rows = written.pivot(index="alpha", columns="score", values="change").reset_index()
    x, label = "alpha", "α, the weight of the later model"
    if REWARD in rows:
        x, label = REWARD, "reward gained  →"
    figure, [[axes]] = style.panels(xlabel=label, ylabel="change, mean over tasks (points)  →")
    primitives.curve(axes, rows, x, MEAN, style.METHODS["average"], bars="")
    for place, name in ((0, "before"), (-1, "after")):
        end = rows.iloc[place]
        primitives.star(axes, float(end[x]), float(end[MEAN]), hollow=not place, label=name)
    for _, row in rows[1:-1].iterrows():
        primitives.note(axes, f"α {row['alpha']:g}", row[x], row[MEAN], (-1, -1))
    shown = rows[list(dict.fromkeys(["alpha", x, MEAN]))].assign(method="average")
    title = "What averaging the two keeps"
    return style.finish(figure, title, "each point an average", shown, legend_columns=3)


def page(audit: Audit) -> str:
    """Return the page of an audit as Markdown."""
    made, alpha = provenance(), audit.chosen
    rows = []
    for score in audit.scores:
        whole, made_of, left = audit.change(1.0, score), ["-", "-"], "-"
        if score not in OF_REPLIES:
            lost = audit.change(1.0, score, forgiven=True)
            made_of = [said(lost), labels.number(whole.difference - lost.difference, 2, sign=True)]
            left = said(audit.change(alpha, score, forgiven=True))
        rows.append([score, said(whole), *made_of, said(audit.change(alpha, score)), left])
    heads = ["task", "after - before", "forgotten", "format", f"alpha {alpha:g} - before"]
    heads.append("of that forgotten")
    changes = labels.markdown(heads, rows)
    return labels.page("audit", changes=changes, advice=advice(audit), audit=audit, made=made)


def said(change: Comparison) -> str:
    """Return a change and its interval, as they are written."""
    return labels.spread(change.difference, change.low, change.high, 2, sign=True)


def advice(audit: Audit) -> str:
    """Return which alpha to take and its trade, measured on the items it was not chosen on."""
    alpha = audit.chosen
    if alpha in (0.0, 1.0):
        why = "nothing is lost that averaging could give back" if alpha else "nothing is gained"
        return f"**Take alpha = {alpha:g}**: on every second item {why}."
    back, paid = audit.trade, ""
    assert back is not None  # an alpha between the ends was measured beside the later model
    for critic in (each for each in (REWARD, JUDGE) if each in audit.scores):
        paid += f", for {said(audit.change(alpha, critic, of=1.0, half=1))} of {critic}"
    sure = {"holds": "surely gives skill back", "opposite": "surely costs skill"}
    tells = sure.get(back.verdict, "may or may not give skill back: take more items")
    return (
        f"**Take alpha = {alpha:g}**, chosen on every second item by skill as written. On the "
        f"others it has {said(back)} points, the mean over tasks, against the later model{paid}: "
        f"it {tells}."
    )
