"""Proximal policy optimisation (PPO) for language models, in one file.

One iteration (`step`): sample a reply to every prompt, score it, charge every token for leaving
theta_0 (a KL penalty), work out how much better than the critic expected each token was (GAE), and
improve policy and critic on that for a few epochs, in steps that a clip keeps small.

Shapes: tensors are (batch, length) unless said otherwise: a row per reply, a column per token that
the policy chose, the end token included. `mask` is 1 on those and 0 behind the end of a reply.

Sources: Schulman et al. 2017 (clipped losses), 2016 (GAE) and 2020 (KL estimators); Ziegler et al.
2019 (KL penalty per token, adaptive weight); the paper's section D.2 (its PPO runs).
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim import AdamW, Optimizer
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from alignment_tax.models import (
    RewardModel,
    autocast,
    check_vocabulary,
    pad_batch,
    positions,
    prompt_ids,
    silence_dropout,
)
from alignment_tax.presets import PpoConfig, as_dict
from alignment_tax.store import sync, write_whole
from alignment_tax.train.loop import MAX_GRAD_NORM, check_finite
from alignment_tax.train.rsf import RewardFunction, check_rewards, no_finished_reply
from alignment_tax.train.sample import Reply, sample_replies
from alignment_tax.world.base import Prompt

STATE = "state.json"
LENGTHS = ("rounds", "iterations")  # how long a run is does not change what it does

AddUp = Callable[[Tensor], Tensor]


# --- a run ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PpoState:
    """Where a run is. `step` returns the next state; the networks in it are trained in place.

    `model` is an `ActorCritic`, wrapped by accelerate if there are several processes; `reference`
    is theta_0, frozen; `iteration` counts the iterations done.
    """

    model: torch.nn.Module
    policy_optimizer: Optimizer
    critic_optimizer: Optimizer
    reference: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    accelerator: Accelerator
    config: PpoConfig
    seed: int
    kl_control: AdaptiveKl
    iteration: int = 0

    @property
    def actor_critic(self) -> ActorCritic:
        """The policy and the critic without what accelerate wraps around them."""
        return self.accelerator.unwrap_model(self.model)

    @property
    def policy(self) -> PreTrainedModel:
        """The policy as it is now."""
        return self.actor_critic.policy


def start(
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    config: PpoConfig,
    seed: int,
    critic: tuple[RewardModel, PreTrainedTokenizerBase] | None = None,
) -> PpoState:
    """Begin a run at `policy` (theta_0), which is trained in place; a frozen copy is the reference.

    Args:
        policy: Causal language model; its weights become float32, its dropout is turned off.
        tokenizer: Its tokenizer.
        config: Numbers of the run.
        seed: With the iteration's number it decides samples and minibatches; 0 or more.
        critic: A reward model and its tokenizer: the critic starts from a copy of its body. By
            default it starts from a copy of the policy's.

    Raises:
        ValueError: a temperature that is not above 0, a tokenizer that does not fit the policy or
            the critic, or a critic although the policy's body is to be shared.
    """
    if config.temperature <= 0:
        raise ValueError(
            f"temperature is {config.temperature}; PPO needs probabilities: set it above 0."
        )
    check_vocabulary(policy, tokenizer)
    body = policy.get_decoder()
    if critic is not None:
        if config.shared_trunk:
            raise ValueError(
                "shared_trunk puts the value head on the policy's body, so no critic can be passed."
            )
        check_same_tokens(tokenizer, critic[1])
        body = critic[0].backbone
    accelerator = Accelerator()
    reference = copy.deepcopy(policy).float().eval().requires_grad_(False)
    trunk = None if config.shared_trunk else copy.deepcopy(body)
    whole = ActorCritic(policy, trunk, config.temperature).float().eval()
    for module in (whole, reference):
        silence_dropout(module)
        module.to(accelerator.device)
    model, policy_optimizer, critic_optimizer = accelerator.prepare(
        whole,
        adamw(whole.policy.parameters(), config.learning_rate),
        adamw(whole.critic_parameters(), config.critic_learning_rate),
    )
    return PpoState(
        model=model,
        policy_optimizer=policy_optimizer,
        critic_optimizer=critic_optimizer,
        reference=reference,
        tokenizer=tokenizer,
        accelerator=accelerator,
        config=config,
        seed=seed,
        kl_control=AdaptiveKl(config.kl_coef, config.kl_target, config.kl_horizon),
    )


def adamw(parameters: Iterable[torch.nn.Parameter], learning_rate: float) -> AdamW:
    """Return AdamW without weight decay for the parameters that are not frozen."""
    trained = [p for p in parameters if p.requires_grad]
    return AdamW(trained, lr=learning_rate, weight_decay=0.0, fused=True)


def step(
    state: PpoState,
    prompts: Sequence[Prompt],
    reward_fn: RewardFunction,
    gold_fn: RewardFunction | None = None,
) -> tuple[PpoState, dict[str, float]]:
    """Run one iteration of PPO.

    Several processes are all given the same prompts; each works on its share.

    Args:
        state: From `start`, `resume` or the step before.
        prompts: The iteration's prompts, a multiple of `config.minibatch`.
        reward_fn: Takes n prompts and n replies, returns n rewards.
        gold_fn: The same, for a reward that is logged only.

    Returns:
        The next state, and a row for the log: iteration (the first is 1); reward and gold (means,
        as the functions returned them); finished (share, 0-1); reply_length (tokens, the end token
        included); kl and kl_k3 (two estimates of KL(policy || theta_0), nats a reply); kl_coef
        (used in this iteration); entropy (nats a token); explained_variance (of the returns by the
        critic, before learning); policy_loss, value_loss, clip_fraction (means over minibatches);
        update_kl (nats a token from the policy that sampled, at the last minibatch); updates
        (optimiser steps); seconds_sampling, seconds_scoring, seconds_learning.

    Raises:
        ValueError: prompts that are too long or no multiple of the minibatch, replies that were all
            cut off, or rewards that teach nothing (see `check_rewards`).
        TrainingDiverged: a loss or gradient that is no finite number.
    """
    config, accelerator = state.config, state.accelerator
    check_divisible(len(prompts), config.minibatch, accelerator.num_processes)
    check_lengths([len(prompt_ids(state.tokenizer, p)) for p in prompts], state.policy, config)
    rng = np.random.default_rng([state.seed, state.iteration, accelerator.process_index])
    clock = [time.perf_counter()]

    with accelerator.split_between_processes(list(prompts)) as mine:
        replies = sample(state, mine, int(rng.integers(2**62)))
    clock.append(time.perf_counter())

    texts = [reply.text for reply in replies]
    rewards = np.atleast_1d(reward_fn(mine, texts))
    everyones = check_rewards(np.asarray(gather_object(list(rewards))), len(prompts))
    golds = {} if gold_fn is None else {"gold": np.mean(gather_object(list(gold_fn(mine, texts))))}
    rollout, stats = make_rollout(state, mine, replies, rewards)
    clock.append(time.perf_counter())

    log = learn(state, rollout, rng)
    clock.append(time.perf_counter())

    names = ("seconds_sampling", "seconds_scoring", "seconds_learning")
    seconds = dict(zip(names, np.diff(clock), strict=True))
    row = {"iteration": state.iteration + 1, "reward": everyones.mean(), **golds}
    row |= {**stats, "kl_coef": state.kl_control.coef, **log, **seconds}
    kl_control = state.kl_control.update(stats["kl"], len(prompts))
    state = dataclasses.replace(state, kl_control=kl_control, iteration=state.iteration + 1)
    return state, {name: float(value) for name, value in row.items()}


def sample(state: PpoState, prompts: list[Prompt], seed: int) -> list[Reply]:
    """Sample one reply to each prompt (ValueError: all of them, in all processes, were cut off)."""
    config = state.config
    groups = sample_replies(
        state.policy,
        state.tokenizer,
        prompts,
        n=1,
        temperature=config.temperature,
        max_new_tokens=config.max_new_tokens,
        batch_size=config.sampling_batch,
        seed=seed,
    )
    replies = [reply for (reply,) in groups]
    finished = gather_object([reply.finished for reply in replies])
    if not any(finished):
        raise ValueError(no_finished_reply(len(finished), config.max_new_tokens))
    return replies


@dataclass(frozen=True)
class Rollout:
    """What an iteration learns from: prompts and replies, and what held when they were sampled.

    `ids` and `attention_mask` are (batch, prompt + length): prompts padded on the left, replies on
    the right, so that the replies fill the last `length` columns. The rest is (batch, length).
    """

    ids: Tensor
    attention_mask: Tensor
    mask: Tensor
    log_probs: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor

    def rows(self, index: Tensor) -> Rollout:
        """Return these rows alone."""
        return Rollout(*(getattr(self, field.name)[index] for field in dataclasses.fields(self)))


@torch.no_grad()
def make_rollout(
    state: PpoState, prompts: list[Prompt], replies: list[Reply], rewards: np.ndarray
) -> tuple[Rollout, dict[str, float]]:
    """Turn replies and their rewards (n,) into a rollout and the log's numbers about them."""
    config, add_up = state.config, state.accelerator.reduce
    ids, attention_mask, mask = lay_out(state.tokenizer, prompts, replies, state.policy.device)
    length = mask.shape[1]
    parts = []
    for rows in torch.arange(len(ids)).split(config.minibatch // state.accelerator.num_processes):
        batch = ids[rows], attention_mask[rows]
        outputs = run(state.reference, *batch, logits_to_keep=length + 1)
        reference, _ = token_log_probs(outputs.logits, batch[0], length, config.temperature)
        parts.append(torch.stack([*state.model(*batch, length), reference]))
    log_probs, values, entropy, reference = torch.cat(parts, dim=1).masked_fill(mask == 0, 0.0)

    finished = np.array([reply.finished for reply in replies])
    scores = torch.from_numpy(scaled(rewards, finished, config)).to(log_probs)
    per_token = token_rewards(scores, log_probs, reference, mask, state.kl_control.coef)
    advantages, returns = gae(per_token, values, mask, config.gamma, config.lam)
    if config.whiten:
        advantages = whiten(advantages, mask, add_up)

    k1, _, k3 = kl_estimators(log_probs, reference)
    every = torch.ones_like(scores)
    means = {
        "finished": masked_mean(scores.new_tensor(finished), every, add_up),
        "reply_length": masked_mean(mask.sum(dim=1), every, add_up),
        "kl": masked_mean(k1.sum(dim=1), every, add_up),
        "kl_k3": masked_mean(k3.sum(dim=1), every, add_up),
        "entropy": masked_mean(entropy, mask, add_up),
        "explained_variance": explained_variance(values, returns, mask, add_up),
    }
    stats = {name: mean.item() for name, mean in means.items()}
    return Rollout(ids, attention_mask, mask, log_probs, values, advantages, returns), stats


def learn(state: PpoState, rollout: Rollout, rng: np.random.Generator) -> dict[str, float]:
    """Improve policy and critic on a rollout, in place; return the log's numbers about it."""
    config, accelerator = state.config, state.accelerator
    size = config.minibatch // accelerator.num_processes
    order = minibatches(len(rollout.ids), size, config.epochs, rng)
    optimizers = (state.policy_optimizer, state.critic_optimizer)
    groups = (list(state.policy.parameters()), state.actor_critic.critic_parameters())
    rows: list[dict[str, float]] = []
    updates = 0
    for index in order:
        part = rollout.rows(torch.from_numpy(index))
        log_probs, values, _ = state.model(part.ids, part.attention_mask, part.mask.shape[1])
        loss, clip_fraction = policy_loss(
            log_probs, part.log_probs, part.advantages, part.mask, config.clip
        )
        critic_loss = value_loss(values, part.values, part.returns, part.mask, config.value_clip)
        k3 = kl_estimators(part.log_probs, log_probs.detach())[2]
        # gradients are averaged over processes: weigh each by its share of the tokens
        tokens = part.mask.sum()
        share = tokens * accelerator.num_processes / accelerator.reduce(tokens)
        measured = {
            "policy_loss": loss,
            "value_loss": critic_loss,
            "clip_fraction": clip_fraction,
            "update_kl": masked_mean(k3, part.mask),
        }
        row = {n: accelerator.reduce(m.detach() * share, "mean") for n, m in measured.items()}
        rows.append({name: value.item() for name, value in row.items()})
        if config.max_kl is not None and rows[-1]["update_kl"] > config.max_kl:
            break
        for optimizer in optimizers:
            optimizer.zero_grad()
        accelerator.backward((loss + config.value_coef * critic_loss) * share)
        norms = [float(accelerator.clip_grad_norm_(group, MAX_GRAD_NORM)) for group in groups]
        found = rows[-1] | {"gradient norm": norms[0], "critic's gradient norm": norms[1]}
        check_finite(found, state.iteration * len(order) + updates + 1, config.learning_rate)
        for optimizer in optimizers:
            optimizer.step()
        updates += 1
    means = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    return means | {"update_kl": rows[-1]["update_kl"], "updates": updates}


# --- the pieces -----------------------------------------------------------------------------------


def scaled(rewards: np.ndarray, finished: np.ndarray, config: PpoConfig) -> np.ndarray:
    """Return what PPO maximises, (n,): penalty for a missing end off, baseline off, times scale."""
    penalised = rewards - config.missing_eos_penalty * ~finished
    return (penalised - config.reward_baseline) * config.reward_scale


def token_rewards(
    scores: Tensor, log_probs: Tensor, reference_log_probs: Tensor, mask: Tensor, kl_coef: float
) -> Tensor:
    """Return the reward of each token: minus the KL penalty, plus the score at the last token.

    Ziegler et al. 2019, eq. 2, spread over tokens: summed over a reply it is
    score - kl_coef * (log pi - log pi_0).

    Args:
        scores: Reward of each reply, (batch,).
        log_probs: log pi of the tokens, from the policy that sampled them.
        reference_log_probs: log pi_0 of the same tokens.
        mask: 1 on the tokens of a reply.
        kl_coef: Weight of the penalty.
    """
    rewards = -kl_coef * (log_probs - reference_log_probs)
    last = mask.sum(dim=1, keepdim=True) - 1
    rewards = rewards + scores.unsqueeze(1) * (
        torch.arange(mask.shape[1], device=mask.device) == last
    )
    return rewards * mask


def gae(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """Return advantages and returns (generalised advantage estimation, Schulman et al. 2016).

    delta_t = r_t + gamma V_(t+1) - V_t and A_t = delta_t + gamma lam A_(t+1); what is expected
    after the last token of a reply is 0, however far the row is padded. Returns are A + V.

    Args:
        rewards: Of each token.
        values: `values[:, t]` is what the critic expects before token t is chosen.
        mask: 1 on the tokens of a reply.
        gamma: Discount per token.
        lam: 0: one-step errors of the critic; 1: the sum of rewards minus V.
    """
    advantages = torch.zeros_like(values)
    next_value = next_advantage = torch.zeros_like(values[:, 0])
    for t in reversed(range(values.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        next_advantage = (delta + gamma * lam * next_advantage) * mask[:, t]
        next_value = values[:, t] * mask[:, t]
        advantages[:, t] = next_advantage
    return advantages, (advantages + values) * mask


def alone(total: Tensor) -> Tensor:
    """Add up a tensor over the processes when there is only one."""
    return total


def masked_mean(values: Tensor, mask: Tensor, add_up: AddUp = alone) -> Tensor:
    """Return the mean over the tokens of all replies, and of all processes if `add_up` sums."""
    return add_up(values.masked_fill(mask == 0, 0.0).sum()) / add_up(mask.sum())


def masked_variance(values: Tensor, mask: Tensor, add_up: AddUp = alone) -> Tensor:
    """Return the mean squared distance from the mean, over the same tokens."""
    return masked_mean((values - masked_mean(values, mask, add_up)) ** 2, mask, add_up)


def whiten(values: Tensor, mask: Tensor, add_up: AddUp = alone) -> Tensor:
    """Return values with mean 0 and variance 1 over the tokens of replies, 0 behind their end."""
    deviation = (masked_variance(values, mask, add_up) + 1e-8).sqrt()
    return (values - masked_mean(values, mask, add_up)) / deviation * mask


def explained_variance(
    values: Tensor, returns: Tensor, mask: Tensor, add_up: AddUp = alone
) -> Tensor:
    """Return 1 - Var(returns - values) / Var(returns): 1 is a perfect critic, 0 a useless one."""
    residual = masked_variance(returns - values, mask, add_up)
    return 1 - residual / masked_variance(returns, mask, add_up)


def kl_estimators(log_probs: Tensor, other_log_probs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return three estimates of KL(policy || other) per token, from tokens that the policy drew.

    With d = log pi - log other (Schulman 2020): k1 = d, unbiased, may be negative; k2 = d^2 / 2,
    biased; k3 = exp(-d) - 1 + d, unbiased and never negative. In float64, since in k3 nearly equal
    numbers cancel when the policies are close.
    """
    d = log_probs.double() - other_log_probs.double()
    return d, d**2 / 2, torch.expm1(-d) + d


def policy_loss(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, mask: Tensor, clip: float
) -> tuple[Tensor, Tensor]:
    """Return PPO's clipped loss and the share of tokens whose gradient the clip takes away.

    Schulman et al. 2017, eq. 7: -min(ratio A, clamp(ratio, 1 - clip, 1 + clip) A), ratio = pi /
    pi_old: nothing is gained by raising what was good beyond 1 + clip, or by lowering what was bad
    beyond 1 - clip; the way back stays open.
    """
    ratio = torch.exp(log_probs - old_log_probs)
    free = -advantages * ratio
    held = -advantages * ratio.clamp(1 - clip, 1 + clip)
    return masked_mean(torch.max(free, held), mask), masked_mean((held > free).float(), mask)


def value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, clip: float
) -> Tensor:
    """Return half the mean squared error of the critic, the larger of free and clipped.

    Clipped: the values may be no further than `clip` from those when the replies were sampled.
    """
    held = old_values + (values - old_values).clamp(-clip, clip)
    return masked_mean(torch.max((values - returns) ** 2, (held - returns) ** 2), mask) / 2


@dataclass(frozen=True)
class AdaptiveKl:
    """The weight of the KL penalty: fixed without a target, else steered towards it.

    Ziegler et al. 2019, section 2.2: the weight grows while the KL (nats a reply) is above the
    target, and shrinks while it is below; an error counts as 20 % at most.
    """

    coef: float
    target: float | None = None
    horizon: int = 10_000

    def update(self, kl: float, replies: int) -> AdaptiveKl:
        """Return the controller after `replies` replies whose mean KL was `kl`."""
        if self.target is None:
            return self
        error = min(max(kl / self.target - 1, -0.2), 0.2)
        return dataclasses.replace(self, coef=self.coef * (1 + error * replies / self.horizon))


def minibatches(count: int, size: int, epochs: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Return the rows of each optimiser step: every row once an epoch, in random order."""
    orders = [rng.permutation(count) for _ in range(epochs)]
    return [order[i : i + size] for order in orders for i in range(0, count, size)]


# --- networks -------------------------------------------------------------------------------------


class ActorCritic(torch.nn.Module):
    """The policy and the critic in one module, so that one wrapper serves both on several GPUs.

    The critic is one linear head, which starts at 0, on a body of its own (`trunk`), or on the
    policy's if `trunk` is None.
    """

    def __init__(self, policy: PreTrainedModel, trunk: PreTrainedModel | None, temperature: float):
        super().__init__()
        self.policy, self.trunk, self.temperature = policy, trunk, temperature
        config = policy.config if trunk is None else trunk.config
        self.head = torch.nn.Linear(config.get_text_config().hidden_size, 1)
        torch.nn.init.zeros_(self.head.weight)
        torch.nn.init.zeros_(self.head.bias)

    def critic_parameters(self) -> list[torch.nn.Parameter]:
        """Return what is the critic's alone."""
        trunk = [] if self.trunk is None else list(self.trunk.parameters())
        return [*trunk, *self.head.parameters()]

    def forward(
        self, ids: Tensor, attention_mask: Tensor, length: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return log-probabilities, values and entropies of the last `length` tokens of each row.

        `values[:, t]` and the entropy belong to the state before token t, where it was chosen.
        Entropies carry no gradient.

        Args:
            ids: (batch, prompt + length), prompts padded on the left, replies on the right.
            attention_mask: Like `ids`, 1 for real tokens.
            length: Columns of the replies.
        """
        outputs = run(
            self.policy,
            ids,
            attention_mask,
            logits_to_keep=length + 1,
            output_hidden_states=self.trunk is None,
        )
        log_probs, entropy = token_log_probs(outputs.logits, ids, length, self.temperature)
        if self.trunk is None:
            hidden = outputs.hidden_states[-1]
        else:
            hidden = run(self.trunk, ids, attention_mask).last_hidden_state
        before = hidden[:, -length - 1 : -1].float()
        # a product and a sum, because autocast would round a matrix product's values to bfloat16
        values = (before * self.head.weight).sum(dim=-1) + self.head.bias
        return log_probs, values, entropy


def run(model: PreTrainedModel, ids: Tensor, attention_mask: Tensor, **options: Any) -> Any:
    """Run a network on padded rows, wherever their padding is."""
    with autocast(ids.device):
        return model(
            input_ids=ids,
            attention_mask=attention_mask,
            position_ids=positions(attention_mask),
            use_cache=False,
            **options,
        )


def token_log_probs(
    logits: Tensor, ids: Tensor, length: int, temperature: float
) -> tuple[Tensor, Tensor]:
    """Return log-probability of each of the last `length` tokens, and the entropy of the choice.

    Args:
        logits: At least the last length + 1 positions, (batch, length + 1 or more, vocabulary);
            the logits at a position predict the token after it, so the very last are not used.
        ids: (batch, length or more).
        length: Columns of the replies.
        temperature: As in sampling.
    """
    logs = torch.log_softmax(logits[:, -length - 1 : -1].float() / temperature, dim=-1)
    taken = logs.gather(-1, ids[:, -length:].unsqueeze(-1)).squeeze(-1)
    free = logs.detach()
    return taken, -(free.exp() * free).sum(dim=-1)


def lay_out(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    replies: Sequence[Reply],
    where: torch.device,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return ids and attention mask, (batch, prompt + length), and the mask of the replies.

    Prompts are padded on the left and replies on the right, so that replies begin in one column.
    A finished reply ends with the end token, which the policy chose as it chose the others.
    """
    heads = [prompt_ids(tokenizer, prompt) for prompt in prompts]
    tails = [[*r.token_ids, *[tokenizer.eos_token_id] * r.finished] for r in replies]
    left, left_mask = pad_batch(heads, tokenizer.pad_token_id, where, side="left")
    right, mask = pad_batch(tails, tokenizer.pad_token_id, where)
    return torch.cat([left, right], dim=1), torch.cat([left_mask, mask], dim=1), mask


# --- saving and resuming --------------------------------------------------------------------------


def save(state: PpoState, folder: Path) -> None:
    """Write all that a run needs to go on into `folder` (safetensors and JSON, nothing pickled).

    The tensors appear by rename, then the JSON that names them, then older tensors go: a run that
    is killed at any moment finds this state or the one before.
    """
    if state.accelerator.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        name = f"state-{state.iteration:06d}.safetensors"
        part = folder / f"{name}.part"
        save_file({n: t.detach().cpu().clone() for n, t in tensors(state).items()}, part)
        sync(part)
        part.replace(folder / name)
        content = {
            "iteration": state.iteration,
            "kl_coef": state.kl_control.coef,
            "tensors": name,
            **identity(state),
        }
        write_whole(folder / STATE, json.dumps(content, indent=2) + "\n")
        for old in set(folder.glob("state-*.safetensors*")) - {folder / name}:
            old.unlink()
    state.accelerator.wait_for_everyone()


def resume(state: PpoState, folder: Path) -> PpoState:
    """Return the run that `save` wrote into `folder`.

    Args:
        state: From `start`, with the arguments the saved run was started with.
        folder: What `save` wrote.

    Raises:
        FileNotFoundError: there is no saved run.
        ValueError: the saved run was started with another theta_0, seed or configuration.
    """
    if not (folder / STATE).is_file():
        raise FileNotFoundError(f"There is no saved PPO run in {folder}. Begin one with `start`.")
    saved = json.loads((folder / STATE).read_text(encoding="utf-8"))
    for name, value in identity(state).items():
        if saved[name] != value:
            raise ValueError(
                f"The run saved in {folder} has another {name}: {saved[name]}, not {value}. Start "
                "with the same theta_0, seed and configuration, or save into another folder."
            )
    loaded = load_file(folder / saved["tensors"])
    state.actor_critic.load_state_dict(below(loaded, "model"))
    for name in ("policy_optimizer", "critic_optimizer"):
        optimizer = getattr(state, name)
        slots: dict[int, dict[str, Tensor]] = {}
        for place, tensor in below(loaded, name).items():
            number, slot = place.split(".")
            slots.setdefault(int(number), {})[slot] = tensor
        optimizer.load_state_dict({**optimizer.state_dict(), "state": slots})
    kl_control = dataclasses.replace(state.kl_control, coef=saved["kl_coef"])
    return dataclasses.replace(state, kl_control=kl_control, iteration=saved["iteration"])


def tensors(state: PpoState) -> dict[str, Tensor]:
    """Return every tensor that a run changes, under one name each."""
    named = {f"model.{name}": t for name, t in state.actor_critic.state_dict().items()}
    for name in ("policy_optimizer", "critic_optimizer"):
        for number, slots in getattr(state, name).state_dict()["state"].items():
            named |= {f"{name}.{number}.{slot}": tensor for slot, tensor in slots.items()}
    return named


def below(named: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with `prefix` and a dot, without it."""
    start = f"{prefix}."
    return {n.removeprefix(start): t for n, t in named.items() if n.startswith(start)}


def identity(state: PpoState) -> dict[str, Any]:
    """Return what tells a run from others: its seed, its numbers, and a hash of theta_0."""
    config = {k: v for k, v in as_dict(state.config).items() if k not in LENGTHS}
    digest = hashlib.sha256()
    for name, tensor in state.reference.state_dict().items():
        digest.update(name.encode() + tensor.cpu().numpy().tobytes())
    return {"seed": state.seed, "config": config, "theta_0": digest.hexdigest()}


# --- what is refused ------------------------------------------------------------------------------


def check_divisible(prompts: int, minibatch: int, processes: int) -> None:
    """Refuse a batch that cannot be cut into equal minibatches and shares (ValueError)."""
    if prompts == 0 or prompts % minibatch or minibatch % processes:
        raise ValueError(
            f"{prompts} prompts cannot be cut into minibatches of {minibatch} for {processes} "
            "process(es): prompts must be a multiple of minibatch, and minibatch of the processes."
        )


def check_lengths(lengths: Sequence[int], policy: PreTrainedModel, config: PpoConfig) -> None:
    """Refuse prompts (lengths in tokens) that do not fit with their reply (ValueError)."""
    context = policy.config.get_text_config().max_position_embeddings
    limit = min(config.max_prompt_length, context - config.max_new_tokens)
    too_long = [number for number, length in enumerate(lengths) if length > limit]
    if too_long:
        raise ValueError(
            f"{len(too_long)} of {len(lengths)} prompts have more than {limit} tokens, first "
            f"number {too_long[0]} with {lengths[too_long[0]]} (max_prompt_length is "
            f"{config.max_prompt_length}; prompt and {config.max_new_tokens} new tokens must fit "
            f"into the model's {context}). Leave them out."
        )


def check_same_tokens(
    tokenizer: PreTrainedTokenizerBase, critic_tokenizer: PreTrainedTokenizerBase
) -> None:
    """Refuse a critic that would read other tokens than the policy wrote (ValueError)."""
    ours, theirs = tokenizer.get_vocab(), critic_tokenizer.get_vocab()
    different = sorted(t for t in {*ours, *theirs} if ours.get(t) != theirs.get(t))
    if different:
        raise ValueError(
            f"The critic's tokenizer differs from the policy's in {len(different)} tokens, for "
            f"instance {different[0]!r}. Train the reward model from this policy, or leave the "
            "critic out."
        )
