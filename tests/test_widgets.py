"""The sliders say what they stand for, and cannot be moved to what makes no sense."""

from __future__ import annotations

from matplotlib.figure import Figure

from alignment_tax.figures.look import canvas, finish
from alignment_tax.merge.theory import FeatureModel
from alignment_tax.widgets import feature_sliders


def test_sliders_of_the_feature_model() -> None:
    seen: list[FeatureModel] = []

    def look(world: FeatureModel) -> tuple[str, Figure]:
        seen.append(world)
        return f"n < {world.features + 1}", finish(canvas((2, 2)), "A", "b", f"p {world.p:.2f}")

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
    assert 'alt="p 0.50"' in said.value
    # every corner is a world that exists
    for slider in sliders:
        for end in (slider.min, slider.max):
            slider.value = end
