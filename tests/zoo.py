"""A tiny model of every architecture that transformers and the TransformerLens bridge share, made from its config."""

from typing import Any

from tiny import from_config
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

_SIZE: dict[str, Any] = {
    "vocab_size": 128,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "eos_token_id": 127,
    "bos_token_id": 126,
    "pad_token_id": 125,
    "sliding_window": 12,
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 12,
}
# what a family needs on top, or instead
_MLA: dict[str, Any] = {"num_key_value_heads": 4}
_MIXED: dict[str, Any] = {"layer_types": ["sliding_attention", "full_attention"]}
_LINEAR: dict[str, Any] = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}
_MAMBA: dict[str, Any] = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_d_ssm": 64}
OWN: dict[str, dict[str, Any]] = {
    "bamba": _MAMBA | {"attn_layer_indices": [1]},
    "codegen": {"rotary_dim": 4},
    "cohere2": _MIXED,
    "deepseek_v2": _MLA,
    "deepseek_v3": _MLA,
    "deepseek_v4": {"head_dim": 16, "index_n_heads": 4, "index_head_dim": 8, "o_groups": 2, "o_lora_rank": 8},
    "exaone4": _MIXED,
    "falcon": {"head_dim": None},
    "falcon_h1": _MAMBA,
    "gemma3_text": _MIXED,
    "gemma4_text": _MIXED | {"vocab_size_per_layer_input": 128, "hidden_size_per_layer_input": 8},
    "glm_moe_dsa": _MLA | {"index_n_heads": 4, "index_head_dim": 16, "index_topk": 8},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "num_layers": 2, "window_size": 12},
    "gpt2": {"num_key_value_heads": None},
    "gpt_neox": {"num_key_value_heads": None},
    "gptj": {"rotary_dim": 4},
    "granitemoehybrid": _MAMBA | {"layer_types": ["mamba", "attention"]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "laguna": {"num_attention_heads_per_layer": [4, 8], "mlp_layer_types": ["dense", "dense"]},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "mamba2": {"num_heads": 4, "head_dim": 16, "n_groups": 1, "state_size": 8},
    "nemotron_h": {
        "layers_block_type": ["mamba", "attention"],
        "mamba_num_heads": 4,
        "mamba_head_dim": 8,
        "ssm_state_size": 8,
        "n_groups": 1,
        "moe_shared_expert_intermediate_size": 16,
    },
    "olmo3": _MIXED,
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "qwen3_5_moe_text": _LINEAR,
    "qwen3_5_text": _LINEAR,
    "qwen3_next": _LINEAR,
    "xglm": {"d_model": 32, "ffn_dim": 48},
    "youtu": _MLA,
    "zamba2": {"layers_block_type": ["mamba", "hybrid"], "n_mamba_heads": 4, "mamba_d_state": 8, "adapter_rank": 4},
}
# models that also see, and types that only rename another's class
_LEFT_OUT = "gemma3 gemma3n gemma4 gemma4_unified llama4 qwen3_5 qwen3_5_moe gpt-sw3 internlm3 iquestcoder"


def shared_types() -> list[str]:
    """The text models that both libraries know."""
    from transformer_lens.factories.architecture_adapter_factory import SUPPORTED_ARCHITECTURES

    known = [kind for kind, name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items() if name in SUPPORTED_ARCHITECTURES]
    return [kind for kind in known if kind not in _LEFT_OUT.split()]


def zoo_config(kind: str, **changes: Any) -> Any:
    """The config of a tiny model of that type."""
    settings = _SIZE | OWN.get(kind, {}) | changes
    return CONFIG_MAPPING[kind](**{name: value for name, value in settings.items() if value is not None})


def zoo_hf(kind: str, **settings: Any) -> Any:
    """The model, with weights large enough that heads matter."""
    return from_config(zoo_config(kind), **settings)
