"""Recall: the key follows from the context, by the sentence that is planted."""

import re

from tiny import tiny_tokenizer

from retmask.items.packing import pack
from retmask.tasks import TASKS
from retmask.text.chat import Chat


def test_the_number_stands_once_in_the_context() -> None:
    for item in pack(TASKS["recall_single"], Chat(tiny_tokenizer()), 1024, 8):
        assert re.findall(r"is (\d{7})\.", item.context) == list(item.gold)
