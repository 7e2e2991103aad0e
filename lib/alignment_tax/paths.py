"""Replay, and what is done along the path of training: what chapter 08 counts, watches, compares.

The remedies themselves are in `mitigate`; their recorded curves are compared in `remedies`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pandas as pd
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from alignment_tax import front, remedies
from alignment_tax.figures.tables import FAMILY_NAMES, main_line
from alignment_tax.merge.average import State, kind_of
from alignment_tax.mitigate import REMEDIES, Setting, Treatment
from alignment_tax.mitigate.base import snapshot, trained
from alignment_tax.mitigate.bema import Bema
from alignment_tax.mitigate.graft import Mask, largest_mask, pool_batches
from alignment_tax.mitigate.moving_average import MovingAverage
from alignment_tax.mitigate.replay import Replay, tiny_reported
from alignment_tax.skills import Scorer
from alignment_tax.study import DISTIL, DISTILLED_AVERAGE, Study
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
        Columns mask, kind (as `merge.average.kind_of`), changed, kept, density (their ratio).
    """
    rows = []
    for name, mask in masks.items():
        counts: dict[str, list[int]] = {"all": [0, 0]}
        for weight, kept in mask.items():
            changed = int((theta[weight] != theta_0[weight]).sum())
            for kind in ("all", str(kind_of(weight, theta[weight]))):
                both = counts.setdefault(kind, [0, 0])
                both[0] += changed
                both[1] += int(kept.sum())
        for kind, (changed, number) in counts.items():
            density = number / changed if changed else math.nan
            rows.append(
                {"mask": name, "kind": kind, "changed": changed, "kept": number, "density": density}
            )
    return pd.DataFrame(rows)


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


# --- recorded runs -------------------------------------------------------------------------------


def recorded_methods(points: pd.DataFrame) -> list[str]:
    """Return those of `METHODS` that are recorded with the plain run, in two seeds or more."""
    rsf = points[points["algorithm"] == "rsf"]
    ends = set(rsf.loc[rsf["method"] == DISTIL, "seed"])
    return [m for m in METHODS if len(ends & set(rsf.loc[rsf["method"] == m, "seed"])) > 1]


def own_rows(points: pd.DataFrame) -> pd.DataFrame:
    """Return the rows the chapter compares: the main line, distilled runs, its remedies."""
    wanted = {*recorded_methods(points), DISTIL, DISTILLED_AVERAGE}
    extra = points[(points["algorithm"] == "rsf") & points["method"].isin(wanted)]
    return pd.concat([main_line(points), extra])


def claims(points: pd.DataFrame) -> pd.DataFrame:
    """Return the paper's claims, and ours of their form, on the chapter's remedies.

    Returns:
        The columns of `remedies.claim_table`; those that are not recorded are among them.
    """
    table = remedies.claim_table(points)
    about = [any(word in text for word in WORDS) for text in table["claim"]]
    return table[pd.Series(about, index=table.index) | table["place"].isin(PLACES)]


def format_claims(points: pd.DataFrame) -> dict[str, front.Comparison]:
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
        found[claim] = front.compare_seeds(gaps)
        other = both[1].groupby("seed")[score].mean()
        claim = f"replay without them has more {name} than no replay"
        found[claim] = front.compare_seeds((other - plain[score]).dropna())
    return found
