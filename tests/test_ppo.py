import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from conftest import python, refuses
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from test_models import always, make_policy, make_reward_model, make_tokenizer, user
from test_train import PROMPTS, count_words, count_x, weights
from torch import Tensor, tensor
from torch.testing import assert_close

from alignment_tax.models import Reply, prompt_ids, texts
from alignment_tax.presets import PpoConfig
from alignment_tax.train import ppo
from alignment_tax.train.kl import adapted
from alignment_tax.train.ppo import PpoState, gae, lay_out, make_rollout, start, step, whiten

EOS, GOOD, X = 1, 5, 7
CONFIG = PpoConfig(
    rounds=1, iterations=1, prompts_per_iteration=8, temperature=1.0, max_new_tokens=6,
    max_prompt_length=8, sampling_batch=64, minibatch=4, epochs=2, learning_rate=3e-3,
    critic_learning_rate=3e-3, kl_coef=0.1,
)  # fmt: skip


def make_state(architecture: str = "llama", **changes: object) -> PpoState:
    config = dataclasses.replace(CONFIG, **changes)
    return start(make_policy(architecture=architecture), make_tokenizer(), config, seed=0)


# the pieces
def test_rewards_of_tokens_and_advantages_by_hand_with_an_end_in_the_middle_and_an_empty_row():
    log_probs = tensor([[-1.0, -2.0, 7.0], [-1.0, -1.0, -1.0]])
    reference, mask = tensor([[-1.5, -1.0, 0.0]]), tensor([[1, 1, 0], [1, 1, 1]])
    rewards = ppo.token_rewards(tensor([4.0, -2.0]), log_probs, reference, mask, 0.1)
    # -0.1 * (0.5, -1) and 4 on the second; -0.1 * (0.5, 0, -1) and -2 on the third
    assert_close(rewards, tensor([[-0.05, 4.1, 0.0], [-0.05, 0.0, -1.9]]))
    rewards = tensor([[0.0, 0.0, 1.0], [1.0, 2.0, 99.0], [9.0, 9.0, 9.0]])
    values = tensor([[0.5, 0.4, 0.2], [1.0, 1.0, 50.0], [9.0, 3.0, 9.0]])
    mask = tensor([[1, 1, 1], [1, 1, 0], [0, 0, 0]])
    advantages, returns = gae(rewards, values, mask, gamma=0.9, lam=0.5)
    # row 0: deltas 0.9*0.4 - 0.5 = -0.14, 0.9*0.2 - 0.4 = -0.22, 1 - 0.2 = 0.8; factor 0.45
    # row 1: deltas 1 + 0.9*1 - 1 = 0.9, 2 - 1 = 1: what stands behind the end plays no part
    assert_close(advantages, tensor([[-0.077, 0.14, 0.8], [1.35, 1.0, 0.0], [0.0, 0.0, 0.0]]))
    assert_close(returns, tensor([[0.423, 0.54, 1.0], [2.35, 2.0, 0.0], [0.0, 0.0, 0.0]]))
    rewards, values, mask = tensor([[1.0, -2.0, 5.0]]), tensor([[3.0, -4.0, 0.5]]), torch.ones(1, 3)
    for critic in (torch.zeros(1, 3), values):
        assert_close(gae(rewards, critic, mask, 1.0, 1.0)[1], tensor([[4.0, 3.0, 5.0]]))
    assert_close(gae(rewards, values, mask, 1.0, 0.0)[0], tensor([[-6.0, 2.5, 4.5]]))


def test_whitening_counts_tokens_of_replies_and_can_be_switched_off():
    values, mask = tensor([[1.0, 3.0], [5.0, math.nan]]), tensor([[1, 1], [1, 0]])
    third = math.sqrt(8 / 3)  # mean 3, variance 8/3
    white = whiten(values.nan_to_num(100.0), mask)
    assert_close(white, tensor([[-2 / third, 0.0], [2 / third, 0.0]]))
    assert ppo.masked_mean(values, mask).item() == 3.0
    replies = [Reply("x", [X], finished=True), Reply("good x x", [GOOD, X, X], finished=True)]
    given = (PROMPTS[:2], replies, np.array([1.0, 3.0]))
    on, off = (make_rollout(make_state(whiten=switch), *given)[0] for switch in (True, False))
    # the critic starts at 0 and the policy at its reference: lambda 0.95 per token to the end
    end = [3 * 0.95**3, 3 * 0.95**2, 3 * 0.95, 3.0]
    assert_close(off.advantages, tensor([[0.95, 1.0, 0.0, 0.0], end]))
    assert_close(on.advantages, whiten(off.advantages, off.mask))
    assert_close(on.returns, off.returns)


def test_clips_stop_the_gradients_on_the_right_side_only():
    ratio = tensor([[1.5, 0.5, 1.5, 0.5, 1.0, 9.0]])
    log_probs = ratio.log().requires_grad_()
    advantages, mask = tensor([[1.0, 1.0, -1.0, -1.0, 2.0, 9.0]]), tensor([[1, 1, 1, 1, 1, 0]])
    loss, fraction = ppo.policy_loss(log_probs, torch.zeros(1, 6), advantages, mask, clip=0.2)
    # -1.2 (held), -0.5, +1.5, +0.8 (held), -2
    assert (loss.item(), fraction.item()) == pytest.approx((-1.4 / 5, 2 / 5))
    loss.backward()
    # d(-A ratio)/d log pi = -A ratio, and 0 where it is held
    assert_close(log_probs.grad, tensor([[0.0, -0.5, 1.5, 0.0, -2.0, 0.0]]) / 5)
    values = tensor([[1.0, 0.3, 50.0]], requires_grad=True)
    old, returns, mask = tensor([[0.0, 0.5, 0.0]]), tensor([[1.0, 1.0, 0.0]]), tensor([[1, 1, 0]])
    loss = ppo.value_loss(values, old, returns, mask, clip=0.2)
    # clipped to 0.2: 0.8^2; within the clip: 0.7^2
    assert loss.item() == pytest.approx((0.64 + 0.49) / 4)
    loss.backward()
    assert_close(values.grad, tensor([[0.0, -0.35, 0.0]]))


def test_explained_variance_the_kl_weight_and_minibatches_by_hand():
    returns, mask = tensor([[1.0, 3.0, 5.0, 77.0]]), tensor([[1, 1, 1, 0]])
    assert ppo.explained_variance(returns + 7, returns, mask).item() == 1.0
    assert ppo.explained_variance(torch.zeros(1, 4), returns, mask).item() == 0.0
    # errors 0, 0, 3: variance 2; returns: variance 8/3
    found = ppo.explained_variance(tensor([[1.0, 3.0, 2.0, 0.0]]), returns, mask)
    assert found.item() == pytest.approx(1 - 2 / (8 / 3))
    assert adapted(0.1, 3.0, 10, 2.0, 100) == pytest.approx(0.1 * 1.02)  # error cut to 0.2
    assert adapted(0.1, 1.9, 10, 2.0, 100) == pytest.approx(0.1 * 0.995)
    assert adapted(0.1, -5.0, 50, 2.0, 100) == pytest.approx(0.1 * 0.9)
    assert adapted(0.1, 3.0, 10, None, 100) == 0.1
    order = ppo.minibatches(6, 2, 2, np.random.default_rng(0))
    assert [len(rows) for rows in order] == [2] * 6
    for epoch in (order[:3], order[3:]):
        assert sorted(np.concatenate(epoch)) == list(range(6))
    assert np.concatenate(order[:3]).tolist() != np.concatenate(order[3:]).tolist()


# which number belongs to which token
def test_replies_begin_in_one_column_and_end_with_the_end_token():
    replies = [Reply("x", [X], True), Reply("good x", [GOOD, X], False), Reply("", [], True)]
    ids, attention, mask = lay_out(make_state(), [user("why"), user("x y"), user("z")], replies)
    assert ids[:, 4:].tolist() == [[X, EOS], [GOOD, X], [EOS, 0]]
    assert mask.tolist() == [[1, 1], [1, 1], [1, 0]]
    assert attention.tolist() == [[0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1], [0, 1, 1, 1, 1, 0]]
    logits = torch.full((1, 3, 2), 50.0)
    logits[0, 0] = tensor([0.0, 2 * math.log(3)])  # at temperature 2: 1/4, 3/4
    logits[0, 1] = tensor([0.0, 0.0])
    log_probs, entropy = ppo.token_log_probs(logits, tensor([[0, 1, 0]]), 2, temperature=2.0)
    assert_close(log_probs, tensor([[0.75, 0.5]]).log())
    quarter = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert_close(entropy, tensor([[quarter, math.log(2)]]))


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_a_token_has_its_own_log_probability_and_the_value_from_before_it(architecture, shared):
    state = make_state(architecture, shared_trunk=shared, temperature=2.0)
    model = state.actor_critic
    torch.nn.init.normal_(model.head.weight)
    replies = [Reply("", [GOOD, X, X], True), Reply("", [X], True)]
    ids, attention, _ = lay_out(state, [user("why"), user("hello y z")], replies)
    with torch.no_grad():
        log_probs, values, _ = model(ids, attention, 4)
        alone = [*prompt_ids(state.tokenizer, user("why")), GOOD, X, X, EOS]
        logs = (state.policy(tensor([alone])).logits[0] / 2).log_softmax(dim=-1)
        body = state.policy.get_decoder() if shared else model.trunk
        hidden = body(tensor([alone])).last_hidden_state[0]
    place = len(alone) - 4
    for t in range(4):
        by_hand = logs[place + t - 1, alone[place + t]].item()
        assert log_probs[0, t].item() == pytest.approx(by_hand, abs=1e-5)
        before = (hidden[place + t - 1] @ model.head.weight[0]).item()
        assert values[0, t].item() == pytest.approx(before, abs=1e-4)


# an iteration
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_on_the_first_minibatch_the_ratio_is_one(architecture: str):
    # gpt2 comes with dropout, which would make it another policy at every pass
    state = make_state(architecture, minibatch=8, epochs=1, temperature=1.5)
    state, row = step(state, PROMPTS, count_words, count_x)
    assert row["update_kl"] == pytest.approx(0.0, abs=1e-9)
    assert row["clip_fraction"] == 0.0
    # the ratio is 1 and whitened advantages have mean 0
    assert row["policy_loss"] == pytest.approx(0.0, abs=1e-5)
    assert (row["updates"], row["iteration"], state.iteration) == (1, 1, 1)
    assert row["kl"] == pytest.approx(0.0, abs=1e-5)  # the policy is still theta_0
    assert 1 < row["reply_length"] <= 6
    assert row["reward"] > row["gold"] > 0
    assert 0 < row["finished"] <= 1
    assert row["entropy"] == pytest.approx(math.log(13), abs=0.1)
    assert min(row[f"seconds_{part}"] for part in ("sampling", "scoring", "learning")) > 0


def test_rewards_are_penalised_for_a_missing_end_then_shifted_then_scaled():
    replies = [Reply("x", [X], True), Reply("x x x", [X, X, X], False)]
    for changes, first, second in (
        ({"missing_eos_penalty": 0.0}, 1.0, 2.0),
        ({"missing_eos_penalty": 0.7}, 1.0, 1.3),
        # the penalty off, then the baseline off, then times the scale
        ({"missing_eos_penalty": 0.7, "reward_baseline": 1.0, "reward_scale": 2.0}, 0.0, 0.6),
    ):
        # the critic starts at 0, the policy at its reference
        state = make_state(lam=1.0, **changes)
        rollout, _ = make_rollout(state, PROMPTS[:2], replies, np.array([1.0, 2.0]))
        expected = tensor([[first, first, 0.0], [second] * 3])
        assert_close(rollout.returns, expected, atol=1e-6, rtol=0)


def test_epochs_end_early_once_the_policy_has_moved_far_enough():
    _, free = step(make_state(epochs=3, learning_rate=2e-2), PROMPTS, count_words)
    _, held = step(make_state(epochs=3, learning_rate=2e-2, max_kl=0.01), PROMPTS, count_words)
    assert (free["updates"], 1 <= held["updates"] < 6) == (6, True)
    assert min(free["update_kl"], held["update_kl"]) > 0.01


@pytest.mark.parametrize("shared", [False, True])
def test_a_resumed_run_ends_with_the_same_weights(shared: bool, tmp_path):
    changes = {"shared_trunk": shared, "kl_target": 0.01, "kl_horizon": 50, "max_new_tokens": 12}
    whole = make_state(**changes)
    for number in range(3):
        if number == 2:
            ppo.save(whole, tmp_path / "run")
        whole, row = step(whole, PROMPTS, count_words)
    part = ppo.resume(make_state(**changes), tmp_path / "run")
    assert part.iteration == 2
    part, again = step(part, PROMPTS, count_words)
    assert torch.equal(weights(whole.actor_critic), weights(part.actor_critic))
    assert part.kl_coef == whole.kl_coef != 0.1
    assert all(again[name] == row[name] for name in row if "seconds" not in name)


def test_a_saved_run_is_two_files_and_only_its_own_run_goes_on_from_it(tmp_path):
    state = make_state()
    ppo.save(state, tmp_path)
    ppo.save(dataclasses.replace(state, iteration=4), tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["state-000004.safetensors", "state.json"]
    assert json.loads((tmp_path / "state.json").read_text())["iteration"] == 4
    longer = start(make_policy(), make_tokenizer(), dataclasses.replace(CONFIG, rounds=9), 0)
    assert ppo.resume(longer, tmp_path).iteration == 4
    other, moved = (start(make_policy(s), make_tokenizer(), CONFIG, 1 - s) for s in (0, 1))
    refuses(ValueError, r"another seed \(0\)", ppo.resume, other, tmp_path)
    refuses(ValueError, "another theta_0", ppo.resume, moved, tmp_path)
    refuses(ValueError, "another config", ppo.resume, make_state(clip=0.1), tmp_path)
    refuses(FileNotFoundError, "no saved PPO run", ppo.resume, state, tmp_path / "elsewhere")


def test_the_reference_stays_and_seed_and_iteration_decide_the_rest():
    ends = []
    for seed, done in ((0, 0), (0, 0), (1, 0), (0, 1)):
        state = start(make_policy(), make_tokenizer(), CONFIG, seed)
        state, _ = step(dataclasses.replace(state, iteration=done), PROMPTS, count_words)
        ends.append(weights(state.policy))
        assert torch.equal(weights(state.reference), weights(make_policy()))
    assert [torch.equal(ends[0], end) for end in ends] == [True, True, False, False]


def test_the_critic_can_start_from_the_reward_model():
    reward_model = make_reward_model()
    with torch.no_grad():
        reward_model.backbone.get_input_embeddings().weight.mul_(3)
    before = weights(reward_model)
    state = start(make_policy(), make_tokenizer(), CONFIG, 0, (reward_model, make_tokenizer()))
    assert torch.equal(weights(state.actor_critic.trunk), weights(reward_model.backbone))
    step(state, PROMPTS, count_words)
    assert torch.equal(weights(reward_model), before)


def test_a_lora_policy_is_trained_in_its_adapter_only():
    policy = make_policy()
    before = weights(policy)
    lora = get_peft_model(policy, LoraConfig(r=2, target_modules=["down_proj"], lora_dropout=0.5))
    state = start(lora, make_tokenizer(), CONFIG, 0)
    _, row = step(state, PROMPTS, count_words)
    assert (row["kl"], row["updates"]) == (pytest.approx(0.0, abs=1e-5), 4)
    adapters = {n: p for n, p in state.policy.named_parameters() if "lora_B" in n}
    assert len(adapters) == 2
    assert all(p.abs().max() > 0 for p in adapters.values())
    assert torch.equal(weights(state.policy.unload()), before)


# what it reaches
def test_one_token_replies_reach_the_known_optimum():
    # max E[r] - beta KL(pi || pi_0) is solved by pi_0 exp(r / beta) / Z
    beta = 0.5
    numbers = {"learning_rate": 5e-3, "critic_learning_rate": 5e-3, "max_new_tokens": 1}
    state = make_state(kl_coef=beta, missing_eos_penalty=0.0, minibatch=64, **numbers)
    prompts = [user("why")] * 256  # of which some replies end at once
    worth = {"good": 1.0, "x": -0.5}

    def reward(prompts: list, replies: list) -> np.ndarray:
        return np.array([worth.get(text, 0.0) for text in texts(replies)])

    def choices(policy: torch.nn.Module) -> Tensor:
        with torch.no_grad():
            ids = tensor([prompt_ids(state.tokenizer, user("why"))])
            return policy(ids).logits[0, -1].softmax(dim=-1)

    words = [state.tokenizer.decode([token]) for token in range(13)]
    tilted = choices(state.reference) * tensor(reward([], words) / beta).exp()
    optimum = (tilted / tilted.sum()).float()
    late = []
    for number in range(40):
        state, row = step(state, prompts, reward)
        if number >= 30:
            late.append(choices(state.policy))
    assert choices(state.reference)[GOOD] < 0.1
    assert optimum[GOOD] > 0.35
    assert_close(torch.stack(late).mean(dim=0), optimum, atol=0.06, rtol=0)
    assert row["kl"] > 0.1


@pytest.mark.parametrize("shared", [False, True])
def test_the_critic_learns_what_a_prompt_promises(shared: bool):
    off = {"kl_coef": 0.0, "missing_eos_penalty": 0.0, "value_clip": 1.0}
    state = make_state(shared_trunk=shared, minibatch=8, critic_learning_rate=5e-3, **off)
    prompts, rows = PROMPTS * 2, []
    promised = np.array(["y" in prompt[0]["content"] for prompt in prompts], dtype=float)
    for _ in range(10):
        state, row = step(state, prompts, lambda prompts, replies: promised)
        rows.append(row)
    assert rows[0]["explained_variance"] == pytest.approx(0.0, abs=1e-6)
    assert rows[-1]["explained_variance"] > 0.5
    assert rows[-1]["value_loss"] < 0.5 * rows[0]["value_loss"]


# several processes
def learn_on_a_share(folder: str) -> None:
    """Learn from four replies, this process from its share of them, and keep the gradients."""
    state = make_state(epochs=1)
    accelerator = state.accelerator
    own = slice(accelerator.process_index, 4, accelerator.num_processes)
    drawn = ([X, GOOD], [GOOD, X, X, X], [X], [X, X])
    replies = [Reply("", ids, i < 3) for i, ids in enumerate(drawn)]
    rewards = np.array([1.0, 2.0, -1.0, 0.5])[own]
    rollout, stats = make_rollout(state, PROMPTS[:4][own], replies[own], rewards)
    log = ppo.learn(state, rollout, np.random.default_rng(0))
    kept = {n: p.grad.clone() for n, p in state.actor_critic.named_parameters()}
    kept["log"] = tensor(list({**stats, **log}.values()))
    kept["advantages"] = rollout.advantages
    save_file(kept, f"{folder}/{accelerator.num_processes}-{accelerator.process_index}.safetensors")


def test_two_processes_learn_what_one_learns_from_all_replies(tmp_path):
    learn_on_a_share(str(tmp_path))
    code = "import accelerate, sys, test_ppo; share = test_ppo.learn_on_a_share\n"
    code += "accelerate.debug_launcher(share, (sys.argv[1],), num_processes=2)"
    python(code, tmp_path, check=True)
    one, first, second = (load_file(tmp_path / f"{n}.safetensors") for n in ("1-0", "2-0", "2-1"))
    assert_close(first["advantages"], one["advantages"][::2, :3], atol=1e-5, rtol=1e-4)
    assert_close(second["advantages"], one["advantages"][1::2], atol=1e-5, rtol=1e-4)
    for name in set(one) - {"advantages"}:
        assert torch.equal(first[name], second[name]), name
        assert_close(first[name], one[name], atol=1e-5, rtol=1e-3, msg=name)


# what is refused
LONG = [*PROMPTS[:3], user("x " * 7), *PROMPTS[4:]]
OTHER, CRITIC = make_tokenizer(), make_reward_model()
OTHER.add_tokens(["new"])
WIDE = {"max_prompt_length": 100, "max_new_tokens": 58}


@pytest.mark.parametrize(("message", "given"), [
    ("All 8 rewards are 1", {"prompts": [user("z")] * 8}),
    ("1 of 8 prompts have more than 8 tokens", {"prompts": LONG}),
    ("may take 158 tokens.* context has 64", {"policy": make_policy(0, "gpt2")} | WIDE),
    *(("cannot be cut into minibatches of 4", {"prompts": PROMPTS[:n]}) for n in (6, 0)),
    ("None of 8 sampled replies ended within 6 tokens", {"policy": always(X)}),
    ("14 tokens but the model 13", {"tokenizer": OTHER}),
    ("'new' is number None in the first.*leave the critic out", {"critic": (CRITIC, OTHER)}),
    ("pass no critic", {"critic": (CRITIC, make_tokenizer()), "shared_trunk": True}),
    ("temperature is 0", {"temperature": 0.0}),
])  # fmt: skip
def test_what_teaches_nothing_or_does_not_belong_together_is_refused(message: str, given: dict):
    def attempt(policy=None, tokenizer=None, critic=None, prompts=PROMPTS, **changes):
        networks = (policy or make_policy(), tokenizer or make_tokenizer())
        state = start(*networks, dataclasses.replace(CONFIG, **changes), 0, critic)
        step(state, prompts, lambda asked, replies: np.ones(len(replies)))

    refuses(ValueError, message, attempt, **given)
