"""Direct preference optimisation (DPO), by TRL's DPOTrainer, on pairs of theta_0's own replies.

beta * log(pi / pi_0) of a reply takes the place of its reward in the loss of a reward model
(Rafailov et al. 2023, Eq. 7; paper, D.3). The pairs are theta_0's own replies, best against worst
by the reward model, so that DPO pursues the same reward as RSF, or the world's preference pairs.
"""

import copy
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from datasets import Dataset
from trl import DPOConfig as TrlDpoConfig, DPOTrainer

from alignment_tax.models import Model, Reply, Tokenizer, prompt_ids
from alignment_tax.presets import DpoConfig
from alignment_tax.train import checks, reward, rounds, trainer
from alignment_tax.train.sample import sample_replies, sampling
from alignment_tax.world.base import Prompt

Nats = np.ndarray
#: The columns that TRL's collator reads.
IDS = ("prompt_ids", "chosen_ids", "rejected_ids")


def dpo_round(config: DpoConfig, start: rounds.Start) -> rounds.RoundResult:
    """Run one round of DPO on pairs of theta_0's own replies, or on the world's."""
    seed, tokenizer = rounds.round_seed(start.seed, start.number), start.tokenizer
    if own := config.source == "on_policy":
        given = (start.theta_0, tokenizer, start.reward_fn, start.prompts)
        pairs = on_policy_pairs(*given, config, seed)
    else:
        pairs = start.world.preferences(len(start.prompts), seed, "train")
    both, work = (start.policy, start.theta_0), start.folder / "work"
    trained = train_dpo(*both, tokenizer, pairs, config, seed, work)
    table: dict[str, Any] = {"prompt": list(pairs["prompt"]), "chosen": True}
    table["margin"] = list(pairs["margin"]) if own else float("nan")
    for side, name, ids in (("chosen", "reply", "ids"), ("rejected", "rejected", "rejected_ids")):
        table[name] = [messages[0]["content"] for messages in pairs[side]]
        if own:  # all are finished: the last token is the end token
            table[ids] = [drawn[:-1] for drawn in pairs[f"{side}_ids"]]
    stats: dict[str, float] = {"kept": trained.used, "dropped": len(start.prompts) - trained.used}
    return rounds.RoundResult(trained.model, trained.log, pd.DataFrame(table), stats)


def train_dpo(
    policy: Model, reference: Model, tokenizer: Tokenizer, pairs: Dataset, config: DpoConfig,
    seed: int, workdir: Path,
) -> trainer.Trained:  # fmt: skip
    """Train `policy` on preference pairs by DPO, in place; `reference` stays as it is.

    `reference` is theta_0 in every round (in the first it may be `policy`), or beta would hold
    nothing near it. Pairs that are too long or twice the same are left out and counted. ValueError:
    columns (prompt, chosen, rejected) are lacking, more than half of the pairs cannot be used, or
    `config.max_length` exceeds the context; TrainingDiverged: a loss that is no finite number.
    """
    checks.check_context(policy, config.max_length, "Max_length")
    rows = token_rows(tokenizer, pairs)
    chosen, rejected = ([row["prompt_ids"] + row[side] for row in rows] for side in IDS[1:])
    usable, dropped = reward.usable_pairs(chosen, rejected, config.max_length)
    numbers = trainer.trainer_arguments(config, seed, workdir) | trainer.CONSTANT_RATE
    numbers |= {"beta": config.beta, "max_length": config.max_length}
    arguments = TrlDpoConfig(**numbers, precompute_ref_log_probs=True)
    data = Dataset.from_list([rows[i] for i in usable])
    given = (policy, tokenizer, arguments, data, "DPO", dropped)
    # a copy, because the trainer wraps the forward pass of what it is given
    return trainer.run_trainer(TokenDpoTrainer, *given, ref_model=copy.deepcopy(reference).eval())


class TokenDpoTrainer(DPOTrainer):
    """TRL's trainer on tokens: it would make them anew of the texts, whatever had been drawn."""

    def _prepare_dataset(self, dataset: Dataset, *args: Any) -> Dataset:
        return dataset


def token_rows(tokenizer: Tokenizer, pairs: Dataset) -> list[dict[str, list[int]]]:
    """Return the tokens of prompt and replies of each pair: those that were drawn if it has any."""
    if set(IDS) <= set(pairs.column_names):
        return pairs.select_columns(list(IDS)).to_list()
    rows = []
    for prompt, *sides in zip(pairs["prompt"], *reward.pair_ids(tokenizer, pairs), strict=True):
        head = prompt_ids(tokenizer, prompt)
        if any(side[: len(head)] != head for side in sides):
            raise ValueError("By this chat template it cannot be said where a reply begins.")
        tails = [side[len(head) :] for side in sides]
        rows.append(dict(zip(IDS, (head, *tails), strict=True)))
    return rows


def dpo_loss(chosen: Nats, rejected: Nats, chosen_0: Nats, rejected_0: Nats, beta: float) -> float:
    """Compute DPO's loss by hand (Rafailov et al. 2023, Eq. 7; paper, D.3): the mean over pairs.

    -log sigmoid(beta * [log pi/pi_0 (chosen) - log pi/pi_0 (rejected)]), from log pi(reply |
    prompt) in nats, (pairs,), of policy and reference (`_0`); see `reply_log_probs`.
    """
    margin = beta * ((chosen - chosen_0) - (rejected - rejected_0))
    return float(np.logaddexp(0.0, -margin).mean())


def on_policy_pairs(
    policy: Model, tokenizer: Tokenizer, reward_fn: rounds.RewardFunction,
    prompts: Sequence[Prompt], config: DpoConfig, seed: int,
) -> Dataset:  # fmt: skip
    """Make preference pairs of a policy's own replies: the best of n against the worst of n.

    Replies that were cut off are neither: they would teach the wrong thing. A prompt gives no pair
    if it is too long, fewer than two replies are finished, or best and worst have the same text or
    reward; a warning counts these. ValueError: no pairs, numbers that do not fit, unusable rewards.

    Returns columns prompt, chosen, rejected (lists of messages), prompt_ids, chosen_ids,
    rejected_ids (tokens, as they were drawn) and margin (difference of the rewards, > 0).
    """
    if config.n < 2:
        raise ValueError(f"A pair is of two replies, so n must be 2 or more, not {config.n}.")
    short = checks.prompts_that_fit(policy, tokenizer, prompts, config)
    groups = sample_replies(policy, tokenizer, short, n=config.n, seed=seed, **sampling(config))
    ended = [reply.finished for group in groups for reply in group]
    checks.check_finished(ended, config.max_new_tokens)
    finished = [[reply for reply in group if reply.finished] for group in groups]
    asked = [prompt for prompt, group in zip(short, finished, strict=True) for _ in group]
    replies = [reply for group in finished for reply in group]
    rewards = checks.check_rewards(reward_fn(asked, replies), len(replies))
    ends = np.cumsum([len(group) for group in finished])
    rows = []
    for prompt, group, values in zip(short, finished, np.split(rewards, ends[:-1]), strict=True):
        if (picked := best_and_worst(group, values)) is None:
            continue
        row: dict[str, Any] = {"prompt": prompt, "prompt_ids": prompt_ids(tokenizer, prompt)}
        for side, place in zip(("chosen", "rejected"), picked, strict=True):
            row[side] = [{"role": "assistant", "content": group[place].text}]
            row[f"{side}_ids"] = group[place].drawn(tokenizer.eos_token_id)
        rows.append({**row, "margin": float(values[picked[0]] - values[picked[1]])})
    long, alike = len(prompts) - len(short), len(short) - len(rows)
    missing = f"{long + alike} of {len(prompts)} prompts give no pair ({long} too long, {alike}"
    missing += " without two finished replies of different reward)."
    if not rows:
        raise ValueError(f"{missing} Raise n or the temperature, or look at what the policy says.")
    if len(rows) < len(prompts):
        warnings.warn(missing, stacklevel=2)
    return Dataset.from_list(rows)


def best_and_worst(replies: Sequence[Reply], rewards: np.ndarray) -> tuple[int, int] | None:
    """Return the numbers of the finished replies of highest and lowest reward, or None if equal."""
    if len(replies) < 2:
        return None
    best, worst = int(np.argmax(rewards)), int(np.argmin(rewards))
    same = replies[best].text == replies[worst].text or rewards[best] == rewards[worst]
    return None if same else (best, worst)
