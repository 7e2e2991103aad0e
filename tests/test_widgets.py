"""The sliders say what they stand for, and cannot be moved to what makes no sense."""

import functools

import pandas as pd
import pytest
from conftest import refuses
from hypothesis import given, strategies as st

from alignment_tax import widgets
from alignment_tax.figures.style import finish, panels
from alignment_tax.results.recorded import Recorded
from alignment_tax.widgets import Choice
from tests.points import figure_points


def test_the_slider_of_alpha_shows_what_was_recorded_once() -> None:
    seen = []

    def look(alpha):
        seen.append(alpha)
        table = pd.DataFrame([{"alpha": alpha}])
        return f"{alpha:g} < 2", finish(panels(size=(2, 2))[0], "A", "b", table)

    box = widgets.alpha_slider(look, (0.0, 0.5, 1.0), 0.5)
    slider, said = box.children
    # without a kernel the page shows how it stood
    assert "<p>0.5 &lt; 2</p>" in box._repr_mimebundle_()["text/html"]
    # what a screen reader says is alpha itself
    assert (slider.min, slider.max, slider.step, slider.value) == (0, 1, 0.5, 0.5)
    slider.value = 0.0
    assert "<p>0 &lt; 2</p>" in said.value
    assert 'alt="A (b). alpha 0."' in said.value
    slider.value = 0.5
    assert seen == [0.5, 0.0]
    refuses(ValueError, "none of 0, 1", widgets.alpha_slider, look, (0.0, 1.0), 0.3)


# --- the playground: two seeds; thirds of HMA (0.7, 0.5, 0.3) and, in seed 1, (0.8, 0.5, 0.2) -----
POINTS = figure_points(2, "ratios")
ROWS = widgets.playground_rows(POINTS)
METHODS = ("average", "early_stopping", "part", "hma")
SAID = (("base", None, "BASE"), ("sft", None, "LOW"), ("rsf", 0.4, "<MID>"), ("rsf", None, "HIGH"))
REPLIES = pd.DataFrame(SAID, columns=["algorithm", "alpha", "reply"]).assign(
    seed=0, method="none", slot="request", question="q", reward=1.0, gold=2.0
)


@functools.cache
def said(alpha=0.5, ratios=(0.5, 0.5, 0.5), methods=METHODS, seeds=(0, 1)) -> str:
    return widgets.look_around(ROWS, REPLIES, Choice(alpha, ratios, methods, seeds))


def test_the_rows_of_the_playground_have_the_thirds_that_their_names_say():
    def thirds(seed, method):
        return list(ROWS[(ROWS["seed"] == seed) & (ROWS["method"] == method)]["thirds"])

    assert thirds(0, "part") == [(0.5, 1.0, 1.0), (1.0, 0.5, 1.0), (1.0, 1.0, 0.5)]
    assert thirds(1, "hma") == [pytest.approx((0.8, 0.5, 0.2))]
    assert thirds(0, "average") == [(0.0,) * 3, (0.5,) * 3, (1.0,) * 3]
    # no thirds: the head alone, six and nine ratios, a search that is not shown
    assert set(ROWS["method"]) == set(METHODS)
    assert "head" not in set(ROWS["part"])


@given(st.tuples(*[st.integers(0, 10)] * 3))
def test_the_nearest_is_recorded_and_none_is_nearer(tenths):
    asked = tuple(each / 10 for each in tenths)
    own = widgets.nearest(ROWS, asked)

    def far(thirds):
        return sum((a - b) ** 2 for a, b in zip(thirds, asked, strict=True))

    there = [far(each) for each in ROWS["thirds"].dropna()]
    assert {round(far(each), 9) for each in own["thirds"]} == {round(min(there), 9)}
    assert own["method"].nunique() == 1
    assert not own["seed"].duplicated().any()


def test_what_is_said_are_means_over_the_seeds_that_are_on_and_replies_of_the_nearest_alpha():
    # by hand: the average at 0.5 gains 3 in each seed, at 75 and 77
    assert "At α = 0.5: reward gained +3.00, skill with format forgiven 76.0 %, seeds 0-1" in said()
    assert "forgiven 77.0 %, seed 1." in said(seeds=(1,))
    assert "Thirds 0.5 | 0.5 | 0.5 are recorded (averaging the weights, seeds 0-1)" in said()
    near = "are not recorded: the nearest are 0.8 | 0.5 | 0.2 (HMA with three ratios, seed 1)"
    assert near in said(ratios=(0.8, 0.6, 0.2))
    assert "no plain average is on" in said(alpha=0.3)
    assert "Nothing is on" in said(methods=())
    assert "No mixture of thirds is on" in said(methods=("early_stopping",))
    for alpha, reply in ((0.1, "LOW"), (0.5, "&lt;MID&gt;"), (1.0, "HIGH")):
        assert f"<td>{reply}</td>" in said(alpha)
        assert "BASE" not in said(alpha)
    assert "recorded at 0, 0.4, 1" in said()
    assert "No replies are recorded of these seeds" in said(seeds=(1,))


def test_a_slider_its_number_box_and_the_switches_move_what_is_said():
    run = Recorded(POINTS, pd.DataFrame(), pd.DataFrame(), {}, replies=REPLIES)
    box = widgets.playground(run, Choice(0.5, (0.5, 0.5, 0.5), METHODS, (0, 1)))
    *dials, methods, seeds, shown = box.children
    places = ("whole model", "input third", "middle third", "output third")
    named = [dial.children[0].description for dial in dials]
    assert named == [f"α of the {each}" for each in places]
    dials[0].children[0].value = 1.0
    assert dials[0].children[1].value == 1.0
    assert "At α = 1:" in shown.value
    dials[1].children[1].value = 0.7
    assert "Thirds 0.7 | 0.5 | 0.5" in shown.value
    seeds.children[0].value = False
    assert "seed 1." in shown.value
    for each in methods.children:
        each.value = False
    assert "Nothing is on" in shown.value


def test_a_request_is_answered_when_it_is_typed_and_again():
    asked = []
    box = widgets.request_box(lambda text: asked.append(text) or f"<p>{text}</p>", "one")
    line, shown = box.children
    line.children[0].value = "two"
    line.children[1].click()
    assert (asked, shown.value) == (["one", "two", "two"], "<p>two</p>")
