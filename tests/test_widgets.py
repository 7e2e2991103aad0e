"""The sliders say what they stand for, and cannot be moved to what makes no sense."""

from __future__ import annotations

import pandas as pd
import pytest
from matplotlib.figure import Figure

from alignment_tax.figures.style import finish, panels
from alignment_tax.merge.theory import FeatureModel
from alignment_tax.widgets import alpha_slider, feature_sliders


def drawn(**column: float) -> Figure:
    return finish(panels(size=(2, 2))[0], "A", "b", pd.DataFrame([column]))


def test_sliders_of_the_feature_model() -> None:
    seen: list[FeatureModel] = []

    def look(world: FeatureModel) -> tuple[str, Figure]:
        seen.append(world)
        return f"n < {world.features + 1}", drawn(p=world.p)

    box = feature_sliders(look, FeatureModel(features=20, shared=15))
    assert seen == [FeatureModel(features=20, shared=15)]
    n, shared, classes, p, said = box.children
    sliders = (n, shared, classes, p)
    assert all(slider.description and slider.readout for slider in sliders)
    # fewer features than were shared: the overlap follows
    n.value = 8
    assert shared.max == shared.value == 8
    classes.value, p.value = 3, 0.5
    assert seen[-1] == FeatureModel(features=8, shared=8, classes=3, p=0.5)
    # the sentence as text, the figure with its alt text
    assert "<p>n &lt; 9</p>" in said.value
    assert 'alt="A (b). p 0.5."' in said.value
    # every corner is a world that exists
    for slider in sliders:
        for end in (slider.min, slider.max):
            slider.value = end


def test_the_slider_of_alpha_shows_what_was_recorded_and_samples_only_when_asked() -> None:
    seen: list[float] = []
    sampled: list[float] = []

    def look(alpha: float) -> tuple[str, Figure]:
        seen.append(alpha)
        return f"{alpha:g} < 2", drawn(alpha=alpha)

    def sample(alpha: float) -> pd.DataFrame:
        sampled.append(alpha)
        if alpha == 1:
            raise RuntimeError("no model")
        return pd.DataFrame({"reply": ["<b>hello</b>"]})

    box = alpha_slider(look, (0.0, 0.5, 1.0), 0.5, sample)
    slider, said, button, replies = box.children
    # without a kernel the page shows how it stood
    assert "<p>0.5 &lt; 2</p>" in box._repr_mimebundle_()["text/html"]
    assert seen == [0.5]
    assert [label for label, _ in slider.options] == ["0", "0.5", "1"]
    slider.value = 0.0
    assert "<p>0 &lt; 2</p>" in said.value
    assert 'alt="A (b). alpha 0."' in said.value
    # what was seen is kept, and moving makes no model
    slider.value = 0.5
    assert seen == [0.5, 0.0]
    assert sampled == []
    button.click()
    assert sampled == [0.5]
    assert "α = 0.5" in replies.value
    assert "&lt;b&gt;hello" in replies.value
    # replies of another alpha do not stay under the new one
    slider.value = 1.0
    assert replies.value == ""
    button.click()
    assert "Nothing was sampled: no model" in replies.value
    assert not button.disabled
    assert len(alpha_slider(look, (0.0, 1.0), 0.0).children) == 2
    with pytest.raises(ValueError, match="none of 0, 1"):
        alpha_slider(look, (0.0, 1.0), 0.3)
