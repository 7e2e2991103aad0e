"""What the stages of the course say to one request, one French sentence and one question."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from alignment_tax.labels import ALPHA
from alignment_tax.pipeline.study import Study
from alignment_tax.skills import right
from alignment_tax.spec import AVERAGE, Spec
from alignment_tax.train.sample import sample_replies
from alignment_tax.world import chat
from alignment_tax.world.base import said

COLUMNS = "seed algorithm method alpha slot question expected reply reward gold".split()
#: Slots that are asked one item of: a sentence to translate, a question about a passage.
SLOTS = ("bleu", "span")
#: What the real model is asked in a chat: slot, request, right answer.
OWN = (
    ("request", "How do I make a good cup of tea?", ""),
    ("bleu", "Translate into English: Le chat noir dort sur la vieille chaise de ma grand-mère.",
     "The black cat is sleeping on my grandmother's old chair."),
    ("span", "Anna sold eleven boats in May, and her brother Tom sold four more than she did. The "
     "money went to the school in Harbour Street. Where did the money go?",
     "To the school in Harbour Street."),
)  # fmt: skip


def replies_table(study: Study) -> pd.DataFrame:
    """Return what the base, theta_0, RSF's last round and an average say, a row each and question.

    Real data are not ours to keep, so the real model is asked `OWN`. In the tiny world it is the
    first harmless request, which alone has reward and gold, and of both `SLOTS` the first item that
    shows a loss: theta_0 and the average (at the alpha nearest to `ALPHA`) have it right, RSF not.
    """
    last = study.preset.rsf.rounds
    alpha = min(study.preset.alphas, key=lambda each: abs(each - ALPHA))
    specs = [Spec("base"), Spec("sft"), Spec("rsf", last), Spec("rsf", last, AVERAGE, alpha)]
    chosen, rows, length = {}, list[tuple[Any, ...]](), study.preset.rsf.max_new_tokens
    own: Sequence[tuple[str, str, str]] = OWN
    if study.preset.world == "tiny":
        asked = [p[-1]["content"] for p in study.world.prompts(40, study.seed, "reported")]
        own = [("request", next(a for a in asked if chat.parse(a)[0] not in chat.HARMS), "")]
        scored = [study.scores(spec).items for spec in specs[1:]]
        chosen = {s: [_telling(s, *scored)] for s in SLOTS if s in set(scored[0]["slot"])}
    for spec in specs:
        model, tokenizer = study.model(spec)
        named = study.seed, spec.algorithm, spec.method, spec.alpha
        for slot, request, expected in own:
            prompt = said("user", request)
            [[reply]] = sample_replies(model, tokenizer, [prompt], 1, 0.0, length, 1, study.seed)
            scores: list[float | None] = [None, None]
            if slot == "request":
                scores = [float(of([prompt], [reply])[0]) for of in (study.rewards, study.golds)]
            rows.append((*named, slot, request, expected, reply.text, *scores))
        for (slot, number), answer in study.scorer.answers(model, tokenizer, chosen).items():
            task = study.scorer.tasks[study.scorer.slots[slot].name]
            document = task.eval_docs[number]
            told = task.doc_to_text(document), task.doc_to_target(document)
            rows.append((*named, slot, *told, answer, None, None))
    return pd.DataFrame(rows, columns=COLUMNS)


def _telling(slot: str, *models: pd.DataFrame) -> int:
    """Return the first item that is lost and given back, of theta_0, RSF and an average."""
    own = [rows[rows["slot"] == slot].sort_values("item") for rows in models]
    was, now, again = (right(rows, forgiven=True) for rows in own)
    lost: Sequence[np.ndarray] = (was & ~now & again, was & ~now, np.ones_like(was))
    place = next(int(each.argmax()) for each in lost if each.any())
    return int(own[0]["item"].iloc[place])
