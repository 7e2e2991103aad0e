"""The one dial of the course: a run is a preset, which holds every number, and a seed.

Here is what the numbers are; presets.toml has their values.
"""

from __future__ import annotations

import math
import tomllib
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from numbers import Integral, Real
from pathlib import Path
from typing import Any, get_args, get_type_hints


@dataclass(frozen=True, kw_only=True)
class _Finetuning:
    epochs: float
    batch_size: int
    learning_rate: float
    max_length: int
    accumulation: int = 1


@dataclass(frozen=True, kw_only=True)
class SftConfig(_Finetuning):
    """Supervised finetuning (TRL's SFTTrainer): base -> theta_0."""

    documents: int  # demonstrations
    replay: int = 0  # documents of pretraining text among them, so that theta_0 keeps its skills


@dataclass(frozen=True, kw_only=True)
class RewardConfig(_Finetuning):
    """Bradley-Terry reward model (TRL's RewardTrainer), started from theta_0."""

    pairs: int
    validation_pairs: int


@dataclass(frozen=True, kw_only=True)
class _Rlhf:
    rounds: int  # parts that a run is cut into; each is kept
    temperature: float  # of sampling and of every probability; above 0
    max_new_tokens: int  # a reply without an end by then is cut off
    max_prompt_length: int
    learning_rate: float


@dataclass(frozen=True, kw_only=True)
class _Groups(_Rlhf):
    prompts_per_round: int
    n: int  # replies to each prompt
    batch_size: int


@dataclass(frozen=True, kw_only=True)
class RsfConfig(_Groups):
    """Rejection sampling finetuning (RAFT): sample n replies, keep the best, finetune, repeat."""

    epochs: int
    sampling_batch: int


@dataclass(frozen=True, kw_only=True)
class PpoConfig(_Rlhf):
    """Proximal policy optimisation: sample, score, improve policy and critic, repeat."""

    iterations: int  # per round
    prompts_per_iteration: int  # one reply each
    sampling_batch: int  # most replies generated side by side
    minibatch: int  # replies per optimiser step, all processes together
    epochs: int  # passes over the replies of an iteration
    critic_learning_rate: float
    kl_coef: float  # of the token-level KL penalty; where it starts if it adapts
    kl_target: float | None = None  # nats a reply that the weight aims at; None keeps it fixed
    kl_horizon: int = 10_000  # replies over which the weight adapts; larger is slower
    shared_trunk: bool = False  # the value head on the policy's body, or on one of its own
    gamma: float = 1.0  # discount per token
    lam: float = 0.95  # of GAE: 0 trusts the critic, 1 the rewards
    clip: float = 0.2  # how far the ratio of probabilities may leave 1
    value_clip: float = 0.2  # how far a value may move, in units of the scaled reward
    value_coef: float = 0.5  # of the value loss beside the policy loss
    whiten: bool = True  # advantages of mean 0 and variance 1; False to see what goes wrong
    max_kl: float | None = None  # nats a token from the sampler at which epochs end early
    reward_baseline: float = 0.0  # subtracted from every reward ...
    reward_scale: float = 1.0  # ... and multiplied with what is left
    missing_eos_penalty: float = 1.0  # subtracted from the reward of a reply that was cut off

    @property
    def prompts_per_round(self) -> int:
        """Prompts of all iterations of a round."""
        return self.prompts_per_iteration * self.iterations


@dataclass(frozen=True, kw_only=True)
class DpoConfig(_Groups):
    """Direct preference optimisation (TRL's DPOTrainer): theta_0's best replies against worst."""

    sampling_batch: int
    beta: float  # the higher, the nearer to theta_0
    epochs: float
    max_length: int  # prompt and reply, in tokens
    accumulation: int = 1
    source: str = "on_policy"  # or "offline": as many of the world's preference pairs


@dataclass(frozen=True, kw_only=True)
class RlooConfig(_Groups):
    """REINFORCE with a leave-one-out baseline (TRL's RLOOTrainer).

    `batch_size * accumulation` replies make one step; they are sampled right before it, used once.
    """

    beta: float  # of the KL divergence from theta_0 in the reward
    accumulation: int = 1
    epochs: float = 1
    unfinished_penalty: float = 1.0  # below the worst finished reply, in units of the reward


@dataclass(frozen=True, kw_only=True)
class GrpoConfig(RlooConfig):
    """Group relative policy optimisation (TRL's GRPOTrainer); beta is 0 as in TRL."""


#: What an RLHF algorithm is configured by.
AlgorithmConfig = RsfConfig | DpoConfig | RlooConfig | GrpoConfig | PpoConfig


@dataclass(frozen=True)
class DistilConfig:
    """Numbers of the one finetuning of theta_0 that is the same for all remedies."""

    learning_rate: float
    epochs: int
    batch_size: int
    max_length: int

    @classmethod
    def like(cls, rsf: RsfConfig) -> DistilConfig:
        """Return the numbers with which RSF finetunes in each of its rounds."""
        room = rsf.max_prompt_length + rsf.max_new_tokens
        return cls(rsf.learning_rate, rsf.epochs, rsf.batch_size, room)


@dataclass(frozen=True)
class RatioConfig:
    """Part-wise averaging and the searches for a ratio per block of layers: what is recorded."""

    prompts: int  # that the aligned policy replies to; HMA makes the best reply to each likely
    n: int  # replies to each prompt
    learning_rate: float  # Adam's, for the K scores
    epochs: int
    batch_size: int
    evaluate_every: int  # steps between two evaluations on all replies
    eps: float  # of Eq. 11
    grid_step: float  # between ratios on the grid over the simplex
    reward_step: float  # the same where every point of the grid is sampled from
    reward_prompts: int  # replied to at every point of that grid
    kept_texts: int  # texts on which a KL term keeps theta_0 ...
    kept_weight: float  # ... and its weight
    labelled: int  # most validation items of each reading skill that AdaMerging learns from
    released_learning_rate: float  # the paper's code multiplies it by a block's linear layers
    released_batch_size: int
    #: A part that is averaged by itself, the others fully aligned, and its ratios.
    parts: tuple[tuple[str, tuple[float, ...]], ...] = ()
    #: A way to find ratios (a name in `searches.SEARCHES`), for K blocks at some mean ratios.
    grids: tuple[tuple[str, int, tuple[float, ...]], ...] = ()


@dataclass(frozen=True)
class EvalConfig:
    """What is scored, on how many items, and with which batch size (scores move with it)."""

    suite: str
    limit: int | None
    batch_size: int
    reward_prompts: int  # held out
    reward_samples: int  # replies to each of them
    without: tuple[str, ...] = ()  # slots of the suite that are left out


@dataclass(frozen=True)
class SimulationConfig:
    """The feature model of chapter 10: how often it is simulated, and on how many inputs each."""

    repeats: int
    draws: int


@dataclass(frozen=True)
class Preset:
    """Every number of a run; what is None, empty or 0 there is not."""

    name: str
    world: str
    model: str
    threads: int
    dtype: str  # of the weights and, without bf16, of all that is computed
    sft: SftConfig
    reward: RewardConfig
    rsf: RsfConfig
    eval: EvalConfig
    alphas: tuple[float, ...] = field(default=tuple(i / 10 for i in range(11)))  # of the sweep
    judge: RewardConfig | None = None  # stands in for gold where there is none
    dpo: DpoConfig | None = None
    rloo: RlooConfig | None = None
    ppo: PpoConfig | None = None
    simulation: SimulationConfig = SimulationConfig(repeats=10, draws=20_000)
    distil: DistilConfig | None = None  # how theta_0 is finetuned under a remedy
    #: A remedy (a name in `registry.REMEDIES`) and the strengths at which it is recorded.
    remedies: tuple[tuple[str, tuple[float, ...]], ...] = ()
    replay_documents: int = 0  # of pretraining text, to replay
    ratios: RatioConfig | None = None
    #: Most points of skill, format forgiven, that theta_0 may have lost in a family; None: any.
    theta_0_may_lose: float | None = None
    kl_coefs: tuple[float, ...] = ()  # other weights of PPO's KL penalty that are recorded
    learning_rates: tuple[float, ...] = ()  # other step sizes of RSF that are recorded
    # on a GPU forward passes run in bfloat16, whose rounding may hide small changes of a tiny model
    bf16: bool = False
    more_algorithms: tuple[tuple[str, AlgorithmConfig], ...] = ()

    @property
    def algorithms(self) -> dict[str, AlgorithmConfig]:
        """The RLHF algorithms of the preset; rsf_random is RSF's control."""
        others = {"dpo": self.dpo, "rloo": self.rloo, "ppo": self.ppo}
        chosen = {name: config for name, config in others.items() if config is not None}
        return {"rsf": self.rsf, "rsf_random": self.rsf, **chosen, **dict(self.more_algorithms)}


class UnknownPreset(ValueError):
    """Raised for a preset name that does not exist; the message lists those that do."""


def _filled(value: Any, kind: Any, before: Any = None) -> Any:
    """Return a value as a preset holds it: a list as a tuple, a table as a dataclass of its kind.

    A table changes `before`, if that is given, and leaves its other numbers as they are. Where
    there are several kinds (in `more_algorithms`) it says by its `kind` which one it is.
    """
    if isinstance(value, list):
        return tuple(_filled(each, kind) for each in value)
    if not isinstance(value, dict):
        return value
    named = value.get("kind")
    kind = next(each for each in _dataclasses(kind) if named in (None, each.__name__))
    hints, given = get_type_hints(kind), {n: each for n, each in value.items() if n != "kind"}
    told = {n: _filled(each, hints[n], getattr(before, n, None)) for n, each in given.items()}
    return kind(**told) if before is None else replace(before, **told)


def _dataclasses(hint: Any) -> list[Any]:
    """Return the dataclasses that a type hint names."""
    return [hint] if is_dataclass(hint) else [k for a in get_args(hint) for k in _dataclasses(a)]


def _read(tables: dict[str, Any]) -> dict[str, Preset]:
    """Return the presets of presets.toml, whose first lines say how it is written."""
    defaults = {each.name: each.default for each in fields(Preset)}
    found: dict[str, Preset] = {}
    for name, table in tables.items():
        before, without = table.pop("like", None), table.pop("without", ())
        if more := table.get("more_algorithms"):
            table["more_algorithms"] = [list(named) for named in more.items()]
        table |= {"name": name, **{each: defaults[each] for each in without}}
        found[name] = _filled(table, Preset, found.get(before))
    return found


_TABLES = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
_ON_A_CPU = _TABLES.pop("cpu")
PRESETS = _read(_TABLES)
SMOKE, TINY, SMALL = PRESETS["smoke"], PRESETS["tiny"], PRESETS["small"]
#: `tiny` with one number changed, to see on which of them a verdict hangs.
CHANGES = tuple(name for name in PRESETS if name.startswith("tiny-"))
#: Stands for TINY in the notebooks where nothing is made: see `pipeline.recorded_only`.
RECORDED = "recorded"


def fit_to_device(preset: Preset, device_type: str) -> Preset:
    """Return the preset at the size that a device can carry: `small` shrinks on a CPU."""
    if preset.world != "real" or device_type != "cpu":
        return preset
    there = {name: each for name, each in _ON_A_CPU.items() if getattr(preset, name) is not None}
    smaller: Preset = _filled(there, Preset, preset)
    return smaller


def size_text(preset: Preset) -> str:
    """Say in one line how large a run of the preset is."""
    rsf, limit = preset.rsf, preset.eval.limit
    items = "all items" if limit is None else f"{limit} items a benchmark"
    return (
        f"{preset.name}: {preset.sft.documents} demonstrations, {preset.reward.pairs} pairs, "
        f"{rsf.rounds} rounds of {rsf.prompts_per_round} prompts with n = {rsf.n}, {items}"
    )


def get(name: str) -> Preset:
    """Return the preset called `name`; UnknownPreset lists the known names."""
    if name not in PRESETS:
        known = ", ".join(PRESETS)
        raise UnknownPreset(f"There is no preset {name!r}. Choose one of: {known}.")
    return PRESETS[name]


NUMBERS = {"int": (Integral, "a whole number"), "float": (Real, "a number")}
#: Numbers that may be 0, which switches something off; all others are above it.
MAY_BE_0 = set(
    "replay replay_documents kl_coef gamma lam value_coef missing_eos_penalty unfinished_penalty "
    "beta eps kept_weight theta_0_may_lose".split()
)


def check(config: Any, name: str = "") -> None:
    """Refuse a number of a preset, or of a part of it, that no run can use (ValueError: which)."""
    for each in fields(config):
        value, place = getattr(config, each.name), f"{name}{each.name}"
        if is_dataclass(value):
            check(value, f"{place}.")
        kind, _, none = str(each.type).partition(" | ")
        # a baseline may have any sign
        if kind not in NUMBERS or (none and value is None) or each.name == "reward_baseline":
            continue
        wanted, what = NUMBERS[kind]
        fits = isinstance(value, wanted) and not isinstance(value, bool) and math.isfinite(value)
        zero = each.name in MAY_BE_0
        if not fits or value < 0 or (value == 0 and not zero):
            least = "of 0 or more" if zero else "above 0"
            raise ValueError(f"The preset's {place} is {value!r}: give it {what} {least}.")


#: A (nested) preset dataclass as plain types, for keys and provenance.
as_dict = asdict
