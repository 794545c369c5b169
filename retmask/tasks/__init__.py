"""The tasks of an evaluation by name and category: a module each. How one is written: `retmask.items.item`."""

from retmask.items.item import Task
from retmask.tasks import association, cite, guard, hops, icl, qa, rag, recall, rerank, summary

_MODULES = (recall, rag, hops, cite, rerank, icl, qa, summary, association, guard)
TASKS: dict[str, Task] = {task.name: task for module in _MODULES for task in module.TASKS}
