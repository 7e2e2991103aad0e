"""What is moved by hand: a slider beside the static figures, never the only place of a result."""

from __future__ import annotations

import base64
import functools
import html
from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets
from matplotlib.figure import Figure

from alignment_tax.figures.style import alt_text, png


class Pictured(ipywidgets.VBox):
    """Widgets that are shown as they stand where no kernel runs: on a page, in a kept output."""

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        bundle: dict[str, Any] = super()._repr_mimebundle_(**kwargs)
        said = [child.value for child in self.children if isinstance(child, ipywidgets.HTML)]
        return bundle | {"text/html": "".join(said)}


def alpha_slider(
    look: Callable[[float], tuple[str, Figure]], alphas: Sequence[float], start: float
) -> Pictured:
    """Return a slider over the alphas that were recorded, and what `look` says of each, once.

    Args:
        look: takes an alpha, returns a sentence and a figure, both from recorded points.
        alphas, start: what can be chosen, and what of it is shown first (ValueError: none of it).
    """
    if start not in alphas:
        raise ValueError(f"alpha {start} is none of {', '.join(f'{a:g}' for a in alphas)}.")
    # of numbers, not of choices: a screen reader is told alpha, and not the place of a choice
    slider = ipywidgets.FloatSlider(
        value=start,
        min=min(alphas),
        max=max(alphas),
        step=(max(alphas) - min(alphas)) / max(1, len(alphas) - 1),
        readout_format=".2f",
        description="α: weight of the aligned model",
        continuous_update=False,
        style={"description_width": "16em"},
        layout=ipywidgets.Layout(width="40em"),
    )
    said = ipywidgets.HTML()
    shown = functools.cache(lambda alpha: page(*look(alpha)))

    def refresh(_: object = None) -> None:
        said.value = shown(min(alphas, key=lambda alpha: abs(alpha - slider.value)))

    slider.observe(refresh, "value")
    refresh()
    return Pictured([slider, said])


def page(text: str, figure: Figure) -> str:
    """Return a sentence and a figure with its alt text as HTML."""
    data = base64.b64encode(png(figure)).decode("ascii")
    alt = html.escape(alt_text(figure))
    return (
        f'<p>{html.escape(text)}</p><img alt="{alt}" style="max-width: 100%; max-height: 65vh" '
        f'src="data:image/png;base64,{data}">'
    )
