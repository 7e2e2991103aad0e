"""Direct preference optimisation (DPO), by TRL's DPOTrainer, on pairs of theta_0's own replies.

DPO needs no reward model while it trains: beta * log(pi / pi_0) of a reply takes the place of its
reward, and the loss is the one a reward model is trained with (Rafailov et al. 2023, Eq. 7; paper,
D.3). What it learns from are pairs: theta_0's own replies, best against worst by the reward model,
so that it pursues the same reward as RSF, or the preference pairs of the world.
"""

from __future__ import annotations

import contextlib
import copy
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer
from trl import DPOConfig as TrlDpoConfig
from trl import DPOTrainer

from alignment_tax.models import score_replies, silence_dropout
from alignment_tax.presets import DpoConfig
from alignment_tax.train.reward import pair_ids
from alignment_tax.train.rsf import RewardFunction, check_rewards, no_finished_reply, short_prompts
from alignment_tax.train.sample import Reply, sample_replies
from alignment_tax.train.sft import (
    Trained,
    check_dropped,
    finished_model,
    quiet_libraries,
    run_trainer,
    trainer_arguments,
)
from alignment_tax.world.base import Prompt

# every round at the same rate, as in RSF: with a cosine each round would start anew from the peak
CONSTANT_RATE = {"lr_scheduler_type": "constant", "warmup_steps": 0}


def train_dpo(
    policy: PreTrainedModel,
    reference: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Dataset,
    config: DpoConfig,
    seed: int,
    workdir: Path,
) -> Trained:
    """Train `policy` on preference pairs by DPO, in place; `reference` stays as it is.

    One call is one round. A run of several rounds calls it with the policy that the last round left
    and the next slice of pairs, while `reference` is theta_0 in every call: with the round's own
    start in its place, beta would hold each round near the one before and nothing near theta_0.
    What a cut between rounds loses is AdamW's two moments, as in RSF; the learning rate is
    constant, so it knows of no rounds.

    The reference's log-probabilities are computed once, before the first step. Pairs longer than
    `config.max_length` tokens are left out, not cut, and so are pairs whose two conversations are
    the same tokens, which teach nothing.

    Args:
        policy: The current policy; its weights are changed.
        reference: theta_0 (may be `policy` itself in the first round: a copy is taken).
        tokenizer: The tokenizer of both.
        pairs: Columns prompt, chosen, rejected, all lists of messages.
        config: Numbers of the stage; `rounds`, `prompts_per_round`, `source` and what belongs to
            sampling are not used.
        seed: Of this round: the order of the pairs.
        workdir: Scratch folder for the trainer.

    Returns:
        The policy (`.model`), the log (among others rewards/margins: how much further the chosen
        reply has moved than the rejected one, in units of beta * nats), and how many pairs were
        used and dropped.

    Raises:
        ValueError: the dataset lacks its columns, more than half of the pairs cannot be used, or
            `config.max_length` exceeds the context.
        TrainingDiverged: a loss that is no finite number.
    """
    check_context(policy, config.max_length, "max_length")
    chosen, rejected = pair_ids(tokenizer, pairs)
    lengths = [max(len(a), len(b)) for a, b in zip(chosen, rejected, strict=True)]
    short = [i for i, length in enumerate(lengths) if length <= config.max_length]
    usable = [i for i in short if chosen[i] != rejected[i]]
    dropped = {"too long": len(pairs) - len(short), "identical": len(short) - len(usable)}
    check_dropped(dropped, len(pairs), config.max_length)
    arguments = TrlDpoConfig(
        **trainer_arguments(config, seed, workdir) | CONSTANT_RATE,
        beta=config.beta,
        max_length=config.max_length,
        precompute_ref_log_probs=True,
    )
    # a copy, because the trainer wraps the forward pass of what it is given
    frozen = copy.deepcopy(reference).eval()
    policy.float()
    silence_dropout(policy)
    with quiet_libraries(), quiet_reference_pass():
        trainer = DPOTrainer(
            model=policy,
            ref_model=frozen,
            args=arguments,
            train_dataset=pairs.select(usable).select_columns(["prompt", "chosen", "rejected"]),
            processing_class=tokenizer,
        )
    log = run_trainer(trainer, "DPO")
    return Trained(released_model(trainer), log, len(usable), dropped)


def dpo_loss(
    chosen: np.ndarray,
    rejected: np.ndarray,
    chosen_0: np.ndarray,
    rejected_0: np.ndarray,
    beta: float,
) -> float:
    """Compute DPO's loss by hand (Rafailov et al. 2023, Eq. 7; paper, D.3): the mean over pairs.

    -log sigmoid(beta * [log pi/pi_0 (chosen) - log pi/pi_0 (rejected)]), which is log 2 where the
    policy is the reference.

    Args:
        chosen: log pi(chosen | prompt) in nats, summed over the reply's tokens, (pairs,); see
            `reply_log_probs`.
        rejected: The same of the rejected replies.
        chosen_0: log pi_0(chosen | prompt) under the reference, (pairs,).
        rejected_0: The same of the rejected replies.
        beta: Weight of the log-ratios.
    """
    margin = beta * ((chosen - chosen_0) - (rejected - rejected_0))
    return float(np.logaddexp(0.0, -margin).mean())


def on_policy_pairs(
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    reward_fn: RewardFunction,
    prompts: Sequence[Prompt],
    config: DpoConfig,
    seed: int,
) -> Dataset:
    """Make preference pairs of a policy's own replies: the best of n against the worst of n.

    Replies that were cut off are neither: to prefer a text without an end, or to reject one for
    what it did not come to say, would teach the wrong thing. A prompt gives no pair if fewer than
    two replies are finished, or if best and worst are the same text or have the same reward.

    Args:
        policy: theta_0.
        tokenizer: Its tokenizer.
        reward_fn: Takes n prompts and n replies, returns n rewards.
        prompts: Those over `config.max_prompt_length` tokens are left out.
        config: n, temperature, max_new_tokens, max_prompt_length and sampling_batch are used.
        seed: Of the samples.

    Returns:
        Columns prompt, chosen, rejected (lists of messages) and margin (reward of the chosen reply
        minus that of the rejected one, > 0); at most one row a prompt. A warning counts the prompts
        without a pair.

    Raises:
        ValueError: n below 2, no usable prompt, no finished reply, no pair at all, prompts and
            replies that do not fit into the context, or rewards that cannot be compared.
    """
    if config.n < 2:
        raise ValueError(
            f"A pair needs two replies to a prompt, so n must be 2 or more, not {config.n}."
        )
    check_context(policy, config.max_prompt_length + config.max_new_tokens, "prompt and reply")
    short = short_prompts(tokenizer, prompts, config.max_prompt_length)
    groups = sample_replies(
        policy,
        tokenizer,
        short,
        n=config.n,
        temperature=config.temperature,
        max_new_tokens=config.max_new_tokens,
        batch_size=config.sampling_batch,
        seed=seed,
    )
    finished = [[reply for reply in group if reply.finished] for group in groups]
    asked = [prompt for prompt, group in zip(short, finished, strict=True) for _ in group]
    texts = [reply.text for group in finished for reply in group]
    if not texts:
        raise ValueError(no_finished_reply(len(short) * config.n, config.max_new_tokens))
    rewards = check_rewards(reward_fn(asked, texts), len(texts))
    ends = np.cumsum([len(group) for group in finished])
    rows = []
    for prompt, group, values in zip(short, finished, np.split(rewards, ends[:-1]), strict=True):
        picked = best_and_worst(group, values)
        if picked is not None:
            best, worst = picked
            rows.append(
                {
                    "prompt": prompt,
                    "chosen": [{"role": "assistant", "content": group[best].text}],
                    "rejected": [{"role": "assistant", "content": group[worst].text}],
                    "margin": float(values[best] - values[worst]),
                }
            )
    missing = f"{len(prompts) - len(rows)} of {len(prompts)} prompts give no pair"
    reasons = (
        f"{len(prompts) - len(short)} too long, {len(short) - len(rows)} without two finished "
        "replies of different reward"
    )
    if not rows:
        raise ValueError(
            f"{missing} ({reasons}). Raise n or the temperature, or look at what the policy says."
        )
    if len(rows) < len(prompts):
        warnings.warn(f"{missing} ({reasons}).", stacklevel=2)
    return Dataset.from_list(rows)


def best_and_worst(replies: Sequence[Reply], rewards: np.ndarray) -> tuple[int, int] | None:
    """Return the numbers of the replies of highest and lowest reward, or None for no difference.

    Args:
        replies: Finished replies to one prompt.
        rewards: (replies,).
    """
    if len(replies) < 2:
        return None
    best, worst = int(np.argmax(rewards)), int(np.argmin(rewards))
    same = replies[best].text == replies[worst].text or rewards[best] == rewards[worst]
    return None if same else (best, worst)


def reward_function(
    reward_model: PreTrainedModel,
    reward_tokenizer: PreTrainedTokenizerBase,
    tokenizer: PreTrainedTokenizerBase,
    batch_size: int,
    max_length: int,
) -> RewardFunction:
    """Make the function from prompts and replies to rewards out of a reward model.

    Args:
        reward_model: Scores conversations.
        reward_tokenizer: Its tokenizer.
        tokenizer: The policy's.
        batch_size: Conversations scored side by side.
        max_length: A longer conversation loses its beginning.

    Raises:
        ValueError: the two tokenizers differ in vocabulary or chat template. All models of a study
            descend from one base, so that is a reward model of another study.
    """
    same_words = reward_tokenizer.get_vocab() == tokenizer.get_vocab()
    if not same_words or reward_tokenizer.chat_template != tokenizer.chat_template:
        raise ValueError(
            "The tokenizers of reward model and policy differ in their "
            f"{'chat templates' if same_words else 'vocabularies'}, so the reward model was "
            "trained on another base. Take the one that was trained from this policy's theta_0."
        )
    return lambda prompts, replies: score_replies(
        reward_model, reward_tokenizer, prompts, replies, batch_size, max_length
    )


def check_context(model: PreTrainedModel, tokens: int, what: str) -> None:
    """Raise ValueError if `what`, so many tokens, does not fit into the model's context."""
    room = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if room is not None and tokens > room:
        raise ValueError(
            f"{what[0].upper()}{what[1:]} may take {tokens} tokens, but the model's context has "
            f"{room}. Lower max_length, or max_prompt_length and max_new_tokens."
        )


def released_model(trainer: Trainer) -> PreTrainedModel:
    """Return the trainer's model in eval mode, ready to be given to the trainer of another round.

    A model that is marked as prepared would train in full precision the second time: its trainer
    would not wrap it for mixed precision again.
    """
    model = finished_model(trainer)
    vars(model).pop("_is_accelerate_prepared", None)
    return model


@contextlib.contextmanager
def quiet_reference_pass() -> Iterator[None]:
    """Keep the trainer's bar for the reference's pass (in a notebook, a widget) out of sight."""
    before = os.environ.get("TQDM_DISABLE")
    os.environ["TQDM_DISABLE"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["TQDM_DISABLE"]
        else:
            os.environ["TQDM_DISABLE"] = before
