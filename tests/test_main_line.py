"""Rows of other methods, and seeds without RSF, change nothing that is told of the main line."""

from dataclasses import replace

import pandas as pd
from conftest import refuses

from alignment_tax import figures, report
from alignment_tax.labels import SCORES
from alignment_tax.results.recorded import recorded, recorded_items

#: Rows as they are recorded beside the main line: same rounds of RSF, or another algorithm's. That
#: claims stay is told in test_claims.
OTHERS = [
    {"method": "part", "alpha": 0.4, "part": "linear"},
    {"method": "part", "alpha": 0.0, "part": "norms"},
    {"method": "hma", "alpha": 0.4, "part": "0.6|0.4|0.2"},
    {"method": "hma_eq11", "alpha": 0.4, "part": "0.5|0.4|0.3"},
    {"method": "distil"}, {"method": "distil+average", "alpha": 0.3},
    {"method": "l2", "strength": 0.1}, {"method": "none", "algorithm": "dpo"},
    {"method": "average", "algorithm": "dpo", "alpha": 0.3},
]  # fmt: skip


def with_others(points):
    """Every seed with a row of each method, better than anything that was recorded."""
    ends = points[(points["algorithm"] == "rsf") & (points["method"] == "none")]
    ends = ends[ends["rounds"] == ends["rounds"].max()].reset_index(drop=True)
    better = ends[[*SCORES, "reward", "gold", "kl"]] + 20
    rows = [
        ends.assign(**better, n_items=99_999, key=f"other-{n}-" + ends["seed"].astype(str), **other)
        for n, other in enumerate(OTHERS)
    ]
    # as they are merged into the table: seed by seed
    both = pd.concat([points, *rows], ignore_index=True)[points.columns]
    return both.sort_values("seed", kind="stable", ignore_index=True)


def test_the_main_line_is_what_is_left():
    run = recorded()
    main = figures.main_line(run.points)
    both = with_others(main)
    assert len(both) == len(main) + len(OTHERS) * len(run.seeds)
    # a seed without RSF, in which all is 10 points better
    later = main[main["seed"].eq(0) & main["algorithm"].isin(["base", "sft"])]
    later = later.assign(seed=99, **{score: later[score] + 10 for score in SCORES})
    left = figures.main_line(pd.concat([both, later], ignore_index=True)).reset_index(drop=True)
    pd.testing.assert_frame_equal(left, main.reset_index(drop=True), check_dtype=False)
    # a table that was just made has None where a stored one has "none"
    unnamed = main.assign(method=main["method"].mask(lambda m: m == "none", None))
    assert len(figures.main_line(unnamed)) == len(main)
    refuses(figures.TableError, "needs the column", figures.main_line, main.drop(columns="method"))


def test_the_page_of_the_real_model_lists_the_main_line_alone():
    real, items = recorded(report.REAL), recorded_items(report.REAL)
    pages = []
    for points in (real.points, with_others(real.points)):
        run = replace(real, points=points)
        pages.append(report.real_page(run, items, report.real_claims(run, items)))
    assert pages[0] == pages[1]
