"""Which split an item belongs to is a function of the item itself, so splits cannot overlap."""

import bisect
import hashlib
import itertools
from collections.abc import Mapping

#: Of passages and French sentences.
SHARES = {"reported": 0.15, "validation": 0.05, "pretraining": 0.8}


def unit_hash(*identity: object) -> float:
    """Return a number in [0, 1) that depends on `identity` alone (not on run, machine or order)."""
    text = "\x1f".join(str(part) for part in identity)
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def split_of(shares: Mapping[str, float], *identity: object) -> str:
    """Return the split of the item `identity`, by shares in order (ValueError: no sum of 1)."""
    edges = list(itertools.accumulate(shares.values()))
    if abs(edges[-1] - 1) > 1e-9:
        raise ValueError(f"Split shares must add up to 1, these add up to {edges[-1]}.")
    place = bisect.bisect(edges, unit_hash(*identity))
    return list(shares)[min(place, len(edges) - 1)]
