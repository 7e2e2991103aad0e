"""Training by hand: sampling, the loop, SFT, the reward model, rejection sampling, DPO."""

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
from conftest import refuses
from datasets import Dataset, concatenate_datasets
from test_models import always, bot, make_policy, make_reward_model, make_tokenizer, sharp, user
from torch.nn.functional import logsigmoid
from trl import RewardConfig as TrlRewardConfig, RewardTrainer
from trl.trainer.reward_trainer import DataCollatorForPreference

from alignment_tax.models import Reply, conversation_ids, prompt_ids, texts
from alignment_tax.presets import DpoConfig, HeadConfig, RewardConfig, RsfConfig, SftConfig
from alignment_tax.train import loop
from alignment_tax.train.checks import check_rewards
from alignment_tax.train.dpo import best_and_worst, dpo_loss, on_policy_pairs, train_dpo
from alignment_tax.train.kl import reply_log_probs
from alignment_tax.train.reward import accuracy, margins, train_head, train_reward_model
from alignment_tax.train.rsf import rsf_round, select
from alignment_tax.train.sample import sample_replies
from alignment_tax.train.sft import train_sft
from alignment_tax.train.trainer import trainer_arguments
from alignment_tax.world.corpus import Document

EOS, GOOD = 1, 5
LENGTHS = {"learning_rate": 5e-3, "max_length": 12}
SFT = SftConfig(documents=8, epochs=2, batch_size=4, **LENGTHS)
REWARD = RewardConfig(pairs=8, validation_pairs=4, epochs=12, batch_size=4, **LENGTHS)
RSF = RsfConfig(
    rounds=1, prompts_per_round=8, n=8, temperature=1.0, max_new_tokens=12, learning_rate=5e-3,
    epochs=3, batch_size=8, sampling_batch=64, max_prompt_length=8,
)  # fmt: skip
PROMPTS = [user(text) for text in ("why", "hello", "x y", "hello y z", "z", "y", "bad", "good x")]
FINETUNE = {"epochs": 1, "batch_size": 2, "seed": 0, "max_length": 16, "learning_rate": 1e-3}
EXAMPLES = [(prompt, "yes x") for prompt in PROMPTS]


def sft_rows(count: int) -> Dataset:
    both = (("why", "yes x"), ("hello y", "z"))
    rows = [{"prompt": user(asked), "completion": bot(said)} for asked, said in both]
    return Dataset.from_list([row for row in rows for _ in range(count // 2)])


def pair(prompt: str, chosen: str, rejected: str) -> dict[str, list[dict[str, str]]]:
    return {"prompt": user(prompt), "chosen": bot(chosen), "rejected": bot(rejected)}


def pairs() -> Dataset:
    prompts, words = ("why", "hello", "x", "y"), ("x", "z")
    return Dataset.from_list([pair(p, f"good {w}", f"bad {w}") for p in prompts for w in words])


def weights(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten().clone() for p in model.parameters()])


def surprisal(policy, ids: list[int], start: int, temperature=1.0) -> list[float]:
    """Minus log pi in nats of each token of a sequence from place `start` on."""
    with torch.no_grad():
        logs = (policy(torch.tensor([ids])).logits[0] / temperature).log_softmax(dim=-1)
    return [-logs[i - 1, ids[i]].item() for i in range(start, len(ids))]


def sample(policy, prompts: list, seed: int = 0, **changes: object) -> list:
    numbers = {"n": 4, "temperature": 1.0, "max_new_tokens": 10, "batch_size": 8} | changes
    return sample_replies(policy, make_tokenizer(), prompts, seed=seed, **numbers)


def count_x(prompts: list, replies: list) -> np.ndarray:
    return np.array([text.split().count("x") for text in texts(replies)], dtype=float)


def count_words(prompts: list, replies: list) -> np.ndarray:
    return np.array([len(text.split()) for text in texts(replies)], dtype=float)


# sampling
@pytest.mark.parametrize(("architecture", "batch"), [("llama", 6), ("gpt2", 6), ("llama", 32)])
def test_greedy_sampling_agrees_with_generate_for_prompts_of_different_lengths(architecture, batch):
    # rows that end early leave the batch: what stays must not be mixed up
    policy, tokenizer = make_policy(3, architecture), make_tokenizer()
    drawn = sample(policy, PROMPTS, n=2, temperature=0, batch_size=batch)
    options = {"max_new_tokens": 10, "do_sample": False, "eos_token_id": EOS, "pad_token_id": 0}
    for prompt, group in zip(PROMPTS, drawn, strict=True):
        ids = torch.tensor([prompt_ids(tokenizer, prompt)])
        expected = policy.generate(ids, **options)[0, ids.shape[1] :].tolist()
        for reply in group:
            assert reply.token_ids == [token for token in expected if token != EOS]
            assert reply.finished == (expected[-1] == EOS)


def test_samples_follow_the_temperature_softmax_of_the_policy():
    policy, tokenizer = sharp(make_policy()), make_tokenizer()
    with torch.no_grad():
        logits = policy(torch.tensor([prompt_ids(tokenizer, PROMPTS[0])])).logits[0, -1]
    expected = torch.softmax(logits / 2, dim=-1).numpy()
    (replies,) = sample(policy, PROMPTS[:1], n=4000, temperature=2.0, max_new_tokens=1)
    first = [reply.token_ids[0] if reply.token_ids else EOS for reply in replies]
    counts = np.bincount(first, minlength=len(expected)) / 4000
    np.testing.assert_allclose(counts, expected, atol=0.04)


def test_a_reply_is_finished_if_the_end_token_came_in_time_and_the_seed_decides():
    policy = make_policy()
    drawn = sample(policy, PROMPTS, max_new_tokens=6)
    assert drawn == sample(policy, PROMPTS, max_new_tokens=6)
    assert drawn != sample(policy, PROMPTS, max_new_tokens=6, seed=1)
    replies = [reply for group in drawn for reply in group]
    assert {reply.finished for reply in replies} == {True, False}
    for reply in replies:
        assert EOS not in reply.token_ids
        assert reply.finished == (len(reply.token_ids) < 6)
    ((endless,),) = sample(always(GOOD), PROMPTS[:1], n=1, max_new_tokens=3)
    assert endless == Reply("good good good", [GOOD] * 3, False)
    assert sample(always(EOS), PROMPTS[:1], n=1)[0][0] == Reply("", [], True)
    refuses(ValueError, "at least one prompt", sample, policy, [])


# the training loop
def test_labels_and_the_loss_cover_the_reply_and_its_end_token_only():
    said = (user("why"), "yes x")
    ids, labels = loop.encode(make_tokenizer(), *said, 12)
    assert make_tokenizer().convert_ids_to_tokens(ids) == "<user> why <bot> yes x <eos>".split()
    assert labels == [-100, -100, -100, *ids[3:]]
    cut, cut_labels = loop.encode(make_tokenizer(), *said, 4)
    assert (cut, cut_labels) == (ids[2:], labels[2:])
    refuses(ValueError, "A reply has 3 tokens", loop.encode, make_tokenizer(), *said, 3)
    batch = loop.collate([([5, 6, 1], [-100, 6, 1]), ([7, 1], [-100, 1])], 0, torch.device("cpu"))
    assert batch["input_ids"].tolist() == [[5, 6, 1], [7, 1, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert batch["labels"].tolist() == [[-100, 6, 1], [-100, 1, -100]]
    policy, tokenizer = make_policy(), make_tokenizer()
    examples, by_hand = [(user("why"), "yes x"), (user("hello y"), "z")], []
    for prompt, reply in examples:
        ids = conversation_ids(tokenizer, prompt, bot(reply))
        by_hand += surprisal(policy, ids, len(prompt_ids(tokenizer, prompt)))
    before = weights(policy)
    log = loop.finetune(policy, tokenizer, examples, **FINETUNE)
    assert log[0]["loss"] == pytest.approx(sum(by_hand) / 5, abs=1e-5)
    # Adam's first step moves every parameter that has a gradient by the learning rate
    assert (weights(policy) - before).abs().max().item() == pytest.approx(1e-3, rel=0.01)


def test_extras_add_to_the_loss_and_act_after_each_step():
    policy, steps = make_policy(), []

    class Pull(loop.Extra):
        def loss(self, model, batch, outputs):
            assert outputs.logits.shape[:2] == batch["labels"].shape
            return 3 * sum((p**2).sum() for p in model.parameters())

        def after_step(self, model, step):
            assert not torch.is_grad_enabled()
            steps.append(step)

    size = 3 * (weights(policy) ** 2).sum().item()
    extras = [Pull(), loop.Extra()]
    log = loop.finetune(policy, make_tokenizer(), EXAMPLES[:5], extras=extras, **FINETUNE)
    assert log[0]["extra"] == pytest.approx(size, rel=1e-4)
    assert steps == [row["step"] for row in log] == [1, 2, 3]


def test_dropout_is_off_and_bfloat16_weights_become_float32():
    policy = make_policy(architecture="gpt2").to(torch.bfloat16)
    both = (policy, copy.deepcopy(policy))
    logs = [loop.finetune(each, make_tokenizer(), EXAMPLES[:1], **FINETUNE) for each in both]
    assert (logs[0], policy.dtype) == (logs[1], torch.float32)


def test_a_diverging_run_stops_and_says_where_and_why():
    given = (make_policy(), make_tokenizer())

    class Explode(loop.Extra):
        def after_step(self, model, step):
            next(model.parameters()).fill_(math.nan if step == 2 else 0.1)

    numbers = FINETUNE | {"extras": [Explode()]}
    said, infinite = r"loss is nan at step 3.*rate.*0.001", {"gradient norm": math.inf}
    refuses(loop.TrainingDiverged, said, loop.finetune, *given, EXAMPLES, **numbers)
    refuses(loop.TrainingDiverged, "inf at step 1", loop.check_finite, infinite, 1, 1e-3)
    refuses(ValueError, "no examples", loop.finetune, *given, [], **FINETUNE)


# supervised finetuning
def test_sft_trains_on_completions_and_on_answers_of_pretraining_text(tmp_path, monkeypatch):
    policy, tokenizer = make_policy(), make_tokenizer()
    start, config = copy.deepcopy(policy), dataclasses.replace(SFT, batch_size=2, epochs=1)
    seen = []
    forward = type(policy.model).forward

    def spy(self, input_ids=None, **kwargs):
        seen.extend(input_ids.tolist())
        return forward(self, input_ids=input_ids, **kwargs)

    monkeypatch.setattr(type(policy.model), "forward", spy)
    text = Document((("why", 0.02), ("yes", 1.0)))
    trained = train_sft(policy, tokenizer, sft_rows(2).select([0]), config, 0, tmp_path, [text])
    told = conversation_ids(tokenizer, user("why"), bot("yes x"))
    said = [*tokenizer("why yes", add_special_tokens=False)["input_ids"], EOS]
    assert sorted(seen) == sorted([told, said + [0] * (len(told) - len(said))])
    by_hand = surprisal(start, told, 3) + surprisal(start, said, 1)
    assert trained.log[0]["loss"] == pytest.approx(sum(by_hand) / 5, abs=1e-3)
    assert (trained.log[0]["step"], trained.used, trained.model.training) == (1, 2, False)


def test_sft_teaches_is_deterministic_and_writes_nothing(tmp_path):
    given = (make_tokenizer(), sft_rows(8), SFT, 0, tmp_path)
    one, other = (train_sft(make_policy(), *given) for _ in range(2))
    assert torch.equal(weights(one.model), weights(other.model))
    assert (len(one.log), list(tmp_path.iterdir())) == (4, [])
    assert one.log[-1]["loss"] < one.log[0]["loss"] - 0.1
    twin = copy.deepcopy(one.model)  # has weights of its own
    with torch.no_grad():
        twin.get_input_embeddings().weight.fill_(math.nan)
        ids = torch.tensor([[4, 5]], device=twin.device)
        assert twin(ids).logits.isnan().all()
        assert not one.model(ids).logits.isnan().any()
    refuses(loop.TrainingDiverged, "at step 1", train_sft, twin, *given)


LONG = {"prompt": user("x " * 20), "completion": bot("y")}


@pytest.mark.parametrize(("train", "config", "rows", "bad", "told"), [
    (train_sft, SFT, sft_rows(4), [LONG], "1 of 5 .*1 too long"),
    (train_reward_model, dataclasses.replace(REWARD, epochs=1), pairs(),
     [pair("x", "good", "good"), pair("x " * 20, "good", "bad")], "2 of 10 .*1 too.*, 1 identical"),
])  # fmt: skip
def test_unusable_examples_are_counted_many_refused(train, config, rows, bad, told, tmp_path):
    mixed = Dataset.from_list([*rows, *bad])
    with pytest.warns(UserWarning, match=told):
        trained = train(make_policy(), make_tokenizer(), mixed, config, 0, tmp_path)
    assert (trained.used, sum(trained.dropped.values())) == (len(rows), len(bad))
    wrong, given = Dataset.from_list(bad * 2), (config, 0, tmp_path)
    both = (make_policy(), make_tokenizer())
    refuses(ValueError, "examples cannot be used", train, *both, wrong, *given)
    refuses(ValueError, "columns prompt", train, *both, rows.remove_columns("prompt"), *given)


# the reward model
def test_trl_computes_the_bradley_terry_loss_we_compute_by_hand(tmp_path):
    model, tokenizer = make_reward_model(), make_tokenizer()
    chosen, rejected = [[4, 5, 6, 1], [9, 1]], [[4, 7, 1], [9, 8, 8, 1]]
    rows = [{"chosen_ids": a, "rejected_ids": b} for a, b in zip(chosen, rejected, strict=True)]
    arguments = TrlRewardConfig(**trainer_arguments(REWARD, 0, tmp_path) | {"use_cpu": True})
    data = Dataset.from_list(rows)
    trainer = RewardTrainer(model, arguments, train_dataset=data, processing_class=tokenizer)
    loss = trainer.compute_loss(model, DataCollatorForPreference(0)(rows))
    with torch.no_grad():
        scores = [model(torch.tensor([ids])).logits.item() for ids in chosen + rejected]
    gaps = torch.tensor([scores[0] - scores[2], scores[1] - scores[3]])
    assert loss.item() == pytest.approx(-logsigmoid(gaps).mean().item(), abs=1e-5)
    assert gaps.abs().min() > 1e-3


def test_a_reward_model_learns_a_preference_whose_margins_are_chosen_minus_rejected(tmp_path):
    policy, tokenizer = make_policy(), make_tokenizer()
    before = weights(policy)
    trained = train_reward_model(policy, tokenizer, pairs(), REWARD, 0, tmp_path)
    assert trained.log[0]["loss"] == pytest.approx(math.log(2), abs=1e-4)  # the head starts at zero
    both = (("z", "good y", "bad y"), ("z", "good", "bad"), ("bad", "good", "bad"))
    held_out = Dataset.from_list([pair(*each) for each in both])
    assert accuracy(margins(trained.model, tokenizer, held_out, 4, 12)) == 1.0
    assert torch.equal(weights(policy), before)
    again = train_reward_model(policy, tokenizer, pairs(), REWARD, 0, tmp_path)
    assert torch.equal(weights(trained.model), weights(again.model))
    model, tokenizer = make_reward_model(), make_tokenizer()
    by_hand = []
    for row in pairs():
        ids = [conversation_ids(tokenizer, row["prompt"], row[s]) for s in ("chosen", "rejected")]
        good, bad = (model(torch.tensor([each])).logits.item() for each in ids)
        by_hand.append(good - bad)
    np.testing.assert_allclose(margins(model, tokenizer, pairs(), 3, 12), by_hand, atol=1e-5)
    assert accuracy(np.array([1.0, -2.0, 0.0, 3.0])) == 0.625  # a tie counts half


def test_a_head_alone_learns_the_same_from_frozen_layers_whatever_came_first():
    policy, tokenizer = make_policy(), make_tokenizer()
    before, twice = weights(policy), concatenate_datasets([pairs(), pairs()])
    config = HeadConfig(pairs=16, validation_pairs=4, max_length=12, layers=1)
    trained = train_head(policy, tokenizer, twice, config, 3)
    assert accuracy(margins(trained.model, tokenizer, pairs(), 4, 12)) == 1.0
    assert torch.equal(weights(policy), before)
    assert len(trained.model.backbone.layers) == trained.model.config.num_hidden_layers == 1
    bodies = (trained.model.backbone, policy.model)
    assert torch.equal(*(body.layers[0].mlp.up_proj.weight for body in bodies))
    # no intercept: with both replies of every pair exchanged the reward changes its sign
    names = {"chosen": "rejected", "rejected": "chosen"}
    turned = train_head(policy, tokenizer, twice.rename_columns(names), config, 3)
    head = trained.model.head.weight
    torch.testing.assert_close(turned.model.head.weight, -head, rtol=1e-2, atol=1e-3)


# rejection sampling finetuning
def test_the_best_finished_reply_wins_and_the_control_chooses_evenly():
    groups = [
        [Reply(str(i), [i], done) for i, done in enumerate(finished)]
        for finished in ((True, True, False), (False,) * 3, (True,) * 3, (True, False, True, True))
    ]
    rewards = np.array([[1.0, 2.0, 9.0], [1.0, 2.0, 3.0], [5.0, 5.0, 4.0]])
    assert select(groups[:3], rewards, "best", np.random.default_rng(0)) == [1, None, 0]
    many = groups[3:] * 3000
    chosen = select(many, np.zeros((3000, 4)), "random", np.random.default_rng(0))
    shares = np.bincount(chosen, minlength=4) / 3000
    assert shares[1] == 0
    np.testing.assert_allclose(shares[[0, 2, 3]], 1 / 3, atol=0.04)
    refuses(ValueError, "'best' or 'random'", select, many, np.zeros((3000, 4)), "worst", None)


def test_rsf_raises_the_reward_and_the_random_control_does_not():
    means = []
    for how in ("best", "random"):
        given = (make_policy(), make_tokenizer(), count_x, PROMPTS, RSF)
        means.append([rsf_round(*given, seed, how).stats["mean_reward"] for seed in range(10)])
    best, control = means
    assert best[0] == control[0]
    assert best[-1] > 2 * best[0] + 1
    assert best[-1] > control[-1] + 1


def test_a_round_reports_what_it_sampled_and_kept():
    result = rsf_round(make_policy(), make_tokenizer(), count_x, [*PROMPTS, user("x " * 9)], RSF, 0)
    table, stats = result.samples, result.stats
    assert (stats["too_long"], table["group"].nunique(), len(table)) == (1, 8, 64)
    assert table["reward"].tolist() == count_x([], table["reply"].tolist()).tolist()
    assert table["prompt"][8 * 3] == PROMPTS[3]
    kept = table[table["chosen"]]
    assert kept["finished"].all()
    assert len(kept) == stats["kept"] == len(PROMPTS) - stats["dropped"]
    finished = table[table["finished"]]
    assert kept["reward"].tolist() == finished.groupby("group")["reward"].max().tolist()
    assert stats["kept_reward"] == stats["best_reward"] > stats["mean_reward"]
    assert stats["finished"] == pytest.approx(len(finished) / 64)
    assert len(result.log) == 3 * math.ceil(stats["kept"] / 8)


def test_what_teaches_nothing_or_cannot_be_compared_is_refused():
    long = (make_policy(), make_tokenizer(), count_words, [user("x " * 9)], RSF, 0)
    endless = (always(GOOD), make_tokenizer(), count_words, PROMPTS, RSF, 0)
    refuses(ValueError, "None of 1 prompts has at most 8 tokens", rsf_round, *long)
    refuses(ValueError, "ended within 12 tokens", rsf_round, *endless)
    for rewards, message in (
        ([[0.0], [0.0]], r"shape \(2, 1\) for 2 replies"), ([1.0], r"shape \(1,\) for 2 replies"),
        ([1.0, np.nan], "first at reply 1"), ([2.0, 2.0], "All 2 rewards are 2"),
    ):  # fmt: skip
        refuses(ValueError, message, check_rewards, np.array(rewards), 2)


# --- DPO ------------------------------------------------------------------------------------------
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
    ({}, make_policy(), lambda asked, _: np.array([len(str(p)) for p in asked]), "8 without two"),
])  # fmt: skip
def test_prompts_and_replies_that_make_no_pairs_are_refused(changes, policy, rewards, message):
    given = (policy, make_tokenizer(), rewards, PROMPTS, dataclasses.replace(DPO, **changes), 0)
    refuses(ValueError, message, on_policy_pairs, *given)
