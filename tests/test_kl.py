"""KL and log-probabilities by hand, and a reply's tokens from sampling to training."""

import dataclasses
import math
import types

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import refuses
from datasets import Dataset
from test_dpo import DPO
from test_models import bot, make_policy, make_reward_model, make_tokenizer, sharp, user
from test_rloo import run
from test_train import PROMPTS, RSF, count_x, pairs, surprisal
from torch import tensor
from trl import DPOTrainer, RLOOTrainer

from alignment_tax.models import Reply, closed_ids, conversation_ids, prompt_ids, score_replies
from alignment_tax.train import loop
from alignment_tax.train.dpo import on_policy_pairs, token_rows, train_dpo
from alignment_tax.train.kl import kl_estimate, kl_estimators, reply_log_probs
from alignment_tax.train.loop import encode
from alignment_tax.train.rsf import rsf_round
from alignment_tax.train.sample import kept_replies, reply_columns

EOS, GOOD, BAD, X = 1, 5, 6, 7


class Dice:
    """A stand-in for a policy: P(next) depends on the present token alone."""

    device = torch.device("cpu")

    def __init__(self, table):
        self.table = table

    def __call__(self, input_ids, attention_mask, use_cache, logits_to_keep):
        logits = torch.full((*input_ids.shape, 13), -1e9)
        for row, ids in enumerate(input_ids.tolist()):
            for place, token in enumerate(ids):
                for following, chance in self.table.get(token, {0: 1.0}).items():
                    logits[row, place, following] = math.log(chance)
        return types.SimpleNamespace(logits=logits[:, -logits_to_keep:])


BOT = 3  # the last token of every prompt
POLICY = Dice({BOT: {GOOD: 0.5, X: 0.5}, GOOD: {X: 0.8, EOS: 0.2}, X: {X: 0.25, EOS: 0.75}})
THETA_0 = Dice({BOT: {GOOD: 0.25, X: 0.75}, GOOD: {X: 0.4, EOS: 0.6}, X: {X: 0.5, EOS: 0.5}})


def test_a_cut_off_reply_has_no_end_token_in_its_log_probability():
    replies = [Reply("good x", [GOOD, X], True), Reply("good x x", [GOOD, X, X], False)]
    asked = [user("why"), user("hello y z")]
    given = (make_tokenizer(), asked, replies, 2)
    after, before = (reply_log_probs(model, *given) for model in (POLICY, THETA_0))
    # finished: good, x, end; cut off: good, x, x, and whatever would have come next is not counted
    np.testing.assert_allclose(np.exp(after), [0.5 * 0.8 * 0.75, 0.5 * 0.8 * 0.25], rtol=1e-5)
    np.testing.assert_allclose(np.exp(before), [0.25 * 0.4 * 0.5, 0.25 * 0.4 * 0.5], rtol=1e-5)
    assert kl_estimate(after, before) == pytest.approx((math.log(6) + math.log(2)) / 2, rel=1e-5)
    # a text that was written is a finished reply
    assert reply_log_probs(POLICY, make_tokenizer(), asked[:1], ["good x"], 2)[0] == after[0]


def test_log_probabilities_are_of_the_tokens_that_were_drawn():
    # <unk> is lost in the text, which would leave one token of two
    drawn = Reply("x", [4, X], True)
    policy, tokenizer = sharp(make_policy(), 20), make_tokenizer()
    head = prompt_ids(tokenizer, user("why"))
    by_hand = -sum(surprisal(policy, [*head, 4, X, EOS], len(head)))
    found = reply_log_probs(policy, tokenizer, [user("why")], [drawn], 1)
    assert found[0] == pytest.approx(by_hand, abs=1e-5)


def test_kl_estimators_by_exact_expectation_and_k3_where_policies_nearly_agree():
    p, q = tensor([0.5, 0.3, 0.2]), tensor([0.2, 0.3, 0.5])
    kl = 0.5 * math.log(2.5) + 0.2 * math.log(0.4)  # 0.27489
    k1, k2, k3 = ((p * k).sum().item() for k in kl_estimators(p.log(), q.log()))
    assert (k1, k3) == pytest.approx((kl, kl), abs=1e-6)
    by_hand = (0.5 * math.log(2.5) ** 2 + 0.2 * math.log(0.4) ** 2) / 2  # biased by 0.0190
    assert k2 == pytest.approx(by_hand, abs=1e-6)
    assert kl_estimators(p.log(), q.log())[0].min() < 0 < kl_estimators(p.log(), q.log())[2].max()
    # where in float32 the formula as it is written turns negative
    log_probs = tensor([-0.5])
    other = torch.nextafter(log_probs, tensor([0.0]))
    d = (log_probs.double() - other.double()).item()
    assert kl_estimators(log_probs, other)[2].item() == pytest.approx(d**2 / 2, rel=1e-5)
    assert (torch.exp(other - log_probs) - 1 - (other - log_probs)).item() < 0 < d**2


def test_reward_models_and_examples_read_the_drawn_tokens():
    tokenizer, drawn = make_tokenizer(), Reply("x", [4, X], False)
    whole = closed_ids(tokenizer, [user("why")] * 2, [drawn, "good x"])
    assert whole[0] == [*prompt_ids(tokenizer, user("why")), 4, X, EOS]
    assert whole[1] == conversation_ids(tokenizer, user("why"), bot("good x"))
    model = make_reward_model()
    [found] = score_replies(model, tokenizer, [user("why")], [drawn], 1, 64)
    assert found == pytest.approx(model(tensor([whole[0]])).logits.item(), abs=1e-5)
    for finished in (True, False):
        ids, labels = encode(make_tokenizer(), user("why"), Reply("x", [4, X], finished), 16)
        assert ids[-3 if finished else -2 :] == labels[3:] == [4, X, *[EOS] * finished]


def test_a_table_keeps_replies_through_a_file(tmp_path):
    replies = [Reply("x", [4, X], True), Reply("", [], True), Reply("good", [GOOD], False)]
    pd.DataFrame(reply_columns(replies)).to_parquet(tmp_path / "table.parquet")
    table = pd.read_parquet(tmp_path / "table.parquet")
    both = [kept_replies(each) for each in (table, table.drop(columns="ids"))]
    assert both == [replies, ["x", "", "good"]]


def test_rsf_trains_on_the_tokens_that_were_drawn(monkeypatch):
    seen = []
    monkeypatch.setattr(loop, "encode", lambda *args: seen.append(args[2]) or encode(*args))
    result = rsf_round(make_policy(), make_tokenizer(), count_x, PROMPTS, RSF, 0)
    assert seen == kept_replies(result.samples[result.samples["chosen"]])
    # of a policy that knows nothing, some replies do not read back as they were drawn
    assert any(make_tokenizer()(reply.text)["input_ids"] != reply.token_ids for reply in seen)


def spy_on_replies(monkeypatch, trainer, kind):
    """Collect the reply tokens that a trainer of TRL computes its loss on."""
    seen, original = [], trainer._compute_loss

    def spy(self, model, inputs, *args, **kwargs):
        for ids, mask in zip(inputs[kind], inputs["completion_mask"], strict=True):
            seen.append(ids[mask.bool()].tolist())
        return original(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(trainer, "_compute_loss", spy)
    return seen


def test_dpo_trains_on_the_tokens_that_were_drawn(tmp_path, monkeypatch):
    policy, tokenizer = make_policy(), make_tokenizer()
    config = dataclasses.replace(DPO, n=16, epochs=1)
    own = on_policy_pairs(policy, tokenizer, count_x, PROMPTS, config, 0)
    text = [tokenizer(messages[0]["content"])["input_ids"] for messages in own["chosen"]]
    assert any(ids != drawn[:-1] for ids, drawn in zip(text, own["chosen_ids"], strict=True))
    seen = spy_on_replies(monkeypatch, DPOTrainer, "input_ids")
    train_dpo(policy, policy, tokenizer, own, config, 0, tmp_path)
    assert sorted(seen) == sorted([*own["chosen_ids"], *own["rejected_ids"]])


def test_written_pairs_have_the_tokens_of_the_chat_template():
    tokenizer = make_tokenizer()
    row = token_rows(tokenizer, pairs())[0]
    assert row["prompt_ids"] == prompt_ids(tokenizer, user("why"))
    assert row["chosen_ids"] == [*tokenizer("good x")["input_ids"], EOS]
    before_generation = "{% if add_generation_prompt %}x {% endif %}"
    tokenizer.chat_template = before_generation + tokenizer.chat_template
    one = Dataset.from_list([pairs()[0]])
    refuses(ValueError, "cannot be said where a reply begins", token_rows, tokenizer, one)


def test_rloo_gives_the_reward_function_the_tokens_it_trains_on(tmp_path, monkeypatch):
    given = []

    def rewards(prompts, replies):
        given.extend(replies)
        return count_x(prompts, replies)

    trained = spy_on_replies(monkeypatch, RLOOTrainer, "completion_ids")
    samples = run(make_policy(), tmp_path, reward_fn=rewards).samples
    assert sorted(reply.drawn(EOS) for reply in given) == sorted(trained)
    assert kept_replies(samples) == given
