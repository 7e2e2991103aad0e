"""What trained models forgot, against how far they went from theta_0, and one curve for all."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from alignment_tax.results.points import theta_0

#: What forgetting is set against, as columns of `forgetting`.
X_NAMES = {"kl": "KL(θ ‖ θ₀)", "forward_kl": "KL(θ₀ ‖ θ)"}
#: Runs whose forgetting is set against KL: by the preset, or with another KL coefficient.
TRAINED = ("none", "kl_coef")


def forgetting(points: pd.DataFrame) -> pd.DataFrame:
    """Return one row per trained model: what it forgot, and how far it went.

    Columns: study, seed, algorithm, method, strength, rounds; tax (what theta_0 of the same seed
    had more, format forgiven, in points); kl (KL(theta || theta_0), nats a reply) and forward_kl
    (KL(theta_0 || theta), NaN if unknown).
    """
    rows = points[points["method"].isin(TRAINED) & ~points["algorithm"].isin(["base", "sft"])]
    by = ["study", "seed", "algorithm", "method", "strength", "rounds", "kl"]
    before = rows["seed"].map(theta_0(points).set_index("seed")["forgetting"])
    found = {"tax": before - rows["forgetting"].astype(float)}
    found["forward_kl"] = rows["forward_kl"] if "forward_kl" in rows else before * np.nan
    return rows[by].assign(**found).reset_index(drop=True)


def own_share(rsf: np.ndarray, control: np.ndarray) -> float:
    """Return the share of RSF's mean change, by seed, that goes beyond its control's."""
    return float(1 - np.mean(control) / np.mean(rsf))


@dataclass(frozen=True)
class Fit:
    """The least-squares curve level (1 - exp(-x / scale)) through theta_0, and its R squared."""

    level: float
    scale: float
    r_squared: float

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Return the curve at `x`."""
        return self.level * _rise(x, self.scale)


def _rise(x: np.ndarray, scale: np.ndarray | float) -> np.ndarray:
    """Return 1 - exp(-x / scale); far below 0 it is cut where its square would overflow."""
    return -np.expm1(np.minimum(-x / scale, 300.0))


def fit(rows: pd.DataFrame, x: str = "kl") -> Fit:
    """Fit what was forgotten against a column of `forgetting`, by a curve that can level off.

    The best level of each scale is known in closed form, so only the scale is searched, on a grid
    that closes in: from a thousandth of the furthest |x| (a step) to a hundred times it (a line).
    """
    given = rows.dropna(subset=[x, "tax"])
    at, lost = (given[name].to_numpy(dtype=float) for name in (x, "tax"))
    furthest = np.log(np.abs(at).max())
    low, high = furthest - np.log(1000), furthest + np.log(100)
    for _ in range(6):
        grid = np.linspace(low, high, 48)
        rises = _rise(at[:, None], np.exp(grid))
        levels = lost @ rises / (rises**2).sum(axis=0)
        best = int((levels * (lost @ rises)).argmax())  # of the sum of squares, what it explains
        low, high = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    level, scale = float(levels[best]), float(np.exp(grid[best]))
    missed = float(((lost - level * _rise(at, scale)) ** 2).sum())
    return Fit(level, scale, 1 - missed / float(((lost - lost.mean()) ** 2).sum()))
