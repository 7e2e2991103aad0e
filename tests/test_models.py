import os
from functools import partial

import numpy as np
import pytest
import tokenizers
import torch
import transformers
from conftest import refuses

from alignment_tax import models as library, plan, presets
from alignment_tax.pipeline.study import Study
from alignment_tax.store import Store

WORDS = ["good", "bad", "x", "y", "z", "hello", "why", "yes"]
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'user' %}<user> {{ m.content }} "
    "{% else %}<bot> {{ m.content }} <eos>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<bot> {% endif %}"
)
BATCH = [[4, 5, 6, 7, 8], [9, 10], [11, 4, 2]]


def make_tokenizer(words=WORDS):
    vocabulary = ["<pad>", "<eos>", "<user>", "<bot>", "<unk>", *words]
    numbers = {word: i for i, word in enumerate(vocabulary)}
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel(numbers, unk_token="<unk>"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>",
        additional_special_tokens=["<user>", "<bot>"],
    )  # fmt: skip
    tokenizer.chat_template = TEMPLATE
    return library.prepare_tokenizer(tokenizer)


def make_policy(seed=0, architecture="llama"):
    torch.manual_seed(seed)
    size = {"vocab_size": 5 + len(WORDS), "bos_token_id": None, "eos_token_id": 1}
    if architecture == "gpt2":
        config = transformers.GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=64, **size)
        return transformers.GPT2LMHeadModel(config).eval()
    config = transformers.LlamaConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        tie_word_embeddings=True, **size,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval()


def sharp(policy, factor=10.0):
    """The policy, its log-probabilities far from even."""
    with torch.no_grad():
        policy.get_input_embeddings().weight.mul_(factor)
    return policy


def always(token):
    """A policy that says one token for ever."""
    policy = make_policy()
    policy.config.tie_word_embeddings = False
    policy.lm_head = torch.nn.Linear(32, 13)
    with torch.no_grad():
        policy.lm_head.weight.zero_()
        policy.lm_head.bias.zero_()[token] = 50.0
    return policy


def user(text, role="user"):
    return [{"role": role, "content": text}]


def bot(text):
    return user(text, "assistant")


def make_reward_model(architecture="llama"):
    policy = make_policy(architecture=architecture)
    model = library.RewardModel.from_policy(policy, make_tokenizer())
    torch.manual_seed(1)
    torch.nn.init.normal_(model.head.weight)
    return model


def test_the_chat_template_writes_prompts_and_batches_are_padded_on_one_side():
    tokenizer = make_tokenizer()
    written = "<user> why x <bot>"
    assert tokenizer.decode(library.prompt_ids(tokenizer, user("why x"))) == written
    whole = library.conversation_ids(tokenizer, user("why x"), bot("yes"))
    assert tokenizer.decode(whole) == f"{written} yes <eos>"
    assert library.length_sorted([2, 5, 2, 7], 3) == [[3, 1, 0], [2]]
    both = library.pad_batch([[1, 2, 3], [4]], 0, torch.device("cpu"), side="left")
    assert [t.tolist() for t in both] == [[[1, 2, 3], [0, 0, 4]], [[1, 1, 1], [0, 0, 1]]]
    assert library.pad_batch([[1, 2], [4]], 9, torch.device("cpu"))[0].tolist() == [[1, 2], [4, 9]]


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_rewards_do_not_depend_on_padding(side, architecture):
    model = make_reward_model(architecture)
    with torch.no_grad():
        alone = [model(torch.tensor([row])).logits.item() for row in BATCH]
        ids, mask = library.pad_batch(BATCH, 0, torch.device("cpu"), side)
        together = model(input_ids=ids, attention_mask=mask).logits
    assert together.shape == (3, 1)
    np.testing.assert_allclose(together.squeeze(-1).numpy(), alone, atol=1e-5)
    assert len({round(value, 3) for value in alone}) == 3


def test_the_head_reads_the_last_token_and_the_mean():
    model = make_reward_model()
    ids = torch.tensor([[4, 5, 6]])
    hidden = model.backbone(input_ids=ids).last_hidden_state[0]
    weight = model.head.weight[0]
    by_hand = hidden[2] @ weight[:32] + (hidden[0] + hidden[1] + hidden[2]) / 3 @ weight[32:]
    assert model(ids).logits.item() == pytest.approx(by_hand.item(), abs=1e-5)
    assert model.config.num_labels == 1
    noisy = make_reward_model("gpt2").train()  # its dropout is off all the same
    assert noisy(ids).logits.item() == noisy(ids).logits.item()


def test_a_reward_model_is_the_same_after_saving_and_holds_no_pickle(tmp_path):
    model = make_reward_model()
    library.save_policy(model, make_tokenizer(), tmp_path / "reward")
    loaded, _ = library.load_reward_model(tmp_path / "reward")
    ids = torch.tensor([BATCH[0]], device=loaded.device)
    with torch.no_grad():
        assert loaded(ids).logits.item() == pytest.approx(model(ids.cpu()).logits.item(), abs=1e-6)
    suffixes = {file.suffix for file in (tmp_path / "reward").iterdir()}
    assert suffixes <= {".json", ".safetensors", ".jinja"}


def test_a_policy_is_the_same_after_saving_and_is_loaded_ready_to_generate(tmp_path):
    policy, tokenizer = make_policy(), make_tokenizer()
    library.save_policy(make_policy(1), tokenizer, tmp_path / "policy")  # an older one
    (tmp_path / "policy" / "log.jsonl").write_text("kept")
    library.save_policy(policy, tokenizer, tmp_path / "policy")
    assert (tmp_path / "policy" / "log.jsonl").read_text() == "kept"
    loaded, again = library.load_policy(tmp_path / "policy")
    ids = torch.tensor([BATCH[0]])
    torch.testing.assert_close(loaded.cpu()(ids).logits, policy(ids).logits)
    assert (again.padding_side, again.pad_token, loaded.training) == ("left", "<pad>", False)
    assert library.prompt_ids(again, user("why")) == library.prompt_ids(tokenizer, user("why"))
    name = "model.embed_tokens.weight"
    assert torch.equal(library.load_state(tmp_path / "policy")[name], policy.state_dict()[name])


def test_what_cannot_be_loaded_is_refused_with_a_reason(tmp_path):
    tokenizer = make_tokenizer()
    tokenizer.pad_token = None
    assert library.prepare_tokenizer(tokenizer).pad_token == "<eos>"
    tokenizer.add_tokens(["new"])
    library.save_policy(make_policy(), tokenizer, tmp_path / "policy")
    refuses(FileNotFoundError, "no checkpoint", library.load_policy, tmp_path / "nothing")
    refuses(ValueError, "14 tokens but .* 13", library.load_policy, tmp_path / "policy")


def test_scores_come_back_in_order_and_do_not_depend_on_the_batch_size():
    model, tokenizer = make_reward_model(), make_tokenizer()
    score = partial(library.score_replies, model, tokenizer)
    prompts = [user("why"), user("hello x y z"), user("x y")]
    replies = ["yes", "good good", "bad x y z z z"]
    one, three = (score(prompts, replies, batch, 64) for batch in (1, 3))
    np.testing.assert_allclose(one, three, atol=1e-5)
    ids = torch.tensor([library.conversation_ids(tokenizer, prompts[1], bot(replies[1]))])
    assert one[1] == pytest.approx(model(ids).logits.item(), abs=1e-5)
    assert (one.shape, one.dtype) == ((3,), np.float32)
    refuses(ValueError, "3 prompts but 2 replies", score, prompts, replies[:2], 1, 9)
    # whatever differs before the last six tokens is cut off
    both = [user("x x x x y z"), user("y y x x y z")]
    cut, whole = (np.diff(score(both, ["good", "good"], 2, most))[0] for most in (6, 64))
    assert abs(cut) < 1e-6 < 1e-4 < abs(whole)


def test_it_computes_in_bfloat16_only_where_the_preset_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    can = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    monkeypatch.setattr(plan, "check_machine", lambda preset, folder: None)
    gpu = torch.device("cuda")
    try:
        for preset in presets.PRESETS.values():
            Study(preset, 0, Store(tmp_path))
            assert library.use_bf16(gpu) == preset.bf16 == (preset.world == "real")
            assert library.use_bf16(torch.device("cpu")) == (preset.bf16 and can)
            limits = (os.environ["ONEDNN_MAX_CPU_ISA"], os.environ.get("ATEN_CPU_CAPABILITY"))
            assert limits == (("DEFAULT", None) if preset.bf16 else ("AVX2", "avx2"))
    finally:
        library.set_bf16(False)
