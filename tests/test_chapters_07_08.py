"""Chapters 07 and 08: their exercises, right, wrong and undone, and the library beside them."""

import re

import numpy as np
import pytest
import torch

from alignment_tax import exercises, settings
from alignment_tax.mitigate.graft import largest_mask
from alignment_tax.mitigate.moving_average import Ema
from alignment_tax.mitigate.output_penalty import forward_kl
from alignment_tax.mitigate.weight_penalty import WeightPenalty
from alignment_tax.notebooks import read_notebook

CHAPTERS = {"07": "07_penalties_and_lora", "08": "08_replay_and_paths"}
EXERCISES = {
    "07": ["l2_penalty", "kl_divergence", "lora_forward", "best_student"],
    "08": ["documents_per_step", "ema", "largest", "alpha_of_the_largest"],
}
EACH = [(chapter, name) for chapter, names in EXERCISES.items() for name in names]


def sources(chapter, kind):
    notebook = read_notebook(settings.notebooks_folder() / f"{CHAPTERS[chapter]}.ipynb")
    return [cell.source for cell in notebook.cells if cell.cell_type == kind]


def solutions(chapter):
    """The folded solutions of a chapter, as code."""
    (text,) = re.findall(r"```python\n(.*?)```", sources(chapter, "markdown")[-1], re.DOTALL)
    return text


def told(capsys, chapter, name, answer=""):
    """What the check of an exercise says of its stub, or of an answer in the stub's place."""
    code = sources(chapter, "code")
    (place,) = [i for i, cell in enumerate(code) if re.match(rf"(def )?{name}\b", cell)]
    names = {"np": np, "torch": torch, "exercises": exercises, "forward_kl": forward_kl}
    names |= {"grafts": type("grafts", (), {"largest_mask": staticmethod(largest_mask)})}
    exec(f"{code[place]}\n{answer}\n{code[place + 1]}", names)
    return capsys.readouterr().out.splitlines()[0]


@pytest.mark.parametrize(("chapter", "name"), EACH)
def test_the_solutions_are_right_and_the_stubs_are_not(capsys, chapter, name):
    assert told(capsys, chapter, name, solutions(chapter)) == "right"
    undone = "still the colleague's" if name == "ema" else "not solved yet"
    assert undone in told(capsys, chapter, name)


ALL = "torch.cat([c.flatten() for c in changes])"
WRONG = [
    ("07", "l2_penalty", "changes, unit", "0.1 * sum(((c / unit) ** 2).sum() for c in changes)",
     "a sum"),
    ("07", "l2_penalty", "changes, unit",
     "0.1 * sum(((c / unit) ** 2).mean() for c in changes) / len(changes)", "mean of two means"),
    ("07", "l2_penalty", "changes, unit", f"0.1 * {ALL}.square().mean()", "in units before"),
    ("07", "l2_penalty", "changes, unit", f"({ALL} / unit).square().mean()", "the factor 0.1"),
    ("07", "l2_penalty", "changes, unit", f"0.1 * {ALL}.square().mean() / unit", "is squared, too"),
    ("07", "l2_penalty", "changes, unit", "0.1 * torch.cat(changes).mean()", "RuntimeError"),
    ("07", "l2_penalty", "changes, unit", "torch.tensor(0.5)", "the first case is right, but"),
    ("07", "kl_divergence", "p, q", "(q * (q / p).log()).sum(dim=-1)", "the average is over p"),
    ("07", "kl_divergence", "p, q", "(p * (q / p).log()).sum(dim=-1)", "the sign is turned"),
    ("07", "kl_divergence", "p, q", "(p * (p / q).log()).mean(dim=-1)", "take their sum"),
    ("07", "kl_divergence", "p, q", "(p * (p / q).log2()).sum(dim=-1)", "in bits"),
    ("07", "kl_divergence", "p, q", "(p * (p / q).log()).sum()", "one number a row"),
    ("07", "kl_divergence", "p, q", "torch.tensor([0.1438, 0])", "the first case is right, but"),
    ("07", "lora_forward", "x, W, A, B, c", "x @ W.T", "that is W alone"),
    ("07", "lora_forward", "x, W, A, B, c", "x @ W.T + x @ A.T @ B.T", "the factor c"),
    ("07", "lora_forward", "x, W, A, B, c", "c * x @ A.T @ B.T", "the change alone"),
    ("07", "lora_forward", "x, W, A, B, c", "x @ W + c * x @ A @ B", "RuntimeError"),
    ("07", "best_student", "y, p, lam", "lam * p + np.eye(3)[y]", "divide by 1 + λ"),
    ("07", "best_student", "y, p, lam", "(p + lam * np.eye(3)[y]) / (1 + lam)", "the wrong way"),
    ("07", "best_student", "y, p, lam", "[0.625, 0.225, 0.15]", "the first case is right, but"),
    ("08", "documents_per_step", "n, lengths, lam", "[2] * len(n)", "16 tokens for 10"),
    ("08", "documents_per_step", "n, lengths, lam", "[1] * len(n)", "stopped too early"),
    ("08", "documents_per_step", "n, lengths, lam", "[1, 1, 2]", "ANYTHING is owed"),
    ("08", "documents_per_step", "n, lengths, lam", "[2, 1, 1]", "the first case is right, but"),
    ("08", "ema", "theta_0, steps, d", "1.5", "it starts at 0"),
    ("08", "ema", "theta_0, steps, d", "6.0", "it starts at the first step"),
    ("08", "ema", "theta_0, steps, d", "3.75", "the first case is right, but"),
    ("08", "largest", "change, density", "change >= change.sort().values[-2]", "absolute values"),
    ("08", "largest", "change, density", "change.abs() >= 0.3", "that CHANGED"),
    ("08", "largest", "change, density", "change * (change.abs() >= 0.5)", "True and False"),
    ("08", "largest", "change, density", "change.abs() >= 0.5", "the first case is right, but"),
]  # fmt: skip


@pytest.mark.parametrize(("chapter", "name", "arguments", "body", "message"), WRONG)
def test_wrong_answers_are_told_apart(capsys, chapter, name, arguments, body, message):
    said = told(capsys, chapter, name, f"def {name}({arguments}):\n    return {body}")
    assert said.startswith("not yet")
    assert message in said


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ("144 / 169, 0.577", "SQUARED length"),
        ("12 / 19, 0.577", "sum of the changes"),
        ("12 / 13, 1 / 3", "take its root"),
        ("1 / 3, 0.577", "gives [0.923, 0.577]"),
    ],
)
def test_wrong_lengths_are_told_apart(capsys, numbers, message):
    answer = f"alpha_of_the_largest, alpha_at_random = {numbers}"
    assert message in told(capsys, "08", "alpha_of_the_largest", answer)


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
