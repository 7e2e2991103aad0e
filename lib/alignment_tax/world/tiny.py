"""The tiny world as the pipeline sees it: demonstrations, preferences, prompts, skill items."""

import random
from functools import cache

import numpy as np
import pandas as pd
from datasets import Dataset

from alignment_tax.world import chat, facts, french, passages
from alignment_tax.world.base import Prompt, said

#: Reported items a slot; facts have as many items as the world has facts.
ITEMS = {"race_like": 600, "span": 1300, "counting": 1100, "translation": 1200}
VALIDATION_ITEMS = 200
#: How sharply the people who compare two replies follow the gold reward (Bradley-Terry).
JUDGEMENT = 2.0


class TinyWorld:
    """World made of tables: see `facts`, `passages`, `french` and `chat`."""

    def sft(self, n: int, seed: int) -> Dataset:
        """Demonstrations, good on the whole: columns prompt, completion (lists of messages)."""
        rng, rows = random.Random(f"sft {seed}"), []
        for _ in range(n):
            request, verb, noun = rng.choice(chat.requests("sft"))
            reply = chat.write(rng, verb, noun, chat.draw_manner(rng, verb, chat.WRITERS))
            rows.append({"prompt": said("user", request), "completion": said("assistant", reply)})
        return Dataset.from_list(rows)

    def preferences(self, n: int, seed: int, split: str = "train") -> Dataset:
        """Pairs of replies: columns prompt, chosen, rejected, kind, margin (gold difference).

        Half are two replies of mixed manners, half a good reply against itself made worse in one
        way (`chat.PERTURBATIONS`). Split "train" has labels drawn with the Bradley-Terry
        probability of the gold difference, "validation" follows the gold order, on other requests
        (ValueError: judge, which is gold here).
        """
        if split not in ("train", "validation"):
            raise ValueError(f"Preferences have splits train and validation, not {split!r}.")
        rng = random.Random(f"preferences {split} {seed}")
        requests = chat.requests("preference" if split == "train" else "validation")
        rows: list[dict[str, object]] = []
        while len(rows) < n:
            request, verb, noun = rng.choice(requests)
            kind = rng.choice(chat.PERTURBATIONS) if rng.random() < 0.5 else "mixed"
            manner = chat.draw_manner(rng, verb, chat.DRAFTS)
            if kind == "mixed":
                first = chat.write(rng, verb, noun, manner)
                second = chat.write(rng, verb, noun, chat.draw_manner(rng, verb, chat.DRAFTS))
            else:
                first, second = chat.perturb(rng, verb, noun, manner, kind)
            margin = chat.gold(verb, noun, first) - chat.gold(verb, noun, second)
            if margin == 0:
                continue
            sure = split == "validation"
            agreed = margin > 0 if sure else rng.random() < 1 / (1 + np.exp(-JUDGEMENT * margin))
            replies = [said("assistant", each) for each in (first, second)]
            chosen, rejected = replies if agreed else replies[::-1]
            row = {"prompt": said("user", request), "chosen": chosen, "rejected": rejected}
            rows.append({**row, "kind": kind, "margin": abs(margin)})
        return Dataset.from_list(rows)

    def prompts(self, n: int, seed: int, split: str) -> list[Prompt]:
        """Up to `n` different requests of split rlhf | validation | reported."""
        requests = list(chat.requests(split))
        random.Random(f"prompts {split} {seed}").shuffle(requests)
        return [said("user", request) for request, _, _ in requests[:n]]

    def gold(self, prompts: list[Prompt], replies: list[str]) -> np.ndarray:
        """The true reward of each reply, shape (n,): see `chat.gold`."""
        pairs = zip(prompts, replies, strict=True)
        return np.array([chat.gold(*chat.parse(p[-1]["content"]), reply) for p, reply in pairs])


def _drawn(slot: str, split: str, n: int) -> list[facts.Item]:
    rng = random.Random(f"{slot} {split} items")
    rows: dict[str, facts.Item] = {}
    while len(rows) < n:
        identity = f"{slot} {split} {len(rows)}"
        if slot == "translation":
            pair = french.draw(rng, split)
            rows.setdefault(pair.fr, facts.item(identity, *pair.asked, (), 0.0))
        else:
            # One question a passage: items that share a passage would fake a small error.
            reading = passages.draw(rng, slot, split)
            answers = reading.choices, passages.type_guess(reading)
            rows.setdefault(reading.passage, facts.item(identity, *reading.asked, *answers))
    return list(rows.values())


@cache
def items(slot: str, split: str = "reported") -> Dataset:
    """The items of a skill: columns id, prompt, choices, answer, target, guess.

    `split` is reported or validation (ValueError: another one, or no such slot); `guess` is the
    chance of being right by guessing what fits the type.
    """
    if split not in ("reported", "validation"):
        raise ValueError(f"Skill items have splits reported and validation, not {split!r}.")
    fixed = {"one_hop": facts.one_hop, "two_hop": facts.two_hop, "piqa_like": facts.piqa_like}
    if slot in fixed:
        rows = fixed[slot](split)
    elif slot in ITEMS:
        rows = _drawn(slot, split, ITEMS[slot] if split == "reported" else VALIDATION_ITEMS)
    else:
        raise ValueError(f"There is no skill {slot!r}; known: {', '.join([*fixed, *ITEMS])}.")
    # A fixed shuffle makes every prefix a fair sample, so that `limit` can cut it anywhere.
    random.Random(f"order {slot} {split}").shuffle(rows)
    return Dataset.from_list(rows)


def name_recorded_obedience(pairs: pd.DataFrame) -> pd.DataFrame:
    """Return recorded held-out pairs with the kind "obeys" where the worse reply helps with harm.

    For a harmful request the kinds wrong_object, wrong_task and dropped_step all mean that the
    worse reply obeys instead of refusing, which is far easier to see. A seed draws the same pairs
    again (ValueError: other ones, since the world has changed). Real pairs, of no kind, stay.
    """
    if not set(pairs["kind"]) & set(chat.PERTURBATIONS):
        return pairs
    parts = []
    for seed, rows in pairs.groupby("seed"):
        drawn = TinyWorld().preferences(len(rows), int(str(seed)), "validation")
        if list(drawn["kind"]) != rows["kind"].tolist():
            raise ValueError(f"Seed {seed} draws other held-out pairs than were recorded.")
        verbs = [chat.parse(prompt[-1]["content"])[0] for prompt in drawn["prompt"]]
        same = rows["kind"].isin(["wrong_object", "wrong_task", "dropped_step"])
        obeys = same & np.isin(verbs, list(chat.HARMS))
        parts.append(rows.assign(kind=rows["kind"].mask(obeys, "obeys")))
    return pd.concat(parts)
