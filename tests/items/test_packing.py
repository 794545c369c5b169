"""Items: exact in length with any tokenizer, what is planted in its place, the items of a document alike."""

import pytest
from tiny import tiny_tokenizer

from retmask.items.item import Item, Task
from retmask.items.packing import pack, prompt
from retmask.tasks import TASKS
from retmask.text.chat import Chat

CHAT = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[go]"
LENGTHS = (256, 700, 1024, 8192)
each_task = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)


def packed(task: Task, chat: Chat, tokens: int, count: int = 2) -> list[Item]:
    """The items; where the window is too small for the task, those of the least one."""
    try:
        return list(pack(task, chat, tokens, count))
    except ValueError as error:
        least = int(str(error).removesuffix(" are the least").rpartition(" ")[2])
        assert least > tokens
        return packed(task, chat, least + 50, count)  # names are of different lengths


@each_task
@pytest.mark.parametrize("template", [None, CHAT], ids=["plain", "chat"])
def test_a_prompt_has_the_length_that_is_asked_for(task: Task, template: str | None) -> None:
    chat = Chat(tiny_tokenizer(template))
    for tokens in LENGTHS:
        for item in packed(task, chat, tokens):
            length = len(prompt(item, chat))
            assert length == item.tokens - task.answer_tokens or (not item.context and length < item.tokens)
