"""Which model is meant: columns that name it; the one grammar of the columns method and part."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from alignment_tax.registry import REMEDIES

COLUMNS = """
    study seed algorithm method strength alpha part rounds reward gold one_hop two_hop
    piqa_like race_like span counting bleu commonsense reading translation skill
    commonsense_forgiven reading_forgiven translation_forgiven forgetting kl n_items key
""".split()

#: The columns that name a model: a row with the same values is the same model.
NAMED = ["seed", "algorithm", "method", "strength", "alpha", "part", "rounds"]

#: The mix of theta_0 and an aligned model by one ratio for all weights.
AVERAGE = "average"
#: One part averaged, the others aligned.
PART = "part"
ADAMERGING, HMA = "adamerging", "hma"
#: Ratios that are set by hand, as in the paper's proof of concept (Fig. 9).
PATTERN = "pattern"

#: Protocols, each the name of the stage that trains: the rounds of RLHF as they are, ...
ROUNDS = "rounds"
#: ... theta_0 finetuned once on RSF's best-of-n samples, ...
DISTILLED = "distilled"
#: ... a remedy in each of RSF's rounds, ...
INSIDE = "in_rounds"
#: ... an algorithm with another value of one of its numbers, which is the strength.
KL_COEF, LEARNING_RATE = "kl_coef", "learning_rate"
#: Whose number it is.
CHANGED = {KL_COEF: "ppo", LEARNING_RATE: "rsf"}

#: The method of the distilled run without a remedy.
DISTIL = "distil"
# what may follow a remedy's word in the column method
_AVERAGED, _IN_ROUNDS = f"+{AVERAGE}", f"_{INSIDE}"


class Method(NamedTuple):
    """What the column method says: `remedy` acts by `protocol`, the outcome is mixed by `mix`."""

    remedy: str | None = None
    protocol: str = ROUNDS
    mix: str | None = None

    def __str__(self) -> str:
        """Write the column: "none", "average", "l2", "l2+average", "l2_in_rounds", "distil", ..."""
        if self.protocol == ROUNDS:
            return self.mix or "none"
        if self.protocol in CHANGED:
            return self.protocol
        inside = _IN_ROUNDS if self.protocol == INSIDE else ""
        return (self.remedy or DISTIL) + inside + (_AVERAGED if self.mix else "")

    @classmethod
    def read(cls, text: str) -> Method:
        """Read the column; whatever is no other word is a remedy, known or not."""
        if text == "none":
            return cls()
        if text in (AVERAGE, PART) or is_search(text):
            return cls(mix=text)
        if text in CHANGED:
            return cls(protocol=text)
        word = text.removesuffix(_AVERAGED)
        mix = None if word == text else AVERAGE
        remedy = word.removesuffix(_IN_ROUNDS)
        protocol = DISTILLED if remedy == word else INSIDE
        return cls(None if word == DISTIL else remedy, protocol, mix)


def is_search(mix: str | None) -> bool:
    """Whether a mix has a ratio of its own for each block of layers."""
    return mix in (HMA, ADAMERGING, PATTERN) or (mix or "").startswith(f"{HMA}_")


def averaged(method: str) -> str:
    """Return the method whose outcome is averaged with theta_0: "l2" -> "l2+average"."""
    return str(Method.read(method)._replace(mix=AVERAGE))


def out_of_rounds(method: str) -> str:
    """Return the remedy that acts inside the rounds: "l2_in_rounds" -> "l2"; any other itself."""
    found = Method.read(method)
    return str(found._replace(protocol=DISTILLED)) if found.protocol == INSIDE else method


#: Averages of the plain distilled run, which starts and ends where the distilled remedies do.
DISTILLED_AVERAGE = averaged(DISTIL)


@dataclass(frozen=True)
class Spec:
    """Which model is meant: the columns of the table of points that name it, and what they say.

    `algorithm` is base | sft | rsf | rsf_random (the control) | dpo | rloo | ppo; `rounds` those of
    RLHF. `method` is read into the fields `remedy` (l1, l2, ..., None), `protocol` (the stage that
    trains it: rounds | distilled | in_rounds | a word of `CHANGED`, or base | sft) and `mix` (None,
    average, part, hma, hma_VARIANT, adamerging, pattern). `alpha` is the (mean) weight of the
    aligned model in a mix, `strength` that of the remedy.

    Mix "part" averages one part at `alpha` and leaves all others aligned: input, middle, output
    (thirds of the layers), linear (all layers), embeddings, norms or head. Mixes with a ratio per
    block (see `merge.search`) have the ratios in `part` (see `ratios_text`) and their mean in
    `alpha`, which is also the ratio of embeddings, norms and head; part "K=3" stands for the ratios
    that the search finds for three blocks.

    A remedy's word alone is the paper's distillation style; what follows the word changes that:

    >>> Spec("rsf", 6, "l2", strength=0.04)  # theta_0 finetuned on RSF's best samples under L2
    >>> Spec("rsf", 6, "distil")  # the same without a remedy: where these curves end
    >>> Spec("rsf", 6, "distil+average", alpha=0.8)  # its average with theta_0
    >>> Spec("rsf", 6, "l2+average", alpha=0.8, strength=0.04)  # L2, then averaging
    >>> Spec("rsf", 6, "l2_in_rounds", strength=0.04)  # RSF with L2 in each of its rounds
    >>> Spec("rsf", 6, "average", alpha=0.8)  # theta_0 averaged with RSF's own last round
    """

    algorithm: str
    rounds: int = 0
    method: str = "none"
    alpha: float | None = None
    strength: float | None = None
    part: str | None = None
    remedy: str | None = field(init=False, repr=False, compare=False)
    protocol: str = field(init=False, repr=False, compare=False)
    mix: str | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Read the method."""
        plain = self.algorithm in ("base", "sft")
        found = Method(protocol=self.algorithm) if plain else Method.read(self.method)
        for name, value in found._asdict().items():
            object.__setattr__(self, name, value)

    @classmethod
    def of_row(cls, row: Mapping[Any, Any]) -> Spec:
        """Return the spec that a row of the table of points names; NaN and "" are None."""
        told: dict[str, Any] = {name: row.get(name) for name in NAMED}
        given = {k: v for k, v in told.items() if str(v) not in ("", "nan", "None", "<NA>")}
        remedy = REMEDIES.get(Method.read(given.get("method", "none")).remedy or "")
        kinds = {"rounds": int, "alpha": float, "strength": remedy.kind if remedy else float}
        given.pop("seed", None)
        return cls(**{name: kinds.get(name, str)(value) for name, value in given.items()})

    @property
    def row(self) -> dict[str, Any]:
        """The columns that name the model, but for its seed."""
        return {name: getattr(self, name) for name in NAMED if name != "seed"}

    @property
    def end(self) -> Spec:
        """The aligned end that a mixture mixes theta_0 with; any other model itself."""
        if self.mix is None:
            return self
        plain = str(Method(self.remedy, self.protocol))
        strength = self.strength if self.remedy else None
        return Spec(self.algorithm, self.rounds, plain, strength=strength)

    def __str__(self) -> str:
        """Name the model for a reader."""
        if self.algorithm in ("base", "sft"):
            return "the base model" if self.algorithm == "base" else "theta_0"
        name = f"{self.algorithm} round {self.rounds}"
        if self.method == "none":
            return name
        if self.method == AVERAGE:
            return f"average of theta_0 and {name}, alpha {self.alpha}"
        details = {"strength": self.strength, "alpha": self.alpha}
        named = [f"{key} {value:g}" for key, value in details.items() if value is not None]
        if (blocks := blocks_to_find(self)) is not None:
            named.append(f"{blocks} blocks")
        elif self.part is not None and is_search(self.mix):
            ratios, fixed = ratios_in(self)
            named.append(f"ratios {' '.join(f'{ratio:.3g}' for ratio in ratios)}")
            named += [f"{part} {ratio:.3g}" for part, ratio in fixed.items()]
        elif self.part is not None:
            named.append(f"part {self.part}")
        return ", ".join([f"{name} with {self.method}", *named])


class UnknownStage(ValueError):
    """Raised for an algorithm, round, method or text that the preset does not have."""


def check_known(names: Iterable[str], known: Collection[str], what: str, where: str = "") -> None:
    """Refuse a name that is not among the known ones (UnknownStage: which, and what there is)."""
    if unknown := [name for name in names if name not in known]:
        choice = ", ".join(known)
        raise UnknownStage(f"There is no {what} {unknown[0]!r}{where}. Choose from: {choice}.")


def ratios_text(ratios: Sequence[float], fixed: Mapping[str, float] | None = None) -> str:
    """Return ratios to the last digit as `Spec.part`, `fixed` by name: "0.6|0.4|0.2|norms=0.0"."""
    named = [f"{part}={float(ratio)!r}" for part, ratio in (fixed or {}).items()]
    return "|".join([*(repr(float(ratio)) for ratio in ratios), *named])


def ratios_in(spec: Spec) -> tuple[tuple[float, ...], dict[str, float]]:
    """Return the ratios of blocks that a spec names, and those of other parts that are fixed."""
    pieces = [piece.rpartition("=") for piece in (spec.part or "").split("|")]
    with contextlib.suppress(ValueError):
        fixed = {name: float(ratio) for name, _, ratio in pieces if name}
        if blocks := tuple(float(ratio) for name, _, ratio in pieces if not name):
            return blocks, fixed
    told = f"Method {spec.method} needs the ratios of its blocks as part, like '0.6|0.4|0.2'"
    raise ValueError(f"{told}, not {spec.part!r}.")


def patterns(of_start: bool) -> list[tuple[float, ...]]:
    """Return the paper's unequal ratios of three blocks (Fig. 9), as weights of the aligned model.

    They are (a, a, a - 0.1) and (a, a - 0.1, a - 0.1) for a = 0.2, 0.3 and 0.4. With `of_start` a
    is the weight of theta_0, as in the paper's code, not in its text.
    """
    steps = [(a, a - second, a - 0.1) for second in (0, 0.1) for a in (0.2, 0.3, 0.4)]
    return [tuple(round(1 - a if of_start else a, 1) for a in each) for each in steps]


def block_count(part: object) -> int:
    """Return how many ratios of blocks `part` holds ("0.6|0.4|0.2|norms=0.0": 3), 0 for none."""
    pieces = part.split("|") if isinstance(part, str) else []
    return sum("=" not in piece for piece in pieces) if len(pieces) > 1 else 0


def blocks_to_find(spec: Spec) -> int | None:
    """Return K of a spec whose ratios are still to be found ("K=3"), else None."""
    found = re.fullmatch(r"K=(\d+)", spec.part or "") if is_search(spec.mix) else None
    return int(found[1]) if found else None


def has_forward_kl(spec: Spec) -> bool:
    """Whether the forward KL of a model is recorded: of theta_0, RLHF and their plain averages."""
    return spec.protocol in ("sft", ROUNDS, *CHANGED) and spec.mix in (None, AVERAGE)


def simplest(spec: Spec) -> Spec:
    """Return the simplest spec of the same weights, so that no model is scored twice.

    The ends of a mixture are theta_0 and the aligned policy to the last bit, and equal ratios are
    the plain average (`merge.average`, `merge.parts`). How ratios were found does not matter.
    """
    if is_search(spec.mix):
        blocks, fixed = ratios_in(spec)
        spec = dataclasses.replace(spec, method=HMA, strength=None, part=ratios_text(blocks, fixed))
        if {*blocks, *fixed.values()} == {spec.alpha}:
            spec = Spec(spec.algorithm, spec.rounds, AVERAGE, spec.alpha)
    if spec.mix == AVERAGE and spec.alpha == 0:
        return Spec("sft")
    if spec.mix in (AVERAGE, PART) and spec.alpha == 1:
        return spec.end
    return spec
