"""RLOO, GRPO and KL by hand, and a reply's tokens from sampling to training."""

import copy
import dataclasses
import math
import types

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import refuses
from datasets import Dataset
from test_models import always, bot, make_policy, make_reward_model, make_tokenizer, sharp, user
from test_train import DPO, PROMPTS, RSF, count_words, count_x, pairs, sample, surprisal, weights
from torch import tensor
from transformers import LlamaForCausalLM, PreTrainedModel
from trl import DPOTrainer, RLOOTrainer

from alignment_tax.models import Reply, closed_ids, conversation_ids, prompt_ids, score_replies
from alignment_tax.presets import RlooConfig
from alignment_tax.train import loop, rloo
from alignment_tax.train.dpo import on_policy_pairs, token_rows, train_dpo
from alignment_tax.train.grpo import GRPO
from alignment_tax.train.kl import kl_estimate, kl_estimators, reply_log_probs
from alignment_tax.train.loop import encode
from alignment_tax.train.ppo import policy_loss
from alignment_tax.train.rloo import rloo_advantages
from alignment_tax.train.rsf import rsf_round
from alignment_tax.train.sample import kept_replies, reply_columns

EOS = 1
RLOO = RlooConfig(
    rounds=1, prompts_per_round=8, n=4, temperature=1.0, max_new_tokens=8, max_prompt_length=8,
    beta=0.1, learning_rate=5e-3, batch_size=32,
)  # fmt: skip


def run(policy, workdir, reference=None, reward_fn=count_x, prompts=PROMPTS, **changes):
    seed, by = changes.pop("seed", 0), changes.pop("by", rloo.RLOO)
    config = dataclasses.replace(RLOO, **changes)
    reference = make_policy() if reference is None else reference
    given = (policy, reference, make_tokenizer(), reward_fn, prompts)
    return rloo.train_rloo(*given, config, seed, workdir, by)


def wordy_policy(seed: int) -> PreTrainedModel:
    """A policy of strong opinions whose only special token is the end: texts read back the same."""
    config = make_policy().config
    config.tie_word_embeddings = False
    torch.manual_seed(seed)
    policy = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.dim() == 2:
                parameter.normal_(std=0.3)
        inputs, outputs = policy.get_input_embeddings().weight, policy.lm_head.weight
        inputs[:, 0], outputs[:, 0] = 8.0, 0.0
        outputs[[0, 2, 3, 4], 0] = -30.0
    return policy


def log_probs(policy: PreTrainedModel, samples, temperature=1.0) -> np.ndarray:
    """log pi of each reply at a temperature, one by one; no end token if it was cut off."""
    logs = []
    for row in samples.itertuples():
        head = prompt_ids(make_tokenizer(), row.prompt)
        ids = head + list(row.ids) + [EOS] * row.finished
        logs.append(-sum(surprisal(policy, ids, len(head), temperature)))
    return np.array(logs)


def spy_on(monkeypatch, trainer, kind="completion_ids", stretch=1.0) -> dict:
    """Note TRL's replies, advantages and loss; multiply the head by `stretch` before the loss."""
    seen, original = {"replies": []}, trainer._compute_loss

    def spy(self, model, inputs, *args, **kwargs):
        with torch.no_grad():
            model.lm_head.weight.mul_(stretch)
        loss = original(self, model, inputs, *args, **kwargs)
        for ids, mask in zip(inputs[kind], inputs["completion_mask"], strict=True):
            seen["replies"].append(ids[mask.bool()].tolist())
        # the trainer shuffles the replies of a step
        seen.update(loss=loss.item(), advantages=np.sort(inputs.get("advantages", [])))
        return loss

    monkeypatch.setattr(trainer, "_compute_loss", spy)
    return seen


# by hand
def test_advantages_by_hand_and_cut_off_replies_below_the_finished_ones():
    # 1 - (2 + 6) / 2, 2 - (1 + 6) / 2, 6 - (1 + 2) / 2
    rewards, ratios = np.array([[1.0, 2.0, 6.0]]), np.array([[0.0, 0.0, 4.0]])
    assert rloo_advantages(rewards, 0 * ratios, 0.5).tolist() == [[-3.0, -1.5, 4.5]]
    # a penalty of 0.5 * 4 on the last reply: rewards 1, 2, 4
    assert rloo_advantages(rewards, ratios, 0.5).tolist() == [[-2.0, -0.5, 2.5]]
    rewards = np.array([3.0, 9.0, 1.0, 5.0, 7.0, 8.0])
    finished = np.array([True, False, True, False, False, False])
    scores = rloo.penalise_unfinished(rewards, finished, n=3, penalty=2.0)
    # worst finished reply of the first group: 1; the second group has none, and teaches nothing
    assert scores.tolist() == [3.0, -1.0, 1.0, -2.0, -2.0, -2.0]
    assert rloo_advantages(scores.reshape(2, 3), np.zeros((2, 3)), 0.0)[1].tolist() == [0, 0, 0]


def test_trl_computes_the_advantages_we_compute_by_hand(tmp_path, monkeypatch):
    policy, reference = wordy_policy(0), wordy_policy(1)
    seen = spy_on(monkeypatch, RLOOTrainer)
    samples = run(policy, tmp_path, reference, count_words, temperature=1.5, beta=0.3).samples
    ratios = log_probs(wordy_policy(0), samples, 1.5) - log_probs(reference, samples, 1.5)
    scores = samples["score"].to_numpy().reshape(8, 4)
    by_hand = rloo_advantages(scores, ratios.reshape(8, 4), 0.3).ravel()
    np.testing.assert_allclose(seen["advantages"], np.sort(by_hand), atol=1e-3)
    assert np.abs(ratios).max() > 1
    assert seen["loss"] == pytest.approx(0.0, abs=1e-4)


def test_trl_computes_the_loss_we_compute_by_hand(tmp_path, monkeypatch):
    # the head changes after sampling, so that the ratios are not 1
    seen = spy_on(monkeypatch, RLOOTrainer, stretch=1.3)
    samples = run(wordy_policy(0), tmp_path, wordy_policy(1), count_words, beta=0.0).samples
    moved = wordy_policy(0)
    with torch.no_grad():
        moved.lm_head.weight.mul_(1.3)
    now, old = (log_probs(each, samples) for each in (moved, wordy_policy(0)))
    scores = samples["score"].to_numpy().reshape(8, 4)
    advantages = rloo_advantages(scores, np.zeros((8, 4)), 0.0).ravel()
    one_a_reply = (torch.tensor(each)[:, None] for each in (now, old, advantages))
    by_hand = policy_loss(*one_a_reply, torch.ones(32, 1), 0.2)[0].item()
    assert seen["loss"] == pytest.approx(by_hand, abs=1e-3)
    unclipped = -np.mean(np.exp(now - old) * advantages)
    assert min(abs(by_hand), abs(by_hand - unclipped)) > 0.01


def divided(rewards):
    centred = rewards - rewards.mean(axis=1, keepdims=True)
    return centred / (rewards.std(axis=1, ddof=1, keepdims=True) + 1e-4)


def test_grpo_divides_each_advantage_by_the_deviation_of_its_group(tmp_path, monkeypatch):
    # 1, 2, 3 and 6 are -2, -1, 0 and 3 from their mean; squares 4 + 1 + 0 + 9 over n - 1
    by_hand = np.array([-2, -1, 0, 3]) / (np.sqrt(14 / 3) + 1e-4)
    assert divided(np.array([[1.0, 2.0, 3.0, 6.0]]))[0] == pytest.approx(by_hand)
    seen = spy_on(monkeypatch, GRPO.trainer)
    samples = run(wordy_policy(0), tmp_path, reward_fn=count_words, by=GRPO, beta=0.0).samples
    by_hand = divided(samples["score"].to_numpy().reshape(8, 4)).ravel()
    np.testing.assert_allclose(seen["advantages"], np.sort(by_hand), atol=1e-3)


# sampling
def test_trl_samples_what_sample_replies_samples(tmp_path):
    # almost no temperature; prompts of different lengths; a foreign end token in the checkpoint
    policy = wordy_policy(0)
    expected = sample(policy, PROMPTS, n=1, temperature=0, max_new_tokens=8)
    assert {reply.finished for (reply,) in expected} == {True, False}
    assert len({reply.text for (reply,) in expected}) > 3
    policy.generation_config.eos_token_id = [EOS, 6]
    table = run(policy, tmp_path, wordy_policy(0), count_words, temperature=1e-4).samples
    replies = {str(p): reply for p, (reply,) in zip(PROMPTS, expected, strict=True)}
    assert policy.generation_config.eos_token_id == [EOS, 6], "the policy keeps its own end tokens"
    assert len(table) == 32
    for row in table.itertuples():
        reply = replies[str(row.prompt)]
        assert (row.reply, row.finished) == (reply.text, reply.finished)
        assert row.tokens == len(reply.token_ids) + reply.finished


# training
@pytest.mark.parametrize(("by", "beta"), [(rloo.RLOO, 0.01), (GRPO, 0.0)])
def test_training_raises_the_reward_and_leaves_theta_0_alone(tmp_path, by, beta):
    theta_0 = make_policy()
    before, policy = weights(theta_0), copy.deepcopy(theta_0)
    numbers = {"n": 8, "batch_size": 128, "epochs": 10, "beta": beta, "learning_rate": 1e-2}
    trained = run(policy, tmp_path, theta_0, prompts=PROMPTS * 2, by=by, **numbers)
    means = trained.samples.groupby("step")["reward"].mean()
    assert len(means) == len(trained.log) == 10
    assert means.iloc[-3:].mean() > means.iloc[:3].mean() + 0.5
    assert ({row["learning_rate"] for row in trained.log}, trained.used) == ({1e-2}, 10 * 128)
    assert torch.equal(weights(theta_0), before)
    assert (trained.model.training, list(tmp_path.iterdir())) == (False, [])
    other = copy.deepcopy(trained.model)
    with torch.no_grad():
        other.get_input_embeddings().weight.zero_()
        assert other(torch.tensor([[4, 5]])).logits.abs().max() == 0


def test_a_second_round_is_still_penalised_for_its_distance_from_theta_0(tmp_path):
    theta_0 = wordy_policy(0)
    first = run(copy.deepcopy(theta_0), tmp_path, theta_0, count_words, learning_rate=2e-3)
    assert first.log[0]["kl"] == pytest.approx(0.0, abs=1e-5)
    start = copy.deepcopy(first.model)
    second = run(first.model, tmp_path, theta_0, count_words, seed=1)
    gap = log_probs(start, second.samples) - log_probs(theta_0, second.samples)
    per_token = gap.sum() / second.samples["tokens"].sum()
    assert second.log[0]["kl"] == pytest.approx(per_token, abs=1e-4)
    assert per_token > 2e-3


def test_the_seed_decides_and_a_step_of_several_batches_samples_once_and_uses_it_once(tmp_path):
    ends = [weights(run(make_policy(), tmp_path, seed=seed).model) for seed in (0, 0, 1)]
    assert [torch.equal(ends[0], end) for end in ends] == [True, True, False]
    trained = run(make_policy(), tmp_path, batch_size=4, accumulation=4)
    assert trained.samples.groupby("step").size().tolist() == [16, 16]
    groups = trained.samples.groupby(trained.samples.index // 4)["prompt"]
    assert all(len({str(p) for p in group}) == 1 for _, group in groups)


def test_cut_off_replies_never_win_and_their_reward_is_recorded(tmp_path):
    # the reward likes long replies, so that without the penalty the cut-off ones would win
    table = run(make_policy(), tmp_path, reward_fn=count_words, n=8, batch_size=64).samples
    assert table["reward"].tolist() == count_words([], table["reply"].tolist()).tolist()
    assert set(table.loc[~table["finished"], "tokens"]) == {8}
    mixed = [g for _, g in table.groupby(table.index // 8) if g["finished"].nunique() == 2]
    assert mixed
    for group in mixed:
        worst = group.loc[group["finished"], "reward"].min()
        assert (group.loc[~group["finished"], "score"] == worst - 1.0).all()


def test_long_prompts_and_those_beyond_the_last_full_step_are_counted(tmp_path):
    trained = run(make_policy(), tmp_path, prompts=[*PROMPTS, user("x " * 9)], batch_size=12)
    assert trained.dropped == {"too long": 1, "left over": 2}
    assert trained.used == len(trained.samples) == 24
    assert sorted(map(str, trained.samples["prompt"].iloc[::4])) == sorted(map(str, PROMPTS[:6]))


# bad input
def test_what_teaches_nothing_is_refused(tmp_path):
    def refused(said, policy=None, **changes):
        refuses(ValueError, said, run, policy or make_policy(), tmp_path, **changes)

    refused(r"n must be 2 or more.* n=1", n=1)
    refused(r"multiple of n.*9 \* 2 = 18 replies", batch_size=9, accumulation=2)
    refused("temperature=0", temperature=0.0)
    refused("takes 16 prompts, but there are only 8", batch_size=64)
    refused("None of 8 prompts has at most 1 tokens", max_prompt_length=1)
    refused(r"may take 2049 tokens.* context has 2048", max_new_tokens=2041)
    refused("32 of 32 rewards are NaN", reward_fn=lambda *_: np.full(32, np.nan))
    refused("All 32 rewards are 2", reward_fn=lambda *_: np.full(32, 2.0))
    refused(r"None of 32 sampled.*in step 1", always(5))


def test_one_step_of_equal_rewards_is_no_error(tmp_path):
    calls = []

    def later(prompts, texts):
        calls.append(len(texts))
        return count_x(prompts, texts) if len(calls) > 1 else np.zeros(len(texts))

    trained = run(make_policy(), tmp_path, reward_fn=later, batch_size=16)
    assert (calls, len(trained.log)) == ([16, 16], 2)


# --- KL and log-probabilities, and a reply's tokens from sampling to training ---------------------
GOOD, X = 5, 7


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


def test_dpo_trains_on_the_tokens_that_were_drawn(tmp_path, monkeypatch):
    policy, tokenizer = make_policy(), make_tokenizer()
    config = dataclasses.replace(DPO, n=16, epochs=1)
    own = on_policy_pairs(policy, tokenizer, count_x, PROMPTS, config, 0)
    text = [tokenizer(messages[0]["content"])["input_ids"] for messages in own["chosen"]]
    assert any(ids != drawn[:-1] for ids, drawn in zip(text, own["chosen_ids"], strict=True))
    seen = spy_on(monkeypatch, DPOTrainer, "input_ids")
    train_dpo(policy, policy, tokenizer, own, config, 0, tmp_path)
    assert sorted(seen["replies"]) == sorted([*own["chosen_ids"], *own["rejected_ids"]])


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

    seen = spy_on(monkeypatch, RLOOTrainer)
    samples = run(make_policy(), tmp_path, reward_fn=rewards).samples
    assert sorted(reply.drawn(EOS) for reply in given) == sorted(seen["replies"])
    assert kept_replies(samples) == given
