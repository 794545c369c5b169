"""What a long context costs on an 8B model: seconds and memory of prefilling, answering and reading the patterns.

The weights are random, in the shape of Llama-3.1-8B: speed and memory do not depend on what they say. Run on a GPU:
`python analyses/long_context.py` writes analyses/results/long_context.json and prints the table. On a machine without
one it says so and measures nothing.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

from retmask.model.bridge import wrap
from retmask.model.decoding import attended, decode
from retmask.model.fit import cache_bytes
from retmask.model.lens import LensModel

SHAPE = LlamaConfig(
    vocab_size=128256,
    hidden_size=4096,
    intermediate_size=14336,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
    max_position_embeddings=131072,
    bos_token_id=1,
    eos_token_id=2,
)
RESULTS = Path(__file__).parent / "results" / "long_context.json"


def random_model(layers: int) -> LensModel:
    """The shape with random bfloat16 weights on the GPU, in both views."""
    SHAPE.num_hidden_layers = layers
    tokenizer = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    with torch.device("cuda"):
        hf = AutoModelForCausalLM.from_config(SHAPE, dtype=torch.bfloat16)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="a", eos_token="a", pad_token="a")
    model = wrap(hf, fast, f"random Llama-3.1-8B, {layers} layers")
    model.stop_ids = frozenset()
    return model


def timed(work: Any) -> tuple[float, float, Any]:
    """Seconds, the highest memory in GiB, and the result."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    result = work()
    torch.cuda.synchronize()
    return time.perf_counter() - began, torch.cuda.max_memory_allocated() / 2**30, result


def measure(model: LensModel, tokens: int) -> dict[str, float]:
    """Prefill, and then a whole answer of 50 tokens with its patterns, at a prompt of that length."""
    prompt = torch.randint(3, 100_000, (tokens - 50,)).tolist()
    prefill_s, prefill_gib, cache = timed(lambda: model.prefill(prompt[:-1], tokens))
    decode_s, _, steps = timed(lambda: list(decode(model, cache, prompt[-1:], 50)))
    texts = [[step[0].token_id for step in steps]]
    read_s, read_gib, looked = timed(lambda: attended(model, cache, len(prompt) - 1, [prompt], texts))
    assert looked.shape == (1, 50, *model.grid[:2])
    return {
        "tokens": tokens,
        "prefill_s": round(prefill_s, 2),
        "prefill_tokens_per_s": round(tokens / prefill_s),
        "decode_ms_per_token": round(1000 * decode_s / 50, 1),
        "read_patterns_s": round(read_s, 2),
        "cache_gib": round(cache_bytes(model.native.config, tokens, model.native.dtype) / 2**30, 2),
        "peak_gib": round(max(prefill_gib, read_gib), 1),
    }


def main() -> None:
    """Measure every length and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lengths", default="8192,32768,65536,131072")
    parser.add_argument("--layers", type=int, default=32)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("there is no GPU here: nothing was measured")
    model = random_model(options.layers)
    weights = torch.cuda.memory_allocated() / 2**30
    head: dict[str, Any] = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "model": model.name}
    head |= {"attention": model.attention, "parity": model.parity, "weights_gib": round(weights, 1)}
    print(head)
    measure(model, 2048)  # warm-up
    rows = []
    for tokens in map(int, options.lengths.split(",")):
        rows.append(measure(model, tokens))
        print(rows[-1], flush=True)
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(head | {"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
