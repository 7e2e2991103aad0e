"""The one dial of the course: a run is a preset, which holds every number, and a seed."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, is_dataclass, replace
from numbers import Integral, Real
from typing import Any


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
class HeadConfig:
    """Bradley-Terry head alone, on the first layers of theta_0, which stay as they are."""

    pairs: int
    validation_pairs: int
    max_length: int
    layers: int  # of theta_0, from the first


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
    """REINFORCE with a leave-one-out baseline (TRL's RLOOTrainer); a step samples its replies."""

    beta: float  # of the KL divergence from theta_0 in the reward
    accumulation: int = 1  # times batch_size: replies that make a step
    epochs: float = 1
    unfinished_penalty: float = 1.0  # below the worst finished reply, in units of the reward


@dataclass(frozen=True, kw_only=True)
class GrpoConfig(RlooConfig):
    """Group relative policy optimisation (TRL's GRPOTrainer); beta is 0 as in TRL."""


#: What an RLHF algorithm is configured by.
AlgorithmConfig = RsfConfig | DpoConfig | RlooConfig | PpoConfig


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
    reward: RewardConfig | HeadConfig
    judge: RewardConfig | HeadConfig | None
    rsf: RsfConfig
    eval: EvalConfig
    alphas: tuple[float, ...] = field(default=tuple(i / 10 for i in range(11)))  # of the sweep
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
    score_every: int = 1  # round that is recorded; above 1 of the control the last alone

    @property
    def algorithms(self) -> dict[str, AlgorithmConfig]:
        """The RLHF algorithms of the preset; rsf_random is RSF's control."""
        others = {"dpo": self.dpo, "rloo": self.rloo, "ppo": self.ppo}
        chosen = {name: config for name, config in others.items() if config is not None}
        return {"rsf": self.rsf, "rsf_random": self.rsf, **chosen, **dict(self.more_algorithms)}


class UnknownPreset(ValueError):
    """Raised for a preset name that does not exist; the message lists those that do."""


SAMPLED: dict[str, Any] = {"temperature": 1.0, "max_new_tokens": 40, "max_prompt_length": 64}
# DPO, RLOO and PPO draw as many replies as RSF: 8 x 128 x 8. What was tried of each algorithm, of
# SFT and of the reward model is in data/results/tiny/tuning.csv (`alignment-tax bench tune tiny`).
BUDGET: dict[str, Any] = {"rounds": 8, "prompts_per_round": 128, "n": 8, **SAMPLED}
TINY_DPO = DpoConfig(
    **BUDGET, sampling_batch=256, beta=0.1, learning_rate=1e-5, epochs=2, batch_size=16,
    max_length=145,
)  # fmt: skip
TINY_RLOO = RlooConfig(**BUDGET, beta=0.05, learning_rate=3e-4, batch_size=128)
# RLOO's numbers, so that what differs is the scaling of the advantages and the missing KL
TINY_GRPO = GrpoConfig(**BUDGET, beta=0.0, learning_rate=3e-4, batch_size=128)
TINY_PPO = PpoConfig(
    **SAMPLED, rounds=8, iterations=8, prompts_per_iteration=128, sampling_batch=256, minibatch=32,
    epochs=2, learning_rate=2e-4, critic_learning_rate=2e-4, kl_coef=0.05,
)  # fmt: skip
# kept_weight: of 1, 10, 100 what kept most skill for the reward it cost: seed 100, validation items
TINY_RATIOS = RatioConfig(
    prompts=128, n=8, learning_rate=0.2, epochs=10, batch_size=32, evaluate_every=8, eps=0.2,
    grid_step=0.1, reward_step=0.2, reward_prompts=128, kept_texts=64, kept_weight=100.0,
    labelled=100, released_learning_rate=2e-5, released_batch_size=2,
    parts=(
        *((part, (0.0, 0.2, 0.4, 0.6, 0.8)) for part in ("input", "middle", "output")),
        ("linear", (0.2, 0.4, 0.6, 0.8)),
        *((part, (0.0, 0.4)) for part in ("embeddings", "norms", "head")),
    ),
    # mean ratios of the paper's figures
    grids=(
        *(("hma", blocks, (0.2, 0.4, 0.6)) for blocks in (3, 6, 9)),
        *(("hma_kl", blocks, (0.2, 0.4, 0.6)) for blocks in (3, 9)),
        ("hma_kl_other", 3, (0.2, 0.4)),
        *((f"hma_{how}", 3, (0.2, 0.4)) for how in ("grid", "eq11", "reward", "released")),
        ("adamerging", 9, (0.2, 0.4, 0.6)),
    ),
)  # fmt: skip

TINY_REWARD = RewardConfig(
    pairs=6000, validation_pairs=600, epochs=2, batch_size=32, learning_rate=1e-3, max_length=128
)

TINY = Preset(
    name="tiny", world="tiny", model="data/base", dtype="float32",
    threads=1,  # matrices this small are no faster with two, and processes side by side are
    sft=SftConfig(
        documents=3000, replay=1000, epochs=2, batch_size=32, learning_rate=5e-4, max_length=128,
    ),
    reward=TINY_REWARD,
    judge=None, theta_0_may_lose=2.0,
    rsf=RsfConfig(**BUDGET, learning_rate=7e-4, epochs=2, batch_size=16, sampling_batch=256),
    dpo=TINY_DPO, rloo=TINY_RLOO, ppo=TINY_PPO, more_algorithms=(("grpo", TINY_GRPO),),
    # beside the preset's own 0.05: the paper's other two, and no penalty at all
    kl_coefs=(0.0, 0.1, 0.2),
    learning_rates=(2e-4, 3.5e-4, 5e-4),
    # of 1300 items a slot the first 400: the interval over seeds of RSF's tax widens by 4 %
    eval=EvalConfig(suite="tiny", limit=400, batch_size=128, reward_prompts=256, reward_samples=2),
    # 145 is wider than 64 + 40 need be, changes nothing, and is part of the keys
    distil=DistilConfig(learning_rate=7e-4, epochs=2, batch_size=16, max_length=145),
    # Grids: from next to theta_0 to next to the plain run; the paper's strengths are among them
    # where it states any. Of KD and KL they multiply a sum over an example's tokens, some hundreds;
    # here the mean is taken. Ranks shrink with the width: relative to it they start where the
    # paper's do and end at a full half.
    remedies=(
        ("l1", (0.1, 0.4, 1.0, 3.0, 10.0)), ("l2", (0.04, 0.1, 1.0, 10.0)),
        ("kd", (0.1, 0.3, 1.0, 3.0)), ("kd_squared", (1.0, 3.0, 30.0)),
        ("kl", (0.1, 0.3, 1.0, 3.0)),
        ("lora", (1, 4, 16, 64)), ("lora_mlp", (4, 16, 64)),
        ("replay", (0.25, 0.5, 1.0, 2.0)), ("replay_other", (0.5, 1.0, 2.0)),
        ("sma", (0.25, 0.5, 0.75, 1.0)), ("ema", (0.1, 0.25, 0.5, 1.0, 2.0)),
        ("bema", (0.3, 0.5, 0.7, 0.9)),
        ("graft", (0.5, 0.2, 0.1, 0.05, 0.01)),
        *((f"graft_{how}", (0.5, 0.1, 0.01)) for how in ("random", "learnt")),
        # what came after the paper
        ("expo", (1.1, 1.25, 1.5)),
        *((merge, (0.2, 0.4, 0.6, 0.8)) for merge in ("slerp", "dare", "ties", "fisher", "warp")),
        ("relearn", (16, 64, 256)), ("ewc", (0.1, 1.0, 10.0)), ("replay_self", (0.5, 2.0)),
        ("ogpsa", (4, 64)), ("null_space", (0.5, 0.9)), ("oplora", (16, 64)),
        *((f"on_{how}", (0.05, 0.2, 0.5, 1.0)) for how in ("dare", "ties")),
        ("soup", (0.2, 0.4, 0.6, 0.8, 1.0)), ("kl_average", (0.3, 1.0, 3.0)),
        ("replay_lost", (0.5, 2.0)),
    ),
    # at strength 2 a run reads about 110,000 replayed tokens: every document about once
    replay_documents=4000,
    ratios=TINY_RATIOS,
)  # fmt: skip

SMOKE = replace(
    TINY,
    name="smoke",
    sft=replace(TINY.sft, documents=96, replay=32, epochs=1),
    reward=replace(TINY_REWARD, pairs=128, validation_pairs=64, epochs=1),
    rsf=replace(TINY.rsf, rounds=2, prompts_per_round=16, n=4),
    dpo=replace(TINY_DPO, rounds=2, prompts_per_round=16, n=4),
    rloo=replace(TINY_RLOO, rounds=2, prompts_per_round=16, n=4, batch_size=32),
    ppo=replace(TINY_PPO, rounds=2, iterations=2, prompts_per_iteration=32),
    more_algorithms=(), theta_0_may_lose=None, kl_coefs=(0.2,), learning_rates=(2e-4,),
    eval=replace(TINY.eval, limit=24, reward_prompts=16, reward_samples=1),
    alphas=(0.0, 0.5, 1.0),
    simulation=SimulationConfig(repeats=4, draws=2000),
    remedies=(
        ("l2", (0.1,)), ("lora", (4,)), ("replay", (1.0,)),
        ("sma", (0.75,)), ("ema", (0.5,)), ("graft", (0.2,)),
    ),
    replay_documents=200,
    ratios=replace(
        TINY_RATIOS, prompts=16, n=4, epochs=2, batch_size=8, evaluate_every=2, grid_step=0.2,
        reward_prompts=8, kept_texts=8, labelled=8,
        parts=tuple((part, (0.4,)) for part, _ in TINY_RATIOS.parts),
        # the fewest points from which a figure can still draw every curve
        grids=tuple((method, blocks, (0.2, 0.4)) for method, blocks, _ in TINY_RATIOS.grids),
    ),
)  # fmt: skip

SMALL_REWARD = HeadConfig(pairs=5000, validation_pairs=1500, max_length=256, layers=15)
SMALL_RSF = replace(
    TINY.rsf, rounds=5, prompts_per_round=144, max_new_tokens=64, max_prompt_length=192,
    learning_rate=1e-4, batch_size=8, sampling_batch=128,
)  # fmt: skip

#: What two cores with bfloat16 carry in some hours, and a GPU in minutes.
SMALL = Preset(
    name="small", world="real", model="HuggingFaceTB/SmolLM2-135M-Instruct",
    threads=1, dtype="float32",
    sft=SftConfig(documents=1000, epochs=1, batch_size=8, learning_rate=5e-5, max_length=192),
    reward=SMALL_REWARD, judge=replace(SMALL_REWARD, pairs=2000),
    rsf=SMALL_RSF,
    alphas=(0.0, 0.2, 0.4, 0.6, 0.8, 1.0), score_every=2,
    # RACE may not be redistributed, so the offline course leaves its slot out.
    eval=EvalConfig(
        suite="real", limit=200, batch_size=32, reward_prompts=192, reward_samples=1,
        without=("race_like",),
    ),
    distil=DistilConfig.like(SMALL_RSF),
    remedies=(("kl", (0.1, 1.0)), ("replay", (0.5, 2.0))),
    replay_documents=300,
    ratios=replace(
        TINY_RATIOS, prompts=64, n=4, epochs=4, batch_size=8, grids=(("hma", 3, (0.2, 0.4, 0.6)),),
        parts=tuple((part, (0.0, 0.4)) for part in ("input", "middle", "output")),
    ),
    bf16=True,
)  # fmt: skip

# The paper's own numbers: its Tables 2 to 4, App. B, C.1, D and G; "code" is what it leaves to the
# released scripts. PPO is not here, since the number of its iterations is stated nowhere.
PAPER_RSF = RsfConfig(
    rounds=10, prompts_per_round=2048, n=32, temperature=1.0, learning_rate=1e-5, epochs=2,
    batch_size=32,  # Table 2, D.1, D.4
    max_prompt_length=256, max_new_tokens=128, sampling_batch=256,  # code: raft_aligner, eval_raft
)  # fmt: skip
PAPER_3B = Preset(
    name="paper-3b", world="real", model="openlm-research/open_llama_3b",
    threads=8, dtype="float32",
    # Table 3: ShareGPT, of which the code has 100,000 dialogues; the world `real` has Dolly instead
    sft=SftConfig(
        documents=100_000, epochs=1, batch_size=1, accumulation=128, learning_rate=1e-5,
        max_length=2048,
    ),
    # The reward model here starts from theta_0; the paper's first had 2 epochs of SFT at 2e-5.
    # Table 3 (batch 16); how many pairs, and how long: the card of hh_rlhf_rm_open_llama_3b.
    reward=RewardConfig(
        pairs=106_000, validation_pairs=5000, epochs=1, batch_size=1, accumulation=16,
        learning_rate=5e-6, max_length=512,
    ),
    judge=None, rsf=PAPER_RSF,
    # Table 2, D.3: the pairs of HH-RLHF once, looked at each half epoch, which is a round here
    dpo=DpoConfig(
        rounds=2, prompts_per_round=53_000, n=2, temperature=1.0, max_new_tokens=128,
        max_prompt_length=256, learning_rate=1e-6, batch_size=1, accumulation=32,
        sampling_batch=256, beta=0.1, epochs=1, max_length=512, source="offline",
    ),
    # section 3: all items; code: batches of 16, and 2000 prompts of HH-RLHF with a reply each
    eval=EvalConfig(suite="real", limit=None, batch_size=16, reward_prompts=2000, reward_samples=1),
    # D.1: theta_0 finetuned once on all best-of-32 replies; D.4b, c and the grid of distillation
    # are as printed. Replay (C.1) is left out: there is no pretraining text but other web text.
    distil=DistilConfig.like(PAPER_RSF),
    remedies=(
        ("l1", (0.04, 0.1, 0.4, 0.6, 1.0)), ("l2", (0.01, 0.04, 0.06, 0.08, 0.1)),
        ("kd_squared", (1e-5, 1e-3, 1e-1)), ("lora", (16,)), ("lora_mlp", (16, 64, 512)),
    ),
    # D.5, Table 4: some 2000 replies, one epoch, batch 1; rate: what the code makes of its 2e-5
    ratios=replace(
        TINY_RATIOS, prompts=2000, n=1, learning_rate=1e-3, epochs=1, batch_size=1,
        evaluate_every=200, released_batch_size=1,
        parts=tuple((part, (0.0, 0.2, 0.4, 0.6, 0.8)) for part in ("input", "middle", "output")),
        grids=tuple(("hma", blocks, (0.2, 0.4, 0.6)) for blocks in (3, 6, 9)),  # Fig. 5
    ),
    bf16=True,
)  # fmt: skip
# Fig. 6, Table 1: the paper averages two published checkpoints at 7B and trains nothing; the other
# numbers are those of 3B, so that both sizes can be compared.
PAPER_7B = replace(
    PAPER_3B, name="paper-7b", model="mistralai/Mistral-7B-v0.1",
    alphas=(0.0, 0.2, 0.4, 0.6, 0.8, 1.0),
)  # fmt: skip
#: Presets that do not shrink: a machine that cannot carry them is refused (`plan.check_machine`).
PAPER = (PAPER_3B, PAPER_7B)


def is_paper(preset: Preset) -> bool:
    """Whether a preset has the paper's own size: it trains a model of `PAPER`."""
    return preset.model in {each.model for each in PAPER}


#: `tiny` with one number changed, to see on which of them a verdict hangs: name -> what differs.
CHANGES: dict[str, dict[str, Any]] = {
    "small-steps": {"rsf": replace(TINY.rsf, learning_rate=3.5e-4)},
    "large-steps": {"rsf": replace(TINY.rsf, learning_rate=1.4e-3)},
    "weak-sft": {"sft": replace(TINY.sft, documents=1500), "theta_0_may_lose": None},
    "strong-sft": {"sft": replace(TINY.sft, epochs=4), "theta_0_may_lose": None},
    "small-reward-model": {"reward": replace(TINY_REWARD, pairs=1500)},
    "more-rounds": {"rsf": replace(TINY.rsf, rounds=12)},
}
PRESETS: dict[str, Preset] = {preset.name: preset for preset in (SMOKE, TINY, SMALL, *PAPER)}
PRESETS |= {
    f"tiny-{name}": replace(TINY, name=f"tiny-{name}", alphas=(0.0, 0.2, 0.4, 0.6, 0.8, 1.0), **how)
    for name, how in CHANGES.items()
}
#: Stands for TINY in the notebooks where nothing is made: see `pipeline.recorded_only`.
RECORDED = "recorded"


def get(name: str) -> Preset:
    """Return the preset called `name`; UnknownPreset lists the known names."""
    if name not in PRESETS:
        raise UnknownPreset(f"There is no preset {name!r}. Choose one of: {', '.join(PRESETS)}.")
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
