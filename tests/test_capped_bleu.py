"""Translations that go on talking are counted, and cut at the reference, as if by hand."""

import numpy as np
import pandas as pd
import pytest
from points import point, table_of

from alignment_tax.labels import BLEU_COLUMNS, CUT_COLUMNS
from alignment_tax.results.items import bleu_statistics, capped_bleu, corpus_bleu, goes_on, right
from alignment_tax.stats import capped_bleu as talk

REFERENCE = "the black cat sleeps in the old house"


def bleu(rows):
    return corpus_bleu(rows[list(BLEU_COLUMNS)].to_numpy(dtype=float))


def items_of(said, reference=REFERENCE):
    """The items of models that answered with these texts, all to the same reference."""
    return pd.DataFrame(
        {"seed": 0, "key": key, "slot": "bleu", "item": item, "value": float("nan")}
        | dict(zip(BLEU_COLUMNS, bleu_statistics(reference, text), strict=True))
        # cut where the reference ends
        | dict(zip(CUT_COLUMNS, bleu_statistics(reference, text[: len(reference)]), strict=True))
        for key, texts in said.items()
        for item, text in enumerate(texts)
    )


def test_a_right_translation_with_words_behind_it_is_lost_to_talk():
    said = {
        "before": [REFERENCE, REFERENCE, REFERENCE, "no"],
        # one kept, one goes on, one is wrong, one that was never right goes on
        "after": [REFERENCE, f"{REFERENCE} let me", "the red cat", f"{REFERENCE} you are welcome"],
    }
    ends = [point(0, "sft", 0, 0, key="before"), point(0, "rsf", 0, 0, rounds=1, key="none")]
    points = table_of([*ends, point(0, "rsf", 0, 0, key="after")])
    assert talk.lost_to_talk(points, items_of(said))[0] == pytest.approx(1 / 2)


def test_what_is_exact_and_what_goes_on():
    # the last has every word of the reference and one more, in another order
    texts = [REFERENCE, f"{REFERENCE} let me know", "the black cat sleeps"]
    texts.append("in the old house the black cat sleeps well")
    # a reference of fewer than four words can be held
    short = items_of({"a": ["a cat", "a cat sleeps", "cat"]}, reference="a cat")
    for rows in (items_of({"a": texts}), short):
        # the first alone is right, the second alone goes on
        assert [np.flatnonzero(each(rows)).tolist() for each in (right, goes_on)] == [[0], [1]]


def test_capped_counts_by_hand_and_beside_a_text_that_is_really_cut():
    # 8 words of the reference and 3 more: 11, 10, 9, 8 n-grams, of which 8, 7, 6, 5 match
    rows = items_of({"a": [f"{REFERENCE} let me know"]})
    assert rows[list(BLEU_COLUMNS)].iloc[0].tolist() == [8, 7, 6, 5, 11, 10, 9, 8, 11, 8]
    # (8/11 * 7/10 * 6/9 * 5/8) ** (1/4) = 0.6787, and no penalty for a text that is too long
    items = items_of({"a": [REFERENCE] * 4, "b": [f"{REFERENCE} let me know"] * 4})
    # another slot is no translation
    items = pd.concat([items, items.iloc[:1].assign(slot="span")], ignore_index=True)
    found = talk.measures(items)[["bleu", "cut", "capped"]].to_numpy(dtype=float)
    np.testing.assert_allclose(found, [[100] * 3, [67.87, 100, 100]], rtol=1e-3)
    # what is short is not changed
    rows = items_of({"a": ["the black cat sleeps", "the", REFERENCE]})
    assert capped_bleu(rows) == pytest.approx(bleu(rows))
    texts = [f"{REFERENCE} let me know how it goes !", f"of course , {REFERENCE}"]
    texts.append("the black dog sleeps in a house , the old house")
    cut = [" ".join(text.split()[: len(REFERENCE.split())]) for text in texts]
    real = corpus_bleu([bleu_statistics(REFERENCE, text) for text in cut])
    assert bleu(items_of({"a": texts})) < real < capped_bleu(items_of({"a": texts}))
