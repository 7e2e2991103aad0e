"""The remedies: each term by hand, what changes nothing, what changes everything, refusals."""

import dataclasses
import math
import random
import warnings
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import refuses
from hypothesis import given, strategies as st
from test_models import bot, make_policy, make_tokenizer, user
from test_train import EXAMPLES, surprisal, weights
from torch import nn

import alignment_tax.mitigate.output_penalty as outputs
import alignment_tax.mitigate.replay as replays
from alignment_tax.mitigate import REMEDIES, Setting, best_of_n, distil, treat, treatments
from alignment_tax.mitigate.base import Teacher
from alignment_tax.mitigate.graft import graft, largest_mask, learnt_mask, random_mask
from alignment_tax.mitigate.lora import Lora
from alignment_tax.mitigate.moving_average import Bema, Ema, Sma, ema, sma
from alignment_tax.mitigate.weight_penalty import WeightPenalty
from alignment_tax.models import conversation_ids, prompt_ids
from alignment_tax.presets import TINY, DistilConfig
from alignment_tax.train import pretrain
from alignment_tax.train.loop import Extra, collate, encode, finetune
from alignment_tax.world.corpus import FAMILIES, MIXTURE, Document

DOCUMENTS = [
    Document((("hello y", 0.1), ("z", 1.0))), Document((("x", 1.0),)),
    Document((("good bad x y z", 0.1), ("yes", 1.0))),
]  # fmt: skip
CONFIG = DistilConfig(learning_rate=5e-3, epochs=2, batch_size=4, max_length=16)
# strengths that fit the toy model, where those of the grid do not
SMALL = {"lora": 2, "lora_mlp": 2, "ema": 1.0, "expo": 1.5, "relearn": 8, "ogpsa": 1, "oplora": 2}


def make_setting(**changes):
    texts = (DOCUMENTS, DOCUMENTS, ["why why"])
    start = Setting(make_policy(), make_tokenizer(), EXAMPLES, CONFIG, 0, *texts)
    return dataclasses.replace(start, **{"load_base": lambda: make_policy(7), **changes})


def make_batch(examples=EXAMPLES):
    rows = [encode(make_tokenizer(), prompt, reply, 16) for prompt, reply in examples]
    return collate(rows, 0, torch.device("cpu"))


def line(*values):
    """A model of as many weights as values."""
    model = nn.Linear(len(values), 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([values]))
    return model


def finetuned(policy, setting, extras):
    numbers = dataclasses.asdict(setting.config) | {"seed": 0}
    return finetune(policy, setting.tokenizer, setting.pool, extras=extras, **numbers)


@pytest.mark.parametrize(("strength", "power", "unit", "start", "moved", "expected"), [
    # changes of 0.2, -0.1 and 0 are 2, -1 and 0 learning rates
    (0.5, 1, 0.1, (1.0, 2.0, 3.0), (1.2, 1.9, 3.0), 0.5 * (2 + 1) / 3),
    (0.5, 2, 0.1, (1.0, 2.0, 3.0), (1.2, 1.9, 3.0), 0.5 * 0.1 * (4 + 1) / 3),
    # the scale is that of the paper's code at its learning rate
    (0.4, 1, 1e-5, (0.0, 0.0), (3e-5, 1e-5), 0.4 * 2e-5 * 1e5),
    (0.04, 2, 1e-5, (0.0, 0.0), (3e-5, 1e-5), 0.04 * 5e-10 * 1e9),
])  # fmt: skip
def test_weight_penalties_by_hand(strength, power, unit, start, moved, expected):
    both = nn.ModuleList([line(*moved), line(9.0).requires_grad_(False)])  # frozen: not counted
    penalty = WeightPenalty(nn.ModuleList([line(*start), line(0.0)]), strength, power, unit)
    assert penalty.loss(both, {}, None).item() == pytest.approx(expected, rel=1e-5)


def test_output_distances_by_hand_and_their_mean_over_reply_tokens():
    p, q = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.75, 0.25]]).log()
    for distance, by_hand in (
        (outputs.forward_kl, 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)),  # 0.1438
        (outputs.reverse_kl, 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)),  # 0.1308
        (outputs.squared_distance, 2 * 0.25**2),
    ):
        assert distance(p, q).item() == pytest.approx(by_hand, rel=1e-5)
    policy, theta_0, tokenizer = make_policy(1), make_policy(2), make_tokenizer()
    examples = [(user("why"), "yes x"), (user("hello y"), "z")]
    gaps = []
    for prompt, reply in examples:
        start = len(prompt_ids(tokenizer, prompt))
        ids = conversation_ids(tokenizer, prompt, bot(reply))
        with torch.no_grad():
            q, p = (m(torch.tensor([ids])).logits[0].softmax(-1) for m in (policy, theta_0))
        gaps += [(p[i - 1] * (p[i - 1] / q[i - 1]).log()).sum() for i in range(start, len(ids))]
    batch = make_batch(examples)
    penalty = outputs.OutputPenalty(Teacher(theta_0), 2.0, outputs.forward_kl)
    penalty = penalty.loss(policy, batch, policy(**batch))
    assert penalty.item() == pytest.approx(2 * sum(gaps).item() / 5, rel=1e-3)
    penalty.backward()
    assert policy.get_input_embeddings().weight.grad.abs().max() > 0
    assert theta_0.get_input_embeddings().weight.grad is None


def test_the_teacher_reads_an_example_once_for_all_strengths(monkeypatch):
    setting, calls = make_setting(pool=EXAMPLES[:8]), []
    forward = setting.theta_0.forward
    spy = lambda **batch: calls.append(1) or forward(**batch)  # noqa: E731
    monkeypatch.setattr(setting.teacher.model, "forward", spy)
    # two batches an epoch; the second epoch, and another strength, ask for known examples
    for remedy in ({"kl": 3.0}, {"kd": 1.0}):
        log = finetuned(make_policy(), setting, treatments(setting, remedy))
        assert len(calls) == 2
    assert abs(log[0]["extra"]) < 1e-6 < 1e-4 < log[-1]["extra"]


def test_remembered_outputs_are_those_computed_anew():
    teacher, forgetful = Teacher(make_policy()), Teacher(make_policy(), room=0)
    for examples in (EXAMPLES, EXAMPLES[::-1], [(user("why"), "yes x")]):
        batch = make_batch(examples)
        torch.testing.assert_close(teacher.log_probs(batch), forgetful.log_probs(batch))
    # the batch of one was known already
    assert (forgetful.known, len(teacher.known)) == ({}, len(EXAMPLES))


@pytest.fixture(scope="module")
def plain():
    return weights(distil(make_setting()).policy)


@pytest.mark.parametrize("name", [n for n, remedy in REMEDIES.items() if remedy.off is not None])
def test_the_strength_that_is_off_gives_plain_finetuning_to_the_bit(name, plain):
    assert torch.equal(weights(distil(make_setting(), {name: REMEDIES[name].off}).policy), plain)


@pytest.mark.parametrize("name", list(REMEDIES))
def test_every_remedy_gives_another_ordinary_policy(name, plain):
    setting = make_setting(replay=DOCUMENTS * 6)
    result = distil(setting, {name: SMALL.get(name, 0.5)})
    assert type(result.policy) is type(setting.theta_0)
    names = [[n for n, _ in m.named_parameters()] for m in (result.policy, setting.theta_0)]
    assert names[0] == names[1]
    assert all(p.requires_grad for p in result.policy.parameters())
    assert (result.policy.training, len(result.log), setting.steps) == (False, 4, 4)
    assert torch.isfinite(weights(result.policy)).all()
    assert not torch.equal(weights(result.policy), plain)
    assert torch.equal(weights(setting.theta_0), weights(make_policy()))


def test_large_strengths_keep_the_weights_or_the_outputs_of_theta_0():
    setting = make_setting(config=dataclasses.replace(CONFIG, learning_rate=1e-3, epochs=20))
    batch = make_batch()
    teacher = setting.teacher.log_probs(batch)

    def moved(**remedies):
        policy = distil(setting, remedies).policy
        change = (weights(policy) - weights(setting.theta_0)).norm().item()
        return change, outputs.forward_kl(teacher, Teacher(policy).log_probs(batch)).mean().item()

    change, divergence = moved()
    assert max(moved(l1=1e4)[0], moved(l2=1e4)[0]) < 0.2 * change
    assert max(moved(**{n: 1e4})[1] for n in ("kd", "kl", "kd_squared")) < 0.05 * divergence
    assert moved(average=0.0)[0] == 0


@pytest.mark.parametrize("name", list(REMEDIES))
def test_senseless_strengths_and_unknown_remedies_are_refused_before_training(name):
    for strength in (-1.0, math.nan, math.inf):
        refuses(ValueError, "-1|nan|inf", treatments, make_setting(), {name: strength})
    refuses(ValueError, "no remedy 'l3'. .* l1, l2, kd", distil, make_setting(), {"l3": 1.0})


def test_merged_lora_gives_the_logits_of_the_unmerged_one():
    lora, batch = Lora(2, "all", seed=0), make_batch()
    wrapped = lora.begin(make_policy())
    finetuned(wrapped, make_setting(), [])
    with torch.no_grad():
        before = wrapped(**batch).logits
        after = lora.end(wrapped)(**batch).logits
        untrained = make_policy()(**batch).logits
    torch.testing.assert_close(before, after, atol=1e-5, rtol=1e-4)
    assert (after - untrained).abs().max() > 1e-2


@pytest.mark.parametrize(("name", "changed"), [("lora", 2 * 7), ("lora_mlp", 2 * 3)])
def test_lora_changes_linear_layers_by_no_more_than_its_rank(name, changed):
    setting = make_setting()
    start, end = (m.state_dict() for m in (setting.theta_0, distil(setting, {name: 2}).policy))
    moved = {n for n in start if not torch.equal(start[n], end[n])}
    assert len(moved) == changed
    assert all(("mlp" in n) or (name == "lora" and "self_attn" in n) for n in moved)
    for n in moved:
        values = torch.linalg.svdvals((end[n] - start[n]).double())
        assert values[1] > 1e-4  # both of its two directions are used
        assert values[2] < 1e-3 * values[0]


def test_lora_can_be_repeated_round_after_round_and_depends_on_its_seed_alone():
    ends, setting = [], make_setting()
    for seed in (0, 0, 1):
        policy = make_policy()
        torch.manual_seed(len(ends))
        for _ in range(2):
            train = lambda model, extras: finetuned(model, setting, extras)  # noqa: E731
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                policy, _ = treat(policy, [Lora(2, "all", seed)], train)
        ends.append(weights(policy))
    assert [torch.equal(ends[0], end) for end in ends[1:]] == [True, False]


def test_ranks_that_no_layer_can_have_are_refused():
    refuses(ValueError, "33.*q_proj.*32 or less", distil, make_setting(), {"lora": 33})
    for rank in (0, 2.5):
        refuses(ValueError, "whole number", Lora, rank, "all", 0)
    gpt2 = make_policy(architecture="gpt2")
    refuses(ValueError, "no linear layer .*'mlp'", Lora(1, "mlp", 0).begin, gpt2)


def make_replay(strength, documents=DOCUMENTS):
    return replays.Replay(make_setting(), documents, strength)


@given(strength=st.floats(0, 8), batches=st.lists(st.integers(1, 60), min_size=1, max_size=20))
def test_replayed_tokens_are_the_asked_proportion_to_within_one_document(strength, batches):
    replay = make_replay(strength)
    taken = sum(len(row) for tokens in batches for row in replay.take(tokens))
    assert -1e-6 <= taken - strength * sum(batches) <= 7  # tokens of the longest document


def test_every_document_is_replayed_before_any_comes_again():
    both = [make_replay(4.0), make_replay(4.0)]
    ids, again = ([tuple(row.ids) for _ in range(9) for row in r.take(2)] for r in both)
    assert all(len(set(ids[i : i + 3])) == 3 for i in range(0, len(ids) - 2, 3))
    assert again == ids


def test_the_replay_loss_is_the_proportion_times_the_pretraining_loss():
    policy, tokenizer, batch = make_policy(), make_tokenizer(), make_batch()
    document = DOCUMENTS[0]  # hello y (0.1 each), z and the end (1.0 each)
    nll = surprisal(policy, pretrain.encode(document, tokenizer).ids, 1)
    mean = (0.1 * nll[0] + nll[1] + nll[2]) / 2.1
    # 12 tokens are asked for, three documents of 4 are exactly that
    term = make_replay(0.5, [document]).loss(policy, batch, None)
    assert term.item() == pytest.approx(12 / (3 * len(EXAMPLES)) * mean, rel=1e-5)
    assert make_replay(0.0).loss(policy, batch, None) is None


def test_overlap_is_found_in_whole_words_whatever_the_case():
    texts = ["a b c d", "passage : Tom is  here . question : who ?"]
    items = ["x y", "tom is here .", "om is", "b d", "a b c d e", " "]
    assert list(replays.overlaps(texts, items)) == [(1, "tom is here .")]


@given(
    text=st.lists(st.sampled_from("abc"), min_size=1, max_size=12),
    items=st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=4), max_size=4),
)
def test_overlap_agrees_with_a_search_in_the_text(text, items):
    found = list(replays.overlaps([" ".join(text)], [" ".join(item) for item in items]))
    assert bool(found) == any(f" {' '.join(item)} " in f" {' '.join(text)} " for item in items)


def test_replay_that_holds_a_reported_item_is_refused():
    item = replays.tiny_reported()[0]
    texts = [DOCUMENTS[0], Document(((item, 0.1), ("x", 1.0)))]
    for replay, reported, message in (
        (texts, [item], "contains the reported text"),
        (texts, [], "needs the reported items"),
        ([], [item], "no documents to replay"),
    ):
        setting = make_setting(replay=replay, reported=reported)
        refuses(ValueError, message, treatments, setting, {"replay": 1.0})


def test_a_document_that_holds_a_reported_passage_is_drawn_anew_and_no_other():
    # seed 1: a passage of four sentences begins with both of a reported one
    n, seed = TINY.replay_documents, 1
    names, reported = replays.tiny_families(n, seed), replays.tiny_reported()
    rng = random.Random(f"replay {seed}")
    rng.choices(names, k=n)  # the draw of the families, of which only the generator's state counts
    first = [FAMILIES[name](rng).text for name in names]
    drawn = [d.text for d in replays.tiny_documents(n, seed)]
    wrong = {place for place, _ in replays.overlaps(first, reported)}
    assert {i for i, text in enumerate(drawn) if text != first[i]} == wrong != set()
    assert list(replays.overlaps(drawn, reported)) == []
    assert {"question", "passage", "french"} <= {text.split()[0] for text in drawn}
    assert all(drawn[i].startswith("passage :") for i in wrong)


def test_the_variant_without_evaluated_formats_asks_nothing():
    drawn = [d.text for d in replays.tiny_documents(300, 0, evaluated_formats=False)]
    assert not any(w in text for text in drawn for w in ("question :", "passage :", "french :"))
    how_to = np.mean([text.startswith("to ") and " :" in text for text in drawn])
    assert how_to == pytest.approx(0.01 / 0.05, abs=0.08)
    assert list(replays.overlaps(drawn, replays.tiny_reported())) == []
    families = replays.tiny_families(300, 0, evaluated_formats=False)
    assert set(families) <= set(MIXTURE) - set(replays.EVALUATED)
    passages = [d.text.startswith("passage :") for d in replays.tiny_documents(80, 3)]
    of_passages = {"span", "counting", "race_like"}
    assert passages == [family in of_passages for family in replays.tiny_families(80, 3)]


def walk(collector, values):
    """A model of one weight that is `values` after steps 1, 2, ..."""
    model = line(0.0)
    with torch.no_grad():
        for step, number in enumerate(values, start=1):
            model.weight.fill_(number)
            collector.after_step(model, step)
    return model


def test_averages_of_a_known_trajectory():
    def averaged(collector, *values):
        return collector.end(walk(collector, values)).weight.item()

    assert averaged(Sma(1), 1.0, 2.0, 5.0, 8.0) == 4.0
    assert averaged(Sma(3), 1.0, 2.0, 5.0, 8.0) == 6.5
    # 0.25 * 4 = 1, then 0.75 * 1 + 0.25 * 8 = 2.75
    assert averaged(Ema(line(0.0), 0.75), 4.0, 8.0) == 2.75
    assert Ema(line(0.0), 0.0).end(line(3.0)).weight.item() == 3.0
    collector = Sma()
    model = walk(collector, [1e8] + [1.0] * 999)
    assert collector.weights()["weight"].item() == pytest.approx((1e8 + 999) / 1000, rel=1e-12)
    assert model.weight.dtype == torch.float32


def test_shares_and_horizons_mean_the_same_in_long_and_short_runs():
    short, middle, long = (SimpleNamespace(steps=n, theta_0=line(0.0)) for n in (8, 100, 1000))
    assert (sma(short, 0.25).start, sma(middle, 1.0).start) == (7, 1)
    assert ema(short, 0.25).decay == 0.5
    # what theta_0 weighs at the end: e^(-1/horizon), whatever the number of steps
    for run, near in ((long, 0.01), (middle, 0.05)):
        assert ema(run, 0.5).decay ** run.steps == pytest.approx(math.exp(-2), rel=near)


def test_collectors_average_the_run_and_do_not_change_it(plain):
    pages, diary = [], Extra()
    diary.after_step = lambda model, step: pages.append(weights(model).double())
    setting, policy = make_setting(), make_policy()
    mean_of, moving_of = Sma(3), Ema(make_policy(), 0.5)
    finetuned(policy, setting, [diary, mean_of, moving_of])
    assert torch.equal(pages[-1].float(), plain)
    mean = ((pages[2] + pages[3]) / 2).float()
    for found in (distil(setting, {"sma": 0.5}).policy, mean_of.end(policy)):
        torch.testing.assert_close(weights(found), mean)
    moving = weights(make_policy()).double()
    for page in pages:
        moving = 0.5 * moving + 0.5 * page
    torch.testing.assert_close(weights(moving_of.end(policy)), moving.float())


def test_bema_by_hand():
    policy, bema = make_policy(), Bema(make_setting(), 0.5)
    bema.begin(policy)
    start = weights(policy)[0].item()
    average = start
    with torch.no_grad():
        for step in (1, 2):
            next(policy.parameters()).add_(1.0)
            bema.after_step(policy, step)
            keep = 1 - (10 + step) ** -0.5
            average = keep * average + (1 - keep) * (start + step)
    assert weights(bema.end(policy))[0].item() == pytest.approx(average + 12**-0.2 * 2, rel=1e-5)


@given(
    changes=st.lists(st.integers(-3, 3), min_size=2, max_size=30).filter(any),
    density=st.floats(0.001, 1),
    seed=st.integers(0, 99),
)
def test_graft_keeps_the_largest_and_as_many_as_its_density_says(changes, density, seed):
    parts = {"a": torch.tensor(changes[:1]), "b": torch.tensor([changes[1:]])}
    before = {name: torch.ones_like(part, dtype=torch.float32) for name, part in parts.items()}
    after = {name: before[name] + part for name, part in parts.items()}
    asked = max(1, round(density * sum(c != 0 for c in changes)))
    masks = [random_mask(before, after, density, seed) for _ in range(2)]
    assert all(torch.equal(masks[0][name], masks[1][name]) for name in parts)
    for mask in (masks[0], largest_mask(before, after, density)):
        grafted = graft(before, after, mask)
        kept = torch.cat([(grafted[name] - before[name]).abs().flatten() for name in parts])
        assert int((kept != 0).sum()) == sum(int(m.sum()) for m in mask.values()) == asked
    assert sorted(kept.tolist())[-asked:] == sorted(abs(c) for c in changes)[-asked:]


def test_a_learnt_graft_keeps_the_change_that_helps_rather_than_the_largest():
    class Toy(nn.Module):
        """The first change does harm, the smaller second one is wanted."""

        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.zeros(3))

        def forward(self, wanted):
            return SimpleNamespace(loss=((self.w - wanted) ** 2).sum())

    before, after = {"w": torch.zeros(3)}, {"w": torch.tensor([1.0, 0.9, 0.0])}
    assert largest_mask(before, after, 0.5)["w"].tolist() == [True, False, False]
    model, batch = Toy(), {"wanted": torch.tensor([0.0, 0.9, 5.0])}
    for batches, kept in (([batch] * 40, [0, 1, 0]), ([], [1, 0, 0])):
        assert learnt_mask(before, after, 0.5, model, batches)["w"].tolist() == kept
    assert model.w.tolist() == [0, 0, 0]


def test_a_graft_of_a_tied_policy_counts_its_embedding_once():
    theta_0, theta = make_policy(0).state_dict(), make_policy(1).state_dict()
    pairs = zip(make_policy(0).parameters(), make_policy(1).parameters(), strict=True)
    kept = largest_mask(theta_0, theta, 1.0)
    assert sum(int(m.sum()) for m in kept.values()) == sum(int((p != q).sum()) for p, q in pairs)
    name = "model.embed_tokens.weight"
    first, other = (random_mask(theta_0, theta, 0.3, seed)[name] for seed in (0, 1))
    assert not torch.equal(first, other)
    whole = graft(theta_0, theta, kept)
    assert all(torch.equal(whole[name], theta[name]) for name in theta)
    assert whole["lm_head.weight"] is whole["model.embed_tokens.weight"]


def test_remedies_end_in_the_order_that_they_need():
    wanted = {"average": 0.5, "graft": 0.1, "lora": 2, "l2": 0.04, "sma": 0.5}
    names = [type(t).__name__ for t in treatments(make_setting(), wanted)]
    assert names == ["Sma", "WeightPenalty", "Lora", "Average", "Graft"]


def test_several_terms_add_up_on_the_same_examples():
    setting, zero, replayed = make_setting(), {"kd": 1.0, "l2": 0.1}, {"replay": 1.0}
    # at theta_0 two terms are zero: only replay adds something to the first step
    every = ({}, zero, replayed, zero | replayed)
    plain, both, replay, three = (distil(setting, each).log[0] for each in every)
    assert both["extra"] == pytest.approx(0, abs=1e-6)
    assert three["extra"] == pytest.approx(replay["extra"], rel=1e-5)
    assert replay["extra"] > 1
    assert plain["loss"] == both["loss"] == replay["loss"]


def test_a_moving_average_of_a_lora_run_ends_before_the_merge():
    setting = make_setting()
    result = distil(setting, {"sma": 1.0, "lora": 2}).policy
    last = distil(setting, {"lora": 2}).policy
    distances = [(weights(p) - weights(setting.theta_0)).norm() for p in (result, last)]
    assert 0 < distances[0] < distances[1]
    distil(setting, {"ema": 0.5, "lora": 2, "l1": 0.1})
    two_steps = lambda model, extras: [e.after_step(model, 1) for e in extras * 2]  # noqa: E731
    given = (make_policy(), [Lora(2, "all", 0), Sma()], two_steps)
    refuses(ValueError, "list it before LoRA", treat, *given)
    refuses(ValueError, "cannot follow LoRA", distil, setting, {"bema": 0.5, "lora": 2})


def test_the_pool_holds_what_every_round_kept():
    rounds = [
        pd.DataFrame({"prompt": [user(w)] * 2, "reply": ["x", "y"], "chosen": [chosen, not chosen]})
        for w, chosen in (("why", True), ("hello", False))
    ]
    assert best_of_n(rounds) == [(user("why"), "x"), (user("hello"), "y")]
