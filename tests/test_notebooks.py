"""Every notebook of the course, executed on `smoke`: it succeeds, and what it recorded holds."""

import ast
import json
import re

import pytest

from alignment_tax import settings
from alignment_tax.notebooks import (
    PARAMETERS,
    WIDGET,
    check_parameters,
    code_cells,
    find_chapters,
    find_figures,
    parameter_names,
    read_chapter,
    read_notebook,
    run_course,
)
from alignment_tax.results.recorded import recorded

CHAPTERS = sorted(settings.notebooks_folder().glob("[0-9][0-9]_*.ipynb"))
NAMES = [path.stem for path in CHAPTERS]
each_notebook = pytest.mark.parametrize("path", CHAPTERS, ids=NAMES)


# what is committed


def test_the_course_has_its_chapters():
    assert {f"{number:02}" for number in range(12)} <= {name[:2] for name in NAMES}
    check_parameters(find_chapters(settings.notebooks_folder()))


@each_notebook
def test_parameters_are_literals_with_a_comment_each(path):
    assert parameter_names(path) == set(PARAMETERS)
    (cell,) = code_cells(read_notebook(path), "parameters")
    values = {}
    for node in ast.parse(cell.source).body:
        assert isinstance(node, ast.Assign | ast.AnnAssign), ast.unparse(node)
        target = node.targets[0] if isinstance(node, ast.Assign) else node.target
        values[target.id] = ast.literal_eval(node.value)
        assert "#" in cell.source.splitlines()[node.lineno - 1]
    assert values == {"preset": "tiny", "seed": 0}


@each_notebook
def test_the_front_says_question_result_minutes_and_needs(path):
    front = read_notebook(path).cells[0].source
    assert re.match(rf"# (?:Chapter )?{path.stem[:2]}\b", front), "heading with the number"
    chapter = read_chapter(path)
    assert chapter.question.endswith("?")
    assert {"smoke", "tiny"} <= set(chapter.minutes)
    assert re.search(r"by the end", front, re.IGNORECASE)
    assert re.search(r"\bneeds\b", front, re.IGNORECASE)


@each_notebook
def test_code_and_what_is_kept_of_its_outputs_are_clean(path):
    notebook = read_notebook(path)
    assert "widgets" not in notebook.metadata
    for cell in code_cells(notebook):
        assert "execution" not in cell.metadata, "execution times"
        assert not re.search(r"^\s*[!%].*\b(pip|conda|apt)\b", cell.source, re.MULTILINE)
        if not cell.source.lstrip().startswith("%"):
            compile(cell.source, path.name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        for output in cell.outputs:
            data = output.get("data", {})
            assert output.output_type != "error", cell.source
            assert not any(kind.startswith(WIDGET) for kind in data)
            # a bar leaves carriage returns and its blocks behind
            assert not re.search(r"\r|\d+%\||it/s\]", output.get("text", "")), "progress bar"
            assert "/home/" not in str(output), "a folder of somebody's machine"
    assert all(alt for _, alt in find_figures(notebook)), "a figure without alt text"


@each_notebook
def test_the_last_section_is_exercises_with_solutions_folded_away(path):
    told = [cell.source for cell in read_notebook(path).cells if cell.cell_type == "markdown"]
    heads = [line for text in told for line in re.findall(r"^##\s+(.*)", text, re.MULTILINE)]
    assert any(re.search("exercise|your turn", head, re.IGNORECASE) for head in heads[-3:]), heads
    assert any("<details" in text for text in told)


# the run on smoke


@pytest.fixture(scope="session")
def course(tmp_path_factory):
    """One run of the whole course, side by side, with artifacts of its own: stem -> its run.

    All tests of this file go to one worker (`--dist loadfile`), so it is run once.
    """
    folder = tmp_path_factory.mktemp("course")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(settings.RUNS_VARIABLE, str(folder / "runs"))
        ran = run_course("smoke", 0, out=folder / "out")
    return dict(zip(NAMES, ran.chapters, strict=True))


def of(course, number):
    """What a chapter recorded."""
    return next(run.records for name, run in course.items() if name.startswith(number))


@pytest.fixture
def records(course, request):
    """What the chapter recorded whose number the name of the test begins with."""
    return of(course, request.function.__name__[5:7])


VERDICTS = "holds|opposite|negligible|inconclusive|not enough seeds|not comparable".split("|")
SHARES = ("share", "accuracy", "calibration_error", "agreement_on")


@pytest.mark.notebooks
@each_notebook
def test_every_chapter_runs_on_smoke_and_records_shares_and_verdicts_that_are_some(course, path):
    run = course[path.stem]
    assert run.status == "ok", f"{run.cell}\n{run.error}"
    assert run.records, "a chapter leaves its results through record()"
    json.dumps(run.records, allow_nan=False)
    for name, value in run.records.items():
        if any(word in name for word in SHARES) and isinstance(value, float):
            assert 0 <= value <= 1, name
        if "verdict" in name:
            said = value.values() if isinstance(value, dict) else [value]
            assert all(v.startswith(tuple(VERDICTS)) for v in said), (name, value)


# chapter, what it worked out by hand, the library's, how far apart they may be
BY_HAND = (
    ("02", "sft_loss_by_hand", "sft_loss_trl", 1e-4),
    ("03", "bt_loss_by_hand", "bt_loss_trl", 1e-4),
    ("06", "dpo_loss_by_hand", "dpo_loss_trl", 1e-4),
    ("06", "ppo_loss_by_hand", "ppo_loss_library", 1e-4),
    # five standard errors of a difference of two shares of 2000 draws or more
    ("10", "hand_accuracy", "library_accuracy", 0.05),
    ("11", "objective_by_hand", "objective_of_library", 1e-4),
    # points of skill; by hand a curve is cut into steps
    ("11", "gap_at_equal_reward_by_hand", "gap_at_equal_reward_of_library", 0.05),
)
NEXT_TO_NOTHING = (
    ("01", "log_likelihood_gap", 1e-3),
    ("04", "hand_round_difference", 1e-6),
    ("06", "rloo_advantage_gap", 1e-3),
    ("06", "kl_estimator_gap", 1e-6),
    ("09", "by_hand_against_library_at_half", 1e-6),
    ("09", "by_hand_minus_library_forgetting", 0.5),
    # the vectors written out are the votes, counted twice and four times
    ("10", "outputs_count_shared_twice", 1e-9),
    ("10", "weights_count_shared_four_times", 1e-9),
    ("11", "softmax_ratios_against_hand", 1e-9),
)
TRUE = (
    ("00", "alpha_0_equals_theta_0"),
    ("09", "alpha_0_equals_theta_0"),
    ("09", "alpha_1_equals_theta"),
    ("09", "by_hand_equals_theta_0_at_0"),
    ("09", "by_hand_equals_theta_at_1"),
    ("09", "extrapolation_refused"),
)


@pytest.mark.notebooks
def test_what_is_worked_out_by_hand_is_the_librarys(course):
    for chapter, by_hand, library, tolerance in BY_HAND:
        records = of(course, chapter)
        assert records[by_hand] == pytest.approx(records[library], abs=tolerance), by_hand
    for chapter, name, tolerance in NEXT_TO_NOTHING:
        assert abs(of(course, chapter)[name]) < tolerance, name
    for chapter, name in TRUE:
        assert of(course, chapter)[name] is True, name


@pytest.mark.notebooks
def test_00_to_02_skills_rewards_and_losses_make_sense(course):
    records = of(course, "00")
    skill, reward = records["live_skill_by_alpha"], records["live_reward_by_alpha"]
    assert list(skill) == list(reward)
    assert [float(alpha) for alpha in skill][:: len(skill) - 1] == [0.0, 1.0]
    assert all(0 <= value <= 100 for value in skill.values())
    assert records["live_tax_points"] == pytest.approx(skill["1"] - skill["0"])
    assert records["recorded_seeds"] == recorded().seeds
    records = of(course, "01")
    scores, guessing = records["scores"], records["guessing"]
    assert len(guessing) == 7
    assert all(0 <= value <= 100 for value in (*scores.values(), *guessing.values()))
    assert set(guessing) < set(scores)
    families = [scores[name] for name in ("commonsense", "reading", "translation")]
    assert scores["skill"] == pytest.approx(sum(families) / 3)
    assert 0 <= records["slots_above_guessing"] <= 7
    records = of(course, "02")
    assert records["sft_loss_last"] < records["sft_loss_first"]
    assert 0 <= records["finished_theta_0"] <= 100


@pytest.mark.notebooks
def test_03_and_04_the_reward_model_can_be_trusted_and_fooled(course):
    records = of(course, "03")
    # people disagree with the gold order in some training pairs, not in most
    assert 0 < records["label_noise"] < 40
    assert -1 <= records["spearman_reward_gold"] <= 1
    assert all(0 <= share <= 1 for share in records["fooled_by"].values())
    # the bar of the course, on the recorded runs
    assert records["recorded_pair_accuracy"] >= 0.8
    records = of(course, "04")
    # of more replies the best is no worse
    assert records["best_of_n_gain"] > 0
    assert {"kl", "reward_gain", "gold_gain", "control_gain"} <= set(records)


@pytest.mark.notebooks
def test_05_the_tax_is_recorded_for_every_family(records):
    families = [records[f"tax_{name}"] for name in ("commonsense", "reading", "translation")]
    assert all(-100 <= tax <= 100 for tax in families)
    assert records["tax_skill"] == pytest.approx(sum(families) / 3)
    assert records["tax_low"] <= records["tax_high"]
    assert min(records["items_lost"] - records["items_forgotten"], records["items_won"]) >= 0


@pytest.mark.notebooks
def test_06_budgets_and_estimators(records):
    # of the three estimators only k1 is ever below zero
    assert records["k1_share_below_0"] > 0
    assert records["k3_lowest"] > -1e-9
    # 2 rounds of 16 prompts with 4 replies; PPO: 2 rounds of 2 iterations of 32
    assert records["replies_in_all"] == dict.fromkeys(("RSF", "DPO", "RLOO", "PPO"), 128)
    assert "rsf" in records["recorded_algorithms"]
    assert records["verdict_tax"]["tax.rsf.forgetting.shared"] in VERDICTS


@pytest.mark.notebooks
def test_07_each_penalty_by_hand_is_that_of_the_library(records):
    for kind in ("weight", "output"):
        by_hand = records[f"{kind}_penalties_by_hand"]
        library = records[f"{kind}_penalties_of_library"]
        assert library == pytest.approx(by_hand, rel=1e-4, abs=1e-7)
    assert records["weight_penalties_at_theta_0"] == [0, 0]
    assert records["output_penalties_at_theta_0"] == pytest.approx(0, abs=1e-9)
    assert records["pull_grows_by"] == pytest.approx({"sum": 1, "mean": 0.5})
    assert records["loop_against_library"] < 1e-3
    assert records["scale_against_the_papers_code"] < 1e-9
    assert records["slope_at_best_student"] < 1e-9
    # r (128 + 128) for four matrices of attention and r (128 + 256) for three of the MLP, 9 layers
    assert records["lora_by_hand"][0] == 9 * (4 * 256 + 3 * 384)
    assert records["lora_by_hand"] == records["lora_counted"]
    assert records["lora_starts_as_theta_0"] is True
    assert records["lora_forward"]["gap"] < 1e-3 * records["lora_forward"]["effect"]
    assert records["live_steps"] == [records["steps"]]
    assert records["ranks"]["LoRA"] <= records["lora_rank"] == 16
    assert records["way_left_after_averaging"] == pytest.approx([0.5] * 2, rel=1e-3)
    judged = records["verdict_averaging_is_ahead"]
    assert len(judged) <= len(records["recorded_remedies"])
    assert len(records["verdict_by_score_and_measure"]) == 4 * len(judged)


@pytest.mark.notebooks
def test_08_replay_averages_and_masks_by_hand_are_those_of_the_library(records):
    # two rounds of 16 prompts, 2 passes in batches of 16
    assert records["pool"]["replies"] <= 32
    assert records["pool"]["steps"] <= 4
    assert records["planted_item_refused"] is True
    assert records["reply_loss_by_hand"] == pytest.approx(records["reply_loss_library"], abs=1e-5)
    assert records["replay_loss_by_hand"] == pytest.approx(records["replay_loss_library"], abs=1e-5)
    # lambda / (1 + lambda), up to a document of at most 145 tokens
    for strength, share in records["replay_share_of_tokens"].items():
        assert share == pytest.approx(float(strength) / (1 + float(strength)), abs=0.05)
    assert records["moving_averages_against_hand"] < 1e-6
    assert records["watched_run_is_the_plain_run"] is True
    assert records["graft_mask_by_hand_agrees"] is True
    assert records["graft_density_realised"] == pytest.approx(0.2, abs=1e-5)
    kept = records["share_of_norm_kept"]
    assert kept["random"] == pytest.approx(0.2**0.5, abs=0.01)
    assert kept["largest"] > kept["random"]
    assert set(records["live_skill"]) >= {"distil", "replay", "replay_other", "sma", "graft"}
    there = set(records["recorded_methods"])
    assert there | {"early_stopping"} == set(records["verdict_averaging_is_ahead"])
    assert len(records["verdict_by_score_and_measure"]) == 4 * (len(there) + 1)
    # few tokens of text in the formats of tests count, so each that does weighs more
    weights = records["weight_of_a_token_that_counts"]
    assert weights["all formats"] > weights["no evaluated formats"] >= 1
    assert bool(records["verdict_formats"]) == ({"replay", "replay_other"} <= there)


@pytest.mark.notebooks
def test_09_the_front_and_its_ends(course, records):
    assert records["live_alphas"] == sorted(records["live_alphas"])
    assert len(records["live_alphas"]) == len(records["live_skill"]) == len(records["live_reward"])
    assert 0 < records["step_relative_to_theta_0"] < 1
    if (bend := records["recorded_verdict"].get("bend.rsf.skill")) is not None:
        assert bend in VERDICTS
    ends = of(course, "00")["live_skill_by_alpha"]
    # the same study, seen from two chapters
    assert records["live_skill"][0] == pytest.approx(ends["0"])
    assert records["live_skill"][-1] == pytest.approx(ends["1"])


@pytest.mark.notebooks
def test_10_averaged_weights_are_not_what_the_printed_formula_describes(records):
    outputs, weights = records["gain_of_outputs_by_overlap"], records["gain_of_weights_by_overlap"]
    assert outputs["0"] == weights["0"] > 10
    assert outputs["20"] == weights["20"] == 0
    # worked out from 200,000 draws: +7.6 and -0.7 points at half overlap
    assert outputs["10"] == pytest.approx(7.6, abs=2.5)
    assert weights["10"] == pytest.approx(-0.7, abs=2.5)
    assert records["verdict_same_labels_gain_more_outputs"] == "holds"
    assert records["verdict_printed_formula_averaged_weights"] == "opposite"
    assert records["verdict_limit_describes_n_20"] == "opposite"
    # ten statements, of which that on F_p is asked for few features and for many
    assert len(records["agreement_with_paper"]) == 11


@pytest.mark.notebooks
def test_11_ratios_by_hand_are_those_of_the_library(records):
    # sigmoids 0.8, 0.4, 0.4 at alpha 0.2: 0.1, 0.05, 0.05 as printed, 0.3, 0.15, 0.15 as meant
    assert records["mean_of_eq11_as_printed"] == pytest.approx(0.2 / 3)
    assert records["mean_of_eq11_as_meant"] == pytest.approx(0.2)
    assert sum(records["ratios_found"]) == pytest.approx(3 * 0.4)
    before, after = records["objective_before_and_after_one_pass"]
    assert before == pytest.approx(records["objective_equal"], abs=1e-5)
    assert after < before
    # no search ends above where it began: that point is among those it chooses from
    assert max(records["objective_by_search"].values()) <= records["objective_equal"] + 1e-6
    assert records["mean_ratio_as_printed"] == pytest.approx(0.2 / 3)
    assert records["mean_ratio_with_alpha_turned"] == pytest.approx(0.8)
    # 21 linear layers in a block of three, and Adam steps about as far each time
    assert 10 < records["score_moves_times_with_repeated_parameters"] < 40
    ahead = records["searches_ahead_of_averaging"]
    surely = records["searches_ahead_allowing_for_many_looks"]
    assert set(surely) <= set(ahead) <= set(records["verdict_searches_at_equal_reward"])
    assert set(records["agreement_with_paper"].values()) <= set(VERDICTS)
