"""The tasks of an evaluation by name and category: a module each. How one is written: `retmask.items.item`."""

from retmask.items.item import Task
from retmask.tasks import guard, recall

TASKS: dict[str, Task] = {task.name: task for module in (recall, guard) for task in module.TASKS}
