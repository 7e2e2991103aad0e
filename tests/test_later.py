"""What came after the paper: each merge, projection and penalty by hand, and what it refuses."""

import math

import pytest
import torch
from conftest import refuses
from hypothesis import given, settings, strategies as st
from test_mitigate import DOCUMENTS, EXAMPLES, line, make_batch, make_setting
from test_models import make_policy
from test_train import weights
from torch import nn

from alignment_tax import presets
from alignment_tax.merge.average import own_tensors
from alignment_tax.mitigate import distil, treatments
from alignment_tax.mitigate.expo import expo
from alignment_tax.mitigate.fisher import information, weighted
from alignment_tax.mitigate.online import PULL
from alignment_tax.mitigate.projection import protected
from alignment_tax.mitigate.replay import own_answers, text_losses
from alignment_tax.mitigate.slerp import slerp
from alignment_tax.mitigate.sparse import DARE_KEEPS, TIES_KEEPS, dare, ties
from alignment_tax.models import load_base
from alignment_tax.pipeline.stages.scores import facts_found
from alignment_tax.train import pretrain


def state(*values):
    return {"w": torch.tensor(values)}


def close(found, *values):
    torch.testing.assert_close(found["w"], torch.tensor(values), atol=1e-6, rtol=1e-6)


def test_slerp_by_hand():
    close(slerp(state(1.0, 0.0), state(0.0, 1.0), 0.5), math.sqrt(0.5), math.sqrt(0.5))
    close(slerp(state(1.0, 0.0), state(0.0, 1.0), 1 / 3), math.sqrt(3) / 2, 0.5)
    # parallel, opposite, zero: the chord
    close(slerp(state(1.0, 0.0), state(3.0, 0.0), 0.5), 2.0, 0.0)
    close(slerp(state(1.0, 0.0), state(-1.0, 0.0), 0.25), 0.5, 0.0)
    close(slerp(state(0.0, 0.0), state(0.0, 2.0), 0.5), 0.0, 1.0)


@settings(max_examples=30)
@given(st.lists(st.floats(-5, 5), min_size=4, max_size=4), st.floats(0, 1))
def test_slerp_of_vectors_of_one_length_keeps_the_length(values, alpha):
    a, b = (torch.tensor(v).double() for v in (values[:2], values[2:]))
    if min(a.norm(), b.norm()) < 0.1 or torch.dot(a, b) < -0.99 * a.norm() * b.norm():
        return
    found = slerp({"w": a / a.norm()}, {"w": b / b.norm()}, alpha)["w"]
    assert found.norm().item() == pytest.approx(1, abs=1e-6)


def test_ties_keeps_the_largest_changes_and_scales_them():
    theta_0, theta = state(0.0, 1.0, 2.0, 3.0, 4.0), state(0.1, 1.2, 2.0, -3.0, 4.5)
    assert TIES_KEEPS == 0.2  # one of the four that changed
    close(ties(theta_0, theta, 0.5), 0.0, 1.0, 2.0, 0.0, 4.0)


def test_dare_keeps_a_share_at_random_and_the_sum_of_the_changes_on_average():
    theta_0, theta = {"w": torch.zeros(20_000)}, {"w": torch.ones(20_000)}
    found = dare(theta_0, theta, 0.6, seed=1)["w"]
    assert found.unique().tolist() == pytest.approx([0, 0.6 / DARE_KEEPS])
    assert found.mean().item() == pytest.approx(0.6, abs=0.01)
    assert not torch.equal(found, dare(theta_0, theta, 0.6, seed=2)["w"])
    assert torch.equal(dare(theta_0, theta, 0.0, seed=1)["w"], theta_0["w"])


def test_fisher_information_is_the_mean_squared_gradient_over_its_mean():
    model = nn.Linear(2, 1, bias=False)
    found = information(model, (model(x).sum() for x in torch.tensor([[1.0, 0.0], [3.0, 4.0]])))
    # squares (1, 0) and (9, 16), their sum (10, 16) over its mean 13
    torch.testing.assert_close(found["weight"], torch.tensor([[10 / 13, 16 / 13]]))


def test_fisher_averaging_by_hand(monkeypatch):
    monkeypatch.setattr("alignment_tax.mitigate.fisher.FLOOR", 0.0)
    both = state(0.0, 0.0, 0.0), state(1.0, 1.0, 1.0)
    start, end = state(1.0, 3.0, 0.0), state(1.0, 1.0, 2.0)
    close(weighted(*both, 0.5, start, end), 0.5, 0.25, 1.0)
    close(weighted(*both, 0.75, start, end), 0.75, 0.75 / (0.75 + 0.25 * 3), 1.0)
    for alpha in (0.0, 1.0):
        assert torch.equal(weighted(*both, alpha, start, end)["w"], both[int(alpha)]["w"])


@pytest.fixture(autouse=True)
def few_examples(monkeypatch):
    monkeypatch.setattr("alignment_tax.mitigate.fisher.EXAMPLES", 8)
    monkeypatch.setattr("alignment_tax.mitigate.projection.INPUT_BATCHES", 4)


@pytest.fixture(scope="module")
def setting():
    return make_setting(replay=DOCUMENTS * 400)


@pytest.fixture(scope="module")
def plain(setting):
    return distil(setting).policy


@pytest.mark.parametrize("name", ["slerp", "dare", "ties", "fisher", "warp", "soup"])
def test_every_merge_begins_at_theta_0_and_moves_away_from_it(setting, name):
    start = weights(setting.theta_0)
    ends = [distil(setting, {name: alpha}).policy for alpha in (0.0, 0.25, 0.5)]
    gaps = [(weights(end) - start).norm().item() for end in ends]
    assert 0 == gaps[0] < gaps[1] < gaps[2]


def test_expo_goes_as_much_further_as_alpha_says(setting, plain):
    start, end = weights(setting.theta_0), weights(plain)
    found = weights(distil(setting, {"expo": 1.5}).policy)
    torch.testing.assert_close(found, start + 1.5 * (end - start), atol=1e-6, rtol=1e-5)
    refuses(ValueError, "must be 1 or more", expo, setting, 0.9)


def test_warp_joins_two_runs_that_learn_in_another_order(setting, plain):
    found = weights(distil(setting, {"warp": 1.0}).policy)
    start, end = weights(setting.theta_0), weights(plain)
    # two runs share most of what they learn, so their mean is nearer to each than theta_0 is
    assert 0 < (found - end).norm() < (start - end).norm()


def test_a_soup_is_the_mean_of_runs_that_each_learn_in_another_order(setting, plain):
    runs = [weights(plain), *(weights(setting.run(number)) for number in (1, 2, 3))]
    assert len({tuple(run.tolist()) for run in runs}) == 4
    found = [weights(distil(setting, {"soup": 1.0}).policy), weights(setting.run(0))]
    torch.testing.assert_close(found, [torch.stack(runs).mean(dim=0), runs[0]])


@pytest.mark.parametrize(
    ("name", "share", "outcome"),
    [  # by hand: a = 0.1 / 2 steps; the step is (1, -2, 3, -4), tau (-8, 0, 8, 0)
        ("on_dare", 1.0, [0.95 - 0.4, -1.9, 2.85 + 0.4, -3.8]),
        # kept are 3 and -4, and both of tau; tau's sign decides where they disagree
        ("on_ties", 0.5, [-0.4, 0.0, 2.85 + 0.4, -3.8]),
        # all are kept: the first step goes against tau, so it is dropped
        ("on_ties", 1.0, [-0.4, -1.9, 2.85 + 0.4, -3.8]),
    ],
)
def test_online_merging_by_hand(setting, name, share, outcome):
    base, start = line(8.0, 0.0, -8.0, 0.0), line(0.0, 0.0, 0.0, 0.0)
    own = make_setting(theta_0=start, pool=EXAMPLES[:1] * 2, load_base=lambda: base)
    (treatment,) = treatments(own, {name: share})
    model = treatment.begin(line(0.0, 0.0, 0.0, 0.0))
    with torch.no_grad():
        model.weight.add_(torch.tensor([1.0, -2.0, 3.0, -4.0]))
        treatment.after_step(model, 1)
    torch.testing.assert_close(weights(model), torch.tensor(outcome))
    refuses(ValueError, "load_base", treatments, make_setting(load_base=None), {name: share})


def test_on_dare_keeps_a_share_of_every_step_and_online_merging_pulls_as_far_as_is_said():
    own, step = make_setting(), 0.25
    start, base = weights(own.theta_0), own.load_base()
    (treatment,) = treatments(own, {"on_dare": 0.3})
    model, moved = treatment.begin(make_policy()), 0.0
    with torch.no_grad():
        for number in range(own.steps):
            before = weights(model)
            for p in model.parameters():
                p.add_(step)
            treatment.after_step(model, number + 1)
            moved += float(((weights(model) - before).abs() > step / 2).float().mean()) / own.steps
    assert moved == pytest.approx(0.3, abs=0.02)
    pulled = own.steps * 0.3 * step * (1 - treatment.alpha) + PULL * 0.3 * (start - weights(base))
    assert float((weights(model) - start).mean()) == pytest.approx(float(pulled.mean()), rel=0.05)


def test_the_moving_anchor_follows_the_policy_slowly(setting):
    (treatment,) = treatments(setting, {"kl_average": 1.0})
    still, moved, batch = setting.theta_0, make_policy(3), make_batch()
    assert treatment.loss(still, batch, still(**batch)).item() == pytest.approx(0)
    before = treatment.loss(moved, batch, moved(**batch)).item()
    with torch.no_grad():
        treatment.after_step(moved, 1)
    expected = weights(still).lerp(weights(moved), 0.01)
    torch.testing.assert_close(weights(treatment.teacher.model), expected)
    assert 0 < treatment.loss(moved, batch, moved(**batch)).item() < before


def test_what_was_lost_is_replayed(setting):
    few = make_setting(replay=DOCUMENTS * 4)
    (treatment,) = treatments(few, {"replay_lost": 1.0})
    treatment.begin(make_policy())
    with torch.no_grad():
        losses = [
            [float(next(text_losses(make_setting(replay=[d]), end, 1, 1))) for d in few.replay]
            for end in (few.theta_0, few.run(0))
        ]
    lost = [after - before for before, after in zip(*losses, strict=True)]
    most = pretrain.encode(few.replay[lost.index(max(lost))], few.tokenizer)
    assert all(row.ids == most.ids for row in treatment.take(40))


def test_the_change_under_ogpsa_is_orthogonal_to_the_gradients(setting):
    (treatment,) = treatments(setting, {"ogpsa": 3})
    start = make_policy().requires_grad_(True)
    start.load_state_dict(setting.theta_0.state_dict())
    model = make_policy(5)
    treatment.begin(model)
    with torch.no_grad():
        treatment.after_step(model, 1)
    change = torch.nn.utils.parameters_to_vector(model.parameters()).detach()
    change -= torch.nn.utils.parameters_to_vector(start.parameters()).detach()
    for loss in text_losses(setting, start, 3, 16):
        gradients = torch.autograd.grad(loss, list(start.parameters()))
        gradient = torch.nn.utils.parameters_to_vector(gradients)
        assert gradient.norm() > 0.01
        assert abs(gradient.double() @ change.double()) < 1e-4 * gradient.norm()


def test_the_null_space_holds_what_layers_make_of_the_text(setting):
    found = protected(setting, 0.99)
    outcome = distil(setting, {"null_space": 0.99}).policy
    start, moved = dict(setting.theta_0.named_parameters()), 0.0
    for name, p in outcome.named_parameters():
        change = p - start[name]
        if name in found:
            assert (change @ found[name]).abs().max() < 1e-5
            moved += float(change.norm())
        else:
            assert not change.any()
    assert moved > 0
    counts = [protected(setting, share)[min(found)].shape[1] for share in (0.5, 0.9, 0.99)]
    assert counts == sorted(counts)


def test_oplora_leaves_the_largest_singular_directions_alone(setting):
    outcome = distil(setting, {"oplora": 2}).policy
    for name, layer in setting.theta_0.named_modules():
        if isinstance(layer, nn.Linear) and "layers" in name:
            u, _, v = torch.linalg.svd(layer.weight, full_matrices=False)
            change = outcome.get_submodule(name).weight - layer.weight
            assert change.norm() > 0
            assert (u[:, :2].T @ change).abs().max() < 1e-5
            assert (change @ v[:2].T).abs().max() < 1e-5


def test_ewc_with_equal_information_is_l2(setting):
    ewc, l2 = (treatments(setting, {name: 0.5})[0] for name in ("ewc", "l2"))
    moved = make_policy(3)
    ewc.begin(moved), l2.begin(moved)
    ewc.start = l2.start = own_tensors(setting.theta_0)
    ewc.information = {n: torch.ones_like(p) for n, p in moved.named_parameters()}
    assert ewc.loss(moved, {}, None).item() == pytest.approx(l2.loss(moved, {}, None).item())
    name = min(ewc.information)
    ewc.information[name] = ewc.information[name] * 2
    assert ewc.loss(moved, {}, None) > l2.loss(moved, {}, None)


def test_own_answers_keep_the_questions_and_are_theta_0s(setting):
    answers = own_answers(make_setting(replay=DOCUMENTS))
    assert all(a.pieces[0] in [d.pieces[0] for d in DOCUMENTS] for a in answers)
    assert len(answers) <= 2  # the document without a question is not among them


def test_a_probe_finds_facts_in_the_base_and_guesses_on_random_weights():
    base, tokenizer = load_base(presets.TINY.model)
    torch.manual_seed(0)
    found = [facts_found(model, tokenizer, 200) for model in (base, type(base)(base.config))]
    assert found[0] > 80
    assert found[1] == pytest.approx(25, abs=5)


def test_relearning_lowers_the_loss_on_the_documents_it_reads(setting, plain):
    models = (distil(setting, {"relearn": 16}).policy, plain)
    with torch.no_grad():
        after, before = (sum(map(float, text_losses(setting, m, 2, 8))) for m in models)
    assert after < before


# that none is negative holds for every remedy (test_mitigate)
def test_too_large_a_strength_and_too_little_text_are_refused_before_anything_is_trained(setting):
    little, said = make_setting(replay=DOCUMENTS), "raise `replay_documents`"
    for start, name, strength, complaint in (
        (setting, "null_space", 1.0, r"in \(0, 1\)"),
        (setting, "oplora", 10_000, "fewer than the smallest layer"),
        (setting, "slerp", 1.2, "alpha"), (little, "ogpsa", 3, said), (little, "relearn", 64, said),
        (make_setting(replay=()), "replay_lost", 1.0, said),
    ):  # fmt: skip
        refuses(ValueError, complaint, treatments, start, {name: strength})
