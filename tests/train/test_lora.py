"""Which layers get an adapter, on tiny models of many makes, and that what is counted is what PEFT trains."""

import subprocess
import sys
from typing import Any

import pytest
import torch
import transformers
from trainings import plain
from transformers import AutoModelForCausalLM

from retmask.train.lora import attention_layers, lora, trained_numbers

_ALL: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
_ALL |= {
    "vocab_size": 128,
    "max_position_embeddings": 64,
    "eos_token_id": 127,
    "bos_token_id": 126,
    "pad_token_id": 125,
}
_GROUPED: dict[str, Any] = {**_ALL, "num_key_value_heads": 2, "head_dim": 8}
_OLD: dict[str, Any] = {"vocab_size": 128, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
_OLD |= {"eos_token_id": 127, "bos_token_id": 126}
_SPLIT = {"q_proj", "k_proj", "v_proj", "o_proj"}
_FUSED = {"query_key_value", "dense"}
# the settings of a family, which layers of its attention are linear, and the numbers in a LoRA of rank 4 of them:
# for each layer 4 x (inputs + outputs), for llama 2 layers x 4 x ((32 + 32) x 2 + (32 + 16) x 2)
FAMILIES: dict[str, tuple[dict[str, Any], set[str], int]] = {
    "Llama": (_GROUPED, _SPLIT, 1792),
    "Gemma2": (_GROUPED, _SPLIT, 1792),
    "Phi3": ({**_ALL, "num_key_value_heads": 2}, {"qkv_proj", "o_proj"}, 1280),
    "Phi": (_ALL, {"q_proj", "k_proj", "v_proj", "dense"}, 2048),
    "OPT": ({**_ALL, "ffn_dim": 48, "word_embed_proj_dim": 32}, {"q_proj", "k_proj", "v_proj", "out_proj"}, 2048),
    "GPTJ": ({**_OLD, "rotary_dim": 4}, {"q_proj", "k_proj", "v_proj", "out_proj"}, 2048),
    "GPT2": (_OLD, {"c_attn", "attn.c_proj"}, 1536),
    "GPTNeoX": (_ALL, _FUSED, 1536),
    "Falcon": ({**_ALL, "new_decoder_architecture": False, "multi_query": True}, _FUSED, 1152),
    "Bloom": ({**_ALL, "n_layer": 2, "n_head": 4}, _FUSED, 1536),
    "Mixtral": ({**_GROUPED, "num_local_experts": 4}, _SPLIT, 1792),
    "GptOss": ({**_GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2}, _SPLIT, 1792),
    "Qwen3Moe": ({**_GROUPED, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}, _SPLIT, 1792),
}


def made(family: str, device: str = "meta") -> Any:
    config = getattr(transformers, f"{family}Config")(**FAMILIES[family][0])
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize("family", FAMILIES)
def test_attention_is_found_in_every_family(family: str) -> None:
    _, ends, numbers = FAMILIES[family]
    config = plain(rank=4, target="attention")
    model = made(family)
    names = attention_layers(model)
    assert {end for end in ends for name in names if name.endswith(f".{end}")} == ends
    assert len(names) == 2 * len(ends), "those of both layers"
    assert set(lora(config, model).target_modules) == set(names)
    assert trained_numbers(config, model) == numbers


@pytest.mark.parametrize("family", ["GPT2", "Mixtral", "Qwen3Moe", "GptOss", "Bloom"])
@pytest.mark.parametrize("target", ["all", "attention"])
def test_what_is_counted_is_what_is_trained(family: str, target: str) -> None:
    """The model on the meta device counts as the real one, with Conv1D and experts."""
    from peft import get_peft_model

    config, real = plain(rank=4, target=target), made(family, "cpu")
    adapted = get_peft_model(real, lora(config, real))
    assert trained_numbers(config, made(family)) == sum(x.numel() for x in adapted.parameters() if x.requires_grad)


def test_a_hybrid_trains_its_attention_and_not_its_other_layers() -> None:
    """LFM2's short convolutions have an out_proj too: 1 of 2 layers is attention, half of llama's numbers."""
    config = transformers.Lfm2Config(**_GROUPED, full_attn_idxs=[1])
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    wanted = plain(rank=4, target="attention")
    ends = {name.partition("layers.1.")[2] for name in lora(wanted, model).target_modules}
    assert ends == {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"}
    assert trained_numbers(wanted, model) == 1792 // 2


def test_of_a_model_that_sees_only_the_text_part_is_trained() -> None:
    vision = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = transformers.Gemma3Config(
        text_config=_GROUPED, vision_config={**vision, "image_size": 28, "patch_size": 14}
    )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert not [name for name in attention_layers(model) if "vision" in name]
    assert trained_numbers(plain(rank=4, target="attention"), model) == 1792


def test_all_weights_are_counted_once_where_they_are_tied() -> None:
    model = made("Gemma2")
    assert trained_numbers(plain(method="full"), model) == sum(x.numel() for x in set(model.parameters()))
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_a_model_without_attention_is_refused() -> None:
    config = transformers.MambaConfig(vocab_size=128, hidden_size=32, num_hidden_layers=2)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    with pytest.raises(ValueError, match="MambaForCausalLM has no attention whose linear layers"):
        trained_numbers(plain(target="attention"), model)


def test_a_library_s_old_name_is_no_warning_to_people() -> None:
    """In a process of its own: pytest has filters of its own."""
    make = "from retmask.train.lora import trained_numbers; from transformers import LlamaConfig, LlamaForCausalLM;"
    model = f"LlamaForCausalLM(LlamaConfig(**{_GROUPED}))"
    settings = "from retmask.train.settings import TrainSettings; settings = TrainSettings(model='m', pairs='p');"
    use = f"trained_numbers(settings, {model})"
    done = subprocess.run([sys.executable, "-c", make + settings + use], capture_output=True, text=True, check=True)
    assert "FutureWarning" not in done.stderr
