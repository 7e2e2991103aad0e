"""The stages of a run, by name: from a run and a spec each makes an artifact, or loads it.

What trains a model is registered under the spec's `protocol`, all others under what they make. A
new stage is a function under `@stage`; everything that it refuses, it refuses in `check`, before
anything is made.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from alignment_tax.pipeline.stages.run import Run
from alignment_tax.spec import Spec
from alignment_tax.store import Artifact


@dataclass(frozen=True)
class Stage:
    """A stage: `check` raises what is wrong with a spec, `get` makes or loads its artifact."""

    check: Callable[[Run, Spec], None]
    get: Callable[[Run, Spec], Artifact]

    def __call__(self, run: Run, spec: Spec) -> Artifact:
        """Check, then make or load."""
        self.check(run, spec)
        return self.get(run, spec)


STAGES: dict[str, Stage] = {}


def stage(
    name: str, check: Callable[[Run, Spec], None] = lambda run, spec: None
) -> Callable[[Callable[[Run, Spec], Artifact]], Stage]:
    """Register the decorated function as the stage of a name."""

    def register(get: Callable[[Run, Spec], Artifact]) -> Stage:
        STAGES[name] = Stage(check, get)
        return STAGES[name]

    return register


def trained(run: Run, spec: Spec) -> Artifact:
    """The artifact of the model that a spec names; of a mixture it is the aligned end.

    Raises:
        UnknownStage: a method, or what goes with it, that this run does not have.
        ValueError, MergeError: a strength, alpha, part or ratios that cannot be used.
    """
    if spec.mix is not None:
        STAGES["mixture"].check(run, spec)
    return STAGES[spec.protocol](run, spec.end)
