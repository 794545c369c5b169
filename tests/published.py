"""The published score files of RetMask: they are not part of the project, and lie beside its folder where they are."""

from pathlib import Path

import pytest

_PLACES = (folder / "shared" / "reference" / "head_scores" for folder in Path(__file__).parents)
PUBLISHED = next(filter(Path.is_dir, _PLACES), Path("nowhere"))
with_published = pytest.mark.skipif(not PUBLISHED.is_dir(), reason="the published score files are not here")

LIST = b"""# the best four
attn_head_set: "14-22,13-16,20-3,14-0" # top4
model_base_class: "LlamaForCausalLM"
model_name_or_path: "meta-llama/Llama-3.1-8B-Instruct"
"""
GATES = b"6.05e-01\t0.0e+00\n1.000e+00\t-1.5e-03\n0.25\t1.0001\n"
DUO = "attn_patterns/Mistral-7B-Instruct-v0.2/lr=0.02-reg=0.05/full_attention_heads.tsv"
