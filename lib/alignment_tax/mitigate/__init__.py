"""The remedies against the alignment tax, and the protocol that compares them.

One file a remedy; `registry` lists them. Remedies at a strength are `Treatment`s, and combine:

>>> policy = distil(setting, {"l2": 0.04, "average": 0.8}).policy
"""

from alignment_tax.mitigate.base import Setting as Setting
from alignment_tax.mitigate.base import Treatment as Treatment
from alignment_tax.mitigate.base import best_of_n as best_of_n
from alignment_tax.mitigate.base import distil as distil
from alignment_tax.mitigate.base import distil_along as distil_along
from alignment_tax.mitigate.base import treat as treat
from alignment_tax.mitigate.base import treatments as treatments
from alignment_tax.presets import DistilConfig as DistilConfig
from alignment_tax.registry import REMEDIES as REMEDIES
