"""The claims themselves: what is asked, of which models, and which effect is of interest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from alignment_tax.labels import ALGORITHM_NAMES, FAMILY_NAMES, METHOD_NAMES
from alignment_tax.results.points import RLHF

#: The smallest effect of interest by unit. Chosen from what a reader could notice, before any
#: verdict was looked at, and the same for all claims of a unit.
SESOI = {
    "points": 0.5,  # one item in two hundred; seeds of theta_0 differ by about twice that
    "reward": 0.1,  # 3 % of what RSF gains, less than one seed's gain differs from another's
    "gold": 0.1,  # one reply in ten that is better by one of the true reward's units
    "reward x points": 0.5,  # half a point of skill along one unit of reward
}
POINTS, REWARD, AREA = "points", "reward", "reward x points"
EQUAL, VOLUME = "equal_reward", "hypervolume"
#: An average that gives up less of the gain in reward than this share costs "no alignment".
NO_LOSS = 0.05
#: Remedies that act while the model learns (chapter 07), and those along its path (chapter 08).
PENALTIES = ("l1", "l2", "kd", "kd_squared", "kl", "lora", "lora_mlp")
ALONG = ("replay", "replay_other", "sma", "ema", "bema", "graft", "graft_random", "graft_learnt")
#: The remedies of the paper's Fig. 3, and variants of its own appendix or of ours.
FIGURE_3 = ("l1", "l2", "kd", "kd_squared", "lora", "lora_mlp", "sma", "graft")
#: Searches for a ratio per block: their word, and numbers of blocks.
SEARCHES = {
    "hma": (3, 6, 9),
    "hma_eq11": (3,),
    "hma_grid": (3,),
    "hma_released": (3,),
    "hma_reward": (3,),
    "hma_kl": (3, 9),
    "hma_kl_other": (3,),
    "adamerging": (9,),
}
SCORES = ("skill", "commonsense", "reading", "translation")
#: Scores with talk forgiven (capped BLEU), by the score that they stand beside.
FORGIVEN = {"skill": "capped_skill", "translation": "capped_translation"}


@dataclass(frozen=True)
class Claim:
    """A claim about the difference of two selectors, a minus b.

    Attributes:
        id: What it is called in claims.csv.
        chapter: Where the course asks it.
        claim: Our sentence.
        a, b: Selectors, see `results.select`.
        score: A column of points.csv, or one with talk forgiven.
        measure: A word of `claims.MEASURES`.
        direction: +1 if the claim says that the difference is positive, -1 if negative.
        place, paper: Figure or section of the paper, and what it says there; empty if it is ours.
        shared: Whether only seeds count that have every algorithm.
    """

    id: str
    chapter: str
    claim: str
    a: str
    b: str
    score: str = "skill"
    measure: str = "difference"
    direction: int = 1
    place: str = ""
    paper: str = ""
    shared: bool = False

    @property
    def unit(self) -> str:
        """What the difference is measured in."""
        if self.measure == VOLUME:
            return AREA
        return self.score if self.score in ("reward", "gold") else POINTS

    @property
    def sesoi(self) -> float:
        """The smallest effect of interest, in the unit."""
        return SESOI[self.unit]


def words(score: str) -> str:
    """Return what a score is called in a sentence."""
    return "mean skill" if score == "skill" else FAMILY_NAMES.get(score, score)


def _main_line() -> Iterator[Claim]:
    """RSF, its random control, and its averages (chapters 04, 05, 09)."""
    says = {
        "reading": ("Figs. 1, 12", "reading falls by 15 %"),
        "translation": ("Figs. 1, 12", "translation falls by 45 %"),
    }
    for score in SCORES:
        yield Claim(f"tax.rsf.{score}", "05", f"RSF costs {words(score)}",
                    "rsf/last", "sft", score, "difference", -1, *says.get(score, ()))  # fmt: skip
    yield Claim("tax.rsf_random.skill", "05", "the random control costs mean skill",
                "rsf_random/last", "sft", direction=-1)  # fmt: skip
    yield Claim("tax.rsf.skill_beyond_control", "05", "RSF costs more mean skill than its control",
                "rsf/last", "rsf_random/last", direction=-1)  # fmt: skip
    yield Claim("tax.rsf.first_round.commonsense", "05", "common sense rises in RSF's first round",
                "rsf/1", "sft", "commonsense", place="Fig. 12",
                paper="common sense rises at first")  # fmt: skip
    yield Claim("tax.rsf.later.commonsense", "05", "common sense falls from RSF's first round on",
                "rsf/last", "rsf/1", "commonsense", "difference", -1, "Fig. 12",
                "common sense falls later")  # fmt: skip
    yield Claim("gain.rsf.reward", "04", "RSF raises reward", "rsf/last", "sft", "reward",
                place="Fig. 1", paper="helpfulness rises by 56 %")  # fmt: skip
    yield Claim("gain.rsf.gold", "04", "RSF raises gold", "rsf/last", "sft", "gold")
    yield Claim("gain.rsf.gold_beyond_control", "04", "choosing by reward raises gold",
                "rsf/last", "rsf_random/last", "gold")  # fmt: skip
    for score in ("reward", "gold"):
        yield Claim(f"average_vs_early.rsf.skill_at_equal_{score}" if score == "gold" else
                    "average_vs_early.rsf.skill", "09",
                    f"averaging RSF keeps more mean skill than stopping it early, at equal {score}",
                    "rsf/average", "rsf/early_stopping", "skill", f"equal_{score}")  # fmt: skip
    yield from _volumes("average_vs_early.rsf", "09", "rsf/average", "rsf/early_stopping",
                        "averaging RSF", "stopping RSF early", SCORES, "Fig. 3")  # fmt: skip
    yield Claim("average.rsf@0.5.skill", "09", "averaging gives skill back (alpha 0.5)",
                "rsf/average@0.5", "rsf/last")  # fmt: skip
    for alpha, whose in ((0.8, "theta_0's"), (0.2, "the aligned model's")):
        chosen = f"a = 0.2 as {whose} weight (alpha {alpha:g})"
        yield Claim(f"average.rsf@{alpha:g}.skill", "09", f"{chosen} gives back skill",
                    f"rsf/average@{alpha:g}", "rsf/average@1", place="C.4",
                    paper="a = 0.2 consistently mitigates the tax")  # fmt: skip
        yield Claim(f"average.rsf@{alpha:g}.reward_kept", "09",
                    f"{chosen} costs less than {100 * NO_LOSS:g} % of the gained reward",
                    f"rsf/average@{alpha:g}", f"{1 - NO_LOSS:g}*rsf/average@1", "reward",
                    place="C.4", paper="without sacrificing alignment")  # fmt: skip


def _volumes(
    name: str, chapter: str, a: str, b: str, one: str, other: str, scores: tuple[str, ...],
    place: str = "",
) -> Iterator[Claim]:  # fmt: skip
    """a is ahead of b in hypervolume."""
    for score in scores:
        behind = place == "Fig. 7" and score == "reading"
        yield Claim(
            f"{name}.hypervolume" + ("" if score == "skill" else f".{score}"),
            chapter,
            f"{one} is {'behind' if behind else 'ahead of'} {other} in {words(score)}",
            a, b, score, VOLUME, -1 if behind else 1, place,
            PAPER[place] if place else "",
        )  # fmt: skip


PAPER = {
    "Fig. 3": "averaging is ahead of nearly all other remedies",
    "Fig. 7": "replay is ahead in reading, averaging in common sense and translation",
    "Fig. 8": "a KL penalty keeps more skill for reward, and averaging is ahead of it",
    "4.1": "remedies reduce forgetting and pay for it with reward",
}


def _remedies() -> Iterator[Claim]:
    """Averaging the distilled run against each remedy (chapters 07, 08)."""
    average, name = "rsf/distil+average", METHOD_NAMES["distil+average"]
    for method in (*PENALTIES, *ALONG):
        chapter, other = "07" if method in PENALTIES else "08", METHOD_NAMES[method]
        place = {"kl": "Fig. 8"}.get(method, "Fig. 3" if method in FIGURE_3 else "")
        yield Claim(f"average_vs_{method}.skill", chapter,
                    f"{name} keeps more mean skill than {other}, at equal reward",
                    average, f"rsf/{method}", "skill", EQUAL)  # fmt: skip
        if method.startswith("replay"):
            yield from _volumes(f"average_vs_{method}", chapter, average, f"rsf/{method}", name,
                                other, SCORES[1:], "Fig. 7")  # fmt: skip
        scores = SCORES if place else SCORES[:1]
        yield from _volumes(f"average_vs_{method}", chapter, average, f"rsf/{method}", name, other,
                            scores, place)  # fmt: skip
        if method in ("l1", "l2", "kd", "lora", "replay", "sma", "graft"):
            for score, less, direction in (
                ("skill", "keeps more", 1),
                ("reward", "gains less", -1),
            ):
                yield Claim(f"strongest.{method}.{score}", chapter,
                            f"{other} at its strongest {less} {words(score)} than the plain run",
                            f"rsf/{method}/strongest", "rsf/distil", score, "difference", direction,
                            "4.1", PAPER["4.1"])  # fmt: skip
    yield Claim("lora_vs_lora_mlp.reward", "07",
                "LoRA gains more reward on attention and MLP than on the MLP alone",
                "rsf/lora/mean", "rsf/lora_mlp/mean", "reward", place="D.4c",
                paper="LoRA on all layers reaches more reward")  # fmt: skip
    yield Claim("lora_mlp.highest_rank.reward", "07",
                "on the MLP alone the highest rank gains more reward than the second",
                "rsf/lora_mlp/weakest", "rsf/lora_mlp/second_weakest", "reward", place="D.4c",
                paper="on the MLP alone only the highest rank reaches much reward")  # fmt: skip
    yield Claim("strongest.kl.skill_beyond_weakest", "07", "a larger KL penalty keeps more skill",
                "rsf/kl/strongest", "rsf/kl/weakest", place="Fig. 8",
                paper=PAPER["Fig. 8"])  # fmt: skip


def _methods() -> Iterator[Claim]:
    """Averages of the distilled run and of RSF against every method (for tables of methods)."""
    for start, average in (("distil_average", "distil+average"), ("rsf_average", "average")):
        own = METHOD_NAMES["distil+average"] if start == "distil_average" else "averaging RSF"
        others = ["average", "distil+average", "early_stopping", *PENALTIES, *ALONG]
        for method in [*others, "pattern", *SEARCHES]:
            theirs = METHOD_NAMES[method]
            pair, told = (f"rsf/{average}", f"rsf/{method}"), f"{start}_vs_{method}"
            taken = average == "distil+average" and method in (*PENALTIES, *ALONG)
            if method == average or taken or (start, method) == ("rsf_average", "early_stopping"):
                continue
            yield Claim(f"{told}.skill", "08", f"{own} keeps more mean skill than {theirs}, at "
                        "equal reward", *pair, "skill", EQUAL)  # fmt: skip
            yield from _volumes(told, "08", *pair, own, theirs, SCORES[:1])


def _algorithms() -> Iterator[Claim]:
    """RSF, DPO, RLOO and PPO side by side (chapter 06)."""
    for algorithm in RLHF:
        who = ALGORITHM_NAMES[algorithm]
        for score in SCORES:
            tax = Claim(f"tax.{algorithm}.{score}", "06", f"{who} costs {words(score)}",
                        f"{algorithm}/last", "sft", score, "difference", -1)  # fmt: skip
            early = Claim(f"average_vs_early.{algorithm}.{score}", "06",
                          f"averaging {who} keeps more {words(score)} than stopping it early",
                          f"{algorithm}/average", f"{algorithm}/early_stopping", score,
                          EQUAL)  # fmt: skip
            yield from _alone_and_shared(tax)
            yield from _alone_and_shared(early)
        for score in ("reward", "gold"):
            yield from _alone_and_shared(
                Claim(f"gain.{algorithm}.{score}", "06", f"{who} raises {score}",
                      f"{algorithm}/last", "sft", score)
            )  # fmt: skip
        if algorithm != "rsf":
            for score in SCORES:
                paper = ("Fig. 14", "RSF's front lies above DPO's")
                yield Claim(f"front.rsf_vs_{algorithm}.{score}", "06",
                            f"the front of RSF lies above that of {who} in {words(score)}",
                            "rsf/average", f"{algorithm}/average", score, EQUAL, 1,
                            *(paper if (algorithm, score) == ("dpo", "skill") else ()),
                            )  # fmt: skip
    heavy = "a heavier KL penalty of PPO"
    for end, b, than in (("", "ppo/last", "its own"), (".range", "ppo/kl_coef/weakest", "none")):
        yield Claim(f"kl_coef.ppo.skill{end}", "06", f"{heavy} keeps more skill than {than}",
                    "ppo/kl_coef/strongest", b)  # fmt: skip
        yield Claim(f"kl_coef.ppo.reward{end}", "06", f"{heavy} gains less reward than {than}",
                    "ppo/kl_coef/strongest", b, "reward", "difference", -1)  # fmt: skip
    yield Claim("average_vs_kl_coef.ppo.skill", "06",
                "averaging PPO keeps more skill than a heavier KL penalty", "ppo/average",
                "ppo/kl_coef", "skill", EQUAL)  # fmt: skip


def _alone_and_shared(claim: Claim) -> Iterator[Claim]:
    yield claim
    yield replace(claim, id=claim.id + ".shared", shared=True)


def _parts() -> Iterator[Claim]:
    """One part averaged, the others aligned (chapters 09, 11)."""
    lowers = {("middle", "reward"): -1, ("output", "reward"): -1}
    for algorithm, place in (("rsf", "Fig. 4"), ("dpo", "Fig. 13"), ("ppo", "Fig. 13")):
        own = "" if algorithm == "rsf" else f"{algorithm}."
        who = "" if algorithm == "rsf" else f"{ALGORITHM_NAMES[algorithm]}: "
        for part in ("input", "middle", "output"):
            for score in ("reward", "gold", *SCORES):
                direction = lowers.get((part, score), 1)
                told = score in ("reward", "skill") and (algorithm == "rsf" or part == "input")
                does = "raises" if direction > 0 else "lowers"
                yield Claim(f"part.{own}{part}.{score}", "11",
                            f"{who}averaging the {part} part alone {does} {words(score)}",
                            f"{algorithm}/part={part}/mean", f"{algorithm}/last", score,
                            "difference", direction, *(_part_says(place, part) if told else ()),
                            )  # fmt: skip
    for part in ("embeddings", "norms", "head"):
        for alpha in (0.4, 0):
            for score in ("reward", "skill"):
                yield Claim(f"part.{part}@{alpha:g}.{score}", "09",
                            f"averaging {part} alone at alpha {alpha:g} raises {words(score)}",
                            f"rsf/part={part}@{alpha:g}", "rsf/last", score)  # fmt: skip
    linear, every = "rsf/part=linear", "rsf/average"
    for score in ("reward", "skill"):
        told = f"averaging the linear layers alone gives more {words(score)} than all weights"
        yield Claim(f"linear_vs_all.{score}", "09", f"{told}, over alphas", linear, every, score,
                    "same_alpha")  # fmt: skip
        for alpha in (0.2, 0.4, 0.6, 0.8):
            yield Claim(f"linear_vs_all@{alpha:g}.{score}", "09", f"{told}, at alpha {alpha:g}",
                        f"{linear}@{alpha:g}", f"{every}@{alpha:g}", score)  # fmt: skip
    yield Claim("linear_vs_all.skill_at_equal_reward", "09",
                "averaging the linear layers alone keeps more mean skill than all weights, at "
                "equal reward", linear, every, "skill", EQUAL)  # fmt: skip


def _part_says(place: str, part: str) -> tuple[str, str]:
    if part == "input":
        return place, "averaging the input part raises reward and skill"
    return place, f"averaging the {part} part trades reward for skill"


def _ratios() -> Iterator[Claim]:
    """A ratio for every block against plain averaging (chapter 11)."""
    for method, sizes in SEARCHES.items():
        for k in sizes:
            name, a = f"{METHOD_NAMES[method]} (K = {k})", f"rsf/{method}/K={k}"
            for score in SCORES:
                yield Claim(f"{method}_vs_average.k{k}.{score}", "11",
                            f"{name} keeps more {words(score)} than averaging at equal reward",
                            a, "rsf/average", score, EQUAL, 1, *_hma_says(method, k, score),
                            )  # fmt: skip
            yield Claim(f"{method}_vs_average.k{k}.skill_at_equal_gold", "11",
                        f"{name} keeps more mean skill than averaging at equal gold",
                        a, "rsf/average", "skill", "equal_gold")  # fmt: skip
            for score in ("reward", "gold", "skill") if method == "hma" else ():
                yield Claim(f"hma_vs_average.k{k}.{score}_at_equal_alpha", "11",
                            f"{name} has more {words(score)} than averaging at the same alpha",
                            a, "rsf/average", score, "same_alpha")  # fmt: skip
    few, many = "rsf/hma/K=3", "rsf/hma/K=9"
    for score in ("reading", "skill"):
        yield Claim(f"hma_k9_vs_k3.{score}", "11",
                    f"the front falls from K = 3 to 9 ({words(score)} at equal reward)", many, few,
                    score, EQUAL, -1,
                    *(("Fig. 5, right", "the front falls with K") if score == "reading" else ()),
                    )  # fmt: skip
    for score, verb, direction in (("reward", "rises", 1), ("reading", "falls", -1)):
        yield Claim(f"hma_k9_vs_k3.{score}_at_equal_alpha", "11",
                    f"at the same alpha {score} {verb} with K (3 to 9)", many, few, score,
                    "same_alpha", direction, "Fig. 5, right", f"{score} {verb} with K")  # fmt: skip
    for algorithm in ("dpo", "ppo"):
        for score in SCORES:
            yield Claim(f"hma_vs_average.{algorithm}.k3.{score}", "11",
                        f"{ALGORITHM_NAMES[algorithm]}: HMA (K = 3) keeps more {words(score)} than "
                        "averaging at equal reward", f"{algorithm}/hma/K=3", f"{algorithm}/average",
                        score, EQUAL, 1, "Fig. 16", "HMA is ahead of averaging")  # fmt: skip
    for whose, name in (("start", "theta_0"), ("aligned", "the aligned model")):
        for lowered, ratios in ((1, "(a, a, a - 0.1)"), (2, "(a, a - 0.1, a - 0.1)")):
            for score in SCORES[1:]:
                yield Claim(f"pattern.{whose}.{lowered}.{score}", "11",
                            f"ratios {ratios}, a the weight of {name}, keep more {words(score)} "
                            "than equal ones at equal reward", f"rsf/pattern={whose}-{lowered}",
                            "rsf/average", score, "off_curve", 1, "Fig. 9",
                            "unequal ratios are ahead of equal ones")  # fmt: skip


def _hma_says(method: str, k: int, score: str) -> tuple[str, ...]:
    if method == "hma" and k == 3:
        return "Fig. 5", "HMA is ahead of averaging"
    if method == "hma" and score == "reading":
        return "Fig. 5, right", "with more blocks HMA is still ahead of averaging"
    if method == "adamerging" and score == "reading":
        return "Fig. 15", "AdaMerging is ahead on the tasks it is given"
    return ()


def _all() -> Iterator[Claim]:
    adamerging = "adamerging_vs_average.k9.commonsense"
    for group in (_main_line, _algorithms, _remedies, _methods, _parts, _ratios):
        for claim in group():
            if claim.id == adamerging:
                claim = replace(claim, direction=-1, place="Fig. 15",
                                claim=claim.claim.replace("more", "less"),
                                paper="AdaMerging falls behind on the others")  # fmt: skip
            yield claim
            if claim.score in FORGIVEN:
                yield replace(claim, id=claim.id + ".capped", score=FORGIVEN[claim.score])


def _named() -> dict[str, Claim]:
    found: dict[str, Claim] = {}
    for claim in _all():
        found.setdefault(claim.id, claim)  # RSF's own come first, with what the paper says
    return found


#: Every claim by its id.
CLAIMS = _named()
