"""REINFORCE with a leave-one-out baseline (RLOO; Ahmadian et al. 2024), by TRL.

One step samples n replies to each of some prompts. The advantage of a reply is its reward less the
mean reward of the other n - 1; the step makes replies of positive advantage more likely. It is PPO
without a value network: the siblings of a reply say what was to be expected.
"""

import copy
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import pandas as pd
import trl
from datasets import Dataset
from transformers import Trainer, TrainerState

from alignment_tax.models import Model, Reply, Tokenizer
from alignment_tax.presets import RlooConfig
from alignment_tax.train import checks, rounds, sample, trainer
from alignment_tax.world.base import Message, Prompt


class ByTrl(NamedTuple):
    """A trainer of TRL's that samples groups of replies, and the class of its arguments."""

    name: str
    trainer: type[Trainer]
    arguments: Callable[..., Any]


RLOO = ByTrl("RLOO", trl.RLOOTrainer, trl.RLOOConfig)


def rloo_round(config: RlooConfig, start: rounds.Start, by: ByTrl = RLOO) -> rounds.RoundResult:
    """Run one round of RLOO; `samples` has one row per reply that it was trained on."""
    given = (start.policy, start.theta_0, start.tokenizer, start.reward_fn, start.prompts)
    seed = rounds.round_seed(start.seed, start.number)
    trained = train_rloo(*given, config, seed, start.folder / "work", by)
    samples = trained.samples.assign(chosen=True)
    stats = {"mean_reward": samples["reward"].mean(), "finished": samples["finished"].mean()}
    stats |= {"kept": trained.used, "dropped": sum(trained.dropped.values())}
    return rounds.RoundResult(trained.model, trained.log, samples, stats)


def train_rloo(
    policy: Model, reference: Model, tokenizer: Tokenizer, reward_fn: rounds.RewardFunction,
    prompts: Sequence[Prompt], config: RlooConfig, seed: int, workdir: Path, by: ByTrl = RLOO,
) -> trainer.Trained:  # fmt: skip
    """Train `policy` on rewards by RLOO, in place, for a round; `reference` is theta_0 in each.

    It draws as `sample_replies` does, and trains on the very tokens that it drew. Padding counts in
    the positions: right for rotary embeddings (Llama), wrong for learned ones (GPT-2). Prompts that
    are too long are left out, and so many that all steps are full. ValueError: numbers that make no
    groups or do not fit, or unusable prompts or rewards; TrainingDiverged: a loss or gradient that
    is no finite number.

    A reply that was cut off scores `config.unfinished_penalty` less than the worst finished reply
    to its prompt: left out of the loss, replies could grow beyond the limit at no cost.

    The log has among others reward (the mean score) and kl (nats a token). `samples` are one row
    per reply: step (the first is 1), prompt, reply, ids, finished, reward, score (what training
    saw, before the KL penalty), tokens (with the end token).
    """
    short = checks.prompts_that_fit(policy, tokenizer, prompts, config)
    kept = short[: count_of_full_steps(len(short), config)]
    dropped = {"too long": len(prompts) - len(short), "left over": len(short) - len(kept)}
    rewards = RecordedRewards(reward_fn, tokenizer.eos_token_id, config)
    numbers = trainer.trainer_arguments(config, seed, workdir) | trainer.CONSTANT_RATE
    numbers |= {"num_generations": config.n, "max_completion_length": config.max_new_tokens}
    numbers |= {"temperature": config.temperature, "top_k": 0, "top_p": 1.0, "beta": config.beta}
    arguments = by.arguments(**numbers, disable_dropout=True)
    own_end = policy.generation_config.eos_token_id
    policy.generation_config.eos_token_id = tokenizer.eos_token_id
    data = Dataset.from_list([{"prompt": prompt} for prompt in kept])
    given = (policy, tokenizer, arguments, data, by.name, dropped)
    # the trainer would load its reference from where the policy says that it came from
    frozen = copy.deepcopy(reference).float().eval()
    loader = f"{by.trainer.__module__}.create_model_from_path"
    with mock.patch(loader, return_value=frozen):
        trained = trainer.run_trainer(by.trainer, *given, reward_funcs=rewards)
    policy.generation_config.eos_token_id = own_end
    samples = pd.concat(rewards.steps, ignore_index=True)
    checks.check_rewards(samples["reward"].to_numpy(), len(samples))
    return dataclasses.replace(trained, used=len(samples), samples=samples)


def rloo_advantages(rewards: np.ndarray, log_ratios: np.ndarray, beta: float) -> np.ndarray:
    """Compute RLOO's advantages by hand (Ahmadian et al. 2024): every row sums to 0.

    That is r - beta * log(pi / pi_0) minus the siblings' mean; rewards, log-ratios: (prompts, n).
    """
    penalised = rewards - beta * log_ratios
    siblings = penalised.sum(axis=1, keepdims=True) - penalised
    return penalised - siblings / (rewards.shape[1] - 1)


def penalise_unfinished(
    rewards: np.ndarray, finished: np.ndarray, n: int, penalty: float
) -> np.ndarray:
    """Return rewards (prompts * n,), of cut-off replies `penalty` below the worst finished one."""
    grid, done = rewards.reshape(-1, n), finished.reshape(-1, n)
    worst = np.where(done, grid, np.inf).min(axis=1, keepdims=True)
    worst = np.where(np.isfinite(worst), worst, 0.0)  # none is finished: all alike teach nothing
    return np.where(done, grid, worst - penalty).ravel()


class RecordedRewards:
    """The reward function in the form that TRL calls; keeps a table of every step's replies."""

    def __init__(self, reward_fn: rounds.RewardFunction, eos_id: int, config: RlooConfig):
        self.reward_fn, self.eos_id, self.config = reward_fn, eos_id, config
        self.steps: list[pd.DataFrame] = []

    def __call__(
        self, prompts: list[Prompt], completions: list[list[Message]],
        completion_ids: list[list[int]], trainer_state: TrainerState, **kwargs: Any,
    ) -> list[float | None]:  # fmt: skip
        """Return the score of each reply (ValueError: no finished reply, or unusable rewards)."""
        step = trainer_state.global_step + 1
        ended = [ids[-1] == self.eos_id for ids in completion_ids]
        texts = [messages[0]["content"] for messages in completions]
        tokens = [ids[:-1] if end else ids for ids, end in zip(completion_ids, ended, strict=True)]
        replies = [Reply(*parts) for parts in zip(texts, tokens, ended, strict=True)]
        config = self.config
        hint = f" That was in step {step}: after the first, the learning rate is too high."
        checks.check_finished(ended, config.max_new_tokens, hint)
        rewards = self.reward_fn(prompts, replies)
        # one step may have equal rewards by chance; a whole round may not
        rewards = checks.check_rewards(rewards, len(replies), may_be_equal=True)
        scores = penalise_unfinished(rewards, np.array(ended), config.n, config.unfinished_penalty)
        table = {"step": step, "prompt": prompts, **sample.reply_columns(replies)}
        table |= {"reward": rewards, "score": scores, "tokens": list(map(len, completion_ids))}
        self.steps.append(pd.DataFrame(table))
        return scores.tolist()


def count_of_full_steps(prompts: int, config: RlooConfig) -> int:
    """Return how many of the prompts fill steps of whole groups (ValueError: not even one)."""
    replies = config.batch_size * config.accumulation
    if config.n < 2 or replies % config.n or config.temperature <= 0:
        got = f"{config.batch_size} * {config.accumulation} = {replies} replies"
        wanted = "n must be 2 or more, batch_size * accumulation a multiple of n, temperature > 0"
        raise ValueError(f"{wanted}; got n={config.n}, {got}, temperature={config.temperature:g}.")
    if prompts < (groups := replies // config.n):
        told = f"A step of {replies} replies, n={config.n}, takes {groups} prompts, but there are"
        raise ValueError(f"{told} only {prompts} usable ones. Give more, or lower batch_size.")
    return prompts - prompts % groups
