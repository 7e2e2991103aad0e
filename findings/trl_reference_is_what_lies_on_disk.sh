#!/bin/sh
# TRL 1.16.0, RLOOTrainer and GRPOTrainer with beta > 0: the reference of the KL term is not the model
# that is passed in, but what lies where that model was once loaded from (config._name_or_path).
#
# Who finetunes a model in memory (SFT, say) and hands it to the trainer is penalised for the distance
# from the checkpoint on disk. Seen: a model is loaded, its weights are changed in memory, and the KL
# logged before the first update is that between the two, where 0 is what one expects: a policy has no
# distance from itself. With the same weights on disk it is 0.
#
# Exits with 0 while this is so, with 1 if it changed.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 trl==1.16.0 \
  tokenizers datasets accelerate
cd "$work"
HF_HUB_OFFLINE=1 "$work/venv/bin/python" - <<'PYTHON'
import sys

import torch
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

words = {word: i for i, word in enumerate("<pad> <eos> <unk> a b c d e f g".split())}
raw = Tokenizer(WordLevel(words, unk_token="<unk>"))
raw.pre_tokenizer = Whitespace()
names = {"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>"}
tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, padding_side="left", **names)
torch.manual_seed(0)
shape = LlamaConfig(vocab_size=len(words), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                    num_attention_heads=2, eos_token_id=1, pad_token_id=0)
LlamaForCausalLM(shape).save_pretrained("start")
tokenizer.save_pretrained("start")


def first_kl(trainer_class, config_class, change):
    """The KL that is logged in the first step, before any update."""
    model = AutoModelForCausalLM.from_pretrained("start")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                torch.manual_seed(1)
                parameter.add_(change * torch.randn_like(parameter))
    arguments = config_class(
        output_dir="out", per_device_train_batch_size=8, num_generations=4, beta=0.1, max_steps=1,
        max_completion_length=8, logging_steps=1, report_to="none", use_cpu=True, save_strategy="no",
    )
    trainer = trainer_class(
        model=model, args=arguments, processing_class=tokenizer,
        train_dataset=Dataset.from_dict({"prompt": ["a b", "c d", "e f", "g a"]}),
        reward_funcs=lambda completions, **_: [float(len(text)) for text in completions],
    )
    trainer.train()
    return next(row["kl"] for row in trainer.state.log_history if "kl" in row)


found = {}
for name, pair in {"RLOO": (RLOOTrainer, RLOOConfig), "GRPO": (GRPOTrainer, GRPOConfig)}.items():
    found[name] = first_kl(*pair, 0.0), first_kl(*pair, 0.1)
    print(f"{name}: KL of the first step {found[name][0]:.4f} as loaded, "
          f"{found[name][1]:.4f} with weights that were changed in memory")
as_stated = all(abs(same) < 1e-4 and changed > 0.01 for same, changed in found.values())
print("as stated" if as_stated else "no longer as stated")
sys.exit(not as_stated)
PYTHON
