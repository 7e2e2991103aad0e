"""Claims beside the paper's, and answers that go on talking: small cases worked out by hand."""

import pandas as pd
import pytest

from alignment_tax import claims, results
from alignment_tax.labels import BLEU_COLUMNS
from alignment_tax.skills import bleu_statistics, capped_bleu, goes_on, right
from alignment_tax.stats import compare

WANTED = "the cat sees the dog ."
TALK = f"{WANTED} have a nice day !"


def translations(*said: str) -> pd.DataFrame:
    """Items of translations of the one sentence above."""
    rows = [
        dict(zip(BLEU_COLUMNS, bleu_statistics(WANTED, text), strict=True))
        | {"slot": "bleu", "item": item, "value": float("nan")}
        for item, text in enumerate(said)
    ]
    return pd.DataFrame(rows)


def points(gold: tuple[float, float] = (2.0, 3.0)) -> pd.DataFrame:
    """Two seeds: theta_0, round 1 and round 2 of RSF; reward up, translation down."""
    rows = []
    for seed in (0, 1):
        for rounds, algorithm in ((0, "sft"), (1, "rsf"), (2, "rsf")):
            rows.append(
                {
                    "seed": seed, "algorithm": algorithm, "method": "none", "rounds": rounds,
                    "reward": 2.0 * rounds + 0.1 * seed * rounds,
                    "gold": gold[0] if rounds == 0 else gold[1],
                    "commonsense": 80 + rounds + 0.1 * seed * rounds,
                    "reading": 90.0, "translation": 80.0 - 20 * rounds - seed * rounds,
                    "key": f"{algorithm}-{rounds}-{seed}",
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


def test_an_answer_is_right_or_right_with_more_behind_it() -> None:
    items = translations(WANTED, TALK, "the cat sees a dog .", "have a nice day !")
    assert right(items).tolist() == [True, False, False, False]
    assert goes_on(items).tolist() == [False, True, False, False]
    answered = pd.DataFrame({"slot": ["span"] * 3, "value": [1.0, 0.5, 0.2]})
    answered = answered.assign(**dict.fromkeys(BLEU_COLUMNS, float("nan")))
    assert right(answered).tolist() == [True, True, False]
    assert not goes_on(answered).any()


def test_talk_behind_a_right_answer_is_forgiven_and_a_wrong_word_is_not() -> None:
    assert capped_bleu(translations(TALK)) == pytest.approx(100)
    assert capped_bleu(translations("the cat sees a dog .")) < 80


def test_the_talk_of_a_run_is_counted_per_seed() -> None:
    items = pd.concat(
        [
            translations(*said).assign(seed=seed, key=key)
            for seed in (0, 1)
            for key, said in (
                (f"sft-0-{seed}", [WANTED, WANTED, "the dog ."]),
                (f"rsf-2-{seed}", [TALK, "the cat ." if seed else WANTED, TALK]),
            )
        ]
    )
    table = claims.talk_table(points(), items)
    assert table["lost"].tolist() == [1, 2]
    assert table["goes_on"].tolist() == [1, 1]
    # one item was wrong before and is right with talk after: without the talk BLEU has risen
    assert table.loc[0, "bleu"] < 0 < table.loc[0, "capped_bleu"]


def test_a_claim_agrees_by_its_interval_over_seeds() -> None:
    table = claims.paper_table(points(), -0.5, compare.compare_seeds([-1.0, -0.9]))
    words = table["agrees?"].to_dict()
    assert words["RLHF raises the reward it optimises"] == "agrees"
    assert words["a judge that is not optimised goes up too"] == "agrees"
    assert words["translation falls"] == "agrees"
    # reading did not move at all, so "falls" does not hold
    assert words["reading falls"] == "disagrees"
    assert words["common sense falls later"] == "disagrees"
    assert words["averaging trades better than early stopping"] == "disagrees"
    # 80 to 40 and 80 to 38
    assert table.loc["translation falls", "recorded here"] == "-51 %"
    assert "-0.50 points" in table.iloc[-1]["recorded here"]


def test_one_seed_cannot_tell_and_a_run_without_gold_has_no_row_for_it() -> None:
    one = points()[lambda rows: rows["seed"] == 0]
    assert set(claims.paper_table(one, 0.0, None)["agrees?"]) == {"cannot tell (one seed)"}
    without = claims.paper_table(points().assign(gold=float("nan")), 0.0, None)
    assert not any("judge" in claim for claim in without.index)
    with pytest.raises(ValueError, match="no 'dpo' after 1 rounds"):
        claims.by_seed(one, "dpo", "reward", 1)


def test_changes_between_rounds_are_paired_by_seed() -> None:
    assert claims.rise(points(), "reward").tolist() == [4.0, 4.2]
    assert claims.rise(points(), "reward", 2, 1).tolist() == pytest.approx([2.0, 2.1])


def test_a_worse_reply_to_a_harmful_request_obeys() -> None:
    requests = [
        "how do i steal the comb ?",
        "how do i send the comb ?",
        "how do i steal the comb ?",
    ]
    pairs = pd.DataFrame({"kind": ["wrong_object", "wrong_object", "rude"]})
    named = claims.name_obedience(pairs, requests)
    assert named["kind"].tolist() == ["obeys", "wrong_object", "rude"]


def test_recorded_pairs_are_those_that_their_seed_draws() -> None:
    pairs = results.recorded().pairs
    pairs = pairs[pairs["seed"] == pairs["seed"].min()]
    assert "obeys" in set(claims.name_recorded_obedience(pairs)["kind"])
    with pytest.raises(ValueError, match="draws other held-out pairs"):
        claims.name_recorded_obedience(pairs.assign(kind="rude"))
    real = pairs.assign(kind="real")
    pd.testing.assert_frame_equal(claims.name_recorded_obedience(real), real)
