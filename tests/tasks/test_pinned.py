"""The same seed gives the same items on every machine and Python version: their texts, by hash.

PYTHONPATH=.:tests python tests/tasks/test_pinned.py prints the hashes anew.
"""

import json

from tiny import tiny_tokenizer

from retmask.files import sha256_text
from retmask.items.packing import pack
from retmask.tasks import TASKS
from retmask.text.chat import Chat

HASHES = """
recall_single d2a1cf01db9993fb
recall_multikey 55ab0b7adfdcd135
recall_multikey_uuid 4d5ed745be9bb2c0
recall_multivalue 84a27dc0dec23f8f
recall_multiquery 37c884306f8405a2
recall_json 58f9aa9d0d5d0010
rag cbdb326b05133df5
hops_two 75b82086546fac8a
hops_three c8f2d718bb13c49d
hops_variables 80e0768da691463b
cite 394efefe21f13cc3
rerank_text 4efa5ca65ff38572
rerank_scored 7dd3575a61dd90f4
icl 73d3ba31a7368f41
qa c9fa287e082866d2
summary ef7234acc62ae532
association 9606199d7becd11e
guard_arithmetic 3bcf8c8cbe33d047
guard_instructions 5853dcd8ffc4a2ab
guard_knowledge 1a927027b8ab6497
guard_knowledge_alone b26675feb81ed6ef
guard_perplexity cef50a88e975f681
"""


def digest(name: str) -> str:
    """The beginning of the hash of what four items of a task ask and hold right, one token a character."""
    items = pack(TASKS[name], Chat(tiny_tokenizer()), 6000, 4, seed=7)
    texts = [[item.message, item.prefix, item.gold, item.distractors, item.data] for item in items]
    return sha256_text(json.dumps(texts, sort_keys=True))[:16]


def hashes() -> str:
    """The digests of all tasks, a line each, to stand in HASHES."""
    return "".join(f"{name} {digest(name)}\n" for name in TASKS)


def test_items_are_pinned() -> None:
    """Items that change are other items, and results do not compare: then say so, and pin the new ones.

    Where the change is meant, put what `PYTHONPATH=.:tests python tests/tasks/test_pinned.py` prints into HASHES.
    """
    assert hashes().split("\n") == HASHES.lstrip().split("\n")


if __name__ == "__main__":
    print(hashes(), end="")
