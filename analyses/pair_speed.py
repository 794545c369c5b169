"""What an unmasked and a masked answer cost together on an 8B model, against an unmasked one alone.

The weights are random, in the shape of Llama-3.1-8B, and the mask is 5 % of the heads, spread over the upper half of
the layers as retrieval heads are. Run on a GPU: `python analyses/pair_speed.py` writes
analyses/results/pair_speed.json. On a machine without one it says so and measures nothing; `retmask bench pair`
measures the built-in models anywhere.
"""

import argparse
import json

import torch

from analyses.bench import bench_pair
from analyses.long_context import RESULTS, random_model
from retmask.heads.grid import HeadId
from retmask.heads.masks import HeadMask


def main() -> None:
    """Measure at every prompt length and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lengths", default="1000,8000,32000")
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--layers", type=int, default=32)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("there is no GPU here: nothing was measured")
    model = random_model(options.layers)
    half = model.grid.n_layers // 2
    upper = [head for head in model.grid.heads() if head.layer >= half]
    mask = HeadMask.of(HeadId(*head) for head in upper[:: max(1, len(upper) // 51)])
    rows = []
    for tokens in map(int, options.lengths.split(",")):
        times = bench_pair(model, mask, tokens, options.new_tokens, rounds=3)
        rows.append({"tokens": tokens, "ratio": round(times["pair"] / times["one"], 3), **times})
        print(rows[-1], flush=True)
        head = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "attention": model.attention}
        RESULTS.with_name("pair_speed.json").write_text(json.dumps(head | {"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
