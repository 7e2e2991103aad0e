"""What is moved by hand: sliders beside the static figures, never the only place of a result."""

from __future__ import annotations

import base64
import functools
import html
from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets
import pandas as pd
from matplotlib.figure import Figure

from alignment_tax.figures.style import alt_text, png


class Pictured(ipywidgets.VBox):
    """Widgets that are shown as they stand where no kernel runs: on a page, in a kept output."""

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        bundle: dict[str, Any] = super()._repr_mimebundle_(**kwargs)
        said = [child.value for child in self.children if isinstance(child, ipywidgets.HTML)]
        return bundle | {"text/html": "".join(said)}


def alpha_slider(
    look: Callable[[float], tuple[str, Figure]],
    alphas: Sequence[float],
    start: float,
    sample: Callable[[float], pd.DataFrame] | None = None,
) -> Pictured:
    """Return a slider over the alphas that were recorded, and what `look` says of each, once.

    Args:
        look: takes an alpha, returns a sentence and a figure, both from recorded points.
        alphas, start: what can be chosen, and what of it is shown first (ValueError: none of it).
        sample: takes an alpha, makes the model and returns a table of its replies. It is called
            when its button is pressed (Tab, then Space), and never by moving the slider.
    """
    if start not in alphas:
        raise ValueError(f"alpha {start} is none of {', '.join(f'{a:g}' for a in alphas)}.")
    slider = ipywidgets.SelectionSlider(
        options=[(f"{alpha:g}", alpha) for alpha in alphas],
        value=start,
        description="α: weight of the aligned model",
        continuous_update=False,
        style={"description_width": "16em"},
        layout=ipywidgets.Layout(width="40em"),
    )
    said, replies = ipywidgets.HTML(), ipywidgets.HTML()
    shown = functools.cache(lambda alpha: page(*look(alpha)))

    def refresh(_: object = None) -> None:
        said.value = shown(slider.value)
        replies.value = ""  # they were of another alpha

    slider.observe(refresh, "value")
    refresh()
    if sample is None:
        return Pictured([slider, said])
    button = ipywidgets.Button(
        description="Sample replies at this α",
        tooltip="Averages the weights and samples from the model",
        layout=ipywidgets.Layout(width="16em"),
    )

    def press(_: object) -> None:
        alpha = slider.value
        button.disabled = True
        try:
            with pd.option_context("display.max_colwidth", None):
                table = sample(alpha).to_html(index=False, escape=True)
            replies.value = f"<p>Sampled now, at α = {alpha:g}:</p>{table}"
        except Exception as error:  # a callback's error would be seen nowhere
            replies.value = f"<p>Nothing was sampled: {html.escape(str(error))}</p>"
        finally:
            button.disabled = False

    button.on_click(press)
    return Pictured([slider, said, button, replies])


def page(text: str, figure: Figure) -> str:
    """Return a sentence and a figure with its alt text as HTML."""
    data = base64.b64encode(png(figure)).decode("ascii")
    alt = html.escape(alt_text(figure))
    return (
        f'<p>{html.escape(text)}</p><img alt="{alt}" style="max-width: 100%; max-height: 65vh" '
        f'src="data:image/png;base64,{data}">'
    )
