"""The job that makes preference pairs: every prompt answered unmasked (chosen) and masked (rejected).

Answers are sampled in blocks of a fixed size, a seed for each prompt: a run that was broken off, and one that is shared
out in shards, make the same pairs as one that runs through.
"""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from retmask.files import append_line, sha256, sha256_text
from retmask.heads.rules import MaskRule
from retmask.heads.scores import printable
from retmask.model.weights import check_there, folder_grid
from retmask.pairs.gate import RULES, check_rules, faults
from retmask.pairs.local import Local
from retmask.pairs.pair import ITEMS, PAIRS, PreferencePair, Question, read_items, write_pairs
from retmask.pairs.remote import Servers
from retmask.runs.job import Job, Pace, Progress, Start, Work
from retmask.runs.run import Run, parent_ids
from retmask.runs.settings import REQUIRED, check, command_line, setting, shared, whole
from retmask.text.prompts import ARMS, PairPrompt, digest, generate
from retmask.text.sampling import Sampling
from retmask.text.sources import Prompts, read_prompts

_PUBLISH = 30.0  # seconds between two writings of pairs.jsonl


@dataclass(frozen=True, kw_only=True)
class PairsSettings:
    """What pairs are made of. `prompts` is a file or Hub dataset, or `generate` names the arm grounded or chat.

    `count` 0 takes all of a file. `server` and `masked_server` are addresses of OpenAI-compatible servers: of the model
    as it is and of its exported masked checkpoint; their models are to be named where they serve several. `allow` names
    rules of the gate that are switched off. Shard `shard` of `shards` (from 0) makes its part. ValueError for what
    cannot be.
    """

    model: str = shared("model", REQUIRED)
    rule: MaskRule = setting(MaskRule(), "which heads are masked", flags={"seed": "mask-seed"})
    prompts: str = setting(
        "",
        "what to ask: a .jsonl, .json or .txt file, or a Hub dataset, owner/name or owner/name:split",
        names="folder",
        example="folder/prompts.jsonl or owner/name",
    )
    generate: str = setting("", "make the prompts", choices={"": ""} | ARMS, label="kind")
    count: int = setting(0, "how many prompts; 0: all of a file", label="number of prompts", min=0, max=10**9)
    seed: int = setting(0, "of the prompts that are made, and of the answers", min=0)
    temperature: float = setting(
        0.6, "0: the likeliest token; above: drawn, both answers with one seed", min=0.0, max=5.0
    )
    top_p: float = setting(1.0, "draw from the likeliest tokens that reach this together", min=0.0, max=1.0)
    max_new_tokens: int = setting(64, "of the longest answer", label="new tokens", min=1, max=2**16)
    allow: tuple[str, ...] = setting(
        (),
        "rules of the quality gate to switch off",
        label="rules switched off",
        choices={name: rule.says for name, rule in RULES.items()},
        expert=True,
    )
    server: str = setting(
        "",
        "an OpenAI-compatible server with the model as it is answers, not the model here; a key for it: "
        "RETMASK_SERVER_KEYS=host:port=KEY",
        example="http://127.0.0.1:8000/v1",
        expert=True,
    )
    masked_server: str = setting(
        "",
        "the server with a checkpoint of the model that was exported masked",
        example="http://127.0.0.1:8001/v1",
        expert=True,
    )
    server_model: str = setting("", "what the server calls the model, where it serves several", expert=True)
    masked_server_model: str = setting(
        "", "what the masked server calls the model, where it serves several", expert=True
    )
    shards: int = setting(1, "share the prompts out over so many runs", min=1, max=10_000)
    shard: int = setting(0, "which of them this is, from 0; `retmask join` puts them together", min=0, max=9_999)
    batch: int = setting(0, "prompts answered together; 0: what suits the device", min=0, max=1024, expert=True)
    revision: str = shared("revision")
    adapter: str = shared("adapter")
    device: str = shared("device")
    dtype: str = shared("dtype")

    def __post_init__(self) -> None:
        object.__setattr__(self, "allow", check_rules(self.allow))
        check(self)
        if bool(self.prompts) == bool(self.generate):
            raise ValueError("say in one way what to ask: --prompts FILE, or --generate grounded or chat")
        if self.generate and self.count < 1:
            raise ValueError("say how many prompts to make: --count 300")
        if self.shard >= self.shards:
            raise ValueError(f"there is no shard {self.shard} of {self.shards}: count shards from 0")
        if bool(self.server) != bool(self.masked_server):
            raise ValueError("servers come in pairs: the model as it is, and its masked checkpoint")
        if not self.server and not self.rule.given:
            raise ValueError(
                "say which heads to mask: --mask FILE, --heads …, or --scores FILE with --top-k N or --share P"
            )
        if self.server:
            from retmask.pairs.addresses import address

            object.__setattr__(self, "server", address(self.server))  # before anything of it is written down
            object.__setattr__(self, "masked_server", address(self.masked_server))
        self.sampling(0)

    def sampling(self, number: int) -> Sampling:
        """How the answers to a prompt are drawn: both with one seed, so that they differ only where the models do."""
        seed = int(sha256_text(f"{self.seed} {number}")[:12], 16)
        return Sampling(self.temperature, self.top_p, seed).check()

    def items(self) -> list[PairPrompt]:
        """All prompts, of all shards. ValueError, one sentence, where they cannot be had."""
        return self.read().prompts

    def read(self) -> Prompts:
        """The same, with what was passed over in a file or a data set."""
        if self.generate:
            return Prompts(generate(self.generate, self.count, self.seed))
        return read_prompts(self.prompts, self.count)

    @property
    def command(self) -> list[str]:
        """The command line that does the same."""
        return command_line("pairs", self)


def _check(settings: PairsSettings, *_: Any) -> Start[PairsSettings]:
    if not settings.server:
        check_there(settings.model, settings.adapter, settings.revision)
        settings.rule.check(folder_grid(settings.model))
    prompts = settings.read()

    def prepare(run: Run) -> None:
        if prompts.passed_over:
            run.update(passed_over=prompts.sentence)

    return Start(whole(settings), parent_ids(settings.rule.scores, settings.adapter), prepare)


def contacted(run: Run) -> tuple[str, ...]:
    """The servers that a run sends its prompts to; none for one that loads a model."""
    return tuple(str(url) for name in ("server", "masked_server") if (url := run.config.get(name)))


def sends(run: Run) -> str:
    """What a run with servers sends, and where to, for a person to judge: its folder may come from anybody."""
    return sent(run, contacted(run), run.config.get("prompts"))


def sent(run: Run, servers: Iterable[str], file: Any) -> str:
    """The same of a run that sends what a file holds, or what is made here, to these servers."""
    what = f"the prompts in {file}" if file else "prompts that are made here"
    return printable(f"{run.id} sends {what} to {' and '.join(dict.fromkeys(servers))}")


def check_named(work: Work[Any], servers: Iterable[str], says: str) -> None:
    """ValueError, after what the run sends, for a server that nobody has named just now."""
    if set(servers) - work.servers:
        how = f"name these servers again (retmask runs resume {work.run.reference} --server ...)"
        raise ValueError(f"{says}: {how}")


def _ready(work: Work[PairsSettings]) -> list[PairPrompt]:
    """The prompts. ValueError where they are gone, or for a server that nobody named."""
    check_named(work, contacted(work.run), sends(work.run))
    return work.settings.items()


def _pairs(work: Work[PairsSettings]) -> Iterator[Progress]:
    """Each pair is in items.jsonl as soon as it is made; pairs.jsonl, with those that pass the gate, follows.

    It does so now and then, and at the end, whatever that end is.
    """
    run, settings, prompts = work.run, work.settings, _ready(work)
    done = {pair.id: pair for pair in read_items(run.path)}
    run.report(stage="loading", done=len(done))
    backend: Local | Servers = Servers(work) if settings.server else Local(work)
    run.pin(prompts_sha256=digest(prompts), batch=run.record.get("batch", settings.batch or backend.block))
    book = _Book(run, settings, backend.chat, [prompt.id for prompt in prompts], done)
    blocks = _blocks(len(prompts), run.record["batch"], settings)
    left = [block for block in blocks if any(prompts[i].id not in done for i in block)]
    pace, began, tokens, ahead = Pace(), time.monotonic(), 0, sum(map(len, left))
    try:
        for block in left:
            questions = [Question(i, prompts[i], settings.sampling(i)) for i in block]
            for number, pair in backend.answer(questions, done):
                book.enter(number, pair)
                tokens += pair.chosen.tokens + pair.rejected.tokens
            if time.monotonic() - book.published > _PUBLISH:
                book.publish()
            ahead -= len(block)
            eta, rate = pace.left(len(block), ahead), tokens / (time.monotonic() - began)
            facts = {"kept": book.kept, "rate": round(rate, 1)}
            yield Progress(len(done), sum(map(len, blocks)), eta, facts)
    finally:
        book.publish()
    run.update(done=len(done), kept=book.kept, pairs_sha256=sha256(run.path / PAIRS))
    if pace.each:
        run.update(seconds_a_token=pace.each / settings.max_new_tokens)  # of the longest answers that it allows
    if backend.missed:
        n, tokens = len(backend.missed), max(backend.missed.values())
        raise ValueError(
            f"{n} prompt{'s' * (n != 1)} of up to {tokens:,} tokens with the answer found too little free memory: "
            "the others are done; make room, and go on with the same run"
        )


PAIR = Job("pairs", PairsSettings, _check, _pairs, "pairs", _ready)


@dataclass
class _Book:
    """The pairs of a run so far, on disk: every one at once, those that pass the gate every half a minute."""

    run: Run
    settings: PairsSettings
    chat: bool
    order: list[str]
    done: dict[str, PreferencePair]

    def __post_init__(self) -> None:
        self.passing = {name for name, pair in self.done.items() if not faults(pair, self.settings.allow)}
        self.published = 0.0

    @property
    def kept(self) -> int:
        """How many pass the gate."""
        return len(self.passing)

    def enter(self, number: int, pair: PreferencePair) -> None:
        """Write a pair down, if it is not done yet."""
        if pair.id in self.done:
            return
        append_line(self.run.path / ITEMS, {"number": number, **pair.to_json()})
        self.done[pair.id] = pair
        if not faults(pair, self.settings.allow):
            self.passing.add(pair.id)

    def publish(self) -> None:
        """Write pairs.jsonl, in the order of the prompts."""
        kept = [self.done[name] for name in self.order if name in self.passing]
        write_pairs(self.run.path, kept, self.chat, str(self.run.record.get("model", self.settings.model)))
        self.published = time.monotonic()


def _blocks(total: int, size: int, settings: PairsSettings) -> list[range]:
    """The blocks of prompts, by number, that this shard answers: which prompts stand together is the same in any."""
    blocks = [range(at, min(at + size, total)) for at in range(0, total, size)]
    return blocks[settings.shard :: settings.shards]
