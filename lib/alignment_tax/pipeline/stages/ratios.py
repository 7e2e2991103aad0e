"""Mixtures of theta_0 and an aligned policy: by one ratio, part by part, by ratios to be found."""

import dataclasses
import json
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import pandas as pd

from alignment_tax import spec as grammar
from alignment_tax.merge import layout, parts, search
from alignment_tax.mitigate import best_of_n
from alignment_tax.mitigate.replay import check_disjoint, tiny_reported
from alignment_tax.models import Model, Tokenizer, load_state
from alignment_tax.pipeline.stages import base
from alignment_tax.pipeline.stages.remedies import replay_documents
from alignment_tax.pipeline.stages.run import STAGES, Loaded, Run, trained
from alignment_tax.presets import RatioConfig
from alignment_tax.skills import FAMILIES
from alignment_tax.spec import ADAMERGING, AVERAGE, HMA, Spec, UnknownStage
from alignment_tax.store import Artifact, digest
from alignment_tax.train.loop import encode, encode_text
from alignment_tax.train.rsf import draw_samples, short_prompts
from alignment_tax.world import tiny
from alignment_tax.world.corpus import Document


def numbers(run: Run) -> RatioConfig:
    """The preset's numbers for ratios (UnknownStage: it has none)."""
    if run.preset.ratios is None:
        raise UnknownStage(f"Preset {run.preset.name} searches no ratios: set its `ratios`.")
    return run.preset.ratios


def part_ratios(spec: Spec, partition: layout.Partition) -> dict[str, float]:
    """The ratio of every part of a model that a spec with parts names (see `merge.parts`)."""
    if spec.alpha is None or spec.part is None:
        raise ValueError(f"Method {spec.method} needs a part and an alpha, not {spec}.")
    if grammar.is_search(spec.mix):
        blocks, fixed = grammar.ratios_in(spec)
        return layout.ratios_of_blocks(partition, blocks, spec.alpha, fixed=fixed)
    return parts.one_part(partition, spec.part, spec.alpha)


def _cut(run: Run, blocks: int) -> layout.Partition:
    """How a policy is cut into K blocks; the base has the shapes of all, and is there first."""
    start = base.base(run)
    return run.once(("blocks", blocks), lambda: parts.partition(run.load(start)[0], blocks))


def _blocks(spec: Spec) -> int:
    """Into how many blocks a mixture cuts the layers."""
    return len(grammar.ratios_in(spec)[0]) if grammar.is_search(spec.mix) else len(layout.THIRDS)


def check_mixture(run: Run, spec: Spec) -> None:
    """Refuse an alpha, a part, ratios or a search that makes no sense."""
    if spec.alpha is None and spec.method != AVERAGE:
        raise ValueError(f"{spec.method!r} needs alpha, the weight of the aligned model.")
    layout.check_alpha(alpha := 1.0 if spec.alpha is None else spec.alpha)
    if (blocks := grammar.blocks_to_find(spec)) is not None:
        # what would fail after its models are trained
        grammar.check_known([spec.method], search.SEARCHES, "search")
        _cut(run, blocks)
        search.check_search(spec.method, blocks, alpha, numbers(run))
        if spec.method == ADAMERGING and run.preset.world != "tiny":
            raise UnknownStage("AdaMerging takes labelled items of the tiny world alone so far.")
        kept_documents(run, spec.method)
    elif spec.mix != AVERAGE:
        part_ratios(spec, _cut(run, _blocks(spec)))
    STAGES[spec.protocol].check(run, spec.end)


def best_replies(run: Run, end: Spec | None = None) -> Artifact:
    """An aligned policy's own replies to RLHF prompts; HMA takes those chosen: samples.parquet."""
    end = end or run.end()
    config, rsf, policy = numbers(run), run.preset.rsf, trained(run, end)

    def make(folder: Path) -> None:
        prompts = run.world.prompts(config.prompts, run.seed, "rlhf")
        drawn, scored = dataclasses.replace(rsf, n=config.n), partial(base.rewards, run)
        samples = draw_samples(*run.load(policy), scored, prompts, drawn, run.seed)
        samples["prompt"] = [json.dumps(prompt) for prompt in samples["prompt"]]
        samples.to_parquet(folder / "samples.parquet", index=False)

    inputs: dict[str, Any] = {"prompts": config.prompts, "n": config.n}
    inputs["sampling"] = [rsf.temperature, rsf.max_new_tokens, rsf.max_prompt_length]
    inputs["batch"] = [run.batch, rsf.sampling_batch]
    parents = {"policy": policy, "reward": base.reward(run)}
    return run.get("best_replies", inputs, make, parents, f"the best replies of {end.algorithm}")


def search_data(run: Run, method: str = HMA, end: Spec | None = None) -> search.Data:
    """What a search for the ratios of an aligned end looks at: see `merge.search.Data`."""
    config, rsf = numbers(run), run.preset.rsf
    (_, tokenizer), room = base.theta_0(run), rsf.max_prompt_length + rsf.max_new_tokens
    samples = pd.read_parquet(best_replies(run, end).path / "samples.parquet")
    best = best_of_n([samples.assign(prompt=samples["prompt"].map(json.loads))])
    replies = [encode(tokenizer, prompt, reply, room) for prompt, reply in best]
    texts: Sequence[Sequence[int]] = ()
    if documents := kept_documents(run, method):
        check_disjoint(documents, tiny_reported())
        kept = [kept_text(document) for document in documents]
        texts = tokenizer(kept, add_special_tokens=False)["input_ids"]
    items = _labelled_items(config.labelled) if method == ADAMERGING else ()
    labelled = [encode_text(tokenizer, *item) for item in items]
    rlhf = run.world.prompts(10**6, run.seed, "rlhf")
    prompts = short_prompts(tokenizer, rlhf, rsf.max_prompt_length)[: config.reward_prompts]

    def reward(model: Model, chosen: Sequence[int]) -> float:
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
    return " ".join(text for text, _ in [*document.pieces, *(document.branches or [()])[0]])


@cache
def _labelled_items(count: int) -> tuple[tuple[str, str], ...]:
    """Prompt and answer of the first validation items of each reading skill; none is reported."""
    every = [list(tiny.items(slot, "validation"))[:count] for slot in FAMILIES["reading"]]
    return tuple((item["prompt"], item["target"]) for found in every for item in found)


def found_by(run: Run, spec: Spec) -> search.Found:
    """The ratios of K blocks, of mean alpha, that a search finds (see `merge.search`)."""
    check_mixture(run, spec)
    config, end, method = numbers(run), spec.end, spec.method
    blocks, alpha = grammar.blocks_to_find(spec), spec.alpha
    assert blocks is not None  # of a search
    assert alpha is not None  # it would be refused

    def make(folder: Path) -> None:
        model, _, mixture = mixture_of(run, blocks, end)
        task = search.Task(mixture, model, search_data(run, method, end), config, alpha, run.seed)
        search.SEARCHES[method](task).save(folder)

    # what is recorded does not change what is found
    inputs: dict[str, Any] = {"method": method, "blocks": blocks, "alpha": alpha}
    inputs["config"] = dataclasses.asdict(dataclasses.replace(config, parts=(), grids=()))
    if documents := kept_documents(run, method):
        inputs["texts"] = digest([kept_text(document) for document in documents])
    if method == ADAMERGING:
        inputs["labelled"] = digest([list(item) for item in _labelled_items(config.labelled)])
    parents = {"theta_0": base.sft(run), "policy": trained(run, end)}
    parents["replies"] = best_replies(run, end)
    name = f"ratios of {blocks} blocks by {method}, mean {alpha:g}"
    return search.Found.load(run.get("ratios", inputs, make, parents, name).path)


def found(run: Run, method: str, blocks: int, alpha: float) -> search.Found:
    """The ratios that a search finds (UnknownStage, MergeError: what cannot work, at once)."""
    grammar.check_known([method], search.SEARCHES, "search")
    chosen = dataclasses.replace(run.end(), method=method, alpha=alpha, part=f"K={blocks}")
    return found_by(run, chosen)


def resolved(run: Run, spec: Spec) -> Spec:
    """Return a spec with the ratios that its search finds, where it leaves them open."""
    if grammar.blocks_to_find(spec) is None:
        return spec
    found = found_by(run, spec)
    text = grammar.ratios_text(found.blocks, found.fixed)
    assert spec.alpha is not None  # it would be refused
    # the mean of the ratios misses alpha by a rounding error, where it does not by more
    exact = abs(found.alpha - spec.alpha) <= layout.TOLERANCE
    return dataclasses.replace(spec, alpha=spec.alpha if exact else found.alpha, part=text)


def mixture_of(
    run: Run, blocks: int | Sequence[int] = len(layout.THIRDS), end: Spec | None = None
) -> tuple[Model, Tokenizer, parts.Mixture]:
    """A model, its tokenizer, and its mixture of theta_0 and an aligned end, part by part."""
    both = (base.sft(run), trained(run, end or run.end()))
    model, tokenizer = run.load(both[0])
    start, aligned = (load_state(each.path / "model") for each in both)
    return model, tokenizer, parts.Mixture(model, start, aligned, parts.partition(model, blocks))


def model_of(run: Run, spec: Spec) -> Loaded:
    """The model of a spec, valid until the next mixture, and its tokenizer (see `trained`)."""
    spec = resolved(run, spec)
    artifact = trained(run, spec)
    if spec.mix is None:
        return run.load(artifact)
    # one mixture is kept: its models are in memory, and a sweep's points come one after another
    blocks = _blocks(spec)
    key = (artifact.key, blocks)
    model, tokenizer, mixture = run.once("mixture", lambda: mixture_of(run, blocks, spec.end), key)
    plain = 1.0 if spec.alpha is None else spec.alpha
    mixture.set(plain if spec.mix == AVERAGE else part_ratios(spec, mixture.partition))
    return model, tokenizer
