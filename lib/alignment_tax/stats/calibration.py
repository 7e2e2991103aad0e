"""How far a model's confidence is from how often it is right."""

import numpy as np

BINS = 10


def calibration_error(confidence: np.ndarray, right: np.ndarray) -> float:
    """Return the expected calibration error in points (Guo et al. 2017).

    `confidence` (n,) in 0..1 is what a model gives the choice that it takes, `right` (n,) whether
    that is right: the distance of their means in each of ten bins, weighed by its share of items.
    """
    own = np.minimum((np.asarray(confidence) * BINS).astype(int), BINS - 1)
    apart = np.asarray(right, dtype=float) - np.asarray(confidence)
    sums = [abs(apart[own == each].sum()) for each in range(BINS)]
    return float(100 * np.sum(sums) / len(own))
