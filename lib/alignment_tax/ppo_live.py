"""Short PPO runs for chapter 06: PPO as it is meant, and with one part of it taken away."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pandas as pd
from tqdm import tqdm
from transformers import PreTrainedModel

from alignment_tax.pipeline.study import Study
from alignment_tax.presets import PpoConfig
from alignment_tax.train import ppo
from alignment_tax.train.kl import reply_log_probs
from alignment_tax.train.sample import sample_replies

MEANT = "as meant"
NO_KL = "no KL penalty"
NO_WHITENING = "no whitening"
LITTLE_ROOM = "little room"
NO_PENALTY = "little room, no penalty for a missing end"
#: Each failure, and the run that it differs from in one number.
FAILURES = {NO_KL: MEANT, NO_WHITENING: MEANT, NO_PENALTY: LITTLE_ROOM}


def variants(config: PpoConfig, room: int) -> dict[str, PpoConfig]:
    """Return the runs by name: PPO as meant, then with one number changed.

    theta_0 nearly always ends its replies where it has room, so that the penalty for a missing end
    has nothing to do. Two runs have so little room that many replies are cut off: one with the
    penalty, one without.

    Args:
        config: PPO as meant.
        room: Most tokens of a reply in the runs with little room.
    """
    tight = dataclasses.replace(config, max_new_tokens=room)
    return {
        MEANT: config,
        NO_KL: dataclasses.replace(config, kl_coef=0.0),
        NO_WHITENING: dataclasses.replace(config, whiten=False),
        LITTLE_ROOM: tight,
        NO_PENALTY: dataclasses.replace(tight, missing_eos_penalty=0.0),
    }


def train(study: Study, config: PpoConfig) -> tuple[PreTrainedModel, pd.DataFrame]:
    """Run PPO from theta_0 for the iterations of `config`.

    All runs of a study see the same prompts in the same order.

    Returns:
        The policy, and one row per iteration (see `train.ppo.step`).

    Raises:
        ValueError, TrainingDiverged: see `train.ppo.step`.
    """
    policy, tokenizer = study.policy("sft")
    critic = None if config.shared_trunk else study.reward_model()
    state = ppo.start(policy, tokenizer, config, study.seed, critic)
    size, rows = config.prompts_per_iteration, []
    prompts = study.world.prompts(config.iterations * size, study.seed, "rlhf")
    for i in tqdm(range(config.iterations), desc="PPO", unit="iteration", leave=False):
        at = np.arange(i * size, (i + 1) * size) % len(prompts)
        state, row = ppo.step(state, [prompts[k] for k in at], study.rewards, study.golds)
        rows.append(row)
    return state.policy, pd.DataFrame(rows)


def validated(study: Study, policy: PreTrainedModel, config: PpoConfig, n: int) -> pd.DataFrame:
    """Return one row per validation prompt: how a policy replies in the room of `config`.

    Args:
        study: Where prompts, rewards and theta_0 come from.
        policy: A trained policy.
        config: max_new_tokens, temperature and sampling_batch are used.
        n: Number of prompts, a reply each; the same prompts and random numbers for every policy.

    Returns:
        Columns prompt (JSON), reply, reward, gold, kl (log pi - log pi_0, nats), reply_length (in
        tokens, with the end token) and finished (0 or 1).
    """
    theta_0, tokenizer = study.policy("sft")
    prompts = study.world.prompts(n, study.seed, "validation")
    groups = sample_replies(
        policy,
        tokenizer,
        prompts,
        n=1,
        temperature=config.temperature,
        max_new_tokens=config.max_new_tokens,
        batch_size=config.sampling_batch,
        seed=study.seed,
    )
    replies = [group[0] for group in groups]
    batch = study.preset.eval.batch_size
    after, before = (
        reply_log_probs(model, tokenizer, prompts, replies, batch) for model in (policy, theta_0)
    )
    return pd.DataFrame(
        {
            "prompt": [json.dumps(prompt) for prompt in prompts],
            "reply": [reply.text for reply in replies],
            "reward": study.rewards(prompts, replies),
            "gold": study.golds(prompts, replies),
            "kl": after - before,
            "reply_length": [len(reply.token_ids) + reply.finished for reply in replies],
            "finished": [float(reply.finished) for reply in replies],
        }
    )
