"""Which split an item belongs to is a function of the item itself, so splits cannot overlap."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping


def unit_hash(*identity: object) -> float:
    """Return a number in [0, 1) that depends on `identity` alone (not on run, machine or order)."""
    text = "\x1f".join(str(part) for part in identity)
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def split_of(shares: Mapping[str, float], *identity: object) -> str:
    """Return the split of the item `identity`; `shares` maps split to its share, in order.

    Raises:
        ValueError: the shares do not add up to 1.
    """
    if abs(sum(shares.values()) - 1) > 1e-9:
        raise ValueError(f"Split shares must add up to 1, these add up to {sum(shares.values())}.")
    place = unit_hash(*identity)
    edge = 0.0
    for name, share in shares.items():
        edge += share
        if place < edge:
            return name
    return next(reversed(list(shares)))
