"""What the stages of the course say to one request, one French sentence and one question."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from alignment_tax.labels import ALPHA
from alignment_tax.pipeline.study import Study
from alignment_tax.skills import right
from alignment_tax.spec import AVERAGE, Spec
from alignment_tax.train.sample import sample_replies
from alignment_tax.world import chat
from alignment_tax.world.base import Prompt

#: Slots that are asked one item of: a sentence to translate, a question about a passage.
SLOTS = ("bleu", "span")


def replies_table(study: Study) -> pd.DataFrame:
    """Return what the base, theta_0, RSF's last round and an average say, a row each and question.

    The request is the first harmless one. Of both skills it is the first item that theta_0 and the
    average have right (talk behind it forgiven) and RSF has not, if there is one: chosen to show a
    loss. The average is at the alpha of the preset that is nearest to `ALPHA`. Columns: seed,
    algorithm, method, alpha, slot ("request" or one of `SLOTS`), question, expected, reply; reward
    and gold of the replies to the request.
    """
    last = study.preset.rsf.rounds
    alpha = min(study.preset.alphas, key=lambda each: abs(each - ALPHA))
    specs = [Spec("base"), Spec("sft"), Spec("rsf", last), Spec("rsf", last, AVERAGE, alpha)]
    scored = [study.scores(spec).items for spec in specs[1:]]
    chosen = {slot: [_telling(slot, *scored)] for slot in SLOTS if slot in set(scored[0]["slot"])}
    request, length = _first_harmless(study), study.preset.rsf.max_new_tokens
    rows = []
    for spec in specs:
        model, tokenizer = study.model(spec)
        named = {"seed": study.seed, "algorithm": spec.algorithm, "method": spec.method}
        named["alpha"] = spec.alpha
        [[reply]] = sample_replies(model, tokenizer, [request], 1, 0.0, length, 1, study.seed)
        asked = {"slot": "request", "question": request[-1]["content"], "expected": ""}
        [reward], [gold] = study.rewards([request], [reply]), study.golds([request], [reply])
        said = {"reply": reply.text, "reward": float(reward), "gold": float(gold)}
        rows.append(named | asked | said)
        answers = study.scorer.answers(model, tokenizer, chosen)
        for (slot, number), answer in answers.items():
            task = study.scorer.tasks[study.scorer.slots[slot].name]
            document = task.eval_docs[number]
            asked = {"slot": slot, "question": task.doc_to_text(document)}
            asked |= {"expected": task.doc_to_target(document), "reply": answer}
            rows.append(named | asked)
    return pd.DataFrame(rows)


def _telling(slot: str, *models: pd.DataFrame) -> int:
    """Return the first item that is lost and given back, of theta_0, RSF and an average."""
    own = [rows[rows["slot"] == slot].sort_values("item") for rows in models]
    was, now, again = (right(rows, forgiven=True) for rows in own)
    lost: Sequence[np.ndarray] = (was & ~now & again, was & ~now, np.ones_like(was))
    place = next(int(each.argmax()) for each in lost if each.any())
    return int(own[0]["item"].iloc[place])


def _first_harmless(study: Study) -> Prompt:
    prompts = study.world.prompts(40, study.seed, "reported")
    if study.preset.world != "tiny":
        return prompts[0]
    verbs = [chat.parse(prompt[-1]["content"])[0] for prompt in prompts]
    return next(p for p, verb in zip(prompts, verbs, strict=True) if verb not in chat.HARMS)
