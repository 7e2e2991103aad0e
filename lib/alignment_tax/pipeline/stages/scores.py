"""What a model can do and how far it went: skills, reward, gold, and KL in both directions."""

import json
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from alignment_tax.labels import FORGIVEN
from alignment_tax.models import Model, RewardModel, Tokenizer, score_ids
from alignment_tax.pipeline.stages import base, ratios
from alignment_tax.pipeline.stages.run import Run, trained
from alignment_tax.skills import Scorer
from alignment_tax.spec import Spec, simplest
from alignment_tax.stats.calibration import calibration_error
from alignment_tax.stats.probe import probe
from alignment_tax.store import Artifact, digest, read_json, write_json
from alignment_tax.train.checks import short_prompts
from alignment_tax.train.kl import kl_estimate, reply_log_probs
from alignment_tax.train.sample import kept_replies, reply_columns
from alignment_tax.world.tiny import items


def scorer(run: Run) -> Scorer:
    """Scores skills on the reported items; built once."""
    config = run.preset.eval
    make = partial(Scorer, config.suite, config.limit, run.batch, without=config.without)
    return run.once("scorer", make)


@cache
def _items_key(suite: str) -> str:
    """What the items of a suite are: scores of other items are never mistaken for these."""
    if suite != "tiny":
        return "2"
    slots = ("one_hop", "two_hop", "piqa_like", "race_like", "span", "counting", "translation")
    return digest([list(items(slot)["prompt"]) + list(items(slot)["target"]) for slot in slots])


def scores(run: Run, spec: Spec) -> Artifact:
    """Skills, reward, gold and KL of a model: point.json, its items and its replies."""
    spec = simplest(ratios.resolved(run, spec))  # the same weights are scored once

    def make(folder: Path) -> None:
        model, tokenizer = ratios.model_of(run, spec)
        found = scorer(run).score(model, tokenizer)
        replies = sampled_replies(run, model, tokenizer)
        found.save(folder)
        replies.to_parquet(folder / "replies.parquet", index=False)
        point = found.metrics | {name: replies[name].mean() for name in ("reward", "gold")}
        point["kl"] = kl_estimate(replies["log_prob"].to_numpy(), replies["log_prob_0"].to_numpy())
        point["n_items"] = found.n_items
        write_json(folder / "point.json", {k: float(v) for k, v in point.items()})

    config, rsf = run.preset.eval, run.preset.rsf
    inputs: dict[str, Any] = {"eval": config, "sampling": [rsf.temperature, rsf.max_new_tokens]}
    inputs |= {"alpha": spec.alpha, "method": spec.method, "items": _items_key(config.suite)}
    details = {"strength": spec.strength, "part": spec.part}
    inputs |= {key: value for key, value in details.items() if value is not None}
    parents = {"policy": trained(run, spec), "reward": base.reward(run), "reference": base.sft(run)}
    return run.get("scores", inputs, make, parents, f"scores of {spec}", version=4)


def check_theta_0(run: Run) -> None:
    """Refuse a theta_0 that lost more of a family than the preset allows (ValueError)."""
    if (most := run.preset.theta_0_may_lose) is None:
        return
    # what is gone before RLHF begins can no longer be lost by it
    ends = [scores(run, Spec(name)) for name in ("base", "sft")]
    start, end = (read_json(each.path / "point.json") for each in ends)
    lost = {name: start[name] - end[name] for name in FORGIVEN.values() if name in start}
    worst = max(lost, key=lambda name: lost[name])
    if lost[worst] > most:
        told = f"theta_0 of {run} lost {lost[worst]:.1f} points of {worst} to instruction tuning"
        raise ValueError(f"{told}, and may lose {most:g}: raise `sft.replay` or lower its rate.")


def forward_kl(run: Run, spec: Spec) -> Artifact:
    """KL(theta_0 || model) over theta_0's reported replies: kl.json, in nats a reply.

    The direction of Shenfeld et al. 2025 (RL's Razor), not that of `kl` in the table of points.
    """
    spec = simplest(ratios.resolved(run, spec))
    parent, of_start = trained(run, spec), scores(run, Spec("sft"))

    def make(folder: Path) -> None:
        table = pd.read_parquet(of_start.path / "replies.parquet")
        model, tokenizer = ratios.model_of(run, spec)
        prompts = [json.loads(prompt) for prompt in table["prompt"]]
        after = reply_log_probs(model, tokenizer, prompts, kept_replies(table), run.batch)
        found = kl_estimate(table["log_prob_0"].to_numpy(), after)
        write_json(folder / "kl.json", {"forward_kl": found, "replies": len(table)})

    inputs = {name: getattr(spec, name) for name in ("method", "alpha", "strength", "part")}
    inputs |= {"batch": run.batch}
    parents = {"policy": parent, "replies": of_start}
    return run.get("forward_kl", inputs, make, parents, f"forward KL of {spec}", version=2)


def calibration(run: Run, spec: Spec) -> Artifact:
    """What a model's answers do not show: how sure, how varied, and what a probe still finds.

    calibration.json: ece, the expected calibration error (points, of the likeliest's share),
    entropy, minus a reply's mean log-probability (nats), both as a tax in Hu et al. 2025
    (2510.17426), and in the tiny world probe (points), see `facts_found`.
    """
    spec = simplest(ratios.resolved(run, spec))
    scored = scores(run, spec)

    def make(folder: Path) -> None:
        model, tokenizer = ratios.model_of(run, spec)
        found = scorer(run).confidences(model, tokenizer)
        replies = pd.read_parquet(scored.path / "replies.parquet", columns=["log_prob"])
        off = calibration_error(found["confidence"].to_numpy(), found["right"].to_numpy())
        entropy = -float(replies["log_prob"].mean())
        values = {"ece": off, "entropy": entropy}
        if run.preset.world == "tiny":
            values["probe"] = facts_found(model, tokenizer, run.batch)
        write_json(folder / "calibration.json", values)

    inputs = {name: getattr(spec, name) for name in ("method", "alpha", "strength", "part")}
    parents = {"policy": trained(run, spec), "scores": scored}
    return run.get("calibration", inputs, make, parents, f"calibration of {spec}", version=2)


def facts_found(model: Model, tokenizer: Tokenizer, batch: int) -> float:
    """Return how many one-hop facts a probe finds in a model's last hidden state, in points."""
    facts, reader = items("one_hop"), RewardModel.from_policy(model, tokenizer)
    asked = [tokenizer(fact["prompt"], add_special_tokens=False)["input_ids"] for fact in facts]
    both = score_ids(reader, asked, tokenizer.pad_token_id, batch, "probing", features=True)
    last, _ = np.split(both.astype(float), 2, axis=1)
    answers = [fact["answer"] for fact in facts]
    return float(100 * probe(last, [fact["choices"] for fact in facts], answers).mean())


def sampled_replies(run: Run, model: Model, tokenizer: Tokenizer) -> pd.DataFrame:
    """Sample replies to the reported prompts and score them: one row a reply.

    Columns: prompt (JSON), `reply_columns`, reward, gold, log_prob, theta_0's log_prob_0 (nats).
    """
    config = run.preset.eval
    every = run.world.prompts(4 * config.reward_prompts, 0, "reported")
    short = short_prompts(tokenizer, every, run.preset.rsf.max_prompt_length)
    prompts = short[: config.reward_prompts]
    groups = base.draw_replies(run, model, tokenizer, prompts, config.reward_samples)
    replies = [reply for group in groups for reply in group]
    asked = [prompt for prompt in prompts for _ in range(config.reward_samples)]
    start, _ = base.theta_0(run)
    columns: dict[str, Any] = {"prompt": [json.dumps(p) for p in asked], **reply_columns(replies)}
    columns["reward"] = base.rewards(run, asked, replies)
    columns["gold"] = base.golds(run, asked, replies)
    columns["log_prob"] = reply_log_probs(model, tokenizer, asked, replies, run.batch)
    columns["log_prob_0"] = reply_log_probs(start, tokenizer, asked, replies, run.batch)
    return pd.DataFrame(columns)
