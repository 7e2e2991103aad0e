"""Average two checkpoints on disk, piece by piece: neither model is ever whole in memory.

theta(alpha) = (1 - alpha) theta_0 + alpha theta as in `average`, each number in float32 (float64
stays so) and rounded once to the dtype of the files. torch is not needed.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import astuple, dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import Timeout

from alignment_tax.labels import page
from alignment_tax.merge import layout
from alignment_tax.merge.layout import FINETUNED, UNWRAPPED, MergeError
from alignment_tax.provenance import provenance
from alignment_tax.store import digest, lock_of, say, write_whole
from alignment_tax.weights import INDEX, WEIGHTS, Checkpoint, Stored, check_same_vocabulary

CHUNK = 1 << 19  # bytes read of each model at a time: what both need fits into a core's own cache
THREADS = min(2, os.cpu_count() or 1)  # numpy lets the other go on; more wait for the disk
SPARE = 1 << 26  # bytes that are left free on the disk
PLAN = "merge.key"  # in the unfinished folder: what it is to become
#: What is copied beside the weights, from the checkpoint with the more tokens: data, no code.
COPIED = ("*.json", "*.jinja", "*.model", "*.txt", "LICENSE*", "NOTICE*", "additional_chat_*/*")
TOLD = 3  # offenders that a message names
#: Floats that are averaged, as numpy holds them: it has no bfloat16.
FLOATS = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16}


@dataclass(frozen=True)
class Recipe:
    """How much of the later model: `alpha`, or ratios of blocks of layers whose mean is `alpha`."""

    alpha: float  # what is in no block has it too
    ratios: tuple[float, ...] = ()
    pad: bool = False  # let rows of embedding and head that only one model has pass as they are

    def alphas(self, tensors: Mapping[str, layout.Shaped]) -> dict[str, float]:
        """Return the weight of the later model in each tensor (MergeError: unusable numbers)."""
        layout.check_alpha(self.alpha)
        if not self.ratios:
            return dict.fromkeys(tensors, float(self.alpha))
        parts = layout.cut(tensors, len(self.ratios))
        ratios = layout.ratios_of_blocks(parts, self.ratios, self.alpha)
        return {name: ratios[part] for part, names in parts.parts.items() for name in names}


class Chunk(NamedTuple):
    """`size` bytes at `at` of a file: both `sources` (file, place) mixed, or one as it is."""

    name: str
    sources: tuple[tuple[Path, int], ...]
    dtype: str
    alpha: float
    at: int
    size: int


class Shard(NamedTuple):
    """A safetensors file that is to be written: its header, then `size` bytes of numbers."""

    name: str
    header: bytes
    chunks: tuple[Chunk, ...]
    size: int


def merge_checkpoints(before: Checkpoint, after: Checkpoint, recipe: Recipe, out: Path) -> Path:
    """Write theta(alpha) as a checkpoint that transformers opens; return its folder.

    The weights lie in files as those of `after`. The folder appears when all is done; what a killed
    merge has finished is checked and kept. MergeError: the two do not fit, the folder exists, is
    being written by another merge, or the disk has too little room.
    """
    shards = plan(before, after, recipe)
    sources = {*before.files, *after.files}
    stats = sorted([str(f), f.stat().st_size, f.stat().st_mtime_ns] for f in sources)
    key = digest([stats, str(before.folder), str(after.folder), astuple(recipe)])
    out.parent.mkdir(parents=True, exist_ok=True)
    part, lock = out.with_name(f".{out.name}.part"), lock_of(out)
    with ExitStack() as held:
        try:
            held.enter_context(lock.acquire(timeout=0))
        except Timeout as error:
            raise MergeError(f"Another merge is writing {out}: wait for it.") from error
        held.callback(Path(lock.lock_file).unlink)
        check_new(out)
        if not (part / PLAN).is_file() or (part / PLAN).read_text(encoding="utf-8") != key:
            shutil.rmtree(part, ignore_errors=True)
            check_room(out.parent, sum(shard.size for shard in shards))
            part.mkdir()
            write_whole(part / PLAN, key)
        files = {file: held.enter_context(file.open("rb")).fileno() for file in sources}
        for number, shard in enumerate(shards, 1):
            if is_whole(part / shard.name, shard, files):
                say(f"{shard.name} is finished ({number} of {len(shards)}).")
            else:
                write_shard(part / shard.name, shard, files)
        write_rest(part, before, after, shards, recipe)
        (part / PLAN).unlink()
        part.rename(out)
    return out


# --- what is to be written ------------------------------------------------------------------------
def plan(before: Checkpoint, after: Checkpoint, recipe: Recipe) -> list[Shard]:
    """Return the files that a merge writes (MergeError: the two do not fit; nothing is written)."""
    names, _ = check_fit(before, after, recipe.pad)
    alphas = recipe.alphas({name: after.tensors[name] for name in names})
    shards = []
    for file in after.files:
        entries, chunks, last = dict[str, Any](), list[Chunk](), 0
        for name in (name for name in names if after.tensors[name].file == file):
            pair = before.tensors[name], after.tensors[name]
            big = max(pair, key=lambda held: held.size)
            chunks += chunks_of(name, *pair, alphas[name], last)
            places = [last, last := last + big.size]
            entries[name] = {"dtype": big.dtype, "shape": big.shape, "data_offsets": places}
        text = json.dumps({"__metadata__": {"format": "pt"}, **entries}).encode()
        text += b" " * (-len(text) % 8)
        own = WEIGHTS if len(after.files) == 1 else file.name
        shards.append(Shard(own, len(text).to_bytes(8, "little") + text, tuple(chunks), last))
    return shards


def chunks_of(name: str, one: Stored, two: Stored, alpha: float, at: int) -> Iterator[Chunk]:
    """Yield what a tensor is made of: what both have, mixed, then rows that only one has."""
    both, ends = min(one.size, two.size), ((one.file, one.start), (two.file, two.start))
    # a copy is exact, whatever the numbers are; buffers of whole numbers are the same in both
    mixed = ends if one.dtype in FLOATS else ends[:1]
    parts = [(0, both, {0.0: ends[:1], 1.0: ends[1:]}.get(alpha, mixed))]
    parts += [(both, held.size, (end,)) for held, end in zip((one, two), ends, strict=True)]
    for first, last, sources in parts:
        for gone in range(first, last, CHUNK):
            moved = tuple((file, start + gone) for file, start in sources)
            yield Chunk(name, moved, one.dtype, alpha, at + gone, min(CHUNK, last - gone))


def check_fit(before: Checkpoint, after: Checkpoint, pad: bool) -> tuple[list[str], list[str]]:
    """Refuse two checkpoints that cannot be averaged name by name; return the names that are.

    The second list says which rows of tokens only one has, which are refused without `pad`. A head
    that only one stores must be the embedding once more. MergeError: names, shapes, dtypes or
    tokenizers differ; it names the first offenders.
    """
    for who, here, other in (("BEFORE", before, after), ("AFTER", after, before)):
        alone = [name for name in here.tensors if name not in other.tensors]
        if strange := [name for name in alone if not is_tied(here, name)]:
            told = f"Only in {who} ({here.folder}): {first_of(strange)}. {FINETUNED} {UNWRAPPED}"
            raise MergeError(told)
    names = [name for name in after.tensors if name in before.tensors]
    rows = []
    for name in names:
        one, two = before.tensors[name], after.tensors[name]
        if one.dtype != two.dtype:
            told = f"{name!r} is {one.dtype} in BEFORE but {two.dtype} in AFTER"
            raise MergeError(f"{told}: save one in the dtype of the other (save_pretrained).")
        if one.shape != two.shape:
            if not has_rows(name, two) or one.shape[1:] != two.shape[1:]:
                told = f"{name!r} is {list(one.shape)} in BEFORE but {list(two.shape)} in AFTER"
                raise MergeError(f"{told}: the architectures differ. {FINETUNED}")
            rows.append(f"{name!r} has {one.shape[0]} rows in BEFORE and {two.shape[0]} in AFTER")
        if one.dtype not in FLOATS and not alike(one, two):
            told = f"{name!r} holds whole numbers or quantised ones ({one.dtype}) that differ"
            raise MergeError(f"{told}: they have no average. Save both in bfloat16 or wider.")
    ours, theirs = before.vocabulary, after.vocabulary
    shared = ours.keys() & theirs.keys()
    first, second = ({token: each[token] for token in shared} for each in (ours, theirs))
    check_same_vocabulary(first, second, "Average only models with one tokenizer.")
    if ours and theirs and (added := sorted(ours.keys() ^ theirs.keys())):
        rows.append(f"tokens that only one has: {first_of(added)}")
    if rows and not pad:
        pad_them = "With --pad those of both are averaged, and those that only one has are kept."
        raise MergeError(f"{'; '.join(rows)}. {pad_them}")
    return names, rows


def rows_of(end: Checkpoint) -> int:
    """Return the rows of a checkpoint's embedding or head, whichever has more."""
    return max((t.shape[0] for n, t in end.tensors.items() if has_rows(n, t)), default=0)


def has_rows(name: str, tensor: Stored) -> bool:
    """Whether each row of a tensor belongs to a token."""
    return len(tensor.shape) == 2 and layout.kind_of(name, tensor) in ("embedding", "head")


def is_tied(checkpoint: Checkpoint, name: str) -> bool:
    """Whether a tensor is a head that holds the very numbers of the embedding."""
    tensors = checkpoint.tensors
    embeddings = [held for n, held in tensors.items() if layout.kind_of(n, held) == "embedding"]
    is_head = layout.kind_of(name, tensors[name]) == "head"
    return is_head and any(alike(tensors[name], held) for held in embeddings)


def alike(one: Stored, two: Stored) -> bool:
    """Whether two tensors have the same dtype, shape and bytes."""
    if (one.dtype, one.shape) != (two.dtype, two.shape):
        return False
    with one.file.open("rb") as first, two.file.open("rb") as second:
        first.seek(one.start)
        second.seek(two.start)
        sizes = (min(CHUNK, one.size - gone) for gone in range(0, one.size, CHUNK))
        return all(first.read(size) == second.read(size) for size in sizes)


def first_of(names: Sequence[str]) -> str:
    """Return the first of some names, and how many more there are."""
    more = f" and {len(names) - TOLD} more" if len(names) > TOLD else ""
    return f"{', '.join(map(repr, names[:TOLD]))}{more}"


def check_new(out: Path) -> None:
    """Refuse a folder that is there already (MergeError)."""
    if out.exists():
        raise MergeError(f"{out} exists: name a folder that does not, or remove it.")


def check_room(folder: Path, needed: int) -> None:
    """Refuse a disk that has too little room for so many bytes (MergeError)."""
    if (free := shutil.disk_usage(folder).free) < needed + SPARE:
        told = f"The average needs {(needed + SPARE) / 1e9:.2f} GB and the disk of {folder} has"
        raise MergeError(f"{told} {free / 1e9:.2f} GB free: free some, or name an --out elsewhere.")


# --- writing --------------------------------------------------------------------------------------
class Space:
    """Where a thread works, made once: fresh memory for each chunk costs more than its sums."""

    def __init__(self) -> None:
        self.read = [np.empty(CHUNK, np.uint8) for _ in range(2)]
        self.wide = [np.empty(CHUNK // 2, np.float32) for _ in range(2)]


def content(chunk: Chunk, files: Mapping[Path, int], space: Space) -> np.ndarray:
    """Return the numbers of a chunk, from files by their open number, in the memory of `space`."""
    read = [each[: chunk.size] for each in space.read[: len(chunk.sources)]]
    for (file, start), into in zip(chunk.sources, read, strict=True):
        if os.preadv(files[file], [into.data], start) != chunk.size:
            raise MergeError(f"A file ends before {chunk.name!r} does: it was changed meanwhile.")
    return read[0] if len(read) == 1 else mix(chunk, read, space)


def mix(chunk: Chunk, read: Sequence[np.ndarray], space: Space) -> np.ndarray:
    """Return the average of two arrays (n,), rounded to their dtype (MergeError: NaN or inf)."""
    held = [each.view(FLOATS[chunk.dtype]) for each in read]
    start, end = (widen(*each, chunk.dtype) for each in zip(held, space.wide, strict=True))
    # from the nearer end, so that what is equal in both stays so
    near, far = (start, end) if chunk.alpha < 0.5 else (end, start)
    far -= near
    far *= far.dtype.type(min(chunk.alpha, 1 - chunk.alpha))
    near += far
    if not np.isfinite([near.min(), near.max()]).all():
        told = f"{chunk.name!r} holds NaN or infinity in one of the two models"
        raise MergeError(f"{told}: that training run diverged. Use an earlier checkpoint.")
    return near if near.dtype == held[0].dtype else narrow(near, far, held[0], chunk.dtype)


def widen(numbers: np.ndarray, wide: np.ndarray, dtype: str) -> np.ndarray:
    """Return floats (n,) in float32, in `wide`; a bfloat16 is its upper half. Wider ones stay."""
    if dtype in ("F32", "F64"):
        return numbers
    wide = wide[: len(numbers)]
    whole = wide.view(np.uint32) if dtype == "BF16" else wide
    whole[:] = numbers
    if dtype == "BF16":
        whole <<= 16
    return wide


def narrow(wide: np.ndarray, spare: np.ndarray, into: np.ndarray, dtype: str) -> np.ndarray:
    """Round float32 (n,) to the nearest of a dtype, of two as near to the even one."""
    if dtype == "BF16":
        wide, odd = wide.view(np.uint32), spare.view(np.uint32)
        np.right_shift(wide, 16, out=odd)
        odd &= 1
        odd += 0x7FFF
        wide += odd
        wide >>= 16
    into[:] = wide
    return into


def write_shard(path: Path, shard: Shard, files: Mapping[Path, int]) -> None:
    """Write one file, whole or not at all."""
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb", buffering=0) as file, ThreadPoolExecutor(THREADS) as threads:
        file.write(shard.header)

        def work(first: int) -> None:
            space = Space()
            for chunk in shard.chunks[first::THREADS]:
                own = content(chunk, files, space)
                os.pwrite(file.fileno(), own.data, len(shard.header) + chunk.at)

        list(threads.map(work, range(THREADS)))
    temporary.rename(path)  # not synced: after a power cut `is_whole` finds what is missing


def is_whole(path: Path, shard: Shard, files: Mapping[Path, int]) -> bool:
    """Whether a file is a finished shard: length, header, and the end of each tensor once more."""
    start, ends = len(shard.header), {chunk.name: chunk for chunk in shard.chunks}.values()
    if not path.is_file() or path.stat().st_size != start + shard.size:
        return False
    with path.open("rb") as file:
        there, space = file.fileno(), Space()
        if file.read(start) != shard.header:
            return False
        own = ((os.pread(there, e.size, start + e.at), content(e, files, space)) for e in ends)
        return all(left == right.tobytes() for left, right in own)


def write_rest(
    part: Path, before: Checkpoint, after: Checkpoint, shards: Sequence[Shard], recipe: Recipe
) -> None:
    """Write what stands beside the weights: tokenizer, configuration, index and card."""
    tokens = max(after, before, key=rows_of)  # of two as large the later
    copied = {file for pattern in COPIED for file in tokens.folder.glob(pattern)}
    for file in copied:
        if not file.name.endswith("index.json") and file.name != "config.json":
            target = part / file.relative_to(tokens.folder)
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(file, target)
    if len(shards) > 1:
        places = {chunk.name: shard.name for shard in shards for chunk in shard.chunks}
        total = {"total_size": sum(shard.size for shard in shards)}
        index = json.dumps({"metadata": total, "weight_map": places}, indent=2)
        write_whole(part / INDEX, index + "\n")
    numbers = ("vocab_size", "pad_token_id")
    config = after.config | {key: tokens.config[key] for key in numbers if key in tokens.config}
    if before.tensors.keys() != after.tensors.keys():
        config["tie_word_embeddings"] = True  # the head was left out: it is the embedding
    write_whole(part / "config.json", json.dumps(config, indent=2) + "\n")
    ratios = ", ".join(f"{ratio:g}" for ratio in recipe.ratios)
    blocks = f" ({ratios} for the blocks of layers)" if ratios else ""
    told = {"before": before.folder.name, "after": after.folder.name, "blocks": blocks}
    card = page("average", alpha=f"{recipe.alpha:g}", **told, made=provenance())
    write_whole(part / "README.md", card)


def mergekit_config(before: Checkpoint, after: Checkpoint, recipe: Recipe) -> str:
    """Return a configuration by which mergekit's `linear` makes these weights, up to one rounding.

    MergeError: the two do not fit, or one of them has rows of tokens that the other lacks.
    """
    names, _ = check_fit(before, after, recipe.pad)
    if any(before.tensors[name].shape != after.tensors[name].shape for name in names):
        told = "One model has rows of tokens that the other lacks, and mergekit refuses such a pair"
        raise MergeError(f"{told}: leave out --export, merge writes the average without it.")
    # mergekit's filters are parts of names; its norms inside a slice have the mean here
    words = (*layout.EMBEDDING_WORDS, *layout.HEAD_WORDS, *layout.NORM_WORDS)

    def sources(ratio: float, **place: Any) -> list[dict[str, Any]]:
        found = []
        weights = (before, 1 - recipe.alpha, 1 - ratio), (after, recipe.alpha, ratio)
        for end, mean, own in weights:
            several = [*({"filter": word, "value": mean} for word in words), {"value": own}]
            weight = {"weight": several if place else own}
            found.append({"model": str(end.folder), **place, "parameters": weight})
        return found

    config: dict[str, Any] = {"merge_method": "linear", "parameters": {"normalize": False}}
    if recipe.ratios:
        layers = len({*layout.layers(after.tensors).values()})
        ends = [0, *accumulate(layout.block_sizes(layers, len(recipe.ratios)))]
        blocks = zip(recipe.ratios, pairwise(ends), strict=True)
        config["slices"] = [{"sources": sources(r, layer_range=list(at))} for r, at in blocks]
    else:
        config["models"] = sources(recipe.alpha)
    kept = next(held.dtype for held in after.tensors.values() if held.dtype in FLOATS)
    own = kept.replace("F", "float").replace("B", "b")
    config |= {"dtype": "float32", "out_dtype": own}
    return json.dumps(config, indent=2) + "\n"  # JSON is YAML
