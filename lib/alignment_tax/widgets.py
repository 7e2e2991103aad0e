"""What is moved by hand: a slider beside the static figures, never the only place of a result."""

import base64
import functools
import html
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ipywidgets
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from alignment_tax.figures.ratios import CLOUD, PARTS, cloud
from alignment_tax.figures.style import alt_text, png, run_caption
from alignment_tax.labels import AXIS_NAMES, FAMILIES, number, seeds_text
from alignment_tax.results.points import prepare, with_rsf
from alignment_tax.results.recorded import Recorded
from alignment_tax.spec import AVERAGE, PART, Spec, block_count, ratios_in

#: What is said of a model, reward as a gain over theta_0.
SCORES = ["reward", "gold", "forgetting", "skill", *FAMILIES]


class Pictured(ipywidgets.VBox):
    """Widgets that are shown as they stand where no kernel runs: on a page, in a kept output."""

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        bundle: dict[str, Any] = super()._repr_mimebundle_(**kwargs)
        said = [child.value for child in self.children if isinstance(child, ipywidgets.HTML)]
        return bundle | {"text/html": "".join(said)}


def _live(controls: Iterable[Any], answer: Callable[[], str]) -> ipywidgets.HTML:
    """Return what `answer` says, as HTML, again whenever a control is moved or pressed."""
    said = ipywidgets.HTML(answer())

    def refresh(_: object) -> None:
        said.value = answer()

    for each in controls:
        if isinstance(each, ipywidgets.Button):
            each.on_click(refresh)
        else:
            each.observe(refresh, "value")
    return said


def alpha_slider(
    look: Callable[[float], tuple[str, Figure]], alphas: Sequence[float], start: float
) -> Pictured:
    """Return a slider over alphas that shows `look`'s sentence and figure (ValueError: start)."""
    if start not in alphas:
        raise ValueError(f"alpha {start} is none of {', '.join(f'{a:g}' for a in alphas)}.")
    # of numbers, not of choices: a screen reader is told alpha, and not the place of a choice
    slider = ipywidgets.FloatSlider(
        value=start, min=min(alphas), max=max(alphas), readout_format=".2f",
        step=(max(alphas) - min(alphas)) / max(1, len(alphas) - 1),
        description="α: weight of the aligned model", continuous_update=False,
        style={"description_width": "16em"}, layout=ipywidgets.Layout(width="40em"),
    )  # fmt: skip
    shown = functools.cache(lambda alpha: page(*look(alpha)))

    def answer() -> str:
        return shown(min(alphas, key=lambda alpha: abs(alpha - slider.value)))

    return Pictured([slider, _live([slider], answer)])


def page(text: str, figure: Figure) -> str:
    """Return a sentence and a figure with its alt text as HTML."""
    data, alt = base64.b64encode(png(figure)).decode("ascii"), html.escape(alt_text(figure))
    shown = f'style="max-width: 100%; max-height: 65vh" src="data:image/png;base64,{data}"'
    return f'<p>{html.escape(text)}</p><img alt="{alt}" {shown}>'


@dataclass(frozen=True)
class Choice:
    """What the playground is asked for: two mixtures, and which methods and seeds are on."""

    alpha: float
    ratios: tuple[float, ...]  # of the input, the middle and the output third, by `PARTS`
    methods: tuple[str, ...]
    seeds: tuple[int, ...]


def third_ratios(row: Mapping[Any, Any]) -> tuple[float, ...] | None:
    """Return the aligned model's weight in each third of a mixture (None: it has no thirds)."""
    if row["method"] == AVERAGE:
        return (float(row["alpha"]),) * len(PARTS)
    if row["method"] == PART and row["part"] in PARTS:  # the other parts are the aligned model's
        return tuple(float(row["alpha"]) if part == row["part"] else 1.0 for part in PARTS)
    return ratios_in(Spec.of_row(row))[0] if block_count(row["part"]) == len(PARTS) else None


def playground_rows(points: pd.DataFrame) -> pd.DataFrame:
    """Return RSF's models of `CLOUD`, reward as a gain, the ratios of their thirds beside them."""
    rows = prepare(with_rsf(points), SCORES, since=["reward"])
    rows = rows[rows["algorithm"] == "rsf"].replace({"method": {"none": "early_stopping"}})
    rows["thirds"] = pd.Series(map(third_ratios, rows.to_dict("records")), rows.index, object)
    has_thirds = rows["method"].isin(("early_stopping", "learning_rate")) | rows["thirds"].notna()
    return rows[rows["method"].isin(CLOUD) & has_thirds]


def nearest(rows: pd.DataFrame, ratios: Sequence[float]) -> pd.DataFrame:
    """Return the rows of the one recorded mixture of thirds that is nearest to these ratios."""
    mixed = rows[rows["thirds"].notna()]
    if mixed.empty:
        return mixed
    far = np.linalg.norm(np.array(mixed["thirds"].tolist()) - np.array(ratios), axis=1)
    first = mixed.iloc[int(far.round(9).argmin())]
    return mixed[(mixed["thirds"] == first["thirds"]) & (mixed["method"] == first["method"])]


def look_around(rows: pd.DataFrame, replies: pd.DataFrame, choice: Choice) -> str:
    """Return what is recorded nearest to a choice, as HTML: sentences, figure, numbers, replies."""
    on = rows[rows["method"].isin(choice.methods) & rows["seed"].isin(choice.seeds)]
    if on.empty:
        return "<p role='status'>Nothing is on: check a method and a seed that has it.</p>"
    plain = on[(on["method"] == AVERAGE) & np.isclose(on["alpha"], choice.alpha)]
    found, said = dict[str, pd.DataFrame](), "no plain average is on."
    if len(plain):
        found[f"α = {choice.alpha:g}"] = plain
        gain, skill = number(plain["reward"].mean(), 2, sign=True), plain["forgetting"].mean()
        said = f"reward gained {gain}, skill with format forgiven {number(skill)} %, "
        said += f"{seeds_text(plain['seed'])}."
    asked, told = " | ".join(f"{each:g}" for each in choice.ratios), "No mixture of thirds is on."
    if len(near := nearest(on, choice.ratios)):
        named = " | ".join(f"{each:.2g}" for each in near["thirds"].iloc[0])
        found[f"thirds {named}"] = near
        exact = np.allclose(near["thirds"].iloc[0], choice.ratios)
        how = "recorded" if exact else f"not recorded: the nearest are {named}"
        who = f"({CLOUD[near['method'].iloc[0]].label}, {seeds_text(near['seed'])})"
        told = f"Thirds {asked} are {how} {who}."
    means = pd.DataFrame({name: own[SCORES].mean() for name, own in found.items()}).T
    here = means.reset_index(names="name")
    caption = run_caption(on, recorded=True).split(" · ")[0]
    drawn = page(f"At α = {choice.alpha:g}: {said} {told}", cloud(on, here, caption))
    shown = means.rename(columns=AXIS_NAMES | {"reward": "reward gained"})
    numbers = shown.to_html(border=0, float_format="{:.2f}".format)
    return drawn.replace("<p>", "<p role='status'>", 1) + numbers + _replies(replies, choice)


def _replies(replies: pd.DataFrame, choice: Choice) -> str:
    """Return the recorded replies at the nearest alpha, of the first seed that has any, as HTML."""
    own = replies[replies["seed"].isin(choice.seeds)] if len(replies) else replies
    if own.empty:
        return "<p>No replies are recorded of these seeds.</p>"
    own = own[own["seed"] == own["seed"].min()]
    own = own.assign(alpha=own["alpha"].fillna(own["algorithm"].map({"sft": 0.0, "rsf": 1.0})))
    own = own.dropna(subset="alpha")
    there = sorted(own["alpha"].unique())
    alpha = min(there, key=lambda each: abs(each - choice.alpha))
    listed = ", ".join(f"{each:g}" for each in there)
    told = f"Replies at α = {alpha:g}, seed {own['seed'].iloc[0]} (recorded at {listed}):"
    asked = own[own["alpha"] == alpha].rename(columns={"question": "asked"})
    table = asked[["asked", "reply", "reward", "gold"]].to_html(
        index=False, border=0, justify="left", na_rep="", float_format="{:.1f}".format
    )
    return f"<p>{told}</p>{table}"


def _dial(name: str, value: float) -> tuple[ipywidgets.FloatSlider, ipywidgets.HBox]:
    """Return a slider from 0 to 1, and the row of it and of a number box that carries its name."""
    ends: dict[str, Any] = {"value": value, "min": 0.0, "max": 1.0, "step": 0.1}
    slider = ipywidgets.FloatSlider(**ends, readout=False, continuous_update=False)
    box = ipywidgets.BoundedFloatText(**ends, description=name)
    box.style.description_width, box.layout.width = "13em", "20em"
    ipywidgets.link((slider, "value"), (box, "value"))
    return slider, ipywidgets.HBox([box, slider])


def playground(run: Recorded, start: Choice) -> Pictured:
    """Return sliders for alpha and the thirds, switches, all reached by Tab, and what they show."""
    rows = playground_rows(run.points)
    names = ["α of the whole model", *(f"α of the {part} third" for part in PARTS)]
    dials = [_dial(*each) for each in zip(names, (start.alpha, *start.ratios), strict=True)]
    methods = {name: look.label for name, look in CLOUD.items() if name in set(rows["method"])}
    seeds = {int(seed): f"seed {seed}" for seed in sorted(rows["seed"].unique())}
    switch = functools.partial(ipywidgets.Checkbox, indent=False)
    groups: list[dict[Any, ipywidgets.Checkbox]] = [
        {key: switch(key in on, description=text) for key, text in names.items()}
        for names, on in ((methods, start.methods), (seeds, start.seeds))
    ]
    controls = [*(slider for slider, _ in dials), *(b for each in groups for b in each.values())]
    shown = functools.cache(functools.partial(look_around, rows, run.replies))

    def answer() -> str:
        alpha, *ratios = (round(slider.value, 1) for slider, _ in dials)
        on = [tuple(key for key, box in each.items() if box.value) for each in groups]
        return shown(Choice(alpha, tuple(ratios), *on))

    said = _live(controls, answer)
    grid = ipywidgets.Layout(grid_template_columns="repeat(auto-fill, minmax(14em, 1fr))")
    grids = [ipywidgets.GridBox(list(each.values()), layout=grid) for each in groups]
    return Pictured([*(box for _, box in dials), *grids, said])


def request_box(answer: Callable[[str], str], start: str) -> Pictured:
    """Return a line for a request and a button; `answer` takes the request and returns HTML."""
    line = ipywidgets.Text(value=start, description="Your request", continuous_update=False)
    line.style.description_width, line.layout.width = "8em", "40em"
    ask = ipywidgets.Button(description="Ask again")
    return Pictured([ipywidgets.HBox([line, ask]), _live([line, ask], lambda: answer(line.value))])
