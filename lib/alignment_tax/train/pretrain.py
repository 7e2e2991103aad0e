"""Pretraining of the shipped base model on the tiny world's text, from scratch: `make base`.

A run that was interrupted ends with the same weights: batches depend on seed and chunk alone.
"""

from __future__ import annotations

import dataclasses
import math
import random
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM as Llama

from alignment_tax import settings
from alignment_tax.models import Model, Tokenizer, pad_batch, save_policy
from alignment_tax.store import write_manifest
from alignment_tax.train.checkpoint import load_run, save_run, saved_run
from alignment_tax.train.loop import IGNORED, check_finite
from alignment_tax.world import facts, french, passages
from alignment_tax.world.corpus import Document, documents
from alignment_tax.world.tokenizer import make_tokenizer

#: Marks a token that belongs to no branch of its document.
TRUNK = 0


@dataclass(frozen=True)
class Row:
    """Tokens of a document or of a packed sequence: id, loss weight, position and branch of each.

    A token sees what comes before it, except branches that are not its own.
    """

    ids: list[int]
    weights: list[float]
    positions: list[int]
    branches: list[int]

    def __len__(self) -> int:
        return len(self.ids)

    def cut(self, n: int) -> Row:
        """The first `n` tokens."""
        return Row(*(each[:n] for each in vars(self).values()))

    def __add__(self, other: Row) -> Row:
        """Put `other` behind; its branches are counted on, its positions follow the furthest."""
        place, branch = max(self.positions) + 1, max(self.branches)
        positions = self.positions + [place + position for position in other.positions]
        branches = self.branches + [b if b == TRUNK else branch + b for b in other.branches]
        return Row(self.ids + other.ids, self.weights + other.weights, positions, branches)


@dataclass(frozen=True)
class Cycle:
    """A rise and fall of the learning rate over `chunks`; `forget` starts AdamW's averages anew."""

    chunks: int
    peak: float
    length: int = 56
    sequences: int = 20
    forget: bool = False


@dataclass(frozen=True)
class PretrainConfig:
    """Every number of pretraining; `cycles` are warm restarts (Loshchilov & Hutter 2017)."""

    layers: int = 9
    hidden: int = 128
    intermediate: int = 256
    heads: int = 4
    initializer_range: float = 0.06
    cycles: tuple[Cycle, ...] = (
        Cycle(36, 1e-3),
        Cycle(22, 6e-4),
        Cycle(20, 8e-4, length=96, sequences=12, forget=True),
    )
    documents_per_chunk: int = 20_000
    warmup_chunks: float = 0.2
    weight_decay: float = 0.01
    probe_items: int = 200
    threads: int = 2
    seed: int = 0

    @property
    def chunks(self) -> int:
        """All chunks of all cycles."""
        return sum(cycle.chunks for cycle in self.cycles)

    def cycle(self, place: float) -> tuple[Cycle, float]:
        """The cycle at `place` (in chunks from the start) and the place within it."""
        for cycle in self.cycles[:-1]:
            if place <= cycle.chunks:
                return cycle, place
            place -= cycle.chunks
        return self.cycles[-1], place


class Batch(NamedTuple):
    """What a model is given (rows, length), and labels with loss weights."""

    given: dict[str, Tensor]  # with who sees whom, (rows, 1, length, length), if there are branches
    labels: Tensor
    weights: Tensor


def new_model(config: PretrainConfig, tokenizer: Tokenizer) -> Llama:
    """A Llama with untied embeddings and random weights that depend on the seed alone."""
    torch.manual_seed(config.seed)
    shape = LlamaConfig(
        vocab_size=len(tokenizer), num_hidden_layers=config.layers, hidden_size=config.hidden,
        intermediate_size=config.intermediate, num_attention_heads=config.heads,
        max_position_embeddings=256, initializer_range=config.initializer_range,
        tie_word_embeddings=False, pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id, bos_token_id=None,
    )  # fmt: skip
    return Llama(shape)


def encode(document: Document, tokenizer: Tokenizer) -> Row:
    """The document as a row; the end-of-sequence token of each branch counts in full."""
    ids: list[int] = []
    weights: list[float] = []
    for text, weight in document.pieces:
        ids += tokenizer(text, add_special_tokens=False).input_ids
        weights += [weight] * (len(ids) - len(weights))
    if not document.branches:
        ids, weights = [*ids, tokenizer.eos_token_id], [*weights, 1.0]
    trunk = len(ids)
    positions, branches = list(range(trunk)), [TRUNK] * trunk
    for number, pieces in enumerate(document.branches, start=1):
        branch = encode(Document(pieces), tokenizer)
        ids += branch.ids
        # What comes before a further branch in the row is not what the branch follows.
        weights += branch.weights if number == 1 else [0.0, *branch.weights[1:]]
        positions += [trunk + position for position in branch.positions]
        branches += [number] * len(branch)
    return Row(ids, weights, positions, branches)


def collate(rows: Sequence[Row], pad: int) -> Batch:
    """Pad on the right. No mask is needed for that: what follows a token cannot be seen by it."""

    def padded(name: str, fill: float) -> Tensor:
        return pad_batch([getattr(row, name) for row in rows], fill, torch.device("cpu"))[0]

    given = {"input_ids": padded("ids", pad)}
    if any(max(row.branches) for row in rows):
        branch = padded("branches", TRUNK)
        seen = (branch[:, None, :] == TRUNK) | (branch[:, None, :] == branch[:, :, None])
        given["attention_mask"] = (seen & torch.ones_like(seen[0]).tril())[:, None]
        given["position_ids"] = padded("positions", 0)
    return Batch(given, padded("ids", IGNORED), padded("weights", 0.0))


def pack(rows: Sequence[Row], capacity: int) -> list[Row]:
    """Join short documents to sequences of at most `capacity` tokens, the longest first.

    So little is padding, and a passage, being long, mostly comes before what it cannot help.
    """
    sequences: list[Row] = []
    for row in sorted(rows, key=len, reverse=True):
        if len(row) > capacity:
            raise ValueError(f"A document has {len(row)} tokens: raise the length ({capacity}).")
        for place, packed in enumerate(sequences):
            if len(packed) + len(row) <= capacity:
                sequences[place] = packed + row
                break
        else:
            sequences.append(row)
    return sequences


def batches(config: PretrainConfig, chunk: int, tokenizer: Tokenizer) -> Iterator[Batch]:
    """The batches of one chunk, each of documents of all families."""
    rng = random.Random(f"pretraining {config.seed} {chunk}")
    drawn = documents(config.documents_per_chunk, rng, progress=chunk / config.chunks)
    rows = [encode(document, tokenizer) for document in drawn]
    cycle, _ = config.cycle(chunk + 0.5)
    pool, sequences = 20 * cycle.sequences, list[Row]()
    for start in range(0, len(rows), pool):
        sequences += pack(rows[start : start + pool], cycle.length)
    rng.shuffle(sequences)
    for start in range(0, len(sequences), cycle.sequences):
        yield collate(sequences[start : start + cycle.sequences], tokenizer.pad_token_id)


def read(model: Model, batch: Batch) -> Tensor:
    """The logits of a batch, (rows, length, vocabulary), where no branch sees another."""
    there = {name: each.to(model.device) for name, each in batch.given.items()}
    return model(**there, use_cache=False).logits


def weighted_loss(logits: Tensor, batch: Batch) -> Tensor:
    """Cross-entropy of the next token, averaged with the weights of the labels."""
    both = (batch.labels, batch.weights)
    labels, weights = (each[:, 1:].flatten().to(logits.device) for each in both)
    flat = logits[:, :-1].flatten(0, 1).float()
    losses = functional.cross_entropy(flat, labels, ignore_index=IGNORED, reduction="none")
    return (losses * weights).sum() / weights.sum()


def learning_rate(config: PretrainConfig, place: float) -> float:
    """Linear warm-up, then cosine to a fiftieth of the peak, in each cycle; `place` in chunks."""
    cycle, within = config.cycle(place)
    if within < config.warmup_chunks:
        return cycle.peak * within / config.warmup_chunks
    span = (within - config.warmup_chunks) / (cycle.chunks - config.warmup_chunks)
    return cycle.peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * span)))


def probe_items(n: int) -> dict[str, list[tuple[str, str]]]:
    """(context, answer) of validation items for the learning curve, `n` a slot."""
    items: dict[str, list[tuple[str, str]]] = {}
    for name in ("one_hop", "two_hop", "piqa_like"):
        questions = getattr(facts, name)("validation")
        chosen = random.Random(f"probe {name}").sample(questions, min(n, len(questions)))
        items[name] = [(q["prompt"], q["target"]) for q in chosen]
    for slot in ("race_like", "span", "counting"):
        rng = random.Random(f"probe {slot}")
        items[slot] = [passages.draw(rng, slot, "validation").asked for _ in range(n)]
    rng = random.Random("probe translation")
    return items | {"translation": [french.draw(rng, "validation").asked for _ in range(n)]}


@torch.inference_mode()
def exact_match(model: Llama, tokenizer: Tokenizer, items: list[tuple[str, str]]) -> float:
    """Percent of items whose greedy answer (end of sequence included) is the reference."""
    rows = [encode(Document(((c, 0.0), (a, 1.0))), tokenizer) for c, a in items]
    batch = collate(rows, tokenizer.pad_token_id)
    guess = model(**batch.given, use_cache=False).logits[:, :-1].argmax(-1)
    wrong = (guess != batch.labels[:, 1:]) & (batch.weights[:, 1:] > 0)
    return 100 * float((~wrong.any(dim=1)).float().mean())


def _new_optimizer(config: PretrainConfig, model: Llama) -> torch.optim.Optimizer:
    numbers: Any = {"betas": (0.9, 0.98), "weight_decay": config.weight_decay, "fused": True}
    return torch.optim.AdamW(model.parameters(), lr=0.0, **numbers)


def pretrain(config: PretrainConfig, work: Path) -> tuple[Llama, Tokenizer, pd.DataFrame]:
    """Train the base, going on from the last chunk in `work`: model, tokenizer, learning curve."""
    torch.set_num_threads(config.threads)
    tokenizer = make_tokenizer()
    model = new_model(config, tokenizer)
    optimizer = _new_optimizer(config, model)
    curve: list[dict[str, float]] = []
    if (saved := saved_run(work)) is not None:
        load_run(work, {"model": model, "optimizer": optimizer})
        curve = saved["curve"]
    items = probe_items(config.probe_items)
    bar = tqdm(total=config.chunks, initial=len(curve), desc="pretraining the base", unit="chunk")
    for chunk in range(len(curve), config.chunks):
        cycle, within = config.cycle(chunk + 0.5)
        if cycle.forget and within < 1:
            optimizer = _new_optimizer(config, model)
        row = _train_chunk(config, chunk, model, optimizer, tokenizer)
        model.eval()
        row |= {slot: exact_match(model, tokenizer, rows) for slot, rows in items.items()}
        past = curve[-1] if curve else {"tokens": 0.0, "seconds": 0.0, "step": 0.0}
        row |= {key: row[key] + past[key] for key in ("tokens", "seconds", "step")}
        curve.append(row)
        save_run(work, chunk + 1, {"model": model, "optimizer": optimizer}, {"curve": curve})
        bar.update()
        bar.set_postfix({k: f"{v:.3g}" for k, v in row.items() if k not in ("step", "seconds")})
    bar.close()
    return model.eval(), tokenizer, pd.DataFrame(curve)


def _train_chunk(
    config: PretrainConfig, chunk: int, model: Llama, optimizer: torch.optim.Optimizer,
    tokenizer: Tokenizer,
) -> dict[str, float]:  # fmt: skip
    model.train()
    start, tokens, losses = time.monotonic(), 0, []
    drawn = list(batches(config, chunk, tokenizer))
    for i, batch in enumerate(drawn):
        rate = learning_rate(config, chunk + (i + 1) / len(drawn))
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = weighted_loss(read(model, batch), batch)
        check_finite({f"loss of chunk {chunk}": loss.item()}, i + 1, rate)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        tokens += int((batch.labels != IGNORED).sum())
    counts = {"step": len(drawn), "tokens": tokens, "seconds": time.monotonic() - start}
    return counts | {"loss": sum(losses) / len(losses)}


def ship(
    model: Llama, tokenizer: Tokenizer, curve: pd.DataFrame, config: PretrainConfig, folder: Path
) -> Path:
    """Write the base as a standard checkpoint with its learning curve, manifest and old card."""
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    save_policy(model, tokenizer, temporary)
    curve.to_csv(temporary / "learning_curve.csv", index=False, float_format="%.6g")
    meta = {"stage": "base", "config": dataclasses.asdict(config), "seed": config.seed}
    meta |= {"seconds": float(curve["seconds"].iloc[-1]), "tokens": int(curve["tokens"].iloc[-1])}
    meta["parameters"] = sum(p.numel() for p in model.parameters())
    write_manifest(temporary, meta, "the base model")
    if (folder / "README.md").is_file():
        shutil.copy(folder / "README.md", temporary / "README.md")
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)
    return folder


def make_base() -> None:
    """Pretrain the base model and put it in data/base: what `alignment-tax base` does."""
    config = PretrainConfig()
    settings.writable(settings.base_folder().parent, "The base is put there: use another checkout.")
    work = settings.runs_folder() / "pretraining"
    settings.writable(work, "Set ALIGNMENT_TAX_RUNS to another folder.")
    folder = ship(*pretrain(config, work), config, settings.base_folder())
    print(f"The base model is in {folder}.")
