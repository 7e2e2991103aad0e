"""The remedies against the alignment tax, and the protocol that compares them.

One file a remedy; `registry` lists them. A remedy at a strength is a `Treatment`: something added
to the loss, done to the weights along the way or afterwards, or another parameterisation.
Treatments combine:

>>> policy = distil(setting, {"l2": 0.04, "average": 0.8}).policy
"""

from alignment_tax.mitigate.base import (
    Distilled,
    Setting,
    Treatment,
    best_of_n,
    distil,
    distil_along,
    treat,
    treatments,
)
from alignment_tax.presets import DistilConfig
from alignment_tax.registry import REMEDIES, Remedy

__all__ = [
    "REMEDIES",
    "DistilConfig",
    "Distilled",
    "Remedy",
    "Setting",
    "Treatment",
    "best_of_n",
    "distil",
    "distil_along",
    "treat",
    "treatments",
]
