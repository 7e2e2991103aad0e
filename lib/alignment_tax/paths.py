"""Replay, and what is done along the path of training: what chapter 08 counts, watches, compares.

The remedies themselves are in `mitigate`; their recorded curves are compared in `remedies`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from alignment_tax import remedies
from alignment_tax.labels import BLEU_COLUMNS, FAMILY_NAMES, number, spread
from alignment_tax.merge.average import State, kind_of
from alignment_tax.mitigate import REMEDIES, Setting, Treatment
from alignment_tax.mitigate.base import snapshot, trained
from alignment_tax.mitigate.bema import Bema
from alignment_tax.mitigate.graft import Mask, largest_mask, pool_batches
from alignment_tax.mitigate.moving_average import MovingAverage
from alignment_tax.mitigate.replay import Replay, tiny_reported
from alignment_tax.pipeline.study import Study
from alignment_tax.results.points import main_line
from alignment_tax.skills import Scorer, SkillScores, capped_bleu, family_percent
from alignment_tax.spec import DISTIL, DISTILLED_AVERAGE
from alignment_tax.stats import compare, pareto
from alignment_tax.train import pretrain
from alignment_tax.train.loop import IGNORED
from alignment_tax.world.corpus import Document

#: The remedies of the chapter, in its order; early stopping is recorded with RSF itself.
METHODS = ("replay", "replay_other", "sma", "ema", "bema", "graft", "graft_random", "graft_learnt")
#: What a claim of the paper is about, if it is one of the chapter: words of its text, or its place.
WORDS = ("replay", "SMA", "EMA", "graft", "stopping RSF early")
PLACES = ("Fig. 12",)
REPLY = "reply"


# --- the protocol --------------------------------------------------------------------------------


def make_setting(study: Study) -> Setting:
    """Return what every remedy of a study starts from, with both kinds of text to replay.

    Raises:
        ValueError: the preset has no numbers for remedies, or no pretraining text.
    """
    if study.preset.distil is None or not study.preset.replay_documents:
        raise ValueError(
            f"Preset {study.preset.name} has no pretraining text to replay: take smoke or tiny."
        )
    theta_0, tokenizer = study.policy("sft")
    return Setting(
        theta_0,
        tokenizer,
        study.pool(),
        study.preset.distil,
        study.seed,
        study.replay_documents(),
        study.replay_documents(evaluated_formats=False),
        tiny_reported(),
    )


def make_replay(setting: Setting, strength: float, evaluated_formats: bool = True) -> Replay:
    """Return replay at a strength; it refuses text that contains a reported item (ValueError)."""
    treatment = REMEDIES["replay" if evaluated_formats else "replay_other"].make(setting, strength)
    assert isinstance(treatment, Replay)
    return treatment


# --- replay --------------------------------------------------------------------------------------


def replay_use(
    setting: Setting,
    families: Sequence[str],
    strengths: Sequence[float],
    evaluated_formats: bool = True,
) -> pd.DataFrame:
    """Count what a run reads at several strengths of replay, without training it.

    Args:
        setting: See `make_setting`.
        families: The family of each document of the text (`replay.tiny_families`).
        strengths: Replayed tokens per reply token.
        evaluated_formats: Which of the setting's two texts is replayed.

    Prompts, which only condition, are not counted.

    Returns:
        One row per strength and family, "reply" among them: tokens, counted (the sum of their loss
        weights), documents, and different (documents that are not the same text twice).
    """
    texts = setting.replay if evaluated_formats else setting.replay_other
    named = dict(zip(_token_ids(setting, texts), families, strict=True))
    batches = [int((batch["labels"] != IGNORED).sum()) for batch in pool_batches(setting)]
    replies = float(setting.config.epochs * sum(batches))
    rows = []
    for strength in strengths:
        rows.append(
            {"strength": strength, "family": REPLY, "tokens": replies, "counted": replies}
            | {"documents": 0, "different": 0}
        )
        replay = make_replay(setting, strength, evaluated_formats)
        taken = [row for n in batches * setting.config.epochs for row in replay.take(n)]
        drawn: dict[str, list[pretrain.Row]] = {}
        for row in taken:
            drawn.setdefault(named[tuple(row.ids)], []).append(row)
        for family, own in sorted(drawn.items()):
            rows.append(
                {
                    "strength": strength,
                    "family": family,
                    "tokens": float(sum(map(len, own))),
                    "counted": float(sum(sum(row.weights) for row in own)),
                    "documents": len(own),
                    "different": len({tuple(row.ids) for row in own}),
                }
            )
    return pd.DataFrame(rows)


def use_table(use: pd.DataFrame) -> pd.DataFrame:
    """Return what is replayed at each strength, all families together.

    Args:
        use: See `replay_use`.

    Returns:
        One row per strength: tokens, counted, documents, different, and in percent share (of reply
        and replayed tokens) and weight (counted of the replayed tokens).
    """
    old = use[use["family"] != REPLY].groupby("strength")
    table = old[["tokens", "counted", "documents", "different"]].sum()
    table["share"] = 100 * table["tokens"] / use.groupby("strength")["tokens"].sum()
    table["weight"] = 100 * table["counted"] / table["tokens"]
    return table


def marked(setting: Setting, row: pretrain.Row) -> str:
    """Return a document as Markdown, the tokens that count in full in bold."""
    words = []
    for token, weight in zip(row.ids, row.weights, strict=True):
        word = str(setting.tokenizer.decode([token])).strip().replace("<", "\\<")
        words.append(f"**{word}**" if weight == 1 else word)
    return " ".join(words).replace("** **", " ")


def _token_ids(setting: Setting, texts: Sequence[Document]) -> list[tuple[int, ...]]:
    """Return the tokens of each document as replay reads it."""
    limit = setting.config.max_length
    rows = [pretrain.encode(document, setting.tokenizer).cut(limit) for document in texts]
    return [tuple(row.ids) for row in rows]


# --- the path ------------------------------------------------------------------------------------


class Watch(Treatment):
    """Rides along a run and notes how far it, and averages of it, are from theta_0.

    Attributes:
        rows: One per step: step, "trained" and the name of each average, each the Euclidean
            distance from theta_0 in all trained weights together; NaN where an average has not
            begun.

    Args:
        averages: Moving averages by name; they are fed, not written into the policy.
    """

    def __init__(self, averages: Mapping[str, MovingAverage | Bema]) -> None:
        self.averages = averages
        self.rows: list[dict[str, float]] = []
        self.start: dict[str, Tensor] = {}

    def begin(self, model: PreTrainedModel) -> PreTrainedModel:
        """Remember where the run starts."""
        self.start = snapshot(model)
        for average in self.averages.values():
            model = average.begin(model)
        return model

    def after_step(self, model: PreTrainedModel, step: int) -> None:
        """Feed the averages and note all distances."""
        row: dict[str, float] = {"step": step, "trained": self._distance(trained(model))}
        for name, average in self.averages.items():
            average.after_step(model, step)
            try:
                row[name] = self._distance(average.weights())
            except ValueError:  # an SMA of fewer than two checkpoints
                row[name] = math.nan
        self.rows.append(row)

    def _distance(self, weights: Mapping[str, Tensor]) -> float:
        gaps = [(weights[n].double() - start.double()).norm() for n, start in self.start.items()]
        return float(torch.stack(gaps).norm())


# --- graft ---------------------------------------------------------------------------------------


def norm_kept(theta_0: State, theta: State, mask: Mask) -> float:
    """Return which share of the norm of the change a mask keeps.

    It is also the alpha of the average whose change is as long: |alpha D| = alpha |D|.
    """
    kept = [((theta[n] - theta_0[n])[mask[n]]).double().norm() for n in mask]
    whole = [(theta[n] - theta_0[n]).double().norm() for n in mask]
    return float(torch.stack(kept).norm() / torch.stack(whole).norm())


def norms_kept(theta_0: State, theta: State, densities: Sequence[float]) -> pd.DataFrame:
    """Return the share of the norm that the largest changes and random ones keep, by density.

    Returns:
        Columns density, largest, random; a random mask keeps sqrt(density), on average of squares.
    """
    found = [norm_kept(theta_0, theta, largest_mask(theta_0, theta, d)) for d in densities]
    roots = [math.sqrt(density) for density in densities]
    return pd.DataFrame({"density": list(densities), "largest": found, "random": roots})


def mask_table(theta_0: State, theta: State, masks: Mapping[str, Mask]) -> pd.DataFrame:
    """Return where masks keep changes: one row per mask and kind of weight, "all" first.

    Returns:
        Columns mask, kind (as `merge.average.kind_of`), changed, kept, density (their ratio), norm
        (share of the norm of the kind's change that is kept; NaN where nothing changed).
    """
    rows = []
    for name, mask in masks.items():
        kinds: dict[str, Mask] = {"all": dict(mask)}
        for weight, kept in mask.items():
            kinds.setdefault(str(kind_of(weight, theta[weight])), {})[weight] = kept
        for kind, own in kinds.items():
            changed = sum(int((theta[weight] != theta_0[weight]).sum()) for weight in own)
            count = sum(int(kept.sum()) for kept in own.values())
            rows.append(
                {"mask": name, "kind": kind, "changed": changed, "kept": count}
                | {"density": count / changed if changed else math.nan}
                | {"norm": norm_kept(theta_0, theta, own) if changed else math.nan}
            )
    return pd.DataFrame(rows)


def at_equal_norm(
    pairs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]], along: pd.DataFrame
) -> pd.DataFrame:
    """Compare grafts with the averages that have moved as far.

    Args:
        pairs: Graft and average of the same norm, each with mask, norm, reward, skill; reward and
            skill since theta_0.
        along: Averages from theta_0 to the aligned model: norm, reward, skill.

    Returns:
        One row per mask: norm (which is alpha), reward, skill; reward_gap and skill_gap, graft
        minus average; skill_at_equal_reward, the graft's skill minus the best on the line through
        the averages at its reward or more (`front.interpolate`; NaN where none has that much).
    """
    line = along.sort_values("norm")[["reward", "skill"]].to_numpy(dtype=float)
    rows = []
    for one, other in pairs:
        gaps = {f"{score}_gap": one[score] - other[score] for score in ("reward", "skill")}
        best = float(pareto.interpolate(line, one["reward"])[0])
        rows.append(
            {name: one[name] for name in ("mask", "norm", "reward", "skill")}
            | gaps
            | {"skill_at_equal_reward": one["skill"] - best}
        )
    return pd.DataFrame(rows).set_index("mask")


# --- translations --------------------------------------------------------------------------------


def of_items(one: SkillScores, other: SkillScores, capped: bool = False) -> compare.Comparison:
    """Compare the BLEU of two models of one seed: the first minus the second.

    The interval (95 %) is the noise of the items alone.

    Args:
        one, other: Scores on the same items.
        capped: Whether words beyond the reference's length are forgiven (`skills.capped_bleu`).
    """

    def cut(values: Mapping[str, np.ndarray]) -> float:
        return capped_bleu(pd.DataFrame(values["bleu"], columns=list(BLEU_COLUMNS)))

    first, second = ([{"bleu": scores.values()["bleu"]}] for scores in (one, other))
    return compare.paired_bootstrap(
        first,
        second,
        rng=np.random.default_rng(0),
        statistic=cut if capped else family_percent("bleu"),
        n_boot=300,
    )


def in_words(c: compare.Comparison, digits: int = 1) -> str:
    """Return "difference (low to high)" with signs."""
    return spread(c.difference, c.low, c.high, digits, sign=True)


def saved_in_words(lost: compare.Comparison, saved: compare.Comparison) -> str:
    """Say which part of a loss a remedy saves, in points with the interval behind it.

    Args:
        lost: The plain run minus theta_0.
        saved: The remedy minus the plain run.

    Raises:
        ValueError: nothing is lost.
    """
    if lost.difference >= 0:
        raise ValueError(f"The plain run lost nothing: it is {in_words(lost)} points from theta_0.")
    over = saved.difference + lost.difference
    if saved.verdict != "holds":
        part = "is not shown to save any"
    elif over >= 0:
        part = f"saves all of it, and ends {number(over)} points above θ₀"
    else:
        part = f"saves {saved.difference / -lost.difference:.0%} of it"
    return f"{part} ({in_words(saved)} points against the plain run)"


def split_by_cause(spoken: pd.DataFrame, plain: str = DISTIL) -> pd.DataFrame:
    """Split how many more translations are exact than in the plain run: by words, by habit.

    A translation is exact if it begins right (words) and then stops (habit): exact = begins_right x
    stops. The gap to the plain run is the gap in either factor times the mean of the other, two
    parts that sum to it exactly.

    Args:
        spoken: Per model, in percent: begins_right, exact (`talk.measures`).
        plain: The model that all are compared with.

    Returns:
        Per model begins_right, stops (exact in percent of begins_right), exact; gap, by_words and
        by_habit, in points of exact translations. NaN where no translation begins right.
    """
    table = spoken[["begins_right", "exact"]].astype(float)
    table.insert(1, "stops", 100 * table["exact"] / table["begins_right"].where(lambda b: b > 0))
    less = table.loc[plain]
    both = table + less  # twice the mean
    table["gap"] = table["exact"] - less["exact"]
    words = (table["begins_right"] - less["begins_right"]) * both["stops"] / 200
    habit = (table["stops"] - less["stops"]) * both["begins_right"] / 200
    return table.assign(by_words=words, by_habit=habit)


# --- live scores ---------------------------------------------------------------------------------


def quick_scorer(study: Study, limit: int) -> Scorer:
    """Return a scorer of the first `limit` reported items of each slot, if the preset has more."""
    config = study.preset.eval
    few = limit if config.limit is None else min(limit, config.limit)
    return Scorer(config.suite, few, config.batch_size, without=config.without)


def quick_point(
    study: Study, scorer: Scorer, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> dict[str, float]:
    """Return the skills (percent) of a model on the scorer's items, and its reward and gold."""
    replies = study.sampled_replies(model, tokenizer)
    rewards = {name: float(replies[name].mean()) for name in ("reward", "gold")}
    scores = scorer.score(model, tokenizer)
    return scores.metrics | rewards | {"n_items": scores.n_items}


def above_averages(live: pd.DataFrame) -> pd.Series:
    """Return by how many points of skill models lie above the averages of the distilled run.

    Args:
        live: Points of one seed: theta_0, the distilled run, its averages, and other models.

    Returns:
        By method: skill minus the best on the line from theta_0 over the averages to the distilled
        run, at the model's reward or more; NaN where the line does not reach that reward.
    """
    rows = live[live["algorithm"] == "rsf"]
    on_line = [live[live["algorithm"] == "sft"], rows[rows["method"] == DISTILLED_AVERAGE]]
    on_line = [*on_line, rows[rows["method"] == DISTIL]]
    line = pd.concat([part.sort_values("alpha") for part in on_line])
    others = rows[~rows["method"].isin([DISTILLED_AVERAGE, DISTIL])].set_index("method")
    rewards = others["reward"].to_numpy(dtype=float)
    best = pareto.interpolate(line[["reward", "skill"]].astype(float), rewards)
    return others["skill"].astype(float) - best


# --- recorded runs -------------------------------------------------------------------------------


def recorded_methods(points: pd.DataFrame) -> list[str]:
    """Return those of `METHODS` that are recorded with the plain run, in two seeds or more."""
    rsf = points[points["algorithm"] == "rsf"]
    ends = set(rsf.loc[rsf["method"] == DISTIL, "seed"])
    return [m for m in METHODS if len(ends & set(rsf.loc[rsf["method"] == m, "seed"])) > 1]


def claims(points: pd.DataFrame) -> pd.DataFrame:
    """Return the paper's claims, and ours of their form, on the chapter's remedies.

    Returns:
        The columns of `remedies.claim_table`; those that are not recorded are among them.
    """
    table = remedies.claim_table(points)
    about = [any(word in text for word in WORDS) for text in table["claim"]]
    return table[pd.Series(about, index=table.index) | table["place"].isin(PLACES)]


def format_claims(points: pd.DataFrame) -> dict[str, compare.Comparison]:
    """Compare replay with and without the evaluated formats, strength by strength.

    Returns:
        Claim to comparison, each the mean difference over the strengths that both have, paired by
        seed; empty where they are not recorded in two seeds. Skills in points, reward in its units.
    """
    if not {"replay", "replay_other"} <= set(recorded_methods(points)):
        return {}
    rows = remedies.gained(points)
    rows = rows[rows["algorithm"] == "rsf"]
    both = [rows[rows["method"] == m] for m in ("replay", "replay_other")]
    pairs = both[0].merge(both[1], on=["seed", "strength"], suffixes=("", "_other"))
    plain = rows[rows["method"] == DISTIL].set_index("seed")
    found = {}
    for score, name in {**FAMILY_NAMES, "reward": "reward"}.items():
        gaps = (pairs[score] - pairs[f"{score}_other"]).groupby(pairs["seed"]).mean()
        claim = f"replay with the evaluated formats has more {name} than without"
        found[claim] = compare.compare_seeds(gaps)
        other = both[1].groupby("seed")[score].mean()
        claim = f"replay without them has more {name} than the plain run"
        found[claim] = compare.compare_seeds((other - plain[score]).dropna())
    return found


def rsf_bill(points: pd.DataFrame, rounds: int) -> dict[str, float]:
    """Return what RSF has gained and paid after some rounds, as shares of its last round's.

    Args:
        points: The recorded run.
        rounds: After how many.

    Returns:
        reward (share of the gain over theta_0) and skill (share of the loss), of means over seeds.
    """
    rows = remedies.gained(main_line(points)).set_index("seed")
    skill = rows.loc[rows["algorithm"] == "sft", "skill"]
    rsf = rows[(rows["algorithm"] == "rsf") & (rows["method"] == "none")]
    found = {}
    for score in ("reward", "skill"):
        changes = rsf[score] - skill.reindex(rsf.index) if score == "skill" else rsf[score]
        means = changes.groupby(rsf["rounds"].to_numpy()).mean()
        found[score] = float(means.loc[rounds] / means.iloc[-1])
    return found
