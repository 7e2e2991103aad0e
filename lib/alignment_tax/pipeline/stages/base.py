"""Where everything starts: the base model, theta_0, the reward model and its judge."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from transformers import PreTrainedModel, PreTrainedTokenizerBase as Tokenizer

from alignment_tax import models, presets, settings
from alignment_tax.mitigate.replay import tiny_documents
from alignment_tax.pipeline.stages.run import Loaded, Run, keep_training
from alignment_tax.spec import Spec
from alignment_tax.store import Artifact, verify_folder
from alignment_tax.train.reward import accuracy, margins, train_head, train_reward_model
from alignment_tax.train.sample import Reply, sample_replies, sampling
from alignment_tax.train.sft import train_sft
from alignment_tax.world.base import Prompt


def base(run: Run, spec: Spec | None = None) -> Artifact:
    """The pretrained model: shipped for the tiny world, downloaded or unpacked otherwise."""
    model = run.preset.model
    if run.preset.world == "tiny":
        shipped = settings.repo_root() / model
        return run.once("base", lambda: verify_folder(shipped, "the base model"))
    source = None if presets.is_paper(run.preset) else models.smollm2_source()

    def make(folder: Path) -> None:
        if source is None:
            policy, tokenizer = models.load_base(model, run.preset.dtype)
        else:
            policy, tokenizer = models.load_policy(source)
            tokenizer.pad_token = tokenizer.eos_token
        models.save_policy(policy, tokenizer, folder)

    inputs = {"model": model, "file": source.name if isinstance(source, Path) else None}
    return run.store.get("base", inputs, make, describe=f"{model} as float32")


def sft(run: Run, spec: Spec | None = None) -> Artifact:
    """theta_0: the base finetuned on demonstrations, where RLHF starts and tax is zero."""
    config, start = run.preset.sft, base(run)

    def make(folder: Path) -> None:
        policy, tokenizer = run.load(start)
        data = run.world.sft(config.documents, run.seed)
        texts = tiny_documents(config.replay, f"sft {run.seed}") if config.replay else ()
        trained = train_sft(policy, tokenizer, data, config, run.seed, folder / "work", texts)
        keep_training(folder, trained.log, {"used": trained.used, "dropped": trained.dropped})
        models.save_policy(trained.model, tokenizer, folder / "model")

    inputs, parents = {"sft": config}, {"base": start}
    return run.once("sft", lambda: run.get("sft", inputs, make, parents, "theta_0"))


def theta_0(run: Run) -> Loaded:
    """theta_0 in memory, once; nobody may change it."""
    return run.once("theta_0", lambda: run.load(sft(run)))


def reward(run: Run) -> Artifact:
    """The reward model that RLHF optimises."""
    return _reward(run, run.preset.reward, "train", 0, "the reward model")


def judge(run: Run) -> Artifact | None:
    """A reward model trained on other pairs, where there is no gold reward; else None."""
    if run.preset.judge is None:
        return None
    return _reward(run, run.preset.judge, "judge", 1000, "the judge")


def _reward(
    run: Run, config: presets.RewardConfig | presets.HeadConfig, split: str, shift: int, name: str
) -> Artifact:
    start, seed = sft(run), run.seed + shift

    def make(folder: Path) -> None:
        policy, tokenizer = run.load(start)
        data = run.world.preferences(config.pairs, seed, split)
        if isinstance(config, presets.HeadConfig):
            trained = train_head(policy, tokenizer, data, config, run.batch)
        else:
            trained = train_reward_model(policy, tokenizer, data, config, seed, folder / "work")
        held_out = run.world.preferences(config.validation_pairs, seed, "validation")
        margin = margins(trained.model, tokenizer, held_out, run.batch, config.max_length)
        kinds = list(held_out["kind"]) if "kind" in held_out.column_names else "real"
        pairs = pd.DataFrame({"kind": kinds, "margin": margin})
        pairs.to_parquet(folder / "held_out.parquet", index=False)
        stats: dict[str, Any] = {"used": trained.used, "dropped": trained.dropped}
        stats |= {"held_out_pairs": len(margin), "pair_accuracy": accuracy(margin)}
        keep_training(folder, trained.log, stats)
        models.save_policy(trained.model, tokenizer, folder / "model")

    inputs = {"reward": config, "split": split, "shift": shift, "batch": run.batch}
    return run.once((name,), lambda: run.get("reward", inputs, make, {"sft": start}, name))


def reward_model(run: Run) -> tuple[models.RewardModel, Tokenizer]:
    """Load the reward model and its tokenizer, anew each time."""
    return models.load_reward_model(reward(run).path / "model")


def rewards(run: Run, prompts: list[Prompt], replies: Sequence[models.AnyReply]) -> np.ndarray:
    """The reward model's score of each reply, shape (n,)."""
    loaded = run.once("reward model", partial(reward_model, run))
    return models.score_replies(*loaded, prompts, replies, run.batch, run.preset.reward.max_length)


def golds(run: Run, prompts: list[Prompt], replies: Sequence[models.AnyReply]) -> np.ndarray:
    """The reward that was not optimised, gold or the judge's, for each reply, shape (n,)."""
    gold = run.world.gold(prompts, models.texts(replies))
    if gold is not None:
        return gold
    artifact, config = judge(run), run.preset.judge
    if artifact is None or config is None:
        raise ValueError(f"Preset {run.preset.name} has neither a gold reward nor a judge.")
    loaded = run.once("judge", partial(models.load_reward_model, artifact.path / "model"))
    return models.score_replies(*loaded, prompts, replies, run.batch, config.max_length)


def draw_replies(
    run: Run, model: PreTrainedModel, tokenizer: Tokenizer, prompts: list[Prompt], n: int
) -> list[list[Reply]]:
    """Sample n replies to each prompt, with the same random numbers for every model."""
    return sample_replies(model, tokenizer, prompts, n, seed=run.seed, **sampling(run.preset.rsf))
