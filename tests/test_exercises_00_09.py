"""The checks of exercises in chapters 00 and 09: a message for every wrong answer."""

import numpy as np
import pytest
import torch

from alignment_tax import settings
from alignment_tax.notebooks import read_notebook

SHARE = "share = lambda start, end, here: "
AVERAGE = "my_average = lambda a, b, x: {{n: {} for n in a}}"
OFFER = "my_offer = lambda r, s, w: "
INTO = "average_into = lambda s, e, x: "


@pytest.mark.parametrize(
    ("chapter", "check", "answer", "said"),
    [
        ("00", "check-share", SHARE + "100 * (here - start) / (end - start)", "Right"),
        ("00", "check-share", SHARE + "None", "Not solved yet"),
        ("00", "check-share", SHARE + "25", "Not yet: from 2 to 6"),
        ("00", "check-share", SHARE + "100 * (here - start) / start", "Not yet: a share of the w"),
        ("00", "check-interval", "interval_by_hand = lambda losses: None", "Not solved yet"),
        ("00", "check-interval", "interval_by_hand = lambda losses: (1.516, 6.484)", "Right for 3"),
        ("00", "check-change", "change_in_points, change_in_percent = -18, -45", "Right"),
        ("00", "check-change", "change_in_points, change_in_percent = -18, -81.8", "You divided"),
        ("09", "check-average", AVERAGE.format("(1 - x) * a[n] + x * b[n]"), "Right"),
        ("09", "check-average", AVERAGE.format("x * a[n] + (1 - x) * b[n]"), "That is 0.75 * 6"),
        ("09", "check-average", AVERAGE.format("a[n] + x * (b[n] - a[n])"), "Right in between"),
        ("09", "check-average", AVERAGE.format("a[n].lerp_(b[n], x)"), "One of the two models"),
        ("09", "check-average", AVERAGE.format("(a[n] + b[n]) / 2"), "Not the average"),
        ("09", "check-average", "my_average = lambda a, b, x: None", "Not solved yet"),
        ("09", "check-offer", OFFER + "s[r >= w].max()", "Right"),
        ("09", "check-offer", OFFER + "s[r > w].max()", "Exactly the wanted"),
        ("09", "check-offer", OFFER + "s[np.argmax(r >= w)]", "Reward may fall"),
        ("09", "check-offer", OFFER + "np.interp(w, r, s)", "That is a straight line"),
        ("09", "check-offer", OFFER + "88.0", "Not yet"),
        ("09", "check-offer", OFFER + "None", "Not solved yet"),
        ("09", "check-into", INTO + "s.lerp_(e, x)", "Right"),
        ("09", "check-into", INTO + "s.add_(x * (e - s))", "Not exact at alpha 1"),
        ("09", "check-into", INTO + "None", "Not solved yet"),
        ("09", "check-colleague", "repaired_average = lambda a, b, x: None", "Not solved yet"),
    ],
)
def test_an_answer_is_told_what_it_is(chapter, check, answer, said, capsys):
    [path] = settings.notebooks_folder().glob(f"{chapter}_*.ipynb")
    sources = {cell.get("id"): cell.source for cell in read_notebook(path).cells}
    exec(f"{answer}\n{sources[check]}", {"np": np, "torch": torch})
    assert capsys.readouterr().out.startswith(said)
