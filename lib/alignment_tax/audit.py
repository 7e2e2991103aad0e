"""Audit a pair of your own: what the later model lost, what averaging the two gives back.

Both ends and the averages between them are measured in one model in memory, whose weights are
mixed in place from the files. The page says of each task what the tax is and what it is made of.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from safetensors import safe_open
from torch import Tensor
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from alignment_tax import models, settings
from alignment_tax.checkpoint import Checkpoint, open_checkpoint
from alignment_tax.figures import primitives as draw
from alignment_tax.figures import style
from alignment_tax.labels import markdown, number, spread
from alignment_tax.merge.average import mix, own_tensors
from alignment_tax.merge.checkpoint import check_fit
from alignment_tax.merge.hma import Found, ReplyLikelihood, learn_ratios
from alignment_tax.merge.layout import check_alpha
from alignment_tax.merge.parts import Mixture, partition
from alignment_tax.merge.search import hma_numbers
from alignment_tax.presets import TINY_RATIOS
from alignment_tax.provenance import provenance
from alignment_tax.results.items import Array, SkillScores, SkillsError, slot_percent
from alignment_tax.skills.scorer import Scorer, named_tasks
from alignment_tax.stats.compare import Comparison, paired_bootstrap
from alignment_tax.store import Store, digest, list_files, write_whole
from alignment_tax.train.loop import encode
from alignment_tax.train.sample import sample_replies
from alignment_tax.world.base import Prompt
from alignment_tax.world.real import DataUnavailable

PAGE, TABLE, FRONT = "audit.md", "audit.csv", "front.png"
MEAN, REWARD = "mean", "reward"
COLUMNS = ["alpha", "score", "format_forgiven", "value", "change", "low", "high", "n"]
VERSION = 1  # of what is kept of a measured model


Items = Mapping[str, Array]
Loaded = tuple[PreTrainedModel, PreTrainedTokenizerBase]


class AuditError(settings.SettingsError):
    """An audit cannot be made of what was named; the message says what to do."""


@dataclass(frozen=True)
class Asked:
    """What an audit is to measure; `limit` items a task (None: all), replies are greedy."""

    before: str
    after: str
    tasks: tuple[str, ...]
    alphas: tuple[float, ...] = (0.2, 0.4, 0.6, 0.8)
    reward: str | None = None
    prompts: Path | None = None
    limit: int | None = None
    batch_size: int = 16
    max_new_tokens: int = 128


@dataclass(frozen=True)
class Measured:
    """One model: its scored items, and the reward of its reply to each prompt (n,), if asked."""

    scores: SkillScores
    rewards: Array

    def values(self, score: str, forgiven: bool = False, half: int | None = None) -> Items:
        """Return the values that a score is made of; `half` 0 or 1: every second item alone."""
        every = self.scores.values(forgiven)
        chosen = {REWARD: self.rewards} if score == REWARD else every
        named = chosen if score in (MEAN, REWARD) else {score: every[score]}
        return {n: each if half is None else each[half::2] for n, each in named.items()}

    def value(self, score: str, forgiven: bool = False, half: int | None = None) -> float:
        """Return a score: percent of a task or of their mean, or the mean reward."""
        return total(self.values(score, forgiven, half))


def total(values: Items) -> float:
    """Return the mean over tasks, each in percent, or the mean reward."""
    if REWARD in values:
        return float(values[REWARD].mean())
    return float(np.mean([slot_percent(slot, each) for slot, each in values.items()]))


@dataclass(frozen=True)
class Audit:
    """What was measured: `models` by alpha, from 0 to 1."""

    asked: Asked
    models: dict[float, Measured]
    draws: int = 1000  # of the items, for an interval

    def change(
        self,
        alpha: float,
        score: str = MEAN,
        forgiven: bool = False,
        *,
        of: float = 0.0,
        **half: int,
    ) -> Comparison:
        """Compare the average at alpha with that at `of`, item by item: points, or reward."""
        pair = ([self.models[each].values(score, forgiven, **half)] for each in (alpha, of))
        return paired_bootstrap(
            *pair, rng=np.random.default_rng(0), n_boot=self.draws, statistic=total
        )

    @property
    def chosen(self) -> float:
        """The alpha with the most of both on every second item: shares of reward and skill.

        Without a reward it is the largest that loses less than half of what the later model lost.
        """
        skill = {alpha: model.value(MEAN, half=0) for alpha, model in self.models.items()}
        lost = {alpha: skill[0.0] - each for alpha, each in skill.items()}
        if not self.models[0.0].rewards.size:
            return max(alpha for alpha in lost if lost[alpha] <= max(lost[1.0], 0.0) / 2)
        reward = {alpha: model.value(REWARD, half=0) for alpha, model in self.models.items()}
        gained = {alpha: each - reward[0.0] for alpha, each in reward.items()}
        if gained[1.0] <= 0 or lost[1.0] <= 0:  # then there is nothing to trade
            return float(gained[1.0] > 0)
        return max(lost, key=lambda alpha: gained[alpha] / gained[1.0] - lost[alpha] / lost[1.0])


# --- measuring ------------------------------------------------------------------------------------


def measure(asked: Asked, store: Store | None = None) -> Audit:
    """Measure both ends and the averages between them; what is measured is kept in the store.

    Raises:
        AuditError, MergeError, CheckpointError: what is named cannot be audited; nothing was run.
    """
    for alpha in asked.alphas:
        check_alpha(alpha)
    ends = open_checkpoint(asked.before), open_checkpoint(asked.after)
    check_fit(*ends)
    if (asked.reward is None) != (asked.prompts is None):
        raise AuditError("A reward needs both --reward (a model) and --prompts (a file), or none.")
    prompts = read_prompts(asked.prompts) if asked.prompts else []
    try:
        tasks = named_tasks(asked.tasks)
        scorer = Scorer(tasks, asked.limit, asked.batch_size)
    except (SkillsError, DataUnavailable) as error:
        raise AuditError(str(error)) from error
    except Exception as error:  # whatever the library of data sets raises
        raise AuditError(
            f"The data of these tasks cannot be had: {str(error).splitlines()[0]}. Without a "
            "network set HF_HOME to a cache that holds it, or take --tasks tiny."
        ) from error
    policy = cache(lambda: load(ends[1], chat=bool(prompts)))
    if prompts:
        policy()  # refuses what has no chat template
    critic = load_critic(asked.reward) if asked.reward else None
    files = [list_files(each.folder) for each in ends]
    files += [list_files(open_checkpoint(asked.reward).folder)] if asked.reward else []
    found = {}
    for alpha in sorted({0.0, *map(float, asked.alphas), 1.0}):
        kept = (
            (store or Store(settings.runs_folder()))
            .get(
                "audit",
                {
                    "files": files,
                    "alpha": alpha,
                    "tasks": [dataclasses.asdict(task) for task in tasks.values()],
                    "limit": asked.limit,
                    "batch_size": asked.batch_size,
                    "prompts": digest(prompts),
                    "max_new_tokens": asked.max_new_tokens,
                },
                lambda folder, alpha=alpha: keep(  # type: ignore[misc]
                    folder, *policy(), ends, alpha, scorer, prompts, critic, asked
                ),
                version=VERSION,
                describe=f"the audit at alpha {alpha:g}",
            )
            .path
        )
        scores = SkillScores({}, pd.read_parquet(kept / "items.parquet"))
        found[alpha] = Measured(scores, np.array(json.loads((kept / "rewards.json").read_text())))
    return Audit(asked, found)


def load(checkpoint: Checkpoint, chat: bool) -> Loaded:
    """Load a policy in float32 (AuditError: its tokenizer lacks what is needed)."""
    try:
        return models.load_policy(checkpoint.folder, chat=chat)
    except ValueError as error:
        raise AuditError(f"{checkpoint.folder}: {error}") from error


def keep(
    folder: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    ends: tuple[Checkpoint, Checkpoint],
    alpha: float,
    scorer: Scorer,
    prompts: Sequence[Prompt],
    critic: Loaded | None,
    asked: Asked,
) -> None:
    """Measure the average at alpha, and write its items and its rewards into a folder."""
    write_average(model, ends, alpha)
    scorer.items(model, tokenizer).to_parquet(folder / "items.parquet", index=False)
    rewards: list[float] = []
    if critic:
        how = {"batch_size": asked.batch_size, "max_new_tokens": asked.max_new_tokens}
        groups = sample_replies(model, tokenizer, prompts, n=1, temperature=0.0, seed=0, **how)
        said = models.texts(group[0] for group in groups)
        found = models.score_replies(*critic, prompts, said, asked.batch_size, 2048)
        rewards = [float(each) for each in found]
    write_whole(folder / "rewards.json", json.dumps(rewards))


@torch.no_grad()
def write_average(
    model: PreTrainedModel, ends: tuple[Checkpoint, Checkpoint], alpha: float
) -> None:
    """Write theta(alpha) into a model in place, two tensors of the files at a time."""
    for name, target in own_tensors(model).items():
        if name not in ends[1].tensors:
            raise AuditError(
                f"The model has a weight {name!r} that its files do not name: save it anew with "
                "this version of transformers (save_pretrained)."
            )
        start, end = (read(each.tensors[name].file, name) for each in ends)
        target.copy_(mix(start, end, alpha))


def read(file: Path, name: str) -> Tensor:
    """Return one tensor of a file."""
    with safe_open(file, "pt") as opened:
        found: Tensor = opened.get_tensor(name)
    return found


def load_critic(name: str) -> Loaded:
    """Load a reward model: a sequence classifier with one label, or one of this course."""
    found = open_checkpoint(name)
    if "head.weight" in found.tensors and any(n.startswith("backbone.") for n in found.tensors):
        return models.load_reward_model(found.folder)
    safe: dict[str, Any] = {"trust_remote_code": False}
    try:
        tokenizer = models.prepare_tokenizer(AutoTokenizer.from_pretrained(found.folder, **safe))
    except ValueError as error:
        raise AuditError(f"{name}: {error}") from error
    with models.quiet_loading():
        model, told = AutoModelForSequenceClassification.from_pretrained(
            found.folder, dtype=torch.float32, output_loading_info=True, **safe
        )
    if model.config.num_labels != 1 or told["missing_keys"]:
        raise AuditError(
            f"{name} is no reward model: it has {model.config.num_labels} labels"
            f"{', and no trained head' if told['missing_keys'] else ''}, and a reward is one "
            "number. Take a sequence classification model with num_labels=1."
        )
    model.config.pad_token_id = tokenizer.pad_token_id
    return model.to(models.device()).eval(), tokenizer


def read_prompts(path: Path) -> list[Prompt]:
    """Return the prompts of a file: a line of text, or of JSON (text, messages, or {"prompt": }).

    Raises:
        AuditError: the file is not there or empty, or a line is no prompt.
    """
    if not path.is_file():
        raise AuditError(f"There is no file {path}: --prompts is a file with a prompt a line.")
    prompts: list[Prompt] = []
    lines = path.read_text(encoding="utf-8").splitlines()
    for place, line in enumerate(lines, 1):
        if not line.strip():
            continue
        said: Any = line
        with contextlib.suppress(ValueError):  # text may begin with a bracket
            said = json.loads(line) if line.lstrip()[0] in '[{"' else line
        said = said.get("prompt") if isinstance(said, dict) else said
        turns: Any = [{"role": "user", "content": said}] if isinstance(said, str) else said
        if not turns or not all(
            isinstance(t, dict) and {"role", "content"} <= t.keys() for t in turns
        ):
            raise AuditError(f"{path}, line {place} is no prompt: text, or messages as JSON.")
        prompts.append(turns)
    if len(prompts) < 2:
        raise AuditError(f"{path} has {len(prompts)} prompts: give at least two, better hundreds.")
    return prompts


def find_ratios(before: Checkpoint, after: Checkpoint, alpha: float, path: Path | None) -> Found:
    """Find three ratios of mean alpha by HMA (paper, section 6), on AFTER's replies to prompts."""
    if path is None:
        raise AuditError("--hma needs --prompts: it learns from AFTER's own replies to them.")
    check_fit(before, after)
    model, tokenizer = load(after, chat=True)
    prompts, room = read_prompts(path), 128
    groups = sample_replies(model, tokenizer, prompts, 1, 0.0, room, 16, seed=0)
    asked = zip(prompts, groups, strict=True)
    examples = [encode(tokenizer, p, g[0], 8 * room) for p, g in asked if g[0].finished]
    if not examples:
        raise AuditError(f"No reply of {after.folder} ends within {room} tokens: nothing to learn.")
    start, end = (models.load_state(each.folder) for each in (before, after))
    mixture = Mixture(model, start, end, partition(model, 3))
    return learn_ratios(mixture, ReplyLikelihood(model, examples), hma_numbers(TINY_RATIOS, alpha))


# --- the page -------------------------------------------------------------------------------------


def write_page(audit: Audit, out: Path) -> Path:
    """Write audit.md, audit.csv and the figure into a folder; return the page."""
    out.mkdir(parents=True, exist_ok=True)
    found = table(audit)
    write_whole(out / TABLE, found.to_csv(index=False))
    style.save(front(audit, found), out / FRONT)
    write_whole(out / PAGE, page(audit))
    return out / PAGE


def scores_of(audit: Audit) -> list[str]:
    """Return the tasks, their mean, and the reward if it was measured."""
    first = audit.models[0.0]
    return [*first.values(MEAN), MEAN, *([REWARD] if first.rewards.size else [])]


def table(audit: Audit) -> pd.DataFrame:
    """Return a row an alpha and score: value, and its change from alpha 0 with its interval."""
    rows = []
    for alpha, model in audit.models.items():
        for score in scores_of(audit):
            for forgiven in (False,) if score == REWARD else (False, True):
                change = audit.change(alpha, score, forgiven)
                ends = (change.difference, change.low, change.high, change.n_items)
                rows.append((alpha, score, forgiven, model.value(score, forgiven), *ends))
    return pd.DataFrame(rows, columns=COLUMNS)


@style.in_style()
def front(audit: Audit, found: pd.DataFrame) -> Figure:
    """Draw the mean skill against reward, or against alpha where no reward was measured."""
    written = found[~found["format_forgiven"]].set_index("alpha")
    rows = written[written["score"] == MEAN].rename(columns={"change": MEAN})[[MEAN]]
    rows["alpha"] = rows.index
    x, label = "alpha", "α, the weight of the later model"
    if REWARD in set(written["score"]):
        rows["reward"] = written.loc[written["score"] == REWARD, "change"]
        x, label = "reward", "reward gained  →"
    figure, [[axes]] = style.panels(xlabel=label, ylabel="change of mean skill (points)  →")
    draw.curve(axes, rows, x, MEAN, style.METHODS["average"], bars="")
    for place, name in ((0, "before"), (-1, "after")):
        end = rows.iloc[place]
        draw.star(axes, float(end[x]), float(end[MEAN]), hollow=not place, label=name)
    shown = rows.assign(method="average").reset_index(drop=True)
    title = "What averaging the two keeps"
    return style.finish(figure, title, "each point an average", shown, legend_columns=3)


def page(audit: Audit) -> str:
    """Return the page of an audit as Markdown."""
    asked, made, alpha = audit.asked, provenance(), audit.chosen
    lines = []
    for score in scores_of(audit):
        whole = audit.change(1.0, score)
        told = [score, said(whole), "-", "-"]
        if score != REWARD:
            lost = audit.change(1.0, score, forgiven=True)
            told[2:] = said(lost), number(whole.difference - lost.difference, 2, sign=True)
        lines.append([*told, said(audit.change(alpha, score))])
    heads = ["task", "after - before", "forgotten", "format", f"alpha {alpha:g} - before"]
    return f"""# What the later model lost, and what averaging gives back

A change is later minus earlier: a loss is negative. In points of 100 (the reward in its own units),
with 95 % intervals over paired items. *Forgotten* is what is lost even if a reply is cut where its
answer ends; the rest of the change is *format*.

{markdown(heads, lines)}

![Mean skill along the averages of the two models]({FRONT})

{advice(audit)}

Before: `{asked.before}`. After: `{asked.after}`. Tasks: {", ".join(asked.tasks)}, at most
{asked.limit or "all"} items each. Numbers of every alpha: [{TABLE}]({TABLE}).
Made by alignment-tax {made["versions"]["alignment_tax"]} ({made["commit"]}) on {made["processor"]},
{made["device"]}, {made["time"]}.
"""


def said(change: Comparison) -> str:
    """Return a change and its interval, as they are written."""
    return spread(change.difference, change.low, change.high, 2, sign=True)


def advice(audit: Audit) -> str:
    """Return which alpha to take and its trade, measured on the items it was not chosen on."""
    alpha = audit.chosen
    if alpha in (0.0, 1.0):
        why = "nothing is lost that averaging could give back" if alpha else "nothing is gained"
        return f"**Take alpha = {alpha:g}**: on every second item {why}."
    back = audit.change(alpha, of=1.0, half=1)
    lines = [
        f"**Take alpha = {alpha:g}**, chosen on every second item. On the others it has "
        f"{said(back)} points of mean skill against the later model",
    ]
    if audit.models[0.0].rewards.size:
        lines.append(f", for {said(audit.change(alpha, REWARD, of=1.0, half=1))} of reward")
    sure = {"holds": "surely gives skill back", "opposite": "surely costs skill"}
    lines.append(
        f": it {sure.get(back.verdict, 'may or may not give skill back: take more items')}."
    )
    return "".join(lines)
