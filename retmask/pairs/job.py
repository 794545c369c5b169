"""The job that makes preference pairs: every prompt answered unmasked (chosen) and masked (rejected).

Answers are sampled in blocks of a fixed size, a seed for each prompt: a run that was broken off, and one that is shared
out in shards, make the same pairs as one that runs through.
"""

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from retmask.files import append_line, settled, sha256, sha256_text
from retmask.heads.grid import HeadMask
from retmask.heads.masks import MaskRule
from retmask.heads.scores import printable
from retmask.model.decoding import Sampling
from retmask.model.weights import check_there, folder_grid
from retmask.pairs.pair import ITEMS, PAIRS, PreferencePair, Said, check_rules, faults, read_items, write_pairs
from retmask.pairs.prompts import PairPrompt, Prompts, digest, generate, read_prompts
from retmask.runs.run import Pace, Run, parent_ids
from retmask.text.chat import Chat

if TYPE_CHECKING:
    from retmask.model.lens import LensModel

BLOCK = 8  # prompts answered together on a CPU: measured 1.4 s a pair against 2.7 s one at a time
_MOST_BLOCK = 64
AT_ONCE = 16  # prompts that two servers are asked at the same time
LEFT = "left to the server"  # thinking, where a server refuses to switch it off
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
            from retmask.pairs.servers import address

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
        backend: _Local | _Servers = _Servers(run, config) if config.server else _Local(run, config, trust_remote_code)
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


class _Local:
    """The built-in backend: one model, a mask for each row of a batch."""

    def __init__(self, run: Run, config: PairsConfig, trust_remote_code: bool) -> None:
        from retmask.model.loading import facts, load

        self.config = config
        self.model = load(
            config.model,
            revision=config.revision or None,
            adapter=config.adapter or None,
            device=config.device or None,
            dtype=config.dtype or None,
            trust_remote_code=trust_remote_code,
        )
        self.mask = config.rule.build(self.model.grid)
        self.chat_of = Chat.resumed(self.model.tokenizer, run.record)
        self.chat = self.chat_of.kind == "chat"
        self.missed: dict[str, int] = {}
        run.pin(**facts(self.model, config.adapter), mask=str(self.mask), chat=self.chat)
        run.pin(thinking=self.chat_of.facts["thinking"])
        run.update(clock=self.chat_of.facts["clock"])
        run.update(head_grid=self.model.grid._asdict(), device=str(self.model.device), attention=self.model.attention)
        if config.rule.random:
            run.update(excluded=[*map(str, config.rule.excluded(self.model.grid))])

    @property
    def block(self) -> int:
        """How many prompts stand together, by the kind of device alone: shards on other machines must agree."""
        return BLOCK if self.model.device.type == "cpu" else _MOST_BLOCK

    def answer(
        self, asked: Sequence[tuple[int, PairPrompt, Sampling]], known: Mapping[str, PreferencePair]
    ) -> Iterator[tuple[int, PreferencePair]]:
        """A pair for each prompt, with its number. Those that are known are answered again, so that none stands alone.

        A prompt that the template refuses or that is too long for the model is a pair without answers. One that there
        is no memory for now is none: it goes into `missed`, for another time.
        """
        limit, left, refused = self.config.max_new_tokens, [], []
        for number, prompt, sampling in asked:
            try:
                ids = self.chat_of.prompt(prompt.messages, f"prompt {prompt.id}")
            except ValueError as error:
                refused.append((number, _without_answer(prompt, str(error))))
                continue
            if len(ids) + limit > self.model.max_tokens:
                longer = f"the prompt has {len(ids):,} tokens, and with {limit:,} new ones the model reads "
                yield number, _without_answer(prompt, f"{longer}{self.model.max_tokens:,} at most", len(ids))
                continue
            left.append(_Asked(number, prompt, sampling, ids))
        if len(refused) == len(asked) and not known:  # it may be the template, not the prompts
            raise ValueError(refused[0][1].unanswered)
        yield from refused
        while left:
            many = self._together([len(one.ids) + limit for one in left])
            said = self._said(left[:many]) if many else None
            while said is None and many > 1:  # less was free than it seemed
                many //= 2
                said = self._said(left[:many])
            if said is None:
                one = left.pop(0)
                if one.prompt.id not in known:
                    self.missed[one.prompt.id] = len(one.ids) + limit
                continue
            part, left = left[:many], left[many:]
            for one, two in zip(part, said, strict=True):
                yield one.number, _pair(self.model.tokenizer, one.prompt, len(one.ids), two, limit, self.chat)

    def _said(self, part: Sequence["_Asked"]) -> list[tuple[list[int], list[int]]] | None:
        """Both answers to each prompt; None where the memory does not hold them now."""
        try:
            limit = self.config.max_new_tokens
            return answer_both(self.model, [one.ids for one in part], self.mask, [one.sampling for one in part], limit)
        except Exception as error:
            if not isinstance(error, NoRoom) and not _is_out_of_memory(error):
                raise
        from retmask.model.loading import release

        release()
        return None

    def _together(self, lengths: Sequence[int]) -> int:
        """How many of the next prompts to answer in one batch: two rows each, all as long as the longest; 0 for none.

        0 where the first of them alone does not fit into the memory that is free now.
        """
        many = len(lengths)
        if self.model.device.type != "cpu":
            many = min(many, max(1, self.model.rows_that_fit(max(lengths)) // 2))
        while many and not _fits(self.model, max(lengths[:many]), many):
            many //= 2
        return many


class _Asked(NamedTuple):
    """A prompt that is about to be answered: its number, itself, how its answers are drawn, its tokens."""

    number: int
    prompt: PairPrompt
    sampling: Sampling
    ids: list[int]


class NoRoom(ValueError):
    """There is too little free memory now."""


def _fits(model: "LensModel", tokens: int, prompts: int) -> bool:
    try:
        model.check_rows(tokens, 2 * prompts)
    except ValueError:
        return False
    return True


def _is_out_of_memory(error: Exception) -> bool:
    """Whether an allocation failed: on a GPU, or on a CPU, where torch says so in a RuntimeError."""
    names = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return names or (isinstance(error, RuntimeError) and "allocate memory" in str(error))


def _without_answer(prompt: PairPrompt, why: str, tokens: int = 0) -> PreferencePair:
    """What is written down for a prompt that cannot be asked."""
    nothing = Said("", 0, "stop")
    return PreferencePair(
        prompt.id, prompt.messages, nothing, nothing, prompt.arm, prompt.answer, tokens, unanswered=why
    )


def answer_both(
    model: "LensModel",
    prompts: Sequence[Sequence[int]],
    mask: HeadMask,
    sampling: Sequence[Sampling],
    max_new_tokens: int,
) -> list[tuple[list[int], list[int]]]:
    """The token ids of an unmasked and a masked answer to each prompt, all in one batch.

    ValueError where a prompt is too long for the model, `NoRoom` where the batch is for the memory that is free now.
    """
    from retmask.model.cache import stack, starts

    longest = max(map(len, prompts)) + max_new_tokens
    model.check_length(longest)
    try:
        model.check_rows(longest, 2 * len(prompts))
    except ValueError as error:
        raise NoRoom(str(error)) from None
    masks = [HeadMask(), mask]
    caches = [model.fan_out(prompt[:-1], len(prompt), masks) for prompt in prompts]
    cache = stack(caches, longest)
    del caches
    begin = starts([len(prompt) - 1 for prompt in prompts for _ in masks])
    last = [prompt[-1] for prompt in prompts for _ in masks]
    draws = [one for one in sampling for _ in masks]
    said: list[list[int]] = [[] for _ in last]
    for step in model.decode(cache, last, max_new_tokens, masks * len(prompts), draws, begin):
        for text, token in zip(said, step, strict=True):
            text += [token.token_id] if token else []
    return list(zip(said[::2], said[1::2], strict=True))


def _pair(
    tokenizer: Any, prompt: PairPrompt, prompt_tokens: int, two: tuple[list[int], list[int]], limit: int, chat: bool
) -> PreferencePair:
    texts = [tokenizer.decode(ids, skip_special_tokens=True) for ids in two]
    said = [
        Said(text.strip() if chat else text.rstrip(), len(ids), "length" if len(ids) >= limit else "stop")
        for text, ids in zip(texts, two, strict=True)
    ]
    diverged = next((i for i, (a, b) in enumerate(zip(*two, strict=False)) if a != b), None)
    if diverged is None and len(two[0]) != len(two[1]):
        diverged = min(map(len, two))
    return PreferencePair(
        prompt.id, prompt.messages, said[0], said[1], prompt.arm, prompt.answer, prompt_tokens, diverged
    )


class _Servers:
    """Two OpenAI-compatible servers: the model as it is, and its masked checkpoint. Their templates make prompts."""

    chat = True

    def __init__(self, run: Run, config: PairsConfig) -> None:
        from retmask.pairs.servers import Server

        self.run, self.config = run, config
        self.missed: dict[str, int] = {}
        self.answered, self.thinking = 0, ""
        named = ((config.server, config.server_model), (config.masked_server, config.masked_server_model))
        self.servers: list[Server] = [Server.connect(url, name) for url, name in named]
        run.pin(model=config.model, servers=[server.model for server in self.servers], chat=True)

    @property
    def block(self) -> int:
        """How many prompts are under way together."""
        return _MOST_BLOCK

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
        _, again = self._ask((0, PairPrompt(one.id, one.messages), self.config.sampling(0)))
        self.answered += not again.unanswered
        return not again.unanswered

    def _pin_thinking(self) -> None:
        """Record whether the servers think. ValueError where the run began otherwise: its pairs would be mixed."""
        thinking = LEFT if any(one.thinks for one in self.servers) else "off"
        if thinking != self.thinking:
            self.run.pin(thinking=thinking)
            self.thinking = thinking

    def _ask(self, asked: tuple[int, PairPrompt, Sampling]) -> tuple[int, PreferencePair]:
        from retmask.pairs.servers import Refused

        number, prompt, sampling = asked
        limit = self.config.max_new_tokens
        try:
            said = [Said(*server.answer(prompt.messages, limit, sampling)) for server in self.servers]
        except Refused as error:
            return number, _without_answer(prompt, str(error))
        return number, PreferencePair(prompt.id, prompt.messages, said[0], said[1], prompt.arm, prompt.answer)


def join(folders: Sequence[Path], out: Path) -> Run:
    """The pairs of all shards as one run in `out`. ValueError unless each shard of one set is there once, and whole."""
    runs = [Run.open(folder) for folder in folders]
    if not runs:
        raise ValueError("name the folders of the shards")
    settings = [{**run.record.get("config", {}), "shard": 0, "device": ""} for run in runs]
    for run, own in zip(runs, settings, strict=True):
        if run.record.get("kind") != "pairs" or own != settings[0]:
            raise ValueError(f"{run.path} is not a shard of the same pairs as {runs[0].path}: leave it out")
        if run.status != "success":
            raise ValueError(f"{run.path} is not finished ({run.status}): let it go on first")
    same = ("model", "sha256", "adapter_sha256", "mask", "prompts_sha256", "chat", "batch", "thinking", "clock")
    for name in same:
        if len({str(run.record.get(name))[: 10 if name == "clock" else None] for run in runs}) > 1:  # one day's
            raise ValueError(f"the shards differ in {name}: make them all with the same model and settings")
    there, wanted = sorted(run.record["config"]["shard"] for run in runs), list(range(settings[0]["shards"]))
    if there != wanted:
        raise ValueError(f"shards {', '.join(map(str, there))} are there and 0 to {wanted[-1]} are wanted, each once")
    config = PairsConfig.from_record({**runs[0].record["config"], "shards": 1, "shard": 0})
    prompts = config.items()
    if digest(prompts) != runs[0].record.get("prompts_sha256"):
        raise ValueError("the prompts have changed since the shards were made: put them back as they were")
    found = {pair.id: pair for run in runs for pair in read_items(run.path)}
    record = asdict(config) | {"rule": config.rule.to_json(), "allow": list(config.allow)}
    whole = Run.claim("pairs", record, config.command, out, parents=[run.path for run in runs])
    with whole.working():
        whole.pin(**{name: runs[0].record[name] for name in same if name in runs[0].record})
        known = {pair.id: pair for pair in read_items(out)}
        book = _Book(whole, config, bool(whole.record.get("chat")), [prompt.id for prompt in prompts], known)
        for number, prompt in enumerate(prompts):
            book.enter(number, found[prompt.id])
        book.publish()
        whole.update(done=len(prompts), kept=book.kept, pairs_sha256=sha256(out / PAIRS))
    return whole
