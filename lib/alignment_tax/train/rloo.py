"""REINFORCE with a leave-one-out baseline (RLOO), by TRL's RLOOTrainer (Ahmadian et al. 2024).

One step: sample n replies to each of some prompts, and take from the reward of each reply the mean
reward of the other n - 1. What is left is its advantage; the step makes replies of positive
advantage more likely and the others less. It is PPO without a value network: the siblings of a
reply say what was to be expected.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerState
from trl import RLOOConfig as TrlRlooConfig
from trl import RLOOTrainer

from alignment_tax.models import quiet_loading, silence_dropout
from alignment_tax.presets import RlooConfig
from alignment_tax.train.dpo import CONSTANT_RATE, check_context, released_model
from alignment_tax.train.rsf import RewardFunction, check_rewards, no_finished_reply, short_prompts
from alignment_tax.train.sft import Trained, quiet_libraries, run_trainer, trainer_arguments
from alignment_tax.world.base import Message, Prompt


@dataclass(frozen=True)
class RlooTrained(Trained):
    """A policy trained by RLOO, how it went, and the replies it was trained on.

    `used` counts replies, `dropped` prompts. `samples` has one row per reply: step (the first is
    1), prompt, reply, reward (as the reward function gave it), score (what training saw, before the
    KL penalty), finished, tokens (with the end token).
    """

    samples: pd.DataFrame = field(default_factory=pd.DataFrame)


def train_rloo(
    policy: PreTrainedModel,
    reference: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    reward_fn: RewardFunction,
    prompts: Sequence[Prompt],
    config: RlooConfig,
    seed: int,
    workdir: Path,
) -> RlooTrained:
    """Train `policy` on rewards by RLOO, in place; `reference` stays as it is.

    One call is one round. A run of several rounds calls it with the policy that the last round left
    and the next slice of prompts, while `reference` is theta_0 in every call. What a cut between
    rounds loses is AdamW's two moments, as in RSF; the learning rate is constant, so it knows of no
    rounds, and replies are always sampled anew.

    Replies are drawn by the trainer, with `model.generate`, from the distribution that
    `sample_replies` draws from: same chat template, left padding, temperature, no top-k or top-p,
    the tokenizer's end token alone ends a reply. Log-probabilities are at that temperature too.
    The trainer counts padding in the positions, which is right for rotary embeddings (Llama) but
    not for learned ones (GPT-2).

    A reply that was cut off scores `config.unfinished_penalty` less than the worst finished reply
    to its prompt. To leave it out of the loss instead (mask_truncated_completions) would keep its
    reward in its siblings' baseline, and replies could grow beyond the limit at no cost.

    Args:
        policy: The current policy; its weights are changed.
        reference: theta_0, for the KL penalty.
        tokenizer: The tokenizer of both.
        reward_fn: Takes n prompts and n replies, returns n rewards.
        prompts: The round's. Those over `config.max_prompt_length` tokens are left out, and so many
            of the last that all steps are full.
        config: Numbers of the stage; `rounds` and `prompts_per_round` are not used.
        seed: Of this round: order of the prompts, and samples. Give every round another one.
        workdir: Scratch folder for the trainer.

    Returns:
        The policy (`.model`), the log (among others reward, the mean score; kl, in nats a token;
        entropy), the samples, and how many replies were used and prompts dropped. The logged loss
        is 0 but for rounding: the advantages of a group sum to 0; what trains is its gradient.

    Raises:
        ValueError: numbers that make no groups, no usable prompt, too few prompts for a step,
            prompts and replies that do not fit into the context, rewards that are not finite, of
            the wrong shape or all the same, or a step without a single finished reply.
        TrainingDiverged: a loss or gradient that is no finite number.
    """
    check_groups(config)
    check_context(policy, config.max_prompt_length + config.max_new_tokens, "prompt and reply")
    short = short_prompts(tokenizer, prompts, config.max_prompt_length)
    kept = full_steps(short, config)
    dropped = {"too long": len(prompts) - len(short), "left over": len(short) - len(kept)}
    rewards = RecordedRewards(reward_fn, tokenizer.eos_token_id, config)
    arguments = TrlRlooConfig(
        **trainer_arguments(config, seed, workdir) | CONSTANT_RATE,
        num_generations=config.n,
        max_completion_length=config.max_new_tokens,
        temperature=config.temperature,
        top_k=0,
        top_p=1.0,
        beta=config.beta,
        disable_dropout=True,
    )
    policy.float()
    silence_dropout(policy)
    policy.generation_config.eos_token_id = tokenizer.eos_token_id
    with quiet_libraries(), quiet_loading(), loaded_as_reference(policy, reference, workdir):
        trainer = RLOOTrainer(
            model=policy,
            reward_funcs=rewards,
            args=arguments,
            train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in kept]),
            processing_class=tokenizer,
        )
    log = run_trainer(trainer, "RLOO")
    samples = pd.concat(rewards.steps, ignore_index=True)
    check_rewards(samples["reward"].to_numpy(), len(samples))
    return RlooTrained(released_model(trainer), log, len(samples), dropped, samples)


def rloo_advantages(rewards: np.ndarray, log_ratios: np.ndarray, beta: float) -> np.ndarray:
    """Compute RLOO's advantages by hand (Ahmadian et al. 2024).

    The penalised reward of a reply, r - beta * log(pi / pi_0), minus the mean of its siblings'.

    Args:
        rewards: (prompts, n).
        log_ratios: log pi - log pi_0 of each reply in nats, summed over its tokens, (prompts, n).
        beta: Weight of the KL penalty.

    Returns:
        Advantages, (prompts, n); every row sums to 0.
    """
    penalised = rewards - beta * log_ratios
    siblings = penalised.sum(axis=1, keepdims=True) - penalised
    return penalised - siblings / (rewards.shape[1] - 1)


def rloo_loss(
    log_probs: np.ndarray, old_log_probs: np.ndarray, advantages: np.ndarray, epsilon: float = 0.2
) -> float:
    """Compute RLOO's loss by hand: minus the mean of ratio * advantage, clipped as in PPO.

    The ratio is that of the policy to the one that sampled. While replies are used for one step
    only, as in `train_rloo`, it is 1, nothing is clipped, and the gradient is REINFORCE's.

    Args:
        log_probs: log pi(reply | prompt) in nats, summed over the reply's tokens, (replies,).
        old_log_probs: The same under the policy that sampled.
        advantages: (replies,).
        epsilon: A ratio beyond 1 - epsilon or 1 + epsilon gains nothing more.
    """
    ratio = np.exp(log_probs - old_log_probs)
    clipped = np.clip(ratio, 1 - epsilon, 1 + epsilon)
    return float(-np.minimum(ratio * advantages, clipped * advantages).mean())


def penalise_unfinished(
    rewards: np.ndarray, finished: np.ndarray, n: int, penalty: float
) -> np.ndarray:
    """Return the rewards with those of cut-off replies put below the group's finished ones.

    In a group without a finished reply all get the same, so that it teaches nothing.

    Args:
        rewards: (prompts * n,), the replies to a prompt side by side.
        finished: Whether each reply ended by itself, bool (prompts * n,).
        n: Replies a prompt.
        penalty: How far below the worst finished reply.

    Returns:
        Scores, (prompts * n,).
    """
    grid, done = rewards.reshape(-1, n), finished.reshape(-1, n)
    worst = np.where(done, grid, np.inf).min(axis=1, keepdims=True)
    worst = np.where(np.isfinite(worst), worst, 0.0)
    return np.where(done, grid, worst - penalty).ravel()


class RecordedRewards:
    """The reward function in the form that TRL calls; keeps a table of every step's replies."""

    def __init__(self, reward_fn: RewardFunction, eos_id: int, config: RlooConfig):
        self.reward_fn = reward_fn
        self.eos_id = eos_id
        self.config = config
        self.steps: list[pd.DataFrame] = []

    def __call__(
        self,
        prompts: list[Prompt],
        completions: list[list[Message]],
        completion_ids: list[list[int]],
        trainer_state: TrainerState,
        **kwargs: Any,
    ) -> list[float | None]:
        """Return the score of each reply (ValueError: no finished reply, or unusable rewards)."""
        replies = [messages[0]["content"] for messages in completions]
        step = trainer_state.global_step + 1
        finished = np.array([ids[-1] == self.eos_id for ids in completion_ids])
        if not finished.any():
            raise ValueError(
                f"{no_finished_reply(len(replies), self.config.max_new_tokens)} That was in step "
                f"{step}: where earlier steps had finished replies, the learning rate is too high."
            )
        rewards = np.asarray(self.reward_fn(prompts, replies), dtype=np.float64)
        # one step may have equal rewards by chance; a whole round may not
        equal = rewards.shape == (len(replies),) and (rewards == rewards[0]).all()
        if not equal or not np.isfinite(rewards[0]):
            check_rewards(rewards, len(replies))
        scores = penalise_unfinished(
            rewards, finished, self.config.n, self.config.unfinished_penalty
        )
        table = {
            "step": step,
            "prompt": prompts,
            "reply": replies,
            "reward": rewards,
            "score": scores,
            "finished": finished,
            "tokens": [len(ids) for ids in completion_ids],
        }
        self.steps.append(pd.DataFrame(table))
        return scores.tolist()


def check_groups(config: RlooConfig) -> None:
    """Raise ValueError unless every step consists of whole groups of n sampled replies."""
    replies = config.batch_size * config.accumulation
    if config.n < 2 or replies % config.n or config.temperature <= 0:
        raise ValueError(
            "RLOO compares each reply with its siblings: n must be 2 or more, batch_size * "
            "accumulation a multiple of n, and the temperature above 0; "
            f"got n={config.n}, {config.batch_size} * {config.accumulation} = {replies} replies, "
            f"temperature={config.temperature:g}."
        )


def full_steps(prompts: Sequence[Prompt], config: RlooConfig) -> Sequence[Prompt]:
    """Return the prompts without the last few that would not fill a step (ValueError: no step)."""
    replies = config.batch_size * config.accumulation
    steps = len(prompts) * config.n // replies
    if steps == 0:
        raise ValueError(
            f"A step of {replies} replies with n={config.n} takes {replies // config.n} prompts, "
            f"but there are only {len(prompts)} usable ones. Give more, or lower batch_size."
        )
    return prompts[: steps * replies // config.n]


@contextlib.contextmanager
def loaded_as_reference(
    policy: PreTrainedModel, reference: PreTrainedModel, workdir: Path
) -> Iterator[None]:
    """Let a trainer that is made meanwhile use `reference`.

    It loads its reference from where the policy's configuration says that the policy came from,
    which in a later round would be the round before.
    """
    origin = policy.config.name_or_path or ""
    workdir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=workdir) as folder:
        reference.save_pretrained(folder)
        policy.config.name_or_path = folder
        try:
            yield
        finally:
            policy.config.name_or_path = origin
