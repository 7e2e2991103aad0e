"""Mixtures of theta_0 and an aligned policy: by one ratio, part by part, by ratios to be found."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from alignment_tax import presets
from alignment_tax.merge import search
from alignment_tax.merge.average import Sweep, check_alpha
from alignment_tax.merge.parts import (
    THIRDS,
    TOLERANCE,
    Mixture,
    Partition,
    one_part,
    partition,
    ratios_of_blocks,
)
from alignment_tax.mitigate.replay import check_disjoint, tiny_reported
from alignment_tax.models import load_state
from alignment_tax.pipeline.stages import STAGES, base, stage, trained
from alignment_tax.pipeline.stages.remedies import replay_documents
from alignment_tax.pipeline.stages.run import Loaded, Run
from alignment_tax.presets import RatioConfig
from alignment_tax.skills import FAMILIES
from alignment_tax.spec import (
    ADAMERGING,
    AVERAGE,
    Spec,
    UnknownStage,
    blocks_to_find,
    has_ratios,
    ratios_in,
    ratios_text,
)
from alignment_tax.store import Artifact, digest
from alignment_tax.train.loop import encode, encode_text
from alignment_tax.train.rsf import draw_samples, short_prompts
from alignment_tax.train.sample import kept_replies
from alignment_tax.world.corpus import Document
from alignment_tax.world.tiny import items


def numbers(run: Run) -> RatioConfig:
    """The preset's numbers for ratios (UnknownStage: it has none)."""
    if run.preset.ratios is None:
        raise UnknownStage(
            f"Preset {run.preset.name} does not say how ratios of parts are searched: set its "
            "`ratios`."
        )
    return run.preset.ratios


def part_ratios(spec: Spec, parts: Partition) -> dict[str, float]:
    """Return the ratio of every part of a model that a spec with parts names.

    Raises:
        ValueError: the spec lacks its part or its alpha.
        MergeError: there is no such part, or the ratios do not fit (see `merge.parts`).
    """
    if spec.alpha is None or spec.part is None:
        raise ValueError(f"Method {spec.method} needs a part and an alpha, not {spec}.")
    if has_ratios(spec):
        blocks, fixed = ratios_in(spec)
        return ratios_of_blocks(parts, blocks, spec.alpha, fixed=fixed)
    return one_part(parts, spec.part, spec.alpha)


def _cut(run: Run, blocks: int) -> Partition:
    """How a policy is cut into K blocks; the base has the shapes of all, and is there first."""
    start = base.base(run, Spec("base"))
    return run.once(("blocks", blocks), lambda: partition(run.load(start)[0], blocks))


def _blocks(spec: Spec) -> int:
    """Into how many blocks a mixture cuts the layers."""
    return len(ratios_in(spec)[0]) if has_ratios(spec) else len(THIRDS)


def check_mixture(run: Run, spec: Spec) -> None:
    """Refuse an alpha, a part, ratios or a search that makes no sense.

    Raises:
        UnknownStage: no such search, or a preset without its numbers or its data.
        ValueError, MergeError: see `part_ratios` and `merge.search.check_search`.
    """
    if spec.alpha is None and spec.method != AVERAGE:
        raise ValueError(f"{spec.method!r} needs alpha, the weight of the aligned model.")
    check_alpha(1.0 if spec.alpha is None else spec.alpha)
    if blocks_to_find(spec) is not None:
        check_search(run, spec)
    elif spec.mix != AVERAGE:
        part_ratios(spec, _cut(run, _blocks(spec)))
    STAGES[spec.protocol].check(run, spec.end)


@stage("mixture", check_mixture)
def mixture(run: Run, spec: Spec) -> Artifact:
    """A mixture has no files of its own: its aligned end has."""
    return trained(run, spec.end)


def check_search(run: Run, spec: Spec) -> None:
    """Refuse a search that does not exist, or that would fail after its models are trained."""
    blocks, method = blocks_to_find(spec) or 0, spec.method
    if method not in search.SEARCHES:
        known = ", ".join(search.SEARCHES)
        raise UnknownStage(f"There is no search {method!r} for ratios. Known: {known}.")
    if spec.alpha is None:
        raise ValueError(f"{method!r} needs alpha, the mean of the ratios.")
    _cut(run, blocks)
    search.check_search(method, blocks, spec.alpha, numbers(run))
    if method == ADAMERGING and run.preset.world != "tiny":
        raise UnknownStage("AdaMerging takes labelled items of the tiny world alone so far.")
    kept_documents(run, method)
    STAGES[spec.protocol].check(run, spec.end)


def check_numbers(run: Run, spec: Spec) -> None:
    """Refuse a preset without numbers for ratios, and an aligned end that does not exist."""
    numbers(run)
    STAGES[spec.protocol].check(run, spec.end)


@stage("best replies", check_numbers)
def best_replies(run: Run, spec: Spec) -> Artifact:
    """The aligned policy's own best replies, on which HMA works: samples.parquet.

    One row a reply: group (number of the prompt), prompt (JSON), reply, ids, finished, reward,
    chosen (the best finished reply to its prompt). The prompts are of RLHF, none is reported.
    """
    config, rsf, policy = numbers(run), run.preset.rsf, trained(run, spec.end)

    def make(folder: Path) -> None:
        model, tokenizer = run.load(policy)
        prompts = run.world.prompts(config.prompts, run.seed, "rlhf")
        drawn = dataclasses.replace(rsf, n=config.n)
        samples = draw_samples(
            model, tokenizer, lambda p, r: base.rewards(run, p, r), prompts, drawn, run.seed
        )
        samples["prompt"] = [json.dumps(prompt) for prompt in samples["prompt"]]
        samples.to_parquet(folder / "samples.parquet", index=False)

    inputs = {
        "prompts": config.prompts,
        "n": config.n,
        "sampling": [rsf.temperature, rsf.max_new_tokens, rsf.max_prompt_length],
        "batch": [run.batch, rsf.sampling_batch],
    }
    parents = {"policy": policy, "reward": base.reward(run, base.START)}
    name = f"the best replies of {spec.algorithm}"
    return run.get("best_replies", inputs, make, parents, name)


def search_data(run: Run, end: Spec, method: str) -> search.Data:
    """What a search for the ratios of an aligned end looks at: see `merge.search.Data`.

    Raises:
        UnknownStage: this world has no data of that kind.
    """
    config, rsf = numbers(run), run.preset.rsf
    _, tokenizer = base.theta_0(run)
    room = rsf.max_prompt_length + rsf.max_new_tokens
    samples = pd.read_parquet(best_replies(run, end).path / "samples.parquet")
    best = samples[samples["chosen"]]
    replies = [
        encode(tokenizer, json.loads(prompt), reply, room)
        for prompt, reply in zip(best["prompt"], kept_replies(best), strict=True)
    ]
    texts = {}
    if documents := kept_documents(run, method):
        check_disjoint(documents, tiny_reported())
        kept = [kept_text(document) for document in documents]
        texts[method] = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in kept]
    labelled = []
    if method == ADAMERGING:
        labelled = [encode_text(tokenizer, *item) for item in _labelled_items(config.labelled)]
    rlhf = run.world.prompts(10**6, run.seed, "rlhf")
    prompts = short_prompts(tokenizer, rlhf, rsf.max_prompt_length)[: config.reward_prompts]

    def reward(model: PreTrainedModel, chosen: Sequence[int]) -> float:
        asked = [prompts[i] for i in chosen]
        said = [group[0] for group in base.draw_replies(run, model, tokenizer, asked, 1)]
        return float(base.rewards(run, asked, said).mean())

    return search.Data(replies, texts, labelled, len(prompts), reward)


def kept_documents(run: Run, method: str) -> list[Document]:
    """The pretraining text on which a search keeps theta_0; none for the other searches."""
    if method not in search.KEEPING:
        return []
    return replay_documents(run, search.KEEPING[method])[: numbers(run).kept_texts]


def kept_text(document: Document) -> str:
    """Return a document as one text that the base model was trained on: with its first branch."""
    branch = document.branches[0] if document.branches else ()
    return " ".join(text for text, _ in (*document.pieces, *branch))


@cache
def _labelled_items(count: int) -> tuple[tuple[str, str], ...]:
    """Prompt and answer of the first validation items of each reading skill; none is reported."""
    found = [row for slot in FAMILIES["reading"] for row in list(items(slot, "validation"))[:count]]
    return tuple((item["prompt"], item["target"]) for item in found)


@stage("ratios", check_search)
def ratios(run: Run, spec: Spec) -> Artifact:
    """The ratios of K blocks, of mean alpha, that a search finds (see `merge.search`)."""
    config, blocks, alpha, method = numbers(run), blocks_to_find(spec), spec.alpha, spec.method
    assert blocks is not None  # check_search has refused it
    assert alpha is not None
    end = spec.end

    def make(folder: Path) -> None:
        model, _, mixture = mixture_of(run, end, blocks)
        data = search_data(run, end, method)
        task = search.Task(mixture, model, data, config, alpha, run.seed)
        search.SEARCHES[method](task).save(folder)

    # what is recorded does not change what is found
    inputs: dict[str, Any] = {"method": method, "blocks": blocks, "alpha": alpha}
    inputs["config"] = presets.as_dict(dataclasses.replace(config, parts=(), grids=()))
    if documents := kept_documents(run, method):
        inputs["texts"] = digest([kept_text(document) for document in documents])
    if method == ADAMERGING:
        inputs["labelled"] = digest([list(item) for item in _labelled_items(config.labelled)])
    parents = {"theta_0": base.sft(run, base.START), "policy": trained(run, end)}
    parents["replies"] = best_replies(run, end)
    name = f"ratios of {blocks} blocks by {method}, mean {alpha:g}"
    return run.get("ratios", inputs, make, parents, name)


def found_by(run: Run, spec: Spec) -> search.Found:
    """The ratios that the search of a spec finds."""
    return search.Found.load(ratios(run, spec).path)


def resolved(run: Run, spec: Spec) -> Spec:
    """Return a spec with the ratios that its search finds, where it leaves them open."""
    if blocks_to_find(spec) is None:
        return spec
    found = found_by(run, spec)
    text = ratios_text(found.blocks, found.fixed)
    assert spec.alpha is not None  # check_search has refused it
    # the mean of the ratios misses alpha by a rounding error, where it does not by more
    exact = abs(found.alpha - spec.alpha) <= TOLERANCE
    return dataclasses.replace(spec, alpha=spec.alpha if exact else found.alpha, part=text)


def _ends(run: Run, end: Spec) -> tuple[Any, Any]:
    both = base.sft(run, base.START), trained(run, end)
    return load_state(both[0].path / "model"), load_state(both[1].path / "model")


def mixture_of(
    run: Run, end: Spec, blocks: int | Sequence[int]
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, Mixture]:
    """A network, its tokenizer, and the mixture of theta_0 and an aligned end to run in it."""
    model, tokenizer = run.load(base.sft(run, base.START))
    return model, tokenizer, Mixture(model, *_ends(run, end), partition(model, blocks))


def sweep_of(run: Run, end: Spec) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, Sweep]:
    """A model that its sweep sets to any mixture of theta_0 and an aligned end."""
    model, tokenizer = run.load(base.sft(run, base.START))
    return model, tokenizer, Sweep(model, *_ends(run, end))


def model_of(run: Run, spec: Spec) -> Loaded:
    """The model that a spec names, and its tokenizer; a mixture is valid until the next one."""
    spec = resolved(run, spec)
    artifact = trained(run, spec)
    if spec.mix is None:
        return run.load(artifact)
    # one sweep is kept: its models are in memory, and a sweep's points come one after another
    if spec.mix == AVERAGE:
        made = run.once("sweep", lambda: sweep_of(run, spec.end), (artifact.key, None))
        model, tokenizer, sweep = made
        sweep.set(1.0 if spec.alpha is None else spec.alpha)
        return model, tokenizer
    blocks = _blocks(spec)
    key = (artifact.key, blocks)
    model, tokenizer, parts = run.once("sweep", lambda: mixture_of(run, spec.end, blocks), key)
    parts.set(part_ratios(spec, parts.partition))
    return model, tokenizer
