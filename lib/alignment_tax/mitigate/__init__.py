"""The remedies against the alignment tax, and the protocol that compares them.

One file a remedy; `registry` lists them. Remedies at a strength are `Treatment`s, and combine:

>>> policy = distil(setting, {"l2": 0.04, "average": 0.8}).policy
"""

from alignment_tax.mitigate.base import (
    Setting,
    Treatment,
    best_of_n,
    distil,
    distil_along,
    treat,
    treatments,
)
from alignment_tax.presets import DistilConfig
from alignment_tax.registry import REMEDIES
