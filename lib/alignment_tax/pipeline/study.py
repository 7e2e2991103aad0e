"""A study is a preset and a seed: it hands out policies, reward models and scores.

Every stage (see `stages`) is an artifact that is loaded, or made if there is none (see `store`).
"""

from collections.abc import Sequence
from typing import Any

import pandas as pd
from tqdm import tqdm

from alignment_tax.pipeline import catalogue, stages
from alignment_tax.pipeline.recorded_only import RecordedStore
from alignment_tax.pipeline.stages.run import Loaded, Run
from alignment_tax.skills import SkillScores
from alignment_tax.spec import COLUMNS, Spec
from alignment_tax.store import Artifact, read_json


class Study(Run):
    """All stages of one preset and seed, as methods; an `end` is by default RSF's last round."""

    # models
    base = property(stages.base.base)
    sft = property(stages.base.sft)
    reward = property(stages.base.reward)
    reward_model = stages.base.reward_model
    artifact = stages.trained
    distilled = stages.remedies.combined
    model = stages.ratios.model_of
    mixture = sweep = stages.ratios.mixture_of
    ratios = stages.ratios.found
    # data
    round_prompts = stages.rlhf.round_prompts
    pool = stages.remedies.pool
    replay_documents = stages.remedies.replay_documents
    best_replies = stages.ratios.best_replies
    search_data = stages.ratios.search_data
    # scores
    rewards = stages.base.rewards
    golds = stages.base.golds
    scorer = property(stages.scores.scorer)
    evaluate = stages.scores.scores
    sampled_replies = stages.scores.sampled_replies
    forward_kl = stages.scores.forward_kl
    calibration = stages.scores.calibration
    cost = stages.remedies.cost

    def rsf(self, rounds: int, algorithm: str = "rsf") -> Artifact:
        """The policy after so many rounds of RSF or its control (UnknownStage: no such round)."""
        return self.artifact(Spec(algorithm, rounds))

    def policy(self, algorithm: str = "sft", rounds: int | None = None) -> Loaded:
        """Load a policy and its tokenizer: base | sft | an algorithm, by default its last round."""
        alone = algorithm in ("base", "sft")
        return self.load(self.artifact(Spec(algorithm) if alone else self.end(algorithm, rounds)))

    def scores(self, spec: Spec) -> SkillScores:
        """The skills of a model with every item, for paired comparisons."""
        if isinstance(self.store, RecordedStore):
            return self.store.scores(spec)
        return SkillScores.load(self.evaluate(spec).path)

    def point(self, spec: Spec) -> dict[str, Any]:
        """One row of the table of points (see COLUMNS); what does not apply is None."""
        if isinstance(self.store, RecordedStore):
            return self.store.row(spec)
        spec = stages.ratios.resolved(self, spec)
        artifact = self.evaluate(spec)
        values = read_json(artifact.path / "point.json") | spec.row
        values |= {"study": self.preset.name, "seed": self.seed, "key": artifact.key[:16]}
        return {name: values.get(name) for name in COLUMNS} | {"n_items": int(values["n_items"])}

    def points(self, specs: list[Spec] | None = None) -> pd.DataFrame:
        """The table of points of this study: one row per model, columns COLUMNS."""
        wanted = self.specs() if specs is None else specs
        read = isinstance(self.store, RecordedStore)
        bar = tqdm(wanted, desc=f"points of {self}", unit="model", disable=read)
        return pd.DataFrame([self.point(spec) for spec in bar], columns=COLUMNS)

    def specs(self, methods: Sequence[str] | None = None) -> list[Spec]:
        """The models that are recorded, theta_0 always among them, each once.

        `methods`: words of `catalogue.methods`; None: the base and all algorithms. UnknownStage,
        ValueError, MergeError: an unknown word; parts that make no sense.
        """
        found = catalogue.specs(self.preset, methods)
        for spec in found:
            if spec.part is not None:
                stages.ratios.check_mixture(self, spec)
        return found
