import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
from conftest import refuses
from datasets import Dataset
from test_models import always, make_policy, make_tokenizer, user
from test_train import PROMPTS, count_x, pair, pairs, weights

from alignment_tax.models import Reply, texts
from alignment_tax.presets import DpoConfig
from alignment_tax.train.dpo import best_and_worst, dpo_loss, on_policy_pairs, train_dpo
from alignment_tax.train.kl import reply_log_probs

DPO = DpoConfig(
    rounds=1, prompts_per_round=8, n=8, temperature=1.0, max_new_tokens=12, max_prompt_length=8,
    sampling_batch=64, beta=0.5, learning_rate=5e-3, epochs=4, batch_size=8, max_length=16,
)  # fmt: skip


def log_probs(policy, rows, side):
    replies = [row[side][0]["content"] for row in rows]
    return reply_log_probs(policy, make_tokenizer(), list(rows["prompt"]), replies, 4)


def test_the_dpo_loss_of_two_pairs_by_hand():
    # log-ratios: chosen 2 and 0, rejected 1 and 0; 0.5 * (2 - 1) = log sqrt(e), and 0
    loss = dpo_loss(*np.array([[-3.0, -5.0], [-4.0, -7.0], [-5.0, -5.0], [-5.0, -7.0]]), 0.5)
    assert loss == pytest.approx((math.log(1 + math.exp(-0.5)) + math.log(2)) / 2)
    # beta * margin = log 3: probability 3/4 that the chosen reply is the better one
    quarter = dpo_loss(np.array([math.log(9)]), np.zeros(1), np.zeros(1), np.zeros(1), 0.5)
    assert quarter == pytest.approx(-math.log(3 / 4))


def test_trl_computes_our_loss_and_a_second_round_is_still_measured_against_theta_0(tmp_path):
    theta_0, tokenizer = make_policy(), make_tokenizer()
    policy, before = copy.deepcopy(theta_0), weights(theta_0)
    first = train_dpo(policy, theta_0, tokenizer, pairs(), DPO, 0, tmp_path)
    assert (first.used, len(first.log)) == (8, 4)
    assert first.log[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    ends = [log_probs(m, pairs(), s) for m in (policy, theta_0) for s in ("chosen", "rejected")]
    by_hand = dpo_loss(*ends, DPO.beta)
    second = train_dpo(first.model, theta_0, tokenizer, pairs(), DPO, 1, tmp_path)
    assert second.log[0]["loss"] == pytest.approx(by_hand, abs=1e-4)
    assert by_hand < 0.6
    assert torch.equal(weights(theta_0), before)
    assert not list(tmp_path.iterdir())


def test_dpo_learns_a_preference_at_a_constant_rate_and_is_deterministic(tmp_path):
    theta_0, tokenizer = make_policy(), make_tokenizer()
    same = copy.deepcopy(theta_0)  # the first round may start from the reference itself
    starts = ((copy.deepcopy(theta_0), theta_0), (same, same))
    runs = [train_dpo(*both, tokenizer, pairs(), DPO, 0, tmp_path) for both in starts]
    assert torch.equal(weights(runs[0].model), weights(runs[1].model))
    assert {row["learning_rate"] for row in runs[0].log} == {DPO.learning_rate}
    held_out = Dataset.from_list([pair("z", "good y", "bad y"), pair("hello z", "good", "bad")])
    models, sides = (runs[0].model, theta_0), ("chosen", "rejected")
    margins = [-np.diff([log_probs(m, held_out, s) for s in sides], axis=0) for m in models]
    assert (margins[0] > margins[1] + 0.5).all()
    assert not runs[0].model.training


def test_pairs_longer_than_the_context_are_refused(tmp_path):
    policy = make_policy()
    policy.config.max_position_embeddings = 15
    given = (policy, policy, make_tokenizer(), pairs(), DPO, 0, tmp_path)
    refuses(ValueError, r"Max_length may take 16 tokens.* context has 15", train_dpo, *given)


def test_the_best_and_the_worst_reply_make_the_pair():
    # rounding may part the rewards of one and the same text
    for said, rewards, best_worst in (
        ("abc", [1.0, 3.0, -2.0], (1, 2)), ("ab", [1.0, 1.0], None), ("a", [1.0], None),
        ("aa", [1.0, 1.0 + 1e-7], None),
    ):  # fmt: skip
        replies = [Reply(text, [4], True) for text in said]
        assert best_and_worst(replies, np.array(rewards)) == best_worst


def test_pairs_are_the_policys_own_finished_replies_ranked_by_reward():
    policy, tokenizer = make_policy(), make_tokenizer()
    config = dataclasses.replace(DPO, n=24)
    asked = []

    def rewards(prompts, replies):
        asked.extend(zip(prompts, texts(replies), strict=True))
        return count_x(prompts, replies)

    with pytest.warns(UserWarning, match="1 of 9 prompts give no pair .1 too long, 0 without"):
        rows = on_policy_pairs(policy, tokenizer, rewards, [*PROMPTS, user("x " * 9)], config, 0)
    assert list(rows["prompt"]) == PROMPTS
    for row in rows:
        counts = [text.split().count("x") for prompt, text in asked if prompt == row["prompt"]]
        chosen, rejected = (row[side][0]["content"].split() for side in ("chosen", "rejected"))
        assert (chosen.count("x"), rejected.count("x")) == (max(counts), min(counts))
        assert row["margin"] == max(counts) - min(counts) > 0
        # a reply that fills all 12 tokens has no end token and was cut off
        assert max(len(chosen), len(rejected)) < DPO.max_new_tokens
    assert len(asked) < len(PROMPTS) * config.n


@pytest.mark.parametrize(("changes", "policy", "rewards", "message"), [
    ({"n": 1}, make_policy(), count_x, "n must be 2 or more, not 1"),
    ({"max_prompt_length": 1}, make_policy(), count_x, "None of 8 prompts has at most 1"),
    ({"max_new_tokens": 2041}, make_policy(), count_x, "context has 2048"),
    ({}, always(5), count_x, "None of 64 sampled replies ended within 12 tokens"),
    ({}, make_policy(), lambda _, replies: np.zeros(len(replies)), "rewards are 0"),
    ({}, make_policy(), lambda asked, _: np.array([len(str(p)) for p in asked]),
     r"8 of 8 prompts give no pair .*8 without two finished"),
])  # fmt: skip
def test_prompts_and_replies_that_make_no_pairs_are_refused(changes, policy, rewards, message):
    given = (policy, make_tokenizer(), rewards, PROMPTS, dataclasses.replace(DPO, **changes), 0)
    refuses(ValueError, message, on_policy_pairs, *given)
