"""Proximal policy optimisation (PPO) for language models, in one file.

One iteration (`step`): sample a reply to every prompt, score it, charge every token for leaving
theta_0 (a KL penalty), work out how much better than the critic expected each token was (GAE), and
improve policy and critic on that for a few epochs, in steps that a clip keeps small.

Shapes: tensors are (batch, length) unless said otherwise: a row per reply, a column per token that
the policy chose, the end token included. `mask` is 1 on those and 0 behind the end of a reply.

Sources: Schulman et al. 2017 (clipped losses) and 2016 (GAE); Ziegler et al. 2019 (KL penalty per
token); the paper's section D.2 (its PPO runs).
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor
from torch.optim import AdamW, Optimizer
from tqdm import tqdm

from alignment_tax import models
from alignment_tax.models import Model, Tokenizer
from alignment_tax.presets import PpoConfig
from alignment_tax.train import checkpoint, checks
from alignment_tax.train.kl import adapted, kl_estimators, next_log_probs
from alignment_tax.train.loop import MAX_GRAD_NORM, check_finite, minibatches
from alignment_tax.train.rounds import RewardFunction, RoundResult, Start
from alignment_tax.train.sample import sample_replies, sampling
from alignment_tax.weights import check_same_vocabulary
from alignment_tax.world.base import Prompt

#: Where PPO leaves its critic and its optimisers for the next round, beside the policy.
PPO_STATE = "ppo"
LENGTHS = ("rounds", "iterations")  # how long a run is does not change what it does
SECONDS = ("seconds_sampling", "seconds_scoring", "seconds_learning")
LOSSES = ("policy_loss", "value_loss", "clip_fraction", "update_kl")
AddUp = Callable[[Tensor], Tensor]
Pair = tuple[Tensor, Tensor]


def ppo_round(config: PpoConfig, given: Start) -> RoundResult:
    """Run the iterations of one round of PPO, going on from the critic of the round before."""
    critic = None if config.shared_trunk else given.reward_model
    state = start(given.theta_0, given.tokenizer, config, given.seed, critic)
    if given.before is not None:
        state = resume(state, given.before / PPO_STATE)
    size, log = config.prompts_per_iteration, []
    for i in tqdm(range(config.iterations), desc=f"PPO, round {given.number}", unit="iteration"):
        prompts = given.prompts[i * size : (i + 1) * size]
        state, row = step(state, prompts, given.reward_fn, given.gold_fn)
        log.append(row)
    save(state, given.folder / PPO_STATE)
    means, count = pd.DataFrame(log).mean(), {"kept": len(log) * size, "dropped": 0}
    stats = {"mean_reward": means["reward"], "finished": means["finished"], **count}
    no_samples = pd.DataFrame(columns=["prompt", "reply", "chosen"])
    return RoundResult(state.policy, log, no_samples, stats)


@dataclass(frozen=True)
class PpoState:
    """Where a run is: `step` returns the next state, and trains the networks in it in place."""

    model: torch.nn.Module
    optimizers: Sequence[Optimizer]  # of the policy and of the critic
    reference: Model
    tokenizer: Tokenizer
    accelerator: Accelerator
    config: PpoConfig
    seed: int
    kl_coef: float  # of the iteration to come
    iteration: int = 0

    @property
    def actor_critic(self) -> ActorCritic:
        """The policy and the critic without what accelerate wraps around them."""
        return self.accelerator.unwrap_model(self.model)

    @property
    def policy(self) -> Model:
        """The policy as it is now."""
        return self.actor_critic.policy


def start(
    policy: Model, tokenizer: Tokenizer, config: PpoConfig, seed: int,
    critic: tuple[models.RewardModel, Tokenizer] | None = None,
) -> PpoState:  # fmt: skip
    """Begin a run at `policy` (theta_0), which is trained in place; a frozen copy is the reference.

    Weights become float32, dropout is turned off. The critic starts from a copy of the body of
    `critic` (a reward model and its tokenizer), by default of the policy's. ValueError: a
    temperature of 0, a tokenizer that does not fit, or a critic beside a shared body.
    """
    if config.temperature <= 0:
        raise ValueError(f"PPO needs probabilities: temperature is {config.temperature}, not > 0.")
    models.check_vocabulary(policy, tokenizer)
    if critic is not None:
        if config.shared_trunk:
            raise ValueError("shared_trunk makes the policy's body the critic's: pass no critic.")
        advice = "Train the reward model from this policy, or leave the critic out."
        check_same_vocabulary(tokenizer.get_vocab(), critic[1].get_vocab(), advice)
    accelerator = Accelerator()
    reference = copy.deepcopy(policy).float().eval().requires_grad_(False)
    body = policy.get_decoder() if critic is None else critic[0].backbone
    trunk = None if config.shared_trunk else copy.deepcopy(body)
    whole = ActorCritic(policy, trunk, config.temperature).float().eval()
    for module in (whole, reference):
        models.silence_dropout(module)
        module.to(accelerator.device)
    trained = [p for p in policy.parameters() if p.requires_grad]
    fixed: dict[str, Any] = {"weight_decay": 0.0, "fused": True}
    actors = AdamW(trained, lr=config.learning_rate, **fixed)
    critics = AdamW(whole.critic_parameters(), lr=config.critic_learning_rate, **fixed)
    model, *optimizers = accelerator.prepare(whole, actors, critics)
    given = (tokenizer, accelerator, config, seed, config.kl_coef)
    return PpoState(model, optimizers, reference, *given)


def step(
    state: PpoState, prompts: Sequence[Prompt], reward_fn: RewardFunction,
    gold_fn: RewardFunction | None = None,
) -> tuple[PpoState, dict[str, float]]:  # fmt: skip
    """Run one iteration of PPO; several processes, all given the same prompts, share the work.

    `prompts` are a multiple of `config.minibatch`; `gold_fn` gives a reward that is logged only.
    ValueError: prompts, replies or rewards that teach nothing (see `train.checks`);
    TrainingDiverged: a loss or gradient that is no finite number.

    Returns the next state, and a row for the log: iteration (the first is 1); reward and gold
    (means, as the functions returned them); finished (share, 0-1); reply_length (tokens, the end
    token included); kl and kl_k3 (two estimates of KL(policy || theta_0), nats a reply); kl_coef;
    entropy (nats a token); explained_variance (of the returns by the critic, before learning);
    policy_loss, value_loss, clip_fraction (means over minibatches); update_kl (nats a token from
    the policy that sampled, at the last minibatch); updates (optimiser steps); seconds.
    """
    accelerator = state.accelerator
    check_prompts(state, prompts)
    rng = np.random.default_rng([state.seed, state.iteration, accelerator.process_index])
    clock = [time.perf_counter()]
    with accelerator.split_between_processes(list(prompts)) as mine:
        replies = sample(state, mine, int(rng.integers(2**62)))
    clock.append(time.perf_counter())
    rewards = np.atleast_1d(reward_fn(mine, replies))
    everyones = checks.check_rewards(np.asarray(gather_object(list(rewards))), len(prompts))
    row = {"iteration": state.iteration + 1, "reward": everyones.mean()}
    if gold_fn is not None:
        row["gold"] = np.mean(gather_object(list(gold_fn(mine, replies))))
    rollout, stats = make_rollout(state, mine, replies, rewards)
    clock.append(time.perf_counter())
    row |= {**stats, "kl_coef": state.kl_coef, **learn(state, rollout, rng)}
    clock.append(time.perf_counter())
    row |= dict(zip(SECONDS, np.diff(clock), strict=True))
    steered = (state.config.kl_target, state.config.kl_horizon)
    kl_coef = adapted(state.kl_coef, stats["kl"], len(prompts), *steered)
    state = dataclasses.replace(state, kl_coef=kl_coef, iteration=state.iteration + 1)
    return state, {name: float(value) for name, value in row.items()}


def check_prompts(state: PpoState, prompts: Sequence[Prompt]) -> None:
    """Refuse prompts that make no equal minibatches and shares, or are too long (ValueError)."""
    config, processes = state.config, state.accelerator.num_processes
    if not prompts or len(prompts) % config.minibatch or config.minibatch % processes:
        told = f"{len(prompts)} prompts cannot be cut into minibatches of {config.minibatch}"
        raise ValueError(f"{told}, and these for {processes} process(es): choose multiples.")
    short = checks.prompts_that_fit(state.policy, state.tokenizer, prompts, config)
    if long := len(prompts) - len(short):
        most = config.max_prompt_length
        raise ValueError(f"{long} of {len(prompts)} prompts have more than {most} tokens.")


def save(state: PpoState, folder: Path) -> None:
    """Write all that a run needs to go on into `folder`, whole or not at all."""
    if state.accelerator.is_main_process:
        numbers = {"iteration": state.iteration, "kl_coef": state.kl_coef}
        checkpoint.save_run(folder, state.iteration, _parts(state), numbers | _identity(state))
    state.accelerator.wait_for_everyone()


def resume(state: PpoState, folder: Path) -> PpoState:
    """Return the run that `save` wrote into `folder`; `state` is as that run's was at the start."""
    saved = checkpoint.saved_run(folder)
    if saved is None:
        raise FileNotFoundError(f"There is no saved PPO run in {folder}. Begin one with `start`.")
    if other := [name for name, value in _identity(state).items() if saved[name] != value]:
        told = f"The run saved in {folder} has another {other[0]} ({saved[other[0]]}). Start with"
        raise ValueError(f"{told} its theta_0, seed and configuration, or use another folder.")
    checkpoint.load_run(folder, _parts(state))
    return dataclasses.replace(state, kl_coef=saved["kl_coef"], iteration=saved["iteration"])


def _parts(state: PpoState) -> dict[str, torch.nn.Module | Optimizer]:
    policy, critic = state.optimizers
    return {"model": state.actor_critic, "policy_optimizer": policy, "critic_optimizer": critic}


def _identity(state: PpoState) -> dict[str, Any]:
    config = {k: v for k, v in dataclasses.asdict(state.config).items() if k not in LENGTHS}
    digest = hashlib.sha256()
    for name, tensor in state.reference.state_dict().items():
        digest.update(name.encode() + tensor.cpu().numpy().tobytes())
    return {"seed": state.seed, "config": config, "theta_0": digest.hexdigest()}


def sample(state: PpoState, prompts: list[Prompt], seed: int) -> list[models.Reply]:
    """Sample one reply to each prompt (ValueError: all of them, in all processes, were cut off)."""
    numbers = {"n": 1, "seed": seed, **sampling(state.config)}
    replies = [one for (one,) in sample_replies(state.policy, state.tokenizer, prompts, **numbers)]
    finished = gather_object([reply.finished for reply in replies])
    checks.check_finished(finished, state.config.max_new_tokens)
    return replies


class Rollout(NamedTuple):
    """What an iteration learns from, as it was when the replies were sampled.

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
        return Rollout(*(each[index] for each in self))


@torch.no_grad()
def make_rollout(
    state: PpoState, prompts: list[Prompt], replies: list[models.Reply], rewards: np.ndarray
) -> tuple[Rollout, dict[str, float]]:
    """Turn replies and their rewards (n,) into a rollout and the log's numbers about them."""
    config, add_up = state.config, state.accelerator.reduce
    ids, attention_mask, mask = lay_out(state, prompts, replies)
    length = mask.shape[1]
    parts = []
    for rows in torch.arange(len(ids)).split(config.minibatch // state.accelerator.num_processes):
        batch = ids[rows], attention_mask[rows]
        outputs = models.run(state.reference, *batch, logits_to_keep=length + 1)
        reference, _ = token_log_probs(outputs.logits, batch[0], length, config.temperature)
        parts.append(torch.stack([*state.model(*batch, length), reference]))
    log_probs, values, entropy, reference = torch.cat(parts, dim=1).masked_fill(mask == 0, 0.0)

    finished = np.array([reply.finished for reply in replies])
    shifted = rewards - config.missing_eos_penalty * ~finished - config.reward_baseline
    scores = torch.from_numpy(shifted * config.reward_scale).to(log_probs)
    per_token = token_rewards(scores, log_probs, reference, mask, state.kl_coef)
    advantages, returns = gae(per_token, values, mask, config.gamma, config.lam)
    if config.whiten:
        advantages = whiten(advantages, mask, add_up)

    k1, _, k3 = kl_estimators(log_probs, reference)
    of_replies = [scores.new_tensor(finished), *(each.sum(dim=1) for each in (mask, k1, k3))]
    means = add_up(torch.stack(of_replies).mean(dim=1), "mean").tolist()
    stats = dict(zip(("finished", "reply_length", "kl", "kl_k3"), means, strict=True))
    stats["entropy"] = masked_mean(entropy, mask, add_up).item()
    stats["explained_variance"] = explained_variance(values, returns, mask, add_up).item()
    return Rollout(ids, attention_mask, mask, log_probs, values, advantages, returns), stats


def learn(state: PpoState, rollout: Rollout, rng: np.random.Generator) -> dict[str, float]:
    """Improve policy and critic on a rollout, in place; return the log's numbers about it."""
    config, accelerator = state.config, state.accelerator
    size = config.minibatch // accelerator.num_processes
    order = minibatches(len(rollout.ids), size, config.epochs, rng)
    groups = (list(state.policy.parameters()), state.actor_critic.critic_parameters())
    rows: list[dict[str, float]] = []
    updates = 0
    for index in order:
        part = rollout.rows(torch.from_numpy(index))
        old, mask = part.log_probs, part.mask
        log_probs, values, _ = state.model(part.ids, part.attention_mask, mask.shape[1])
        loss, clip_fraction = policy_loss(log_probs, old, part.advantages, mask, config.clip)
        critic_loss = value_loss(values, part.values, part.returns, mask, config.value_clip)
        update_kl = masked_mean(kl_estimators(old, log_probs.detach())[2], mask)
        # gradients are averaged over processes: weigh each by its share of the tokens
        tokens = mask.sum()
        share = tokens * accelerator.num_processes / accelerator.reduce(tokens)
        losses = torch.stack([loss, critic_loss, clip_fraction, update_kl]).detach() * share
        means = accelerator.reduce(losses, "mean").tolist()
        rows.append(dict(zip(LOSSES, means, strict=True)))
        if config.max_kl is not None and rows[-1]["update_kl"] > config.max_kl:
            break
        state.model.zero_grad()
        accelerator.backward((loss + config.value_coef * critic_loss) * share)
        norms = [float(accelerator.clip_grad_norm_(group, MAX_GRAD_NORM)) for group in groups]
        found = rows[-1] | {"gradient norm": norms[0], "critic's gradient norm": norms[1]}
        check_finite(found, state.iteration * len(order) + updates + 1, config.learning_rate)
        for optimizer in state.optimizers:
            optimizer.step()
        updates += 1
    return {**pd.DataFrame(rows).mean(), "update_kl": rows[-1]["update_kl"], "updates": updates}


# --- the pieces -----------------------------------------------------------------------------------
def masked_mean(values: Tensor, mask: Tensor, add_up: AddUp = lambda total: total) -> Tensor:
    """Return the mean over the tokens of all replies, and of all processes if `add_up` sums."""
    return add_up(values.masked_fill(mask == 0, 0.0).sum()) / add_up(mask.sum())


def masked_variance(values: Tensor, mask: Tensor, *add_up: AddUp) -> Tensor:
    """Return the mean squared distance from the mean, over the same tokens."""
    return masked_mean((values - masked_mean(values, mask, *add_up)) ** 2, mask, *add_up)


def whiten(values: Tensor, mask: Tensor, *add_up: AddUp) -> Tensor:
    """Return values with mean 0 and variance 1 over the tokens of replies, 0 behind their end."""
    deviation = (masked_variance(values, mask, *add_up) + 1e-8).sqrt()
    return (values - masked_mean(values, mask, *add_up)) / deviation * mask


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor, *add_up: AddUp) -> Tensor:
    """Return 1 - Var(returns - values) / Var(returns): 1 is a perfect critic, 0 a useless one."""
    residual = masked_variance(returns - values, mask, *add_up)
    return 1 - residual / masked_variance(returns, mask, *add_up)


def token_rewards(
    scores: Tensor, log_probs: Tensor, reference_log_probs: Tensor, mask: Tensor, kl_coef: float
) -> Tensor:
    """Return each token's reward (Ziegler et al. 2019, eq. 2): its KL penalty, last the score."""
    rewards = -kl_coef * (log_probs - reference_log_probs)
    at_last = torch.arange(1, mask.shape[1] + 1, device=mask.device) == mask.sum(1, keepdim=True)
    return (rewards + scores.unsqueeze(1) * at_last) * mask


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> Pair:
    """Return advantages and returns (generalised advantage estimation, Schulman et al. 2016).

    delta_t = r_t + gamma V_(t+1) - V_t and A_t = delta_t + gamma lam A_(t+1); what is expected
    after the last token of a reply is 0. Returns are A + V.
    """
    advantages = torch.zeros_like(values)
    next_value = next_advantage = torch.zeros_like(values[:, 0])
    for t in reversed(range(values.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        next_advantage = (delta + gamma * lam * next_advantage) * mask[:, t]
        next_value = values[:, t] * mask[:, t]
        advantages[:, t] = next_advantage
    return advantages, (advantages + values) * mask


def policy_loss(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, mask: Tensor, clip: float
) -> Pair:
    """Return PPO's clipped loss and the share of tokens whose gradient the clip takes away.

    Schulman et al. 2017, eq. 7: -min(ratio A, clamp(ratio, 1 - clip, 1 + clip) A), ratio = pi /
    pi_old: nothing is gained by moving on beyond the clip; the way back stays open.
    """
    ratio = torch.exp(log_probs - old_log_probs)
    free = -advantages * ratio
    held = -advantages * ratio.clamp(1 - clip, 1 + clip)
    return masked_mean(torch.max(free, held), mask), masked_mean((held > free).float(), mask)


def value_loss(values: Tensor, old: Tensor, returns: Tensor, mask: Tensor, clip: float) -> Tensor:
    """Return half the critic's mean squared error, the larger of free and held near old values."""
    held = old + (values - old).clamp(-clip, clip)
    return masked_mean(torch.max((values - returns) ** 2, (held - returns) ** 2), mask) / 2


# --- networks -------------------------------------------------------------------------------------
class ActorCritic(torch.nn.Module):
    """The policy, and the critic: a linear head, 0 at first, on its own `trunk` or the policy's."""

    def __init__(self, policy: Model, trunk: Model | None, temperature: float):
        super().__init__()
        self.policy, self.trunk, self.temperature = policy, trunk, temperature
        config = policy.config if trunk is None else trunk.config
        self.head = torch.nn.Linear(config.get_text_config().hidden_size, 1)
        for parameter in self.head.parameters():
            torch.nn.init.zeros_(parameter)

    def critic_parameters(self) -> list[torch.nn.Parameter]:
        """Return what is the critic's alone."""
        trunk = [] if self.trunk is None else list(self.trunk.parameters())
        return [*trunk, *self.head.parameters()]

    def forward(
        self, ids: Tensor, attention_mask: Tensor, length: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return log-probabilities, values and entropies of the last `length` tokens.

        `values[:, t]` and the entropy (no gradient) are of the state where token t was chosen.
        """
        options = {"logits_to_keep": length + 1, "output_hidden_states": self.trunk is None}
        outputs = models.run(self.policy, ids, attention_mask, **options)
        log_probs, entropy = token_log_probs(outputs.logits, ids, length, self.temperature)
        if self.trunk is None:
            hidden = outputs.hidden_states[-1]
        else:
            hidden = models.run(self.trunk, ids, attention_mask).last_hidden_state
        before = hidden[:, -length - 1 : -1].float()
        # a product and a sum, because autocast would round a matrix product's values to bfloat16
        values = (before * self.head.weight).sum(dim=-1) + self.head.bias
        return log_probs, values, entropy


def token_log_probs(logits: Tensor, ids: Tensor, length: int, temperature: float) -> Pair:
    """Return log pi of each of the last `length` tokens, and the entropy of the choice."""
    last = -length - 1
    taken, every = next_log_probs(logits[:, last:], ids[:, last:], temperature)
    free = every.detach()
    return taken, -(free.exp() * free).sum(dim=-1)


def lay_out(
    state: PpoState, prompts: Sequence[Prompt], replies: Sequence[models.Reply]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return ids and attention mask, (batch, prompt + length), and the mask of the replies."""
    tokenizer, where = state.tokenizer, state.policy.device
    heads = [models.prompt_ids(tokenizer, prompt) for prompt in prompts]
    tails = [reply.drawn(tokenizer.eos_token_id) for reply in replies]
    left, left_mask = models.pad_batch(heads, tokenizer.pad_token_id, where, side="left")
    right, mask = models.pad_batch(tails, tokenizer.pad_token_id, where)
    return torch.cat([left, right], dim=1), torch.cat([left_mask, mask], dim=1), mask
