"""Every remedy against the alignment tax: its word, what its strength is, where it comes from.

They are read from registry.toml: a new remedy is one file in `mitigate` and one entry there.
Nothing here imports torch: the code of a remedy is imported on `make`.
"""

from __future__ import annotations

import pkgutil
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

#: When a remedy acts, in the order in which remedies end. "along" collects from a run without
#: changing it; "afterwards" needs nothing but the outcome, so one run serves all its strengths.
When = Literal["along", "training", "model", "afterwards"]


@dataclass(frozen=True)
class Remedy:
    """A remedy of the registry."""

    name: str  # the word for it in the table of points
    title: str  # what a reader calls it
    code: str  # where it is: "module:function" in `mitigate`
    when: When
    describe: str  # what the strength is, for an axis or a legend
    source: str  # where it comes from
    off: float | None = None  # the strength that changes nothing, if there is one
    #: Whether ever weaker strengths end at the plain run (LoRA trains other parameters).
    fades: bool = True
    weak_is_high: bool = False  # whether the remedy is the weaker, the higher its strength
    whole: bool = False  # whether the strength is a whole number, as a rank is
    #: The pretraining text of the `Setting` that it uses: with the formats that are scored, or not.
    texts: Literal["replay", "replay_other"] | None = None

    def make(self, setting: Any, strength: float) -> Any:
        """Return the treatment of a `mitigate.Setting` (ValueError: a senseless strength)."""
        return pkgutil.resolve_name(f"alignment_tax.mitigate.{self.code}")(setting, strength)


_TOLD = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
REMEDIES = {name: Remedy(name, **told) for name, told in _TOLD.items()}
