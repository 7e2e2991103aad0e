"""The exercises of chapters 00 and 07 to 11: solutions are right, every wrong answer is told so."""

import re

import numpy as np
import pytest
import torch

from alignment_tax import exercises, settings
from alignment_tax.merge import theory
from alignment_tax.mitigate.graft import largest_mask
from alignment_tax.mitigate.moving_average import Ema
from alignment_tax.mitigate.output_penalty import forward_kl
from alignment_tax.mitigate.weight_penalty import WeightPenalty
from alignment_tax.notebooks import read_notebook

#: A function that a reader writes: chapter, the cell that checks it, its arguments here.
FUNCTIONS = {
    "share": ("00", "check-share", "start, end, here"),
    "interval_by_hand": ("00", "check-interval", "losses"),
    "l2_penalty": ("07", "cell-09", "changes, unit"),
    "kl_divergence": ("07", "cell-15", "p, q"),
    "lora_forward": ("07", "cell-21", "x, W, A, B, c"),
    "best_student": ("07", "cell-35", "y, p, lam"),
    "documents_per_step": ("08", "cell-09", "n, lengths, lam"),
    "ema": ("08", "cell-15", "theta_0, steps, d"),
    "largest": ("08", "cell-19", "change, density"),
    "my_average": ("09", "check-average", "a, b, x"),
    "my_offer": ("09", "check-offer", "r, s, w"),
    "average_into": ("09", "check-into", "s, e, x"),
    "repaired_average": ("09", "check-colleague", "a, b, x"),
    "my_bend": ("10", "cell-07", "alphas, values"),
    "my_counts": ("10", "cell-24", "alpha"),
    "my_ratios": ("11", "cell-12", "scores, alpha"),
    "project_by_hand": ("11", "cell-29", "raw, alpha"),
    "my_alpha": ("14", "check-alpha", "alphas, reward, skill"),
    "items_needed": ("14", "check-items", "half, items, wanted"),
}
#: The cells that check numbers.
NUMBERS = {"08": ["cell-31"], "10": ["cell-32"], "11": ["cell-20"]}
SOLVED = [
    (chapter, check) for chapter, check, _ in FUNCTIONS.values() if chapter not in ("00", "09")
]
SOLVED += [(chapter, check) for chapter, checks in NUMBERS.items() for check in checks]


def cells(chapter, kind):
    [path] = settings.notebooks_folder().glob(f"{chapter}_*.ipynb")
    return [cell for cell in read_notebook(path).cells if cell.cell_type == kind]


def solutions(chapter):
    """The folded solutions of a chapter, as code."""
    folded = [cell.source for cell in cells(chapter, "markdown") if "<details>" in cell.source]
    return "\n".join(re.findall(r"```python\n(.*?)```", "\n".join(folded), re.DOTALL))


@pytest.fixture
def told(capsys):
    """What the check of a chapter says, first, of its stub or of an answer in its place."""

    def told(chapter, check, answer=""):
        code = cells(chapter, "code")
        (place,) = [i for i, cell in enumerate(code) if cell.id == check]
        names = {"np": np, "torch": torch, "exercises": exercises, "forward_kl": forward_kl}
        names |= {"theory": theory, "FeatureModel": theory.FeatureModel}
        names |= {"grafts": type("grafts", (), {"largest_mask": staticmethod(largest_mask)})}
        exec(f"{code[place - 1].source}\n{answer}\n{code[place].source}", names)
        return capsys.readouterr().out.splitlines()[0]

    return told


@pytest.mark.parametrize(("chapter", "check"), SOLVED)
def test_the_solutions_are_right_and_the_stubs_are_not(told, chapter, check):
    assert told(chapter, check, solutions(chapter)).startswith("right")
    assert re.search("not solved yet|still the colleague's", told(chapter, check))


ALL = "torch.cat([c.flatten() for c in changes])"
SOFTMAX = "torch.softmax(scores, dim=0)"
LINE = "np.interp(alphas, [alphas[0], alphas[-1]], [values[0], values[-1]])"
ANSWERS = [
    ("share", "100 * (here - start) / (end - start)", "Right"),
    ("share", "None", "Not solved yet"),
    ("share", "25", "Not yet: from 2 to 6"),
    ("share", "100 * (here - start) / start", "Not yet: a share of the w"),
    ("interval_by_hand", "None", "Not solved yet"),
    ("interval_by_hand", "(1.516, 6.484)", "Right for 3"),
    ("my_average", "{n: (1 - x) * a[n] + x * b[n] for n in a}", "Right"),
    ("my_average", "{n: x * a[n] + (1 - x) * b[n] for n in a}", "That is 0.75 * 6"),
    ("my_average", "{n: a[n] + x * (b[n] - a[n]) for n in a}", "Right in between"),
    ("my_average", "{n: a[n].lerp_(b[n], x) for n in a}", "One of the two models"),
    ("my_average", "{n: (a[n] + b[n]) / 2 for n in a}", "Not the average"),
    ("my_average", "None", "Not solved yet"),
    ("my_offer", "s[r >= w].max()", "Right"),
    ("my_offer", "s[r > w].max()", "Exactly the wanted"),
    ("my_offer", "s[np.argmax(r >= w)]", "Reward may fall"),
    ("my_offer", "np.interp(w, r, s)", "That is a straight line"),
    ("my_offer", "88.0", "Not yet"),
    ("my_offer", "None", "Not solved yet"),
    ("average_into", "s.lerp_(e, x)", "Right"),
    ("average_into", "s.add_(x * (e - s))", "Not exact at alpha 1"),
    ("average_into", "None", "Not solved yet"),
    ("repaired_average", "None", "Not solved yet"),
    ("my_alpha", "alphas[np.argmax(reward)]", "that has the most reward"),
    ("my_alpha", "alphas[np.argmax(reward + skill - skill[0])]", "compare shares"),
    ("my_alpha", "0.4", "the first case is right, but"),
    ("my_alpha", "alphas[np.argmax(reward / 4 - (90 - skill) / 20)]", "the first case is right"),
    ("items_needed", "items * half / wanted", "with the root"),
    ("items_needed", "items / (half / wanted) ** 2", "fewer items"),
    ("l2_penalty", "0.1 * sum(((c / unit) ** 2).sum() for c in changes)", "a sum"),
    ("l2_penalty", "0.1 * sum(((c / unit) ** 2).mean() for c in changes) / 2", "of two means"),
    ("l2_penalty", f"0.1 * {ALL}.square().mean()", "in units before"),
    ("l2_penalty", f"({ALL} / unit).square().mean()", "the factor 0.1"),
    ("l2_penalty", f"0.1 * {ALL}.square().mean() / unit", "is squared, too"),
    ("l2_penalty", "0.1 * torch.cat(changes).mean()", "RuntimeError"),
    ("l2_penalty", "torch.tensor(0.5)", "the first case is right, but"),
    ("kl_divergence", "(q * (q / p).log()).sum(dim=-1)", "the average is over p"),
    ("kl_divergence", "(p * (q / p).log()).sum(dim=-1)", "the sign is turned"),
    ("kl_divergence", "(p * (p / q).log()).mean(dim=-1)", "take their sum"),
    ("kl_divergence", "(p * (p / q).log2()).sum(dim=-1)", "in bits"),
    ("kl_divergence", "(p * (p / q).log()).sum()", "one number a row"),
    ("kl_divergence", "torch.tensor([0.1438, 0])", "the first case is right, but"),
    ("lora_forward", "x @ W.T", "that is W alone"),
    ("lora_forward", "x @ W.T + x @ A.T @ B.T", "the factor c"),
    ("lora_forward", "c * x @ A.T @ B.T", "the change alone"),
    ("lora_forward", "x @ W + c * x @ A @ B", "RuntimeError"),
    ("best_student", "lam * p + np.eye(3)[y]", "divide by 1 + λ"),
    ("best_student", "(p + lam * np.eye(3)[y]) / (1 + lam)", "the wrong way"),
    ("best_student", "[0.625, 0.225, 0.15]", "the first case is right, but"),
    ("documents_per_step", "[2] * len(n)", "16 tokens for 10"),
    ("documents_per_step", "[1] * len(n)", "stopped too early"),
    ("documents_per_step", "[1, 1, 2]", "ANYTHING is owed"),
    ("documents_per_step", "[2, 1, 1]", "the first case is right, but"),
    ("ema", "1.5", "it starts at 0"),
    ("ema", "6.0", "it starts at the first step"),
    ("ema", "3.75", "the first case is right, but"),
    ("largest", "change >= change.sort().values[-2]", "absolute values"),
    ("largest", "change.abs() >= 0.3", "that CHANGED"),
    ("largest", "change * (change.abs() >= 0.5)", "True and False"),
    ("largest", "change.abs() >= 0.5", "the first case is right, but"),
    ("my_ratios", f"alpha * {SOFTMAX}", "these SUM to alpha"),
    ("my_ratios", f"alpha * {SOFTMAX} / {SOFTMAX}.max()", "now the largest ratio is alpha"),
    ("my_ratios", SOFTMAX, "their mean is 0.333"),
    ("my_ratios", f"3 * alpha * {SOFTMAX}", "right for three blocks, wrong for two"),
    ("my_ratios", "torch.full((len(scores),), alpha)", "now the largest ratio is alpha"),
    ("my_ratios", "torch.tensor([0.3, 0.2, 0.1])", "the mean is right; the proportions"),
    ("my_ratios", f"len(scores) * alpha * {SOFTMAX}.detach()", "the numbers are right, but"),
    ("my_ratios", "np.array([0.48, 0.06, 0.06])", "a tensor of three"),
    ("my_ratios", "0.2", "a tensor of three"),
    ("my_bend", f"(values - {LINE}).mean()", "at the ends curve and line agree"),
    ("my_bend", f"({LINE} - values)[1:-1].mean()", "above the line is positive"),
    ("my_bend", "(values - np.linspace(*values[[0, -1]], len(values)))[1:-1].mean()", "right w"),
    ("my_bend", "3", "right for the first curve"),
    ("my_bend", f"values - {LINE}", "one number is asked for"),
    ("my_bend", "values.mean()", "6.0 is not it"),
    ("my_counts", "1 - alpha, 1, alpha", "these are averaged outputs"),
    ("my_counts", "alpha**2, 1, (1 - alpha) ** 2", "alpha is the wrong way round"),
    ("my_counts", "(1 - alpha) ** 2, (1 - alpha) ** 2 + alpha**2, alpha**2", "a shared feature"),
    ("my_counts", "0.64, 1, 0.04", "at alpha 0.2 that is it, but not at 0.6"),
    ("my_counts", "1, 4, 1", "(1, 4, 1) is not it"),
    ("my_counts", "0.5", "three numbers are asked for"),
]


@pytest.mark.parametrize(("name", "body", "said"), ANSWERS)
def test_an_answer_is_told_what_it_is(told, name, body, said):
    chapter, check, arguments = FUNCTIONS[name]
    first = told(chapter, check, f"def {name}({arguments}):\n    return {body}")
    assert said in first
    assert first != "right"


@pytest.mark.parametrize(
    ("chapter", "check", "numbers", "said"),
    [
        ("00", "check-change", "change_in_points, change_in_percent = -18, -45", "Right"),
        ("00", "check-change", "change_in_points, change_in_percent = -18, -81.8", "You divided"),
        ("08", "cell-31", "alpha_of_the_largest, alpha_at_random = 144 / 169, 0.577", "SQUARED"),
        ("08", "cell-31", "alpha_of_the_largest, alpha_at_random = 12 / 19, 0.577", "sum of the"),
        ("08", "cell-31", "alpha_of_the_largest, alpha_at_random = 12 / 13, 1 / 3", "its root"),
        ("08", "cell-31", "alpha_of_the_largest, alpha_at_random = 1 / 3, 0.577", "gives [0.923"),
    ],
)
def test_numbers_are_told_what_they_are(told, chapter, check, numbers, said):
    assert said in told(chapter, check, numbers)


WRONG = ["None", "np.array([1.0, 0.2])", "1.0", "np.full(len(raw), alpha)", "raw", "0 * raw"]
NEVER_SCALED = """
    ratios = len(raw) * alpha * raw
    while (ratios > 1 + 1e-12).any():
        full = ratios >= 1
        over = (ratios[full] - 1).sum()
        ratios[full] = 1
        if not full.all():
            ratios[~full] *= 1 + over / ratios[~full].sum()
    return ratios
"""
THREE_PASSES = """
    full = np.zeros(len(raw), dtype=bool)
    for _ in range(3):
        ratios = np.where(full, 1.0, raw * (len(raw) * alpha - full.sum()) / raw[~full].sum())
        full |= ratios > 1
    return ratios
"""
FIRST_ALONE = "\n    return np.array([1.0, 0.1, 0.1]) if raw[0] == 0.9 else "


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (NEVER_SCALED, "^wrong where nothing exceeds 1"),
        (THREE_PASSES, "^stops too early"),
        # everywhere, and only where the first example is right
        *((f" return {answer}", "^(?!right$).") for answer in WRONG),
        *((FIRST_ALONE + answer, "^(?!right$).") for answer in WRONG),
    ],
)
def test_a_wrong_projection_is_told_so(told, body, said):
    assert re.search(said, told("11", "cell-29", f"def project_by_hand(raw, alpha):{body}"))


def test_the_solutions_are_what_the_library_does():
    names = {"torch": torch}
    exec(f"{solutions('07')}\n{solutions('08')}", names)
    torch.manual_seed(0)
    before, after = torch.nn.Linear(4, 3), torch.nn.Linear(4, 3)
    changes = [p - q for p, q in zip(after.parameters(), before.parameters(), strict=True)]
    loss = WeightPenalty(before, 1.0, 2, 0.01).loss(after, {}, None)
    torch.testing.assert_close(names["l2_penalty"](changes, 0.01), loss)
    p, q = torch.softmax(torch.randn(2, 5, 7), dim=-1)
    torch.testing.assert_close(names["kl_divergence"](p, q), forward_kl(p.log(), q.log()))
    change = changes[0].detach().flatten()
    theirs = largest_mask({"w": 0 * change}, {"w": change}, 0.3)["w"]
    assert torch.equal(names["largest"](change, 0.3), theirs)
    average, walk = Ema(before, 0.9), [torch.randn(3, 4) for _ in range(5)]
    start = before.weight.detach().clone()
    for step, weights in enumerate(walk, start=1):
        before.weight.data.copy_(weights)
        average.after_step(before, step)
    ours = names["ema"](start, walk, 0.9)
    torch.testing.assert_close(ours, average.weights()["weight"].detach().float())
