"""Both answers to prompts from two servers: one has the model as it is, one its masked checkpoint."""

from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.pool import ThreadPool
from typing import TYPE_CHECKING

from retmask.pairs.local import MOST_BLOCK
from retmask.pairs.pair import PreferencePair, Question, unanswered
from retmask.text.prompts import PairPrompt

if TYPE_CHECKING:
    from retmask.pairs.job import PairsSettings
    from retmask.runs.job import Work

AT_ONCE = 16  # prompts that two servers are asked at the same time
LEFT = "left to the server"  # thinking, where a server refuses to switch it off


class Servers:
    """Two OpenAI-compatible servers: the model as it is, and its masked checkpoint. Their templates make prompts."""

    chat = True
    block = MOST_BLOCK  # prompts that are under way together
    missed: Mapping[str, int] = {}  # none: the memory is theirs

    def __init__(self, work: "Work[PairsSettings]") -> None:
        from retmask.pairs.server import Server

        self.run, self.settings = work.run, work.settings
        self.answered, self.thinking = 0, ""
        self.servers = (
            Server.connect(self.settings.server, self.settings.server_model),
            Server.connect(self.settings.masked_server, self.settings.masked_server_model),
        )
        self.run.pin(model=self.settings.model, servers=[server.model for server in self.servers], chat=True)

    def answer(
        self, questions: Sequence[Question], done: Mapping[str, PreferencePair]
    ) -> Iterator[tuple[int, PreferencePair]]:
        """A pair for each question that is not done yet, with its number, as they come. ValueError for a lost server.

        A prompt that a server refuses is a pair without answers; ValueError where it refuses all of the first ones, and
        on a resume what it answered before too.
        """
        left = [question for question in questions if question.prompt.id not in done]
        refused: list[tuple[int, PreferencePair]] = []
        # Not an Executor: that would hold Ctrl-C and the first failure until the other answers under way had come
        with ThreadPool(AT_ONCE) as pool:
            for number, pair in pool.imap_unordered(self._ask, left):
                if pair.unanswered and not self.answered:  # it may be the request that it does not take, not the prompt
                    refused.append((number, pair))
                    continue
                self.answered += 1
                self._pin_thinking()
                yield from [*refused, (number, pair)]
                refused = []
        if refused and not self._answers_still(done):
            raise ValueError(refused[0][1].unanswered)
        yield from refused

    def _answers_still(self, done: Mapping[str, PreferencePair]) -> bool:
        """Whether the longest prompt that was answered before is answered still: else it is the servers that refuse."""
        before = [pair for pair in done.values() if not pair.unanswered]
        if not before:
            return False
        longest = max(before, key=lambda pair: sum(len(text) for _, text in pair.messages))
        _, again = self._ask(Question(0, PairPrompt(longest.id, longest.messages), self.settings.sampling(0)))
        self.answered += not again.unanswered
        return not again.unanswered

    def _pin_thinking(self) -> None:
        """Record whether the servers think. ValueError where the run began otherwise: its pairs would be mixed."""
        thinking = LEFT if any(server.thinks for server in self.servers) else "off"
        if thinking != self.thinking:
            self.run.pin(thinking=thinking)
            self.thinking = thinking

    def _ask(self, question: Question) -> tuple[int, PreferencePair]:
        from retmask.pairs.server import Refused

        number, prompt, sampling = question
        limit = self.settings.max_new_tokens
        try:
            chosen, rejected = (server.answer(prompt.messages, limit, sampling) for server in self.servers)
        except Refused as error:
            return number, unanswered(prompt, str(error))
        return number, PreferencePair(
            prompt.id, prompt.messages, chosen, rejected, arm=prompt.arm, answer=prompt.answer
        )
