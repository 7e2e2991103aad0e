"""Every figure of the course, drawn from tables of points or arrays, never from a model.

Each figure FIGURE has a twin FIGURE_table that returns the numbers it shows, and carries its alt
text (`alt_text(figure)`), which is made from the same numbers. `show` displays a figure in a
notebook, `save` writes it. What would be empty or wrong raises a FigureError.
"""

from __future__ import annotations

from alignment_tax.figures.look import (
    ALGORITHMS,
    METHODS,
    OKABE_ITO,
    FigureError,
    Look,
    alt_text,
    save,
    show,
    style,
)
from alignment_tax.figures.pareto import (
    front,
    front_table,
    fronts,
    fronts_table,
    signature,
    signature_table,
)
from alignment_tax.figures.parts import (
    ablation,
    ablation_table,
    part_curves,
    part_curves_table,
    ratio_path,
    ratio_path_table,
    recorded_ratios,
    recorded_ratios_table,
    search_fronts,
    search_fronts_table,
    simplex,
    simplex_table,
)
from alignment_tax.figures.redraw import main
from alignment_tax.figures.reward import (
    best_of_n,
    best_of_n_table,
    gold_scatter,
    gold_scatter_table,
    losses,
    losses_table,
    pair_accuracy_by_kind,
    pair_accuracy_table,
    reliability,
    reliability_table,
    reward_histogram,
    reward_histogram_table,
)
from alignment_tax.figures.skills import (
    learning_curves,
    learning_curves_table,
    skills_bar,
    skills_frame,
    skills_table,
)
from alignment_tax.figures.tables import caption_line, interval, main_line, run_caption
from alignment_tax.figures.tax import (
    alpha_curves,
    alpha_table,
    reward_hacking,
    reward_hacking_table,
    rsf_rounds,
    rsf_rounds_table,
    tax_bars,
    tax_table,
)
from alignment_tax.figures.theory import (
    effectiveness,
    effectiveness_table,
    limit,
    limit_table,
)
from alignment_tax.figures.verdicts import (
    forest,
    verdict_markdown,
    verdict_style,
    verdict_table,
)
from alignment_tax.figures.which_weights import which_weights, which_weights_table

__all__ = [
    "ALGORITHMS",
    "METHODS",
    "OKABE_ITO",
    "FigureError",
    "Look",
    "ablation",
    "ablation_table",
    "alpha_curves",
    "alpha_table",
    "alt_text",
    "best_of_n",
    "best_of_n_table",
    "caption_line",
    "effectiveness",
    "effectiveness_table",
    "forest",
    "front",
    "front_table",
    "fronts",
    "fronts_table",
    "gold_scatter",
    "gold_scatter_table",
    "interval",
    "learning_curves",
    "learning_curves_table",
    "limit",
    "limit_table",
    "losses",
    "losses_table",
    "main",
    "main_line",
    "pair_accuracy_by_kind",
    "pair_accuracy_table",
    "part_curves",
    "part_curves_table",
    "ratio_path",
    "ratio_path_table",
    "recorded_ratios",
    "recorded_ratios_table",
    "reliability",
    "reliability_table",
    "reward_hacking",
    "reward_hacking_table",
    "reward_histogram",
    "reward_histogram_table",
    "rsf_rounds",
    "rsf_rounds_table",
    "run_caption",
    "save",
    "search_fronts",
    "search_fronts_table",
    "show",
    "signature",
    "signature_table",
    "simplex",
    "simplex_table",
    "skills_bar",
    "skills_frame",
    "skills_table",
    "style",
    "tax_bars",
    "tax_table",
    "verdict_markdown",
    "verdict_style",
    "verdict_table",
    "which_weights",
    "which_weights_table",
]
