"""The sliders say what they stand for, and cannot be moved to what makes no sense."""

from __future__ import annotations

import pandas as pd
import pytest
from matplotlib.figure import Figure

from alignment_tax.figures.style import finish, panels
from alignment_tax.widgets import alpha_slider


def drawn(**column: float) -> Figure:
    return finish(panels(size=(2, 2))[0], "A", "b", pd.DataFrame([column]))


def test_the_slider_of_alpha_shows_what_was_recorded_once() -> None:
    seen: list[float] = []

    def look(alpha: float) -> tuple[str, Figure]:
        seen.append(alpha)
        return f"{alpha:g} < 2", drawn(alpha=alpha)

    box = alpha_slider(look, (0.0, 0.5, 1.0), 0.5)
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
    with pytest.raises(ValueError, match="none of 0, 1"):
        alpha_slider(look, (0.0, 1.0), 0.3)
