import copy
import dataclasses

import numpy as np
import pytest
import torch
from test_models import always, make_policy, make_tokenizer, user
from test_train import PROMPTS, count_words, count_x, sample, surprisal, weights
from transformers import LlamaForCausalLM, PreTrainedModel
from trl import RLOOTrainer

from alignment_tax.models import prompt_ids
from alignment_tax.presets import RlooConfig
from alignment_tax.train.ppo import policy_loss
from alignment_tax.train.rloo import (
    GRPO,
    RLOO as BY_RLOO,
    penalise_unfinished,
    rloo_advantages,
    train_rloo,
)

EOS = 1
RLOO = RlooConfig(
    rounds=1, prompts_per_round=8, n=4, temperature=1.0, max_new_tokens=8, max_prompt_length=8,
    beta=0.1, learning_rate=5e-3, batch_size=32,
)  # fmt: skip


def run(policy, workdir, reference=None, reward_fn=count_x, prompts=PROMPTS, **changes):
    seed, by = changes.pop("seed", 0), changes.pop("by", BY_RLOO)
    config = dataclasses.replace(RLOO, **changes)
    reference = make_policy() if reference is None else reference
    given = (policy, reference, make_tokenizer(), reward_fn, prompts)
    return train_rloo(*given, config, seed, workdir, by)


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


def spy_on_trl(monkeypatch, stretch: float = 1.0, trainer=RLOOTrainer) -> dict:
    """Note TRL's advantages and loss; multiply the head by `stretch` before the loss."""
    seen = {}
    original = trainer._compute_loss

    def spy(self, model, inputs):
        with torch.no_grad():
            model.lm_head.weight.mul_(stretch)
        loss = original(self, model, inputs)
        # the trainer shuffles the replies of a step
        seen.update(loss=loss.item(), advantages=np.sort(inputs["advantages"].numpy()))
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
    scores = penalise_unfinished(rewards, finished, n=3, penalty=2.0)
    # worst finished reply of the first group: 1; the second group has none, and teaches nothing
    assert scores.tolist() == [3.0, -1.0, 1.0, -2.0, -2.0, -2.0]
    assert rloo_advantages(scores.reshape(2, 3), np.zeros((2, 3)), 0.0)[1].tolist() == [0, 0, 0]


def test_trl_computes_the_advantages_we_compute_by_hand(tmp_path, monkeypatch):
    policy, reference = wordy_policy(0), wordy_policy(1)
    seen = spy_on_trl(monkeypatch)
    samples = run(policy, tmp_path, reference, count_words, temperature=1.5, beta=0.3).samples
    ratios = log_probs(wordy_policy(0), samples, 1.5) - log_probs(reference, samples, 1.5)
    scores = samples["score"].to_numpy().reshape(8, 4)
    by_hand = rloo_advantages(scores, ratios.reshape(8, 4), 0.3).ravel()
    np.testing.assert_allclose(seen["advantages"], np.sort(by_hand), atol=1e-3)
    assert np.abs(ratios).max() > 1
    assert seen["loss"] == pytest.approx(0.0, abs=1e-4)


def test_trl_computes_the_loss_we_compute_by_hand(tmp_path, monkeypatch):
    # the head changes after sampling, so that the ratios are not 1
    seen = spy_on_trl(monkeypatch, stretch=1.3)
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
    seen = spy_on_trl(monkeypatch, trainer=GRPO.trainer)
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
@pytest.mark.parametrize(("by", "beta"), [(BY_RLOO, 0.01), (GRPO, 0.0)])
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
def constant(value: float):
    return lambda prompts, replies: np.full(len(replies), value)


def test_what_teaches_nothing_is_refused(tmp_path):
    for changes, message in (
        ({"n": 1}, r"n must be 2 or more.* n=1"),
        ({"batch_size": 9, "accumulation": 2}, r"multiple of n.*9 \* 2 = 18 replies"),
        ({"temperature": 0.0}, "temperature=0"),
        ({"batch_size": 64}, "takes 16 prompts, but there are only 8"),
        ({"max_prompt_length": 1}, "None of 8 prompts has at most 1 tokens"),
        ({"max_new_tokens": 2041}, r"may take 2049 tokens.* context has 2048"),
        ({"reward_fn": constant(np.nan)}, "32 of 32 rewards are NaN"),
        ({"reward_fn": constant(2.0)}, "All 32 rewards are 2"),
        ({"policy": always(5)}, r"None of 32 sampled.*in step 1"),
    ):
        with pytest.raises(ValueError, match=message):
            run(**{"policy": make_policy(), "workdir": tmp_path} | changes)


def test_one_step_of_equal_rewards_is_no_error(tmp_path):
    calls = []

    def later(prompts, texts):
        calls.append(len(texts))
        return count_x(prompts, texts) if len(calls) > 1 else np.zeros(len(texts))

    trained = run(make_policy(), tmp_path, reward_fn=later, batch_size=16)
    assert (calls, len(trained.log)) == ([16, 16], 2)
