"""Average two checkpoints on disk, tensor by tensor: neither model is ever whole in memory.

theta(alpha) = (1 - alpha) theta_0 + alpha theta as in `average`, each number in float32 (float64
stays so) and rounded once to the dtype of the files. torch is not needed.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import astuple, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from alignment_tax.checkpoint import FLOATS, INDEX, WEIGHTS, Checkpoint, Stored
from alignment_tax.merge import layout
from alignment_tax.merge.layout import MergeError
from alignment_tax.provenance import provenance
from alignment_tax.store import digest, say, write_whole

CHUNK = 1 << 20  # bytes read of each model at a time: what both need fits into a core's own cache
THREADS = min(2, os.cpu_count() or 1)  # numpy lets the other go on; more wait for the disk
SPARE = 1 << 26  # bytes that are left free on the disk
PLAN = "merge.json"  # in the unfinished folder: what it is to become
#: What is copied beside the weights, from the checkpoint with the more tokens: data, no code.
COPIED = ("*.json", "*.jinja", "*.model", "*.txt", "LICENSE*", "NOTICE*")
TOLD = 3  # offenders that a message names
DTYPE_NAMES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
TYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16}


@dataclass(frozen=True)
class Recipe:
    """How much of the later model: `alpha`, or a ratio a block of layers, of which it is the mean.

    What is in no block (embeddings, norms, head) has the mean. `pad` lets rows of embedding and
    head that only one model has pass as they are.
    """

    alpha: float
    ratios: tuple[float, ...] = ()
    pad: bool = False

    def alphas(self, tensors: Mapping[str, layout.Shaped]) -> dict[str, float]:
        """Return the weight of the later model in each tensor (MergeError: unusable numbers)."""
        layout.check_alpha(self.alpha)
        if not self.ratios:
            return dict.fromkeys(tensors, float(self.alpha))
        parts = layout.cut(tensors, len(self.ratios))
        ratios = layout.ratios_of_blocks(parts, self.ratios, self.alpha)
        return {name: ratios[part] for part, names in parts.parts.items() for name in names}


@dataclass(frozen=True)
class Piece:
    """`size` bytes at `at` of a new file: of two files mixed by alpha, or of one as they are."""

    name: str
    sources: tuple[tuple[Path, int], ...]  # file and place: before, after; or one of them
    dtype: str
    alpha: float
    at: int
    size: int

    def chunks(self) -> Iterator[Piece]:
        """Yield the piece in parts that are worked on at a time."""
        for gone in range(0, self.size, CHUNK):
            moved = tuple((file, start + gone) for file, start in self.sources)
            length = min(CHUNK, self.size - gone)
            yield replace(self, sources=moved, at=self.at + gone, size=length)


@dataclass(frozen=True)
class Shard:
    """A safetensors file that is to be written."""

    name: str
    header: bytes
    pieces: tuple[Piece, ...]

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return len(self.header) + sum(piece.size for piece in self.pieces)


def merge_checkpoints(before: Checkpoint, after: Checkpoint, recipe: Recipe, out: Path) -> Path:
    """Write theta(alpha) as a checkpoint that transformers opens; return its folder.

    The weights lie in files as those of `after`. The folder appears whole, under its name, when
    all is done; what a killed merge has finished is checked and kept.

    Raises:
        MergeError: the two do not fit, the folder exists, or the disk has too little room.
    """
    if out.exists():
        raise MergeError(f"{out} exists: name a folder that does not, or remove it.")
    tokens = larger(before, after)
    shards = plan(before, after, recipe)
    part = out.with_name(f".{out.name}.part")
    inputs = [[f.name, f.stat().st_size, f.stat().st_mtime_ns] for f in before.files + after.files]
    key = digest([inputs, str(before.folder), str(after.folder), astuple(recipe)])
    if not (part / PLAN).is_file() or json.loads((part / PLAN).read_text())["key"] != key:
        shutil.rmtree(part, ignore_errors=True)
        check_room(out.parent, sum(shard.size for shard in shards))
        part.mkdir(parents=True)
        write_whole(part / PLAN, json.dumps({"key": key}))
    with ExitStack() as stack:
        opened = {f: stack.enter_context(f.open("rb")) for f in {*before.files, *after.files}}
        files = {file: handle.fileno() for file, handle in opened.items()}
        for number, shard in enumerate(shards, 1):
            if is_whole(part / shard.name, shard, files):
                say(f"{shard.name} is finished ({number} of {len(shards)}).")
            else:
                write_shard(part / shard.name, shard, files)
    beside(part, tokens, before, after, shards, recipe)
    (part / PLAN).unlink()
    part.rename(out)
    return out


# --- what is to be written ------------------------------------------------------------------------


def larger(before: Checkpoint, after: Checkpoint) -> Checkpoint:
    """Return the checkpoint whose tokenizer the average takes: the later, or that of more rows."""
    rows = [
        max((t.shape[0] for n, t in c.tensors.items() if has_rows(n, t)), default=0)
        for c in (before, after)
    ]
    return before if rows[0] > rows[1] else after


def has_rows(name: str, tensor: Stored) -> bool:
    """Whether each row of a tensor belongs to a token."""
    return tensor.ndim == 2 and layout.kind_of(name, tensor) in ("embedding", "head")


def plan(before: Checkpoint, after: Checkpoint, recipe: Recipe) -> list[Shard]:
    """Return the files that a merge writes (MergeError: the two do not fit; nothing is written)."""
    names = check_fit(before, after, recipe.pad)
    alphas = recipe.alphas({name: after.tensors[name] for name in names})
    shards = []
    for file in after.files:
        entries, pieces, last = dict[str, Any](), list[Piece](), 0
        for name in (name for name in names if after.tensors[name].file == file):
            pair = before.tensors[name], after.tensors[name]
            big = max(pair, key=lambda held: held.size)
            places = [last, last + big.size]
            entries[name] = {"dtype": big.dtype, "shape": big.shape, "data_offsets": places}
            pieces += pieces_of(name, *pair, alphas[name], last)
            last += big.size
        text = json.dumps({"__metadata__": {"format": "pt"}, **entries}).encode()
        text += b" " * (-len(text) % 8)
        header = len(text).to_bytes(8, "little") + text
        moved = tuple(replace(piece, at=piece.at + len(header)) for piece in pieces)
        shards.append(Shard(WEIGHTS if len(after.files) == 1 else file.name, header, moved))
    return shards


def pieces_of(name: str, one: Stored, two: Stored, alpha: float, at: int) -> Iterator[Piece]:
    """Yield what a tensor is made of: what both have, mixed, and rows that only one has."""
    both = min(one.size, two.size)
    ends = (one.file, one.start), (two.file, two.start)
    # a copy is exact, whatever the numbers are; buffers of whole numbers are the same in both
    sources = ends if one.dtype in FLOATS else ends[:1]
    sources = {0.0: ends[:1], 1.0: ends[1:]}.get(alpha, sources)
    yield Piece(name, sources, one.dtype, alpha, at, both)
    for longer in (one, two):
        if longer.size > both:
            rest = ((longer.file, longer.start + both),)
            yield Piece(name, rest, one.dtype, alpha, at + both, longer.size - both)


def check_fit(before: Checkpoint, after: Checkpoint, pad: bool = False) -> list[str]:
    """Refuse two checkpoints that cannot be averaged name by name; return the names that are.

    A head that one of them stores and the other leaves out must be the embedding once more.

    Raises:
        MergeError: names, shapes, dtypes or tokenizers differ; it names the first offenders.
    """
    ends = {"BEFORE": before, "AFTER": after}
    for (who, here), other in zip(ends.items(), (after, before), strict=True):
        alone = [name for name in here.tensors if name not in other.tensors]
        if strange := [name for name in alone if not is_tied(here, name)]:
            raise MergeError(
                f"{offenders(strange)} only in {who} ({here.folder}). Average only a model and "
                "what it was finetuned into; merge a LoRA adapter first (merge_and_unload), and "
                "take a model out of its wrapper (torch.compile, DDP)."
            )
    names = [name for name in after.tensors if name in before.tensors]
    pairs = {name: (before.tensors[name], after.tensors[name]) for name in names}
    if unlike := [name for name, (one, two) in pairs.items() if one.dtype != two.dtype]:
        one, two = pairs[unlike[0]]
        raise MergeError(
            f"{offenders(unlike)} {one.dtype} in BEFORE but {two.dtype} in AFTER: load one of them "
            "in the dtype of the other and save it (save_pretrained)."
        )
    for name, (one, two) in pairs.items():
        longer = has_rows(name, two) and one.shape[1:] == two.shape[1:]
        if one.shape != two.shape and not longer:
            raise MergeError(
                f"{name!r} is {list(one.shape)} in BEFORE but {list(two.shape)} in AFTER: the "
                "architectures differ. Average only a model and what it was finetuned into."
            )
        if one.dtype not in FLOATS and not alike(one, two):
            raise MergeError(
                f"{name!r} holds whole numbers or quantised ones ({one.dtype}) that differ, and so "
                "have no average: save both in bfloat16 or wider."
            )
    check_tokens(before, after, pairs, pad)
    return names


def check_tokens(
    before: Checkpoint,
    after: Checkpoint,
    pairs: Mapping[str, tuple[Stored, Stored]],
    pad: bool,
) -> None:
    """Refuse tokens that are numbered differently, and unless `pad` such as only one model has."""
    one, two = before.vocabulary or {}, after.vocabulary or {}
    if one and two:
        shared = {token: number for token, number in one.items() if token in two}
        layout.check_same_vocabulary(shared, {token: two[token] for token in shared})
    if pad:
        return
    added = sorted({*one} ^ {*two}) if one and two else []
    rows = [
        f"{name!r} has {a.shape[0]} rows in BEFORE and {b.shape[0]} in AFTER"
        for name, (a, b) in pairs.items()
        if a.shape != b.shape
    ]
    if rows or added:
        tokens = f"tokens that only one has: {', '.join(map(repr, added[:TOLD]))}"
        tokens += f" and {len(added) - TOLD} more" if len(added) > TOLD else ""
        raise MergeError(
            f"{'; '.join([*rows[:TOLD], *([tokens] if added else [])])}. With --pad the rows and "
            "tokens of both are averaged, and those that only one has are taken as they are."
        )


def is_tied(checkpoint: Checkpoint, name: str) -> bool:
    """Whether a tensor is a head that holds the very numbers of the embedding."""
    held = checkpoint.tensors[name]
    if layout.kind_of(name, held) != "head":
        return False
    return any(
        layout.kind_of(word, other) == "embedding" and alike(held, other)
        for word, other in checkpoint.tensors.items()
    )


def alike(one: Stored, two: Stored) -> bool:
    """Whether two tensors have the same dtype, shape and bytes."""
    if (one.dtype, one.shape) != (two.dtype, two.shape):
        return False
    with one.file.open("rb") as first, two.file.open("rb") as second:
        first.seek(one.start)
        second.seek(two.start)
        sizes = (min(CHUNK, one.size - gone) for gone in range(0, one.size, CHUNK))
        return all(first.read(size) == second.read(size) for size in sizes)


def offenders(names: Sequence[str]) -> str:
    """Return the first of some names, and how many more there are, up to the verb."""
    more = f" and {len(names) - TOLD} more" if len(names) > TOLD else ""
    return f"{', '.join(map(repr, names[:TOLD]))}{more} {'is' if len(names) == 1 else 'are'}"


def check_room(folder: Path, needed: int) -> None:
    """Refuse a disk that has too little room for so many bytes (MergeError)."""
    folder.mkdir(parents=True, exist_ok=True)
    if (free := shutil.disk_usage(folder).free) < needed + SPARE:
        raise MergeError(
            f"The average needs {(needed + SPARE) / 1e9:.2f} GB and the disk of {folder} has "
            f"{free / 1e9:.2f} GB free: free some, or name an --out on another disk."
        )


# --- writing --------------------------------------------------------------------------------------


class Mixer:
    """Mixes pieces in buffers of its own, one mixer a thread."""

    def __init__(self, files: Mapping[Path, int]) -> None:
        self.files = files
        self.read = [np.empty(CHUNK, np.uint8) for _ in range(2)]
        self.wide = [np.empty(CHUNK // 2, np.float32) for _ in range(2)]
        self.spare = np.empty(CHUNK // 2, np.uint32)

    def mixed(self, piece: Piece) -> np.ndarray:
        """Return the bytes of a chunk, in a buffer that the next chunk overwrites."""
        for (file, start), buffer in zip(piece.sources, self.read, strict=False):
            if os.preadv(self.files[file], [buffer[: piece.size].data], start) != piece.size:
                raise MergeError(f"{file} ends before {piece.name!r}: it was changed meanwhile.")
        read = [buffer[: piece.size] for buffer in self.read]
        if len(piece.sources) == 1:
            return read[0]
        return self.mix(piece.name, read, piece.dtype, piece.alpha)

    def mix(self, name: str, read: Sequence[np.ndarray], dtype: str, alpha: float) -> np.ndarray:
        """Return the bytes of the average of two arrays of bytes, which are overwritten."""
        own = [each.view(TYPES[dtype]) for each in read]
        wide = own
        if dtype in ("F16", "BF16"):
            wide = [buffer[: len(own[0])] for buffer in self.wide]
            for narrow, room in zip(own, wide, strict=True):
                widen(narrow, room, dtype)
        # from the nearer end, so that what is equal in both stays so
        near, far = wide if alpha < 0.5 else wide[::-1]
        far -= near
        far *= far.dtype.type(min(alpha, 1 - alpha))
        near += far
        if not math.isfinite(float(np.dot(near, near))) and not np.isfinite(near).all():
            raise MergeError(
                f"{name!r} holds NaN or infinity in one of the two models: that training run "
                "diverged. Use an earlier checkpoint."
            )
        if near.dtype != own[0].dtype:
            narrow_down(near, own[0], dtype, self.spare[: len(near)])
            near = own[0]
        return near.view(np.uint8)


def widen(narrow: np.ndarray, wide: np.ndarray, dtype: str) -> None:
    """Write 16-bit floats as float32; a bfloat16 is the upper half of one."""
    if dtype == "F16":
        wide[:] = narrow
        return
    bits = wide.view(np.uint32)
    bits[:] = narrow
    bits <<= 16


def narrow_down(wide: np.ndarray, narrow: np.ndarray, dtype: str, spare: np.ndarray) -> None:
    """Round float32 to 16-bit floats, to the nearest, and to the even one of two as near."""
    if dtype == "F16":
        narrow[:] = wide
        return
    bits = wide.view(np.uint32)
    np.right_shift(bits, 16, out=spare)
    spare &= 1
    spare += 0x7FFF
    bits += spare
    bits >>= 16
    narrow[:] = bits


def write_shard(path: Path, shard: Shard, files: Mapping[Path, int]) -> None:
    """Write one file, whole or not at all."""
    temporary = path.with_suffix(".tmp")
    chunks = list(chain.from_iterable(piece.chunks() for piece in shard.pieces))
    with temporary.open("wb") as file:
        file.write(shard.header)
        file.flush()

        def work(first: int) -> None:
            mixer = Mixer(files)
            for chunk in chunks[first::THREADS]:
                os.pwrite(file.fileno(), mixer.mixed(chunk).data, chunk.at)

        with ThreadPoolExecutor(THREADS) as threads:
            list(threads.map(work, range(THREADS)))
    temporary.rename(path)  # not synced: after a power cut `is_whole` finds what is missing


def is_whole(path: Path, shard: Shard, files: Mapping[Path, int]) -> bool:
    """Whether a file is a finished shard: length, header, and the end of each tensor once more."""
    if not path.is_file() or path.stat().st_size != shard.size:
        return False
    mixer = Mixer(files)
    with path.open("rb") as file:
        if file.read(len(shard.header)) != shard.header:
            return False
        for piece in shard.pieces:
            for last in list(piece.chunks())[-1:]:
                file.seek(last.at)
                if file.read(last.size) != mixer.mixed(last).tobytes():
                    return False
    return True


def beside(
    part: Path,
    tokens: Checkpoint,
    before: Checkpoint,
    after: Checkpoint,
    shards: Sequence[Shard],
    recipe: Recipe,
) -> None:
    """Write what stands beside the weights: tokenizer, configuration, index and card."""
    copied = {file.name: file for pattern in COPIED for file in tokens.folder.glob(pattern)}
    for name, file in copied.items():
        if not name.endswith("index.json") and name not in (PLAN, "config.json"):
            shutil.copyfile(file, part / name)
    templates = tokens.folder / "additional_chat_templates"
    if templates.is_dir():
        shutil.copytree(templates, part / templates.name, dirs_exist_ok=True)
    if len(shards) > 1:
        places = {piece.name: shard.name for shard in shards for piece in shard.pieces}
        total = sum(piece.size for shard in shards for piece in shard.pieces)
        index = {"metadata": {"total_size": total}, "weight_map": places}
        write_whole(part / INDEX, json.dumps(index, indent=2) + "\n")
    config = after.config | {
        key: tokens.config[key] for key in ("vocab_size", "pad_token_id") if key in tokens.config
    }
    if before.tensors.keys() != after.tensors.keys():
        config["tie_word_embeddings"] = True  # the head was left out: it is the embedding
    write_whole(part / "config.json", json.dumps(config, indent=2) + "\n")
    write_whole(part / "README.md", card(before, after, recipe))


def card(before: Checkpoint, after: Checkpoint, recipe: Recipe) -> str:
    """Return the page that says what the average is."""
    made = provenance()
    how = f"alpha = {recipe.alpha:g}"
    if recipe.ratios:
        told = ", ".join(f"{ratio:g}" for ratio in recipe.ratios)
        how = f"a ratio for each block of layers ({told}) of mean {recipe.alpha:g}"
    return f"""---
library_name: transformers
tags: [merge, alignment-tax]
---

# An average of two models

theta(alpha) = (1 - alpha) theta_0 + alpha theta, with {how}: the weight of the aligned model.

| | model | files |
| --- | --- | --- |
| before (theta_0) | `{before.folder.name}` | {len(before.files)} |
| after (theta) | `{after.folder.name}` | {len(after.files)} |

Each number was mixed in float32 and rounded once. Made by alignment-tax
{made["versions"]["alignment_tax"]} ({made["commit"]}), {made["time"]}. The licences of both models
hold for it, and nobody has tested it: `alignment-tax audit` measures what it can do.
"""


def mergekit_config(before: Checkpoint, after: Checkpoint, recipe: Recipe) -> str:
    """Return a configuration with which mergekit's `linear` makes the same weights."""
    ends = ((before.folder, lambda ratio: 1 - ratio), (after.folder, lambda ratio: ratio))
    # mergekit's filters are parts of names; its norms inside a slice have the mean here
    words = (*layout.EMBEDDING_WORDS, *layout.HEAD_WORDS, *layout.NORM_WORDS)
    config: dict[str, Any] = {"merge_method": "linear", "parameters": {"normalize": False}}
    if recipe.ratios:
        layers, slices, last = len(layout.layer_numbers(after.tensors)), [], 0
        sizes = layout.block_sizes(layers, len(recipe.ratios))
        for size, ratio in zip(sizes, recipe.ratios, strict=True):
            sources = []
            for folder, weight in ends:
                own = [{"filter": word, "value": weight(recipe.alpha)} for word in words]
                own.append({"value": weight(ratio)})
                source = {"model": str(folder), "layer_range": [last, last + size]}
                sources.append({**source, "parameters": {"weight": own}})
            slices.append({"sources": sources})
            last += size
        config["slices"] = slices
    else:
        config["models"] = [
            {"model": str(folder), "parameters": {"weight": weight(recipe.alpha)}}
            for folder, weight in ends
        ]
    kept = next(t.dtype for t in after.tensors.values() if t.dtype in FLOATS)
    config |= {"dtype": "float32", "out_dtype": DTYPE_NAMES[kept]}
    return json.dumps(config, indent=2) + "\n"  # JSON is YAML
