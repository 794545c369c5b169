"""Whether merging an adapter into bfloat16 weights rounds it away: how much of its effect arrives, beside and merged.

The effect is what the adapter adds to the log-probabilities of the next token, over the last tokens of some prompts;
the true one is that in float32. An effect in another type *arrives* by its slope on the true one (1: all of it), and
is true to it by the correlation. Beside: PEFT computes the adapter next to the weights, as it was trained. Merged: it
is added to the weights once, and what is smaller than their last bit is rounded. The adapter is also made weaker, as
is one of few steps or a low learning rate.

`python -m analyses.merged ADAPTER` takes some minutes for SmolLM2 on two CPU cores, and writes results/merged.csv.
"""

import argparse
from itertools import product
from typing import Any

import torch
from jaxtyping import Float
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from analyses.figures import RESULTS
from retmask.figures.rows import to_csv
from retmask.files import write_atomic
from retmask.items.packing import pack, prompt
from retmask.model.weights import resolve
from retmask.tasks import TASKS
from retmask.text.chat import Chat

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
WAYS = ("beside", "merged")
STRENGTHS = (1.0, 0.25, 0.0625)
TOKENS, PROMPTS, LAST = 512, 4, 32


@torch.no_grad()
def logprobs(model: torch.nn.Module, prompts: list[list[int]]) -> Float[Tensor, "value"]:
    """Those of all next tokens (nats), after each of the last tokens of every prompt."""
    logits = [model(torch.tensor([ids]), logits_to_keep=LAST).logits for ids in prompts]
    return torch.cat([each.double().log_softmax(-1).flatten() for each in logits])


def effect(folder: str, adapter: str, dtype: str, way: str, strength: float, prompts: list[list[int]]) -> Tensor:
    """What the adapter, so much weaker, adds to the log-probabilities."""
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=DTYPES[dtype]).eval()
    before = logprobs(base, prompts)
    tuned: Any = PeftModel.from_pretrained(base, adapter).eval()
    for layer in tuned.modules():
        if hasattr(layer, "scale_layer"):
            layer.scale_layer(strength)
    return logprobs(tuned.merge_and_unload() if way == "merged" else tuned, prompts) - before


def main() -> None:
    """Print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("adapter", help="a folder that `retmask train` has written")
    parser.add_argument("--model", default="smollm2-135m")
    options = parser.parse_args()
    folder = str(resolve(options.model).folder)
    chat = Chat(AutoTokenizer.from_pretrained(folder))
    prompts = [prompt(item, chat) for item in pack(TASKS["rag"], chat, TOKENS, PROMPTS, seed=7)]
    rows = []
    for strength in STRENGTHS:
        truth = effect(folder, options.adapter, "float32", "beside", strength, prompts)
        for dtype, way in product(DTYPES, WAYS):
            got = effect(folder, options.adapter, dtype, way, strength, prompts)
            slope, correlation = got @ truth / (truth @ truth), torch.corrcoef(torch.stack([got, truth]))[0, 1]
            row = {"strength": strength, "true effect (rms, nats)": round(float(truth.square().mean().sqrt()), 4)}
            rows.append(row | {"type": dtype, "way": way, "arrives": round(float(slope), 4)})
            rows[-1]["correlation"] = round(float(correlation), 4)
            print(rows[-1], flush=True)
    write_atomic(RESULTS / "merged.csv", to_csv(rows))


if __name__ == "__main__":
    main()
