"""Policies and reward models: load, save, score. Nothing here knows which architecture it holds.

A policy is a causal language model with a tokenizer that has a chat template. A reward model is the
same network with a scalar head. Weights are safetensors; nothing is pickled.
"""

from __future__ import annotations

import contextlib
import copy
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    DynamicCache,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.cache_utils import DynamicLayer
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.utils import logging as hf_logging

from alignment_tax.world.base import Message, Prompt

T = TypeVar("T")
WEIGHTS = "model.safetensors"
ROOM = 16  # tokens by which a full cache grows


def device() -> torch.device:
    """Return the CUDA device if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def measured(work: Callable[[], T]) -> tuple[T, float, float | None]:
    """Run `work`; return its result, its wall seconds and its peak memory in MB.

    The memory is what the GPU held, or else the largest resident size of this process meanwhile
    (libraries included); None where the system does not let it be measured anew (not Linux).
    """
    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    else:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # sets VmHWM back to the present size
    started = time.perf_counter()
    result = work()
    if gpu:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    return result, seconds, torch.cuda.max_memory_allocated() / 1e6 if gpu else _resident_peak()


def _resident_peak() -> float | None:
    """Return the peak resident size since it was last set back in MB, or None."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        writable = os.access("/proc/self/clear_refs", os.W_OK)
    except OSError:
        return None
    kilobytes = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return int(kilobytes[0]) * 1024 / 1e6 if kilobytes and writable else None


def set_bf16(wanted: bool) -> None:
    """Say whether GPUs are to compute in bfloat16 in this process; see `use_bf16`."""
    torch.set_autocast_dtype("cuda", torch.bfloat16 if wanted else torch.float32)


def use_bf16(where: torch.device) -> bool:
    """Say whether forward passes on `where` run in bfloat16: if `set_bf16` asked, and it can."""
    wanted = torch.get_autocast_dtype("cuda") == torch.bfloat16
    on_gpu = wanted and where.type == "cuda"
    return on_gpu and torch.cuda.is_bf16_supported(including_emulation=False)


def autocast(where: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Return the mixed-precision context for `where`: bfloat16 if `use_bf16`, else nothing."""
    if use_bf16(where):
        return torch.autocast(where.type, dtype=torch.bfloat16)
    return contextlib.nullcontext()


def prepare_tokenizer(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Set left padding and a pad token, in place (ValueError: no chat template, no end token)."""
    if not tokenizer.chat_template:
        raise ValueError(
            "The tokenizer has no chat template, so prompts cannot be written out. Use an instruct "
            "model, or set tokenizer.chat_template."
        )
    if tokenizer.eos_token_id is None:
        raise ValueError(
            "The tokenizer has no end-of-sequence token, so replies cannot end. Set "
            "tokenizer.eos_token to the token that closes an assistant message."
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    return tokenizer


def load_policy(
    path_or_id: str | Path, dtype: str = "float32", device: str | torch.device | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a causal language model and its tokenizer from a folder, a Hub id or a `.gguf` file.

    Args:
        path_or_id: A folder, a name on the Hub, or a GGUF file (dequantised; needs `gguf`).
        dtype: Torch name of the weights' type. Use float32 for whatever will be trained.
        device: Where to put the model; by default the GPU if there is one.

    Returns:
        The policy in eval mode, and a tokenizer with left padding and a pad token.

    Raises:
        FileNotFoundError: `path_or_id` is a path and nothing is there.
        ValueError: a tokenizer without chat template or end token, or with too many tokens.
    """
    source = Path(path_or_id)
    if isinstance(path_or_id, Path) and not source.exists():
        raise FileNotFoundError(f"There is no checkpoint at {source}. Make it first, or check it.")
    name = str(path_or_id)
    gguf: dict[str, Any] = {}
    if source.suffix == ".gguf":
        name, gguf = str(source.parent), {"gguf_file": source.name}
    tokenizer = prepare_tokenizer(AutoTokenizer.from_pretrained(name, **gguf))
    weights = gguf or {"use_safetensors": True}
    with quiet_loading():
        model = AutoModelForCausalLM.from_pretrained(name, dtype=getattr(torch, dtype), **weights)
    check_vocabulary(model, tokenizer)
    torch.nn.Module.to(model, _place(device))
    return model.eval(), tokenizer


@contextlib.contextmanager
def quiet_loading() -> Iterator[None]:
    """Keep transformers' bars for reading and writing weights out of notebooks and logs."""
    shown = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            hf_logging.enable_progress_bar()


def check_vocabulary(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer that can produce ids the model has no embedding for (ValueError)."""
    rows = len(model.get_input_embeddings().get_parameter("weight"))
    if len(tokenizer) > rows:
        raise ValueError(
            f"The tokenizer has {len(tokenizer)} tokens but the model only {rows} embeddings: they "
            "do not belong together. Load both from the same checkpoint."
        )


def check_same_tokens(
    tokenizer: PreTrainedTokenizerBase, critic_tokenizer: PreTrainedTokenizerBase
) -> None:
    """Refuse a critic that would read other tokens than the policy wrote (ValueError)."""
    ours, theirs = tokenizer.get_vocab(), critic_tokenizer.get_vocab()
    different = sorted(t for t in {*ours, *theirs} if ours.get(t) != theirs.get(t))
    if different:
        raise ValueError(
            f"The critic's tokenizer differs from the policy's in {len(different)} tokens, for "
            f"instance {different[0]!r}. Train the reward model from this policy, or leave the "
            "critic out."
        )


def save_policy(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write weights (safetensors), configuration and tokenizer into `folder`."""
    with _whole_folder(folder) as target:
        with quiet_loading():
            model.save_pretrained(target)
        tokenizer.save_pretrained(target)


def load_state(folder: Path) -> dict[str, Tensor]:
    """Read every safetensors file in `folder` into one state dict on the CPU."""
    files = sorted(Path(folder).glob("*.safetensors"))
    if not files:
        raise FileNotFoundError(f"There are no .safetensors weights in {folder}.")
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


class RewardModel(PreTrainedModel):
    """A language model's body with one linear head: text in, one number out.

    The head reads the hidden state of the last token and the mean over all tokens, side by side: on
    short replies the mean carries most of what people judge (politeness, repetition). It starts at
    zero: before training every reward is 0. Scores do not depend on padding, on whichever side.
    """

    config_class = PretrainedConfig
    base_model_prefix = "backbone"
    # the backbone checks for itself which attention it can run
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = True

    def __init__(self, config: PretrainedConfig, backbone: PreTrainedModel | None = None):
        super().__init__(config)
        self.backbone = AutoModel.from_config(config) if backbone is None else backbone
        width = config.get_text_config().hidden_size
        self.head = torch.nn.Linear(2 * width, 1, bias=False)
        torch.nn.init.zeros_(self.head.weight)

    @classmethod
    def from_policy(
        cls, policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
    ) -> RewardModel:
        """Make a reward model from a copy of the policy's body and a zero head (dropout off)."""
        backbone = cast(PreTrainedModel, copy.deepcopy(policy.base_model).float())
        config = copy.deepcopy(policy.config)
        config.num_labels = 1
        config.get_text_config().pad_token_id = tokenizer.pad_token_id
        model = cls(config, backbone)
        torch.nn.Module.to(model, policy.device)
        silence_dropout(model)
        return model.eval()

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **kwargs: Any
    ) -> SequenceClassifierOutput:
        """Score ids (batch, length), padded on either side: `logits` are the rewards (batch, 1).

        TRL passes `use_cache`, which goes to the backbone.
        """
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        hidden = self.backbone(
            input_ids=input_ids,
            attention_mask=mask,
            position_ids=positions(mask),
            **kwargs,
        ).last_hidden_state.float()
        last = (mask * torch.arange(mask.shape[1], device=mask.device)).argmax(dim=1)
        rows = torch.arange(mask.shape[0], device=mask.device)
        weights = mask.unsqueeze(-1).float()
        mean = (hidden * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1.0)
        features = torch.cat([hidden[rows, last], mean], dim=-1)
        # a product and a sum, because autocast would round a matrix product's rewards to bfloat16
        logits = (features * self.head.weight.float()).sum(dim=-1, keepdim=True)
        return SequenceClassifierOutput(logits=logits)


def silence_dropout(model: torch.nn.Module) -> None:
    """Turn off every dropout of `model`, in place: layers, and rates kept as attributes."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0  # type: ignore[assignment]


def positions(attention_mask: Tensor) -> Tensor:
    """Return position ids (batch, length): real tokens count from 0, wherever the padding is."""
    return (attention_mask.long().cumsum(dim=1) - 1).clamp(min=0)


def save_reward_model(model: RewardModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write a reward model (safetensors, configuration) and its tokenizer into `folder`."""
    with _whole_folder(folder) as target:
        model.config.save_pretrained(target)
        tokenizer.save_pretrained(target)
        # copies: tensors that share memory are not written twice
        state = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
        save_file(state, target / WEIGHTS, metadata={"format": "pt"})


def load_reward_model(
    folder: Path, device: str | torch.device | None = None
) -> tuple[RewardModel, PreTrainedTokenizerBase]:
    """Load what `save_reward_model` wrote: the model in eval mode, and its tokenizer."""
    state = load_state(folder)
    model = RewardModel(AutoConfig.from_pretrained(folder)).float()
    model.load_state_dict(state)
    tokenizer = prepare_tokenizer(AutoTokenizer.from_pretrained(folder))
    torch.nn.Module.to(model, _place(device))
    return model.eval(), tokenizer


@dataclass(frozen=True)
class Reply:
    """One reply: its text, and the tokens that were drawn before the end token.

    `finished` is False where no end token was drawn in time: such a reply is cut off.
    """

    text: str
    token_ids: list[int]
    finished: bool

    def drawn(self, eos_id: int) -> list[int]:
        """Return all tokens that were drawn, the end token too if it was."""
        return [*self.token_ids, *[eos_id] * self.finished]


#: A reply of a policy, which keeps its tokens, or a text that was written and never had any.
AnyReply = Reply | str


def as_reply(tokenizer: PreTrainedTokenizerBase, reply: AnyReply) -> Reply:
    """Return the reply itself, or a written text as a finished reply."""
    if isinstance(reply, Reply):
        return reply
    return Reply(reply, tokenizer(reply, add_special_tokens=False)["input_ids"], True)


def texts(replies: Iterable[AnyReply]) -> list[str]:
    """Return the text of each reply."""
    return [reply.text if isinstance(reply, Reply) else reply for reply in replies]


def prompt_ids(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> list[int]:
    """Return the tokens a policy sees before it replies: the prompt and the generation prefix."""
    return _written(tokenizer, prompt, generation=True)


def conversation_ids(
    tokenizer: PreTrainedTokenizerBase, prompt: Prompt, completion: Sequence[Message]
) -> list[int]:
    """Return the tokens of prompt and completion, as the chat template writes them."""
    return _written(tokenizer, [*prompt, *completion], generation=False)


def _written(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, generation: bool) -> list[int]:
    messages = cast(list[dict[str, str]], prompt)
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generation)
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def closed_ids(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt], replies: Sequence[AnyReply]
) -> list[list[int]]:
    """Return the tokens of each conversation, closed as the chat template closes it.

    Reward models learn from closed conversations, and so read a reply that was cut off closed, too.
    """
    mark = "reply"
    example: Prompt = [{"role": "user", "content": "x"}, {"role": "assistant", "content": mark}]
    written = tokenizer.apply_chat_template(cast(list[dict[str, str]], example), tokenize=False)
    closing = tokenizer(str(written).rpartition(mark)[2], add_special_tokens=False)["input_ids"]
    return [
        [*prompt_ids(tokenizer, prompt), *reply.token_ids, *closing]
        if isinstance(reply, Reply)
        else conversation_ids(tokenizer, prompt, [{"role": "assistant", "content": reply}])
        for prompt, reply in zip(prompts, replies, strict=True)
    ]


def pad_batch(
    sequences: Sequence[Sequence[float]], fill: float, where: torch.device, side: str = "right"
) -> tuple[Tensor, Tensor]:
    """Return padded rows (of ids, labels, weights, ...) and their mask, (batch, longest)."""
    longest = max(len(sequence) for sequence in sequences)
    rows = torch.full((len(sequences), longest), fill)
    mask = torch.zeros_like(rows, dtype=torch.long)
    for row, sequence in enumerate(sequences):
        span = slice(0, len(sequence)) if side == "right" else slice(longest - len(sequence), None)
        rows[row, span] = torch.tensor(sequence, dtype=rows.dtype)
        mask[row, span] = 1
    return rows.to(where), mask.to(where)


def length_sorted(lengths: Iterable[int], batch_size: int) -> list[list[int]]:
    """Return batches of indices, longest sequences first: little padding, early out-of-memory."""
    order = sorted(enumerate(lengths), key=lambda item: (-item[1], item[0]))
    indices = [index for index, _ in order]
    return [indices[i : i + batch_size] for i in range(0, len(indices), batch_size)]


def growing_cache(policy: PreTrainedModel) -> DynamicCache:
    """Return an empty key-value cache for `policy` whose ordinary layers append in place."""
    cache = DynamicCache(config=policy.config)
    cache.layers = [
        GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers
    ]
    return cache


class GrowingLayer(DynamicLayer):
    """A cache layer with room to grow.

    The ordinary layer copies all keys and values for every new token, which for a small model takes
    longer than the forward pass itself.
    """

    def __init__(self) -> None:
        super().__init__()
        self.rooms: dict[str, tuple[Tensor, Tensor]] = {}

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append states (batch, heads, new, size); return all of them so far."""
        if self.keys is None or self.values is None:
            return super().update(key_states, value_states, *args, **kwargs)
        self.keys = self._append("keys", self.keys, key_states)
        self.values = self._append("values", self.values, value_states)
        return self.keys, self.values

    def _append(self, name: str, old: Tensor, new: Tensor) -> Tensor:
        """Return `old` with `new` behind it, in place if `old` has room."""
        length, total = old.shape[-2], old.shape[-2] + new.shape[-2]
        room, view = self.rooms.get(name, (old, None))
        if view is not old or room.shape[-2] < total:
            room = old.new_empty(*old.shape[:-2], total + ROOM, old.shape[-1])
            room[..., :length, :] = old
        room[..., length:total, :] = new
        view = room[..., :total, :]
        self.rooms[name] = (room, view)
        return view


@torch.inference_mode()
def score_ids(
    reward_model: PreTrainedModel,
    sequences: Sequence[Sequence[int]],
    pad_id: int,
    batch_size: int,
    describe: str = "scoring replies",
) -> np.ndarray:
    """Return the reward of each token sequence, float32 (n,), in the given order."""
    where = reward_model.device
    rewards = np.zeros(len(sequences), dtype=np.float32)
    with tqdm(total=len(sequences), desc=describe, unit="reply", leave=False) as bar:
        for batch in length_sorted((len(s) for s in sequences), batch_size):
            ids, mask = pad_batch([sequences[i] for i in batch], pad_id, where)
            with autocast(where):
                logits = reward_model(input_ids=ids, attention_mask=mask).logits
            rewards[batch] = logits.squeeze(-1).float().cpu().numpy()
            bar.update(len(batch))
    return rewards


def score_replies(
    reward_model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    replies: Sequence[AnyReply],
    batch_size: int,
    max_length: int,
) -> np.ndarray:
    """Return the reward of reply i to prompt i, float32 (n,).

    A conversation longer than `max_length` tokens loses its beginning, never its reply's end.
    """
    if len(prompts) != len(replies):
        raise ValueError(f"There are {len(prompts)} prompts but {len(replies)} replies.")
    sequences = [ids[-max_length:] for ids in closed_ids(tokenizer, prompts, replies)]
    return score_ids(reward_model.eval(), sequences, tokenizer.pad_token_id, batch_size)


def _place(where: str | torch.device | None) -> torch.device:
    """Return the device asked for, or the default one."""
    return device() if where is None else torch.device(where)


@contextlib.contextmanager
def _whole_folder(folder: Path) -> Iterator[Path]:
    """Fill a folder beside `folder` and move it in, config.json last: none looks finished early."""
    folder = Path(folder)
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    yield part
    folder.mkdir(exist_ok=True)
    for file in sorted(part.iterdir(), key=lambda file: file.name == "config.json"):
        file.replace(folder / file.name)
    part.rmdir()
