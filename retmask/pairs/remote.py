"""Both answers to prompts from two servers: one has the model as it is, one its masked checkpoint."""

from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.pool import ThreadPool
from typing import TYPE_CHECKING

from retmask.pairs.local import MOST_BLOCK, _without_answer
from retmask.pairs.pair import PreferencePair
from retmask.text.prompts import PairPrompt
from retmask.text.sampling import Sampling

if TYPE_CHECKING:
    from retmask.pairs.job import PairsSettings
    from retmask.runs.job import Work

AT_ONCE = 16  # prompts that two servers are asked at the same time
LEFT = "left to the server"  # thinking, where a server refuses to switch it off


class Servers:
    """Two OpenAI-compatible servers: the model as it is, and its masked checkpoint. Their templates make prompts."""

    chat = True

    def __init__(self, work: "Work[PairsSettings]") -> None:
        from retmask.pairs.server import Server

        settings = work.settings
        self.run, self.settings = work.run, settings
        self.missed: dict[str, int] = {}
        self.answered, self.thinking = 0, ""
        named = ((settings.server, settings.server_model), (settings.masked_server, settings.masked_server_model))
        self.servers: list[Server] = [Server.connect(url, name) for url, name in named]
        work.run.pin(model=settings.model, servers=[server.model for server in self.servers], chat=True)

    @property
    def block(self) -> int:
        """How many prompts are under way together."""
        return MOST_BLOCK

    def answer(
        self, asked: Sequence[tuple[int, PairPrompt, Sampling]], known: Mapping[str, PreferencePair]
    ) -> Iterator[tuple[int, PreferencePair]]:
        """A pair for each prompt that is not known yet, with its number, as they come. ValueError for a lost server.

        A prompt that a server refuses is a pair without answers; ValueError where it refuses all of the first ones, and
        on a resume what it answered before too.
        """
        wanted = [one for one in asked if one[1].id not in known]
        refused: list[tuple[int, PreferencePair]] = []
        with ThreadPool(AT_ONCE) as pool:
            for number, pair in pool.imap_unordered(self._ask, wanted):
                if pair.unanswered and not self.answered:  # it may be the request that it does not take, not the prompt
                    refused.append((number, pair))
                    continue
                self.answered += 1
                self._pin_thinking()
                yield from [*refused, (number, pair)]
                refused = []
        if refused and not self._answers_still(known):
            raise ValueError(refused[0][1].unanswered)
        yield from refused

    def _answers_still(self, known: Mapping[str, PreferencePair]) -> bool:
        """Whether the longest prompt that was answered before is answered still: else it is the servers that refuse."""
        before = [pair for pair in known.values() if not pair.unanswered]
        if not before:
            return False
        one = max(before, key=lambda pair: sum(len(text) for _, text in pair.messages))
        _, again = self._ask((0, PairPrompt(one.id, one.messages), self.settings.sampling(0)))
        self.answered += not again.unanswered
        return not again.unanswered

    def _pin_thinking(self) -> None:
        """Record whether the servers think. ValueError where the run began otherwise: its pairs would be mixed."""
        thinking = LEFT if any(one.thinks for one in self.servers) else "off"
        if thinking != self.thinking:
            self.run.pin(thinking=thinking)
            self.thinking = thinking

    def _ask(self, asked: tuple[int, PairPrompt, Sampling]) -> tuple[int, PreferencePair]:
        from retmask.pairs.server import Refused

        number, prompt, sampling = asked
        limit = self.settings.max_new_tokens
        try:
            said = [server.answer(prompt.messages, limit, sampling) for server in self.servers]
        except Refused as error:
            return number, _without_answer(prompt, str(error))
        return number, PreferencePair(prompt.id, prompt.messages, said[0], said[1], prompt.arm, prompt.answer)
