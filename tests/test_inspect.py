"""What is looked at inside: distances, ways, masks and what replay reads, by hand."""

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from test_mitigate import DOCUMENTS, line, make_setting

from alignment_tax import settings
from alignment_tax.merge.average import average
from alignment_tax.mitigate import inspect
from alignment_tax.mitigate.bema import Bema
from alignment_tax.mitigate.graft import graft, largest_mask
from alignment_tax.mitigate.moving_average import Ema, Sma
from alignment_tax.pipeline.study import Study
from alignment_tax.spec import Spec
from alignment_tax.train import pretrain

FAMILIES = ["commonsense", "reading", "translation", "skill"]

# distances


class Two(torch.nn.Module):
    """A matrix and a vector, all of one value."""

    def __init__(self, value):
        super().__init__()
        self.matrix = torch.nn.Parameter(torch.full((2, 2), value))
        self.vector = torch.nn.Parameter(torch.full((3,), value))


def test_changes_and_distances_by_hand():
    before, after = Two(2.0), Two(2.0)
    with torch.no_grad():
        after.matrix[0, 0] = 5.0
        after.vector[2] = -2.0
    moved = inspect.changes(before, after)
    assert moved.tolist() == [3, 0, 0, 0, 0, 0, -4]
    relative, steps = inspect.how_far(before, after, unit=0.5)
    assert relative == pytest.approx(5 / np.sqrt(7 * 4))
    assert steps == pytest.approx(7 / 0.5 / 7)
    with pytest.raises(ValueError, match="has the parameter 'bias'"):
        inspect.changes(before, torch.nn.Linear(2, 2))


def test_a_histogram_counts_every_weight_that_moved():
    shares = inspect.histogram(torch.tensor([0.0, -0.01, 0.01, 1e9]), unit=0.01, bins=6)
    # seven edges 1e-3 ... 1e3: what flew off is in the outermost bin, what did not move in none
    assert shares["share"].tolist() == pytest.approx([0, 0, 0, 200 / 3, 0, 100 / 3])
    assert shares["steps"].iloc[3] == pytest.approx(np.sqrt(10))


def test_unevenness_does_not_depend_on_size():
    moved = torch.tensor([0.0, 3.0, -4.0, 0.0])
    # of two that moved: root of 12.5 over 3.5; the farther one holds 16 of 25
    for size in (1.0, 1e-4):
        ratio, held = inspect.unevenness(size * moved, share=0.5)
        assert ratio == pytest.approx(np.sqrt(12.5) / 3.5)
        assert held == pytest.approx(16 / 25)
    assert inspect.unevenness(torch.ones(200)) == pytest.approx((1, 0.01))


def test_the_spectrum_of_a_change_of_rank_one():
    before, after = Two(2.0), Two(2.0)
    with torch.no_grad():
        after.matrix += torch.tensor([[3.0, 3.0], [4.0, 4.0]])
    values = inspect.spectrum(before, after, "matrix")
    assert values[0] == pytest.approx(5 * np.sqrt(2))
    assert values[1] == pytest.approx(0, abs=1e-12)
    with pytest.raises(ValueError, match="1 axes"):
        inspect.spectrum(before, after, "vector")


def test_titles_are_those_of_a_reader():
    titles = {
        "θ₀": ("none", None, None),
        "the plain run": ("distil", np.nan, None),
        "L2 (0.06)": ("l2", 0.06, None),
        "LoRA (16)": ("lora", 16, None),
        "L2 (0.06), averaged at α = 0.5": ("l2+average", 0.06, 0.5),
        "averaging the distilled run, α = 0.2": ("distil+average", None, 0.2),
    }
    rows = pd.DataFrame(titles.values(), columns=["method", "strength", "alpha"])
    assert inspect.titles(rows) == list(titles)


# replay


def test_what_replay_reads_by_hand():
    setting = make_setting()
    use = inspect.replay_use(setting, ["statement", "how_to", "question"], (0.0, 1.0))
    off = use[use["strength"] == 0]
    assert off["family"].tolist() == [inspect.REPLY]
    [replies] = off["tokens"]
    # "yes x" and the end of sequence: three tokens a reply
    assert replies == 3 * len(setting.pool) * setting.config.epochs
    on = use[(use["strength"] == 1) & (use["family"] != inspect.REPLY)]
    # documents are taken whole: at most one too many, and none too few
    longest = max(len(pretrain.encode(each, setting.tokenizer).ids) for each in DOCUMENTS)
    assert replies <= on["tokens"].sum() < replies + longest
    assert (on["different"] == 1).all()
    assert (on["counted"] <= on["tokens"]).all()
    assert set(on["family"]) == {"statement", "how_to", "question"}


def test_a_preset_without_text_is_refused(preset):
    bare = SimpleNamespace(preset=dataclasses.replace(preset, replay_documents=0))
    with pytest.raises(ValueError, match="take smoke or tiny"):
        inspect.setting(bare)


# the path


def test_distances_along_a_walk_by_hand():
    there_and_back, model = Two(2.0), line(0.0, 0.0)
    watch = inspect.Watch()
    watch.begin(there_and_back)
    for step, value in ((1, 5.0), (2, 4.0), (3, 2.0)):
        with torch.no_grad():
            there_and_back.matrix[0, 1] = value
        watch.after_step(there_and_back, step)
    assert watch.path.tolist() == [0, 3 + 1 + 2, 0, 0, 0, 0, 0]
    assert [row["trained"] for row in watch.rows] == [3, 2, 0]
    watch = inspect.Watch({"SMA": Sma(start=2), "EMA": Ema(model, 0.5)})
    watch.begin(model)
    for step, place in enumerate(([3.0, 4.0], [6.0, 8.0], [9.0, 12.0]), start=1):
        with torch.no_grad():
            model.weight.copy_(torch.tensor([place]))
            watch.after_step(model, step)
    assert [row["trained"] for row in watch.rows] == pytest.approx([5, 10, 15])
    # 2.5, then half of 2.5 and 10, then half of 6.25 and 15
    assert [row["EMA"] for row in watch.rows] == pytest.approx([2.5, 6.25, 10.625])
    # one checkpoint is no mean; the mean of the last two is (7.5, 10)
    assert [math.isnan(row["SMA"]) for row in watch.rows] == [True, True, False]
    assert watch.rows[-1]["SMA"] == pytest.approx(12.5)


def test_bema_can_be_watched_while_it_runs():
    model, watch = make_setting().theta_0, inspect.Watch({"BEMA": Bema(0.5)})
    watch.begin(model)
    with torch.no_grad():
        next(model.parameters()).add_(0.1)
        watch.after_step(model, 1)
    assert watch.rows[0]["BEMA"] > 0


# graft


def test_norms_of_masks_and_averages_by_hand():
    before = {"a.weight": torch.zeros(1, 2), "norm.weight": torch.zeros(2)}
    after = {"a.weight": torch.tensor([[3.0, 4.0]]), "norm.weight": torch.tensor([12.0, 0.0])}
    mask = largest_mask(before, after, 1 / 3)
    share = inspect.norm_kept(before, after, mask)
    assert share == pytest.approx(12 / 13)
    changes = [graft(before, after, mask), average(before, after, share)]
    norms = [torch.cat([w.flatten() for w in state.values()]).norm() for state in changes]
    assert float(norms[0]) == pytest.approx(float(norms[1])) == pytest.approx(12)
    table = inspect.mask_table(before, after, {"largest": mask}).set_index("kind")
    assert table.loc["all", ["changed", "kept"]].tolist() == [3, 1]
    assert table.loc["all", "density"] == pytest.approx(1 / 3)
    # of the linear layer's change, of length 5, nothing is kept
    assert table["norm"].to_dict() == pytest.approx({"all": 12 / 13, "linear": 0, "norm": 1})
    assert table.loc["norm", ["changed", "kept", "density"]].tolist() == [1, 1, 1]
    assert table.loc["linear", ["changed", "kept", "density"]].tolist() == [2, 0, 0]


# models


@pytest.fixture(scope="module")
def study(preset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(settings.RUNS_VARIABLE, str(folder))
        yield Study(preset, 0)


def test_effects_of_an_average_lie_on_the_way_to_its_end(study):
    rounds = study.preset.rsf.rounds
    specs = [Spec("sft"), Spec("rsf", rounds, "l2", strength=0.06)]
    specs.append(Spec("rsf", rounds, "l2+average", 0.5, 0.06))
    found = inspect.effects(study, specs)
    assert found.loc[0, ["gain", "change", "distance"]].tolist() == [0, 0, 0]
    assert found.loc[1, "distance"] > 0
    assert found.loc[2, "distance"] == pytest.approx(found.loc[1, "distance"] / 2, rel=1e-4)
    assert np.isnan(found.loc[0, "seconds"])
    assert found.loc[2, "seconds"] == found.loc[1, "seconds"] > 0
    scored = inspect.scored(study, specs)
    lost = scored[[*FAMILIES, "capped_skill"]]
    lost = lost - lost.iloc[0]
    assert lost["skill"].tolist() == pytest.approx(found["change"].tolist())
    assert lost["capped_skill"].tolist() == found["capped_change"].tolist()
    assert scored.loc[0, "skill"] == pytest.approx(found.loc[0, "skill"])


def test_lora_counts_by_hand(study):
    sizes = inspect.lora_sizes(study.policy("sft")[0], 0)
    assert sizes["by_hand"].tolist() == sizes["counted"].tolist()
    # 9 layers: four matrices of 128 x 128 and three of 128 x 256
    assert sizes.loc[("mlp", 4), "by_hand"] == 9 * 3 * 4 * 384
    assert sizes.loc[("all", 1), "of_those"] == pytest.approx(
        (4 * 256 + 3 * 384) / (4 * 128**2 + 3 * 128 * 256)
    )
