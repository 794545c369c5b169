"""The job that makes preference pairs: every prompt answered unmasked (chosen) and masked (rejected).

Answers are sampled in blocks of a fixed size, a seed for each prompt: a run that was broken off, and one that is shared
out in shards, make the same pairs as one that runs through.
"""

import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from retmask.files import append_line, settled, sha256, sha256_text
from retmask.heads.rules import MaskRule
from retmask.heads.scores import printable
from retmask.model.weights import check_there, folder_grid
from retmask.pairs.gate import check_rules, faults
from retmask.pairs.local import Local
from retmask.pairs.pair import ITEMS, PAIRS, PreferencePair, read_items, write_pairs
from retmask.pairs.remote import Servers
from retmask.runs.run import Pace, Run, parent_ids
from retmask.text.prompts import PairPrompt, digest, generate
from retmask.text.sampling import Sampling
from retmask.text.sources import Prompts, read_prompts

if TYPE_CHECKING:
    pass

_PUBLISH = 30.0  # seconds between two writings of pairs.jsonl


@dataclass(frozen=True)
class PairsConfig:
    """What pairs are made of. `prompts` is a file or Hub dataset, or `generate` names the arm grounded or chat.

    `count` 0 takes all of a file. `server` and `masked_server` are addresses of OpenAI-compatible servers: of the model
    as it is and of its exported masked checkpoint; their models are to be named where they serve several. `allow` names
    rules of the gate that are switched off. Shard `shard` of `shards` (from 0) makes its part. ValueError for what
    cannot be.
    """

    model: str
    rule: MaskRule = field(default_factory=MaskRule)
    prompts: str = ""
    generate: str = ""
    count: int = 0
    seed: int = 0
    temperature: float = 0.6
    top_p: float = 1.0
    max_new_tokens: int = 64
    allow: tuple[str, ...] = ()
    shards: int = 1
    shard: int = 0
    batch: int = 0
    server: str = ""
    masked_server: str = ""
    server_model: str = ""
    masked_server_model: str = ""
    revision: str = ""
    adapter: str = ""
    device: str = ""
    dtype: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "allow", check_rules(self.allow))
        if bool(self.prompts) == bool(self.generate):
            raise ValueError("say in one way what to ask: --prompts FILE, or --generate grounded or chat")
        if self.generate and self.count < 1:
            raise ValueError("say how many prompts to make: --count 300")
        if self.count < 0:
            raise ValueError(f"{self.count} prompts are too few: give at least 1, or 0 for all of a file")
        if self.seed < 0:
            raise ValueError(f"the seed {self.seed} is below 0: choose 0 or more")
        if not 1 <= self.max_new_tokens <= 2**16:
            raise ValueError(f"{self.max_new_tokens} new tokens are not possible: choose 1 to 65,536")
        if not 1 <= self.shards <= 10_000 or not 0 <= self.shard < self.shards:
            raise ValueError(f"there is no shard {self.shard} of {self.shards}: count shards from 0")
        if not 0 <= self.batch <= 1024:
            raise ValueError(f"{self.batch} prompts cannot be answered together: choose 1 to 1,024")
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

    @classmethod
    def from_record(cls, config: Mapping[str, Any]) -> "PairsConfig":
        """The settings in a run.json."""
        known = {one.name: config[one.name] for one in fields(cls) if one.name in config}
        return cls(**{**known, "rule": MaskRule(**config.get("rule", {}))})

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
        """The command line that does the same: only what differs from the defaults."""
        out = ["retmask", "pairs", self.model]
        own = [one for one in fields(self) if one.name not in ("model", "rule")]
        for one, holder, flag in [
            *((f, self.rule, _RULE_FLAGS.get(f.name)) for f in fields(MaskRule)),
            *((f, self, None) for f in own),
        ]:
            value = getattr(holder, one.name)
            if value != one.default:
                text = ",".join(value) if isinstance(value, tuple) else str(value)
                out += [flag or "--" + one.name.replace("_", "-"), text]
        return out


_RULE_FLAGS = {"seed": "--mask-seed"}


class PairsProgress(NamedTuple):
    """How far a run is: prompts answered of its shard's, pairs that pass the gate, seconds left, tokens a second."""

    done: int
    total: int
    kept: int
    eta: float | None
    rate: float
    pairs: list[PreferencePair]


def new_pairs(config: PairsConfig, out: Path | None = None) -> Run:
    """A run that makes these pairs; in `out` an unfinished one with the same settings is taken up again.

    ValueError where `out` holds something else, or model, prompts, scores or mask are not there or do not fit.
    """
    if not config.server:
        check_there(config.model)
        config.rule.check(folder_grid(config.model))
    found = config.read()
    rule = config.rule.settled()
    model, prompts, adapter = map(settled, (config.model, config.prompts, config.adapter))
    config = replace(config, rule=rule, model=model, prompts=prompts, adapter=adapter)
    record = asdict(config) | {"rule": rule.to_json(), "allow": list(config.allow)}
    parents = parent_ids(config.rule.scores, config.adapter)
    run = Run.claim("pairs", record, config.command, out, Path(config.model).name, parents=parents)
    if found.passed_over:
        run.update(passed_over=found.sentence)
    return run


def contacted(run: Run) -> tuple[str, ...]:
    """The servers that a run sends its prompts to; none for one that loads a model."""
    return tuple(str(url) for name in ("server", "masked_server") if (url := run.config.get(name)))


def sends(run: Run) -> str:
    """What a run with servers sends, and where to, for a person to judge: its folder may come from anybody."""
    config = run.config
    what = f"the prompts in {config['prompts']}" if config.get("prompts") else "prompts that are made here"
    return printable(f"{run.id} sends {what} to {' and '.join(dict.fromkeys(contacted(run)))}")


def pairs(run: Run, trust_remote_code: bool = False, servers: Collection[str] = ()) -> Iterator[PairsProgress]:
    """Do what a run says, or the rest of it; yields after every block of prompts.

    `servers` are addresses that a person has named or confirmed: ValueError where the run would contact another. Each
    pair is in items.jsonl as soon as it is made; pairs.jsonl, with those that pass the gate, follows now and then
    and at the end, whatever that end is.
    """
    if run.status == "success":
        return
    config = PairsConfig.from_record(run.record["config"])
    if set(contacted(run)) - set(servers):
        raise ValueError(f"{sends(run)}: name these servers again (retmask runs resume {run.reference} --server ...)")
    prompts = config.items()
    with run.working():
        known = {pair.id: pair for pair in read_items(run.path)}
        run.report(stage="loading", done=len(known))
        backend: Local | Servers = Servers(run, config) if config.server else Local(run, config, trust_remote_code)
        run.pin(prompts_sha256=digest(prompts), batch=run.record.get("batch", config.batch or backend.block))
        book = _Book(run, config, backend.chat, [prompt.id for prompt in prompts], known)
        blocks = _blocks(len(prompts), run.record["batch"], config)
        left = [block for block in blocks if any(prompts[i].id not in known for i in block)]
        pace, began, tokens, ahead = Pace(), time.monotonic(), 0, sum(map(len, left))
        try:
            for block in left:
                made = []
                for i, pair in backend.answer([(i, prompts[i], config.sampling(i)) for i in block], known):
                    book.enter(i, pair)
                    made.append(pair)
                book.publish_now_and_then()
                ahead -= len(block)
                tokens += sum(pair.chosen.tokens + pair.rejected.tokens for pair in made)
                eta, rate = pace.left(len(block), ahead), tokens / (time.monotonic() - began)
                now = PairsProgress(len(known), sum(map(len, blocks)), book.kept, eta, rate, made)
                run.report(
                    stage="pairs", done=now.done, total=now.total, kept=now.kept, eta=round(eta, 1), rate=round(rate, 1)
                )
                yield now
        finally:
            book.publish()
        run.update(done=len(known), kept=book.kept, pairs_sha256=sha256(run.path / PAIRS))
        if pace.each:
            run.update(seconds_a_token=pace.each / config.max_new_tokens)  # of the longest answers that it allows
        if backend.missed:
            n, tokens = len(backend.missed), max(backend.missed.values())
            raise ValueError(
                f"{n} prompt{'s' * (n != 1)} of up to {tokens:,} tokens with the answer found too little free memory: "
                "the others are done; make room, and go on with the same run"
            )


@dataclass
class _Book:
    """The pairs of a run so far, on disk: every one at once, those that pass the gate every half a minute."""

    run: Run
    config: PairsConfig
    chat: bool
    order: list[str]
    known: dict[str, PreferencePair]

    def __post_init__(self) -> None:
        self.passing = {name for name, pair in self.known.items() if not faults(pair, self.config.allow)}
        self.published = 0.0

    @property
    def kept(self) -> int:
        """How many pass the gate."""
        return len(self.passing)

    def enter(self, number: int, pair: PreferencePair) -> None:
        """Write a pair down, if it is not known yet."""
        if pair.id in self.known:
            return
        append_line(self.run.path / ITEMS, {"number": number, **pair.to_json()})
        self.known[pair.id] = pair
        if not faults(pair, self.config.allow):
            self.passing.add(pair.id)

    def publish_now_and_then(self) -> None:
        """Write pairs.jsonl, unless that was done in the last half minute."""
        if time.monotonic() - self.published > _PUBLISH:
            self.publish()

    def publish(self) -> None:
        """Write pairs.jsonl, in the order of the prompts."""
        kept = [self.known[name] for name in self.order if name in self.passing]
        write_pairs(self.run.path, kept, self.chat, str(self.run.record.get("model", self.config.model)))
        self.published = time.monotonic()


def _blocks(total: int, size: int, config: PairsConfig) -> list[range]:
    """The blocks of prompts, by number, that this shard answers: which prompts stand together is the same in any."""
    blocks = [range(at, min(at + size, total)) for at in range(0, total, size)]
    return blocks[config.shard :: config.shards]
