"""What a DPO step costs on an 8B model, and what it takes: seconds, tokens a second, memory.

The weights are random, in the shape of Llama-3.1-8B, written to a folder first (16 GB in bfloat16); the pairs are made
up, of one length. Run on a GPU: `python analyses/train_speed.py` trains a few steps with the preset `gpu` for each
length and writes analyses/results/train_speed.json. `--tiny` does the same with a model of a few thousand weights on
any machine, to see that it runs: its figures mean nothing.
"""

import argparse
import json
import random
import tempfile
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

from analyses.long_context import RESULTS
from retmask.pairs.pair import Answer, PreferencePair, write_pairs
from retmask.runs.settings import from_preset
from retmask.train.job import TRAIN
from retmask.train.results import steps
from retmask.train.settings import TrainSettings

WORDS = [f"w{number}" for number in range(1000)]


def model_folder(folder: Path, layers: int, tiny: bool) -> Path:
    """A checkpoint with random weights and a tokenizer of a thousand words."""
    size = (64, 128, 8, 4) if tiny else (4096, 14336, 32, 8)
    config = LlamaConfig(
        hidden_size=size[0],
        intermediate_size=size[1],
        num_attention_heads=size[2],
        num_key_value_heads=size[3],
        num_hidden_layers=layers,
        vocab_size=2048 if tiny else 128256,
        max_position_embeddings=131072,
    )
    with torch.device("cpu" if tiny else "cuda"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32 if tiny else torch.bfloat16)
    model.save_pretrained(folder)
    del model
    if not tiny:
        torch.cuda.empty_cache()
    vocabulary = {word: number for number, word in enumerate(["<unk>", "<eos>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="<eos>", pad_token="<eos>")
    fast.save_pretrained(folder)
    return folder


def pairs_of(folder: Path, tokens: int, count: int) -> Path:
    """Made-up pairs: prompts and two answers that together have so many tokens."""
    draw = random.Random(0)
    answer = max(8, tokens // 8)
    texts = [[" ".join(draw.choices(WORDS, k=n)) for n in (tokens - answer - 1, answer, answer)] for _ in range(count)]
    made = [
        PreferencePair(str(i), (("user", prompt),), Answer(chosen, answer, "stop"), Answer(rejected, answer, "stop"))
        for i, (prompt, chosen, rejected) in enumerate(texts)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    return write_pairs(folder, made, False, "")


def main() -> None:
    """Train at every length and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lengths", default="1024,4096")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    if not torch.cuda.is_available() and not options.tiny:
        raise SystemExit("there is no GPU here: nothing was measured")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        model = model_folder(Path(folder) / "model", options.layers, options.tiny)
        for tokens in map(int, options.lengths.split(",")):
            settings = from_preset(
                TrainSettings,
                "gpu",
                model=str(model),
                pairs=str(pairs_of(Path(folder) / f"pairs-{tokens}", tokens, options.batch * options.steps)),
                any_pairs=True,
                max_length=tokens,
                batch=options.batch,
                micro_batch=1,
                max_steps=options.steps,
                eval_share=0.0,
                device="cpu" if options.tiny else "cuda",
                dtype="float32" if options.tiny else "bfloat16",
            )
            run = TRAIN.new(settings, Path(folder) / f"train-{tokens}")
            for _ in TRAIN.work(run):
                pass
            done = steps(run)
            spent = (done[-1]["time"] - done[0]["time"]) / (len(done) - 1)
            needed, memory = run.record["preflight"]["needed"], max(line["memory"] for line in done)
            row = {"tokens": tokens, "pairs_a_step": options.batch, "seconds_a_step": round(spent, 3)}
            row |= {
                "tokens_a_second": round(2 * tokens * options.batch / spent),
                "memory_gib": round(memory / 2**30, 2),
            }
            rows.append(row | {"estimated_gib": round(needed / 2**30, 2), "losses": [line["loss"] for line in done]})
            print(rows[-1], flush=True)
    if not options.tiny:
        head = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "layers": options.layers}
        RESULTS.with_name("train_speed.json").write_text(json.dumps(head | {"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
