"""Models of a few thousand weights, built from config, in the shapes of the families that differ for us."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    Olmo2Config,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

from retmask.heads.grid import Grid, HeadId
from retmask.heads.masks import HeadMask
from retmask.heads.scores import HeadScores
from retmask.model.bridge import wrap
from retmask.model.lens import LensModel

_SIZE: dict[str, Any] = {
    "vocab_size": 128,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,  # n_heads x head_dim is not hidden_size, as in Qwen3 and Gemma 3
    "max_position_embeddings": 512,
    "eos_token_id": 127,
    "bos_token_id": 126,
    "pad_token_id": 125,
}
_OLMO: dict[str, Any] = {name: value for name, value in _SIZE.items() if name != "head_dim"}
CONFIGS: dict[str, Any] = {
    "llama": LlamaConfig(**_SIZE, attention_bias=True),
    "qwen3": Qwen3Config(**_SIZE),
    "gemma3": Gemma3TextConfig(
        **_SIZE,
        query_pre_attn_scalar=16,
        sliding_window=8,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    ),
    "olmo2": Olmo2Config(**_OLMO),
}

GRID = Grid(3, 4)
SCORES = HeadScores("tiny", np.array([[[0.0, 0.5, 0, 0], [0.2, 0, 0.05, 0], [0, 0, 0, 0.3]]]))
IDS = torch.tensor([[5, 17, 99, 3, 42, 8, 64, 64, 12, 77, 23, 1, 90, 5, 33, 21]])
MASK = HeadMask({HeadId(0, 1): 0.0, HeadId(2, 3): 0.5, HeadId(1, 0): 2.0})
FAN = [MASK, HeadMask(), HeadMask.of([HeadId(2, 0)]), HeadMask.of([HeadId(1, 2)], 0.3), HeadMask.of([HeadId(0, 0)])]


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two passes of a tiny model are the same but for rounding."""
    return torch.allclose(a, b, atol=2e-5)


def tiny_tokenizer(chat_template: str | None = None) -> PreTrainedTokenizerFast:
    """A token for every ASCII character."""
    vocabulary = {chr(code): code for code in range(128)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="?", eos_token=chr(127), pad_token=chr(125))
    fast.chat_template = chat_template
    return fast


def tiny_hf(family: str, seed: int = 0) -> Any:
    """A transformers model of a family's shape."""
    return from_config(CONFIGS[family], seed)


def from_config(config: Any, seed: int = 0, **settings: Any) -> Any:
    """A transformers model with weights so large that heads matter, biases included."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, **settings)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter.normal_(0, 0.3)
    return model.eval()


def tiny_folder(path: Path, family: str = "llama", terse: bool = False) -> Path:
    """A folder with such a model and its tokenizer, as `load` takes it. A terse one ends at every sixteenth token."""
    model = tiny_hf(family)
    if terse:
        model.generation_config.eos_token_id = list(range(7, 128, 16))
    model.save_pretrained(path / "model")
    tiny_tokenizer().save_pretrained(path / "model")
    return path / "model"


_SHARING = """
from transformers import LlamaConfig, LlamaForCausalLM
class Config(LlamaConfig):
    model_type = "sharing"
class Model(LlamaForCausalLM):
    config_class = Config
    def post_init(self):
        self._tied_weights_keys = {
            f"model.layers.{n}.self_attn.o_proj.weight": "model.layers.0.self_attn.o_proj.weight" for n in (1, 2)
        }
        super().post_init()
"""


def sharing_folder(path: Path) -> Path:
    """A folder with such a model of its own code, whose layers share their o_proj."""
    folder = tiny_folder(path)
    kind = {"model_type": "sharing", "auto_map": {"AutoConfig": "kind.Config", "AutoModelForCausalLM": "kind.Model"}}
    config = json.loads((folder / "config.json").read_text()) | kind | {"tie_word_embeddings": True}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "kind.py").write_text(_SHARING)
    tensors = load_file(folder / "model.safetensors")
    own = {name: x for name, x in tensors.items() if "o_proj.weight" not in name or "layers.0" in name}
    save_file(own, folder / "model.safetensors", {"format": "pt"})
    return folder


def tiny_adapter(path: Path, family: str = "llama", **settings: Any) -> Path:
    """A folder with a real PEFT adapter of such a model, its weights random and large enough to matter."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    config = LoraConfig(**({"r": 4, "target_modules": ["q_proj", "o_proj"], "init_lora_weights": False} | settings))
    get_peft_model(tiny_hf(family), config).save_pretrained(path)
    return path


def tiny_model(family: str, seed: int = 0) -> LensModel:
    """The same with both views."""
    return wrap(tiny_hf(family, seed), tiny_tokenizer(), f"tiny-{family}")
