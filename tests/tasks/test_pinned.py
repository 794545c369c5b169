"""The same seed gives the same items on every machine and Python version: their texts, by hash."""

import json

from tiny import tiny_tokenizer

from retmask.files import sha256_text
from retmask.items.packing import pack
from retmask.tasks import TASKS
from retmask.text.chat import Chat

HASHES = """
recall_single 8cb836d9d66ae062
recall_multikey 2a7a4105689e2207
recall_multikey_uuid e756517dbd62c494
recall_multivalue 18846b9071cc723f
recall_multiquery 3dc0e8ca30db1b5b
recall_json cc0ade806959ca84
rag 7d6048749bc3cddb
hops_two e1a3385b91dac139
hops_three 27f69357779b2701
hops_variables 082dc416a54ad381
cite 15ba9a1a7210199d
rerank_text 5ae16169aef15ac4
rerank_scored f71387fe5e86985a
icl 60ce248aad761519
qa cff0398e1c0fdbc9
summary 381070de4609ff6d
association f61d887361cbc238
guard_arithmetic d154ba31081e75bb
guard_instructions 03781eacd76b7656
guard_knowledge 9dc35ac96e13f4f7
guard_knowledge_alone 526d1cb245ef629d
guard_perplexity 6e11b34e7313f11a
"""


def digest(name: str) -> str:
    """The beginning of the hash of what two items of a task ask and hold right, one token a character."""
    items = pack(TASKS[name], Chat(tiny_tokenizer()), 6000, 2, seed=7)
    texts = [[item.message, item.prefix, item.gold, item.distractors, item.data] for item in items]
    return sha256_text(json.dumps(texts, sort_keys=True))[:16]


def test_items_are_pinned() -> None:
    """Items that change are other items, and results do not compare: then say so, and pin the new ones."""
    assert {name: digest(name) for name in TASKS} == dict(line.split() for line in HASHES.split("\n") if line)
