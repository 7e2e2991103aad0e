"""A study is a preset and a seed: it hands out policies, reward models and scores.

What exists is loaded, what does not is made, and nothing is computed twice: every stage (see
`stages`) is an artifact whose key is the hash of what determines it (see `store`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from alignment_tax.merge import search
from alignment_tax.merge.average import Sweep
from alignment_tax.merge.parts import THIRDS, Mixture
from alignment_tax.mitigate.base import Example
from alignment_tax.models import AnyReply, RewardModel
from alignment_tax.pipeline import catalogue
from alignment_tax.pipeline.stages import base, ratios, remedies, rlhf, scores, trained
from alignment_tax.pipeline.stages.run import Loaded, Run, read_json
from alignment_tax.skills import Scorer, SkillScores
from alignment_tax.spec import COLUMNS, HMA, Spec
from alignment_tax.store import Artifact
from alignment_tax.world.base import Prompt
from alignment_tax.world.corpus import Document


class Study(Run):
    """All stages of one preset and seed; takes what `Run` takes."""

    # --- models ---------------------------------------------------------------------------------

    @property
    def base(self) -> Artifact:
        """The pretrained model: shipped for the tiny world, downloaded or unpacked otherwise."""
        return base.base(self, Spec("base"))

    @property
    def sft(self) -> Artifact:
        """theta_0: the base finetuned on demonstrations, where RLHF starts and tax is zero."""
        return base.sft(self, Spec("sft"))

    @property
    def reward(self) -> Artifact:
        """The reward model that RLHF optimises."""
        return base.reward(self, Spec("sft"))

    def artifact(self, spec: Spec) -> Artifact:
        """The artifact behind a model; of a mixture it is the aligned end.

        Raises:
            UnknownStage: a method, or what goes with it, that this study does not have.
            ValueError, MergeError: a strength, alpha, part or ratios that cannot be used.
        """
        return trained(self, spec)

    def aligned(self, algorithm: str, rounds: int) -> Artifact:
        """The policy after `rounds` rounds of RLHF; each round is an artifact, so a run resumes.

        Raises:
            UnknownStage: an algorithm that the preset does not have, or more rounds than it has.
        """
        return trained(self, Spec(algorithm, rounds))

    def rsf(self, rounds: int, algorithm: str = "rsf") -> Artifact:
        """The policy after `rounds` rounds of RSF (or of its control): see `aligned`."""
        return self.aligned(algorithm, rounds)

    def distilled(self, remedies_: Mapping[str, float], rounds: int | None = None) -> Artifact:
        """theta_0 finetuned once on RSF's best-of-n samples under remedies together.

        Args:
            remedies_: names in `REMEDIES` to strengths; none is the plain run.
            rounds: how many rounds of RSF the samples come from; all by default.

        Raises:
            UnknownStage, ValueError: what cannot work, before anything is made.
        """
        last = self._end("rsf", rounds).rounds
        remedies.check(self, remedies_, last)
        return remedies.combined(self, remedies_, last)

    def policy(self, algorithm: str = "sft", rounds: int | None = None) -> Loaded:
        """Load a policy (base | sft | an algorithm; by default its last round) and its tokenizer.

        Raises:
            UnknownStage: see `aligned`.
        """
        alone = algorithm in ("base", "sft")
        return self.load(trained(self, Spec(algorithm) if alone else self._end(algorithm, rounds)))

    def model(self, spec: Spec) -> Loaded:
        """The model that a spec names, and its tokenizer; a mixture is valid until the next one.

        Raises:
            UnknownStage, ValueError, MergeError: see `artifact`.
        """
        return ratios.model_of(self, spec)

    def reward_model(self) -> tuple[RewardModel, PreTrainedTokenizerBase]:
        """Load the reward model and its tokenizer."""
        return base.reward_model(self)

    def rewards(self, prompts: list[Prompt], replies: Sequence[AnyReply]) -> np.ndarray:
        """The reward model's score of each reply, shape (n,)."""
        return base.rewards(self, prompts, replies)

    def golds(self, prompts: list[Prompt], replies: Sequence[AnyReply]) -> np.ndarray:
        """The reward that was not optimised, gold or the judge's, for each reply, shape (n,)."""
        return base.golds(self, prompts, replies)

    # --- data -----------------------------------------------------------------------------------

    def round_prompts(self, rounds: int, algorithm: str = "rsf") -> list[Prompt]:
        """The prompts of one round: the next slice of a seeded walk over the RLHF prompts."""
        return rlhf.round_prompts(self, rounds, algorithm)

    def pool(self, rounds: int | None = None) -> list[Example]:
        """The best-of-n samples of the first rounds of RSF (default all): prompt and reply each."""
        return remedies.pool(self, self._end("rsf", rounds).rounds)

    def replay_documents(self, evaluated_formats: bool = True) -> list[Document]:
        """Pretraining text to replay, with or without the formats of the skills that are scored.

        Raises:
            UnknownStage: the preset has none.
        """
        return remedies.replay_documents(self, evaluated_formats)

    def best_replies(self, algorithm: str = "rsf", rounds: int | None = None) -> Artifact:
        """The aligned policy's own best replies, on which HMA works: samples.parquet.

        One row a reply: group (number of the prompt), prompt (JSON), reply, finished, reward,
        chosen (the best finished reply to its prompt).
        """
        return ratios.best_replies(self, self._end(algorithm, rounds))

    def search_data(
        self, algorithm: str = "rsf", rounds: int | None = None, method: str = HMA
    ) -> search.Data:
        """What a search for ratios looks at: see `merge.search.Data`."""
        return ratios.search_data(self, self._end(algorithm, rounds), method)

    # --- mixtures -------------------------------------------------------------------------------

    def sweep(
        self, rounds: int | None = None, algorithm: str = "rsf"
    ) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, Sweep]:
        """A model that its sweep sets to any mixture of theta_0 and the aligned policy."""
        return ratios.sweep_of(self, self._end(algorithm, rounds))

    def mixture(
        self,
        blocks: int | Sequence[int] = len(THIRDS),
        algorithm: str = "rsf",
        rounds: int | None = None,
    ) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, Mixture]:
        """A model, its tokenizer, and its mixture with a ratio for each part (`merge.parts`)."""
        return ratios.mixture_of(self, self._end(algorithm, rounds), blocks)

    def ratios(
        self,
        method: str,
        blocks: int,
        alpha: float,
        algorithm: str = "rsf",
        rounds: int | None = None,
    ) -> search.Found:
        """The ratios of K blocks, of mean alpha, that a search finds (see `merge.search`).

        Raises:
            UnknownStage, MergeError: what cannot work, before anything is trained.
        """
        last = self._end(algorithm, rounds).rounds
        return ratios.found_by(self, Spec(algorithm, last, method, alpha, part=f"K={blocks}"))

    # --- scores ---------------------------------------------------------------------------------

    @property
    def scorer(self) -> Scorer:
        """Scores skills on the reported items; built once."""
        return scores.scorer(self)

    def evaluate(self, spec: Spec) -> Artifact:
        """Score a model: skills, reward, gold and KL; the artifact holds point, items and replies.

        Specs of the same weights (see `simplest`) are scored once.
        """
        return scores.scores(self, spec)

    def scores(self, spec: Spec) -> SkillScores:
        """The skills of a model with every item, for paired comparisons."""
        return SkillScores.load(self.evaluate(spec).path)

    def sampled_replies(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
    ) -> pd.DataFrame:
        """Sample replies to the reported prompts and score them.

        Returns:
            One row a reply: prompt (JSON), reply, finished, reward, gold, log_prob under the model
            and log_prob_0 under theta_0 (nats).
        """
        return scores.sampled_replies(self, model, tokenizer)

    def point(self, spec: Spec) -> dict[str, Any]:
        """One row of the table of points (see COLUMNS); what does not apply is None."""
        spec = ratios.resolved(self, spec)
        artifact = self.evaluate(spec)
        values = read_json(artifact.path / "point.json")
        row: dict[str, Any] = dict.fromkeys(COLUMNS)
        row |= {k: v for k, v in values.items() if k in COLUMNS}
        row |= {"study": self.preset.name, "seed": self.seed, "n_items": int(values["n_items"])}
        return row | spec.row | {"key": artifact.key[:16]}

    def points(self, specs: list[Spec] | None = None) -> pd.DataFrame:
        """The table of points of this study: one row per model, columns COLUMNS."""
        wanted = self.specs() if specs is None else specs
        bar = tqdm(wanted, desc=f"points of {self}", unit="model")
        return pd.DataFrame([self.point(spec) for spec in bar], columns=COLUMNS)

    def forward_kl(self, spec: Spec) -> Artifact:
        """KL(theta_0 || model) on the reported prompts: kl.json, in nats a reply."""
        return scores.forward_kl(self, spec)

    def cost(self, spec: Spec) -> dict[str, float | None] | None:
        """Steps, seconds, peak memory (MB) of the training behind a remedied model, else None."""
        return remedies.cost(self, spec)

    def specs(self, methods: Sequence[str] | None = None) -> list[Spec]:
        """The models that are recorded, theta_0 always among them, each once.

        Args:
            methods: words of `catalogue.methods`. None: the base and all algorithms, no remedy, no
                part.

        Raises:
            UnknownStage, ValueError, MergeError: an unknown word; parts that make no sense.
        """
        found = catalogue.specs(self.preset, methods)
        for spec in found:
            if spec.part is not None:
                ratios.mixture.check(self, spec)
        return found

    def _end(self, algorithm: str, rounds: int | None) -> Spec:
        """The aligned end that is meant: by default the last round of the algorithm."""
        last = self.algorithm(algorithm).rounds
        return Spec(algorithm, last if rounds is None else rounds)
