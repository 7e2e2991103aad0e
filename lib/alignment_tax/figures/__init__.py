"""Every figure of the course, drawn from tables of points or arrays, never from a model.

`points` are always the columns of points.csv, one study, `recorded` says that they are of
data/results, and `caption` which run a figure shows. A figure carries the table of the numbers it
shows (`table(figure)`) and its alt text, made from that table (`alt_text(figure)`). `show` displays
a figure in a notebook, `save` writes it. What would be empty or wrong raises a TableError.
"""

from importlib import import_module
from typing import Any

_NAMES = {
    "figures.style": "ALGORITHMS METHODS OKABE_ITO Look alt_text caption_line in_style panels "
    "run_caption save show table",
    "figures.pareto": "class_fronts front fronts kept live_remedies penalty_distances "
    "remedy_fronts",
    "figures.readme": "pipeline redraw_figures",
    "figures.training": "best_of_n gold_scatter losses pair_accuracy_by_kind reward_hacking "
    "rsf_rounds",
    "figures.skills": "alpha_curves lost_items skills_bar tax_bars",
    "figures.algorithms": "algorithm_fronts kl_penalty razor rounds taxes",
    "figures.ratios": "CLOUD cloud part_curves search_fronts simplex",
    "figures.theory": "effectiveness shares_along ways",
    "figures.verdicts": "forest verdict_style",
    "results.points": "TableError main_line",
}
_HOME = {name: module for module, names in _NAMES.items() for name in names.split()}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    """Return a figure or what goes with it from the module that holds it."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"alignment_tax.{_HOME[name]}"), name)
