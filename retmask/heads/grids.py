"""The head grids of published models, by name, and of a model's folder: for files that name heads and no grid."""

import re

from retmask.files import expanded, read_object, shipped
from retmask.heads.grid import Grid

_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")  # Llama and most, GPT-2, MPT, GPT-Neo
_HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads")


def known_grid(name: str) -> Grid | None:
    """The grid of the published model that a name holds as whole words, None where it holds none.

    «Llama-3-8B-Instruct-Gradient-1048k» is a Llama-3-8B. No file of that name is looked for: it may be foreign.
    """
    published = read_object(shipped("grids.json"))
    held = [model for model in published if re.search(_whole(model), name, re.IGNORECASE)]
    return Grid(*published[max(held, key=len)]) if held else None


def model_grid(model: str) -> Grid:
    """The grid of a model: a folder with its config.json, or the name of a published one. ValueError for neither."""
    config = read_object(expanded(model) / "config.json")
    nested = config.get("text_config")
    text = nested if isinstance(nested, dict) else config
    layers, heads = (next((text[name] for name in names if name in text), None) for names in (_LAYERS, _HEADS))
    sizes = [layers, heads, text.get("num_key_value_heads") or heads]
    sound = [size for size in sizes if isinstance(size, int) and size > 0]
    if len(sound) == len(sizes):
        return Grid(*sound)
    found = known_grid(model)
    if found is None:
        raise ValueError(f"the head grid of {model[-80:]!r} is not known: give a model's folder with its config.json")
    return found


def _whole(name: str) -> str:
    return rf"(?<![a-z0-9.]){re.escape(name)}(?![a-z0-9.])"
