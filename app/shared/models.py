"""Models: what one is loaded by, which were fine-tuned here, and those that are held in memory. No widget."""

from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, TypedDict
from weakref import WeakValueDictionary

import streamlit as st

from app.shared import address, session
from retmask.files import expanded, mapping, read_object
from retmask.model.gguf import BUILT_IN
from retmask.runs.overview import label
from retmask.runs.run import Run, run_path
from retmask.train.checkpoints import ADAPTER
from retmask.train.results import last_step, result

if TYPE_CHECKING:
    from retmask.model.lens import LensModel


class Settings(TypedDict):
    """A model as settings of a run."""

    model: str
    revision: str
    adapter: str


@dataclass(frozen=True)
class ModelRef:
    """What a model is loaded by: a built-in name, folder or Hub id, the Hub's revision, and an adapter's folder."""

    name: str
    revision: str = ""
    adapter: str = ""

    @classmethod
    def of_config(cls, config: Mapping[str, Any]) -> "ModelRef":
        """The model that the settings of a run name."""
        return cls(*(str(mapping(config).get(name) or "") for name in ("model", "revision", "adapter")))

    @property
    def settings(self) -> Settings:
        """The same as settings of a run."""
        return Settings(model=self.name, revision=self.revision, adapter=self.adapter)

    @property
    def options(self) -> list[str]:
        """The options of the command line that name it, besides the name."""
        values = {"--revision": self.revision, "--adapter": self.adapter}
        return [part for option, value in values.items() if value for part in (option, value)]

    @property
    def base(self) -> "ModelRef | None":
        """The model that it was fine-tuned from; None for one that is not known to be fine-tuned."""
        if self.adapter:
            return replace(self, adapter="")
        card = _card(self.name)
        return ModelRef(str(card["base"]), str(card.get("revision") or "")) if card.get("base") else None

    @property
    def place(self) -> str:
        """What tells whether two names mean one model: the name of a built-in or Hub model, a folder's whole path."""
        if self.name in BUILT_IN:
            return self.name
        try:
            path = expanded(self.name)
            return str(path.resolve()) if path.exists() else self.name
        except (ValueError, OSError):
            return self.name

    def __str__(self) -> str:
        """The name for people: of what was fine-tuned, also the training."""
        card = _card(self.adapter or self.name)
        name = str(card["base"]) if card.get("base") and not self.adapter else self.name
        by = card.get("run") or self.adapter or (card and self.name)
        return name + (f" tuned by {by}" if by else "") + (f" at revision {self.revision}" if self.revision else "")


@dataclass(frozen=True)
class Tuned:
    """A model that was fine-tuned here: the training's id, what it is loaded by, what it was trained on, its steps."""

    id: str
    ref: ModelRef
    base: ModelRef
    steps: int

    @property
    def folder(self) -> str:
        """The folder of the adapter, or of the whole model."""
        return self.ref.adapter or self.ref.name

    def trained_on(self, ref: ModelRef | None) -> bool:
        """Whether that model is the one it was trained on."""
        return ref is not None and (ref.place, ref.revision, ref.adapter) == (self.base.place, self.base.revision, "")

    def __str__(self) -> str:
        return label(_run(self.id), f"{self.steps:,} step{'s' * (self.steps != 1)}")


def tuned(name: str) -> Tuned | None:
    """What the training of that id made, or the one in that folder; None where there is none (any more)."""
    return _made_by(name, _run(name)) if name else None


def _run(name: str) -> Run:
    """The run of that id or in that folder; there need not be one."""
    try:
        return Run(run_path(name))
    except ValueError:
        return Run(Path(name))


def tunings(base: ModelRef) -> list[Tuned]:
    """What was trained on a model here, newest first."""
    made = (_made_by(run.id, run) for run in Run.all("train"))
    return [training for training in made if training and training.trained_on(base)]


def _made_by(name: str, run: Run) -> Tuned | None:
    record, config = run.record, run.config
    if record.get("kind") != "train" or record.get("discarded") or not config.get("model"):
        return None
    folder = result(run)
    if folder is None:
        return None
    base = replace(ModelRef.of_config(config), adapter="")
    ref = replace(base, adapter=str(folder)) if folder.name == ADAPTER else ModelRef(str(folder))
    steps = _card(str(folder)).get("steps")  # those of the weights: a training that goes on may be further
    return Tuned(name, ref, base, steps if isinstance(steps, int) else last_step(run))


def _card(folder: str) -> dict[str, Any]:
    """What our trainer has written into the folder of an adapter or a model; empty where it made none."""
    return read_object(Path(folder) / "retmask.json")


@dataclass(eq=False)
class Holding:
    """The models in memory, for all sessions: one, or the two that a comparison needs."""

    _models: "dict[ModelRef, tuple[float, LensModel]]" = field(default_factory=dict)
    _alive: "WeakValueDictionary[ModelRef, LensModel]" = field(default_factory=WeakValueDictionary)
    _lock: Lock = field(default_factory=Lock, repr=False)

    def get(self, ref: ModelRef, beside: Collection[ModelRef] = ()) -> "LensModel":
        """A model, loaded once. Before one is loaded all others are let go but those in `beside`.

        ValueError, one sentence, where it cannot be loaded.
        """
        with self._lock:
            written = _written(ref)
            if ref not in self._models or self._models[ref][0] != written:
                self._keep([beside_ref for beside_ref in beside if beside_ref != ref])
                model = _load(ref)
                self._models[ref], self._alive[ref] = (written, model), model
            return self._models[ref][1]

    def drop(self) -> None:
        """Let go of all models. What is just being computed with one goes on."""
        with self._lock:
            self._keep(())

    def held(self) -> "dict[ModelRef, LensModel]":
        """The models in memory, also those let go of that something is still computed with."""
        return dict(self._alive)

    def _keep(self, these: Collection[ModelRef]) -> None:
        gone = [ref for ref in self._models if ref not in these]
        for ref in gone:
            del self._models[ref]
        if gone:
            from retmask.model.loading import release

            release()


def _load(ref: ModelRef) -> "LensModel":
    from retmask.model.loading import load  # here, since it imports torch

    return load(ref.name, revision=ref.revision or None, adapter=ref.adapter or None)


def _written(ref: ModelRef) -> float:
    """When the weights in a folder were last written: a training that goes on writes them anew."""
    times = []
    for folder in filter(None, (ref.adapter, ref.name)):
        with suppress(OSError, ValueError):
            times += [file.stat().st_mtime for file in expanded(folder).glob("*.safetensors")]
    return max(times, default=0.0)


@dataclass(frozen=True, eq=False)
class LoadedFacts:
    """What a session keeps of a model that it has loaded: the model itself may have made room for another."""

    ref: ModelRef
    max_tokens: int
    has_template: bool
    tokenizer: Any


def get(ref: ModelRef, beside: ModelRef | None = None) -> "LensModel":
    """A model, loaded once and shared by all sessions; of those in memory only `beside` is sure to stay.

    ValueError, one sentence, where it cannot be loaded.
    """
    others = [beside] if beside else []
    model = _holding().get(ref, others)
    has_template = bool(getattr(model.tokenizer, "chat_template", None))
    kept = {kept_ref: facts for kept_ref, facts in session.LOADED.get().items() if kept_ref in others}
    session.LOADED.put(kept | {ref: LoadedFacts(ref, model.max_tokens, has_template, model.tokenizer)})
    return model


def loaded(ref: ModelRef | None) -> LoadedFacts | None:
    """What is known of the model, if it is of those that this session has loaded last. Never loads it."""
    return session.LOADED.get().get(ref)


def choose_tuned(name: str) -> None:
    """Make what a training made "the tuned model" on all pages from now on, by its id; empty for none.

    A training that has made nothing, or is gone, is none.
    """
    training = tuned(name)
    session.TUNED.put(training.id if training else "")
    session.draw_anew()
    address.write("tuned", training.id if training else None)


def tuned_id() -> str:
    """The id of the training whose model is "the tuned model"; empty for none."""
    training = tuned_model()
    return training.id if training else ""


def tuned_model() -> Tuned | None:
    """The tuned model; on the first view that in the URL. None for none, also where it has been deleted."""
    return tuned(session.TUNED.keep(lambda: address.place("tuned")))


def tuned_for(ref: ModelRef | None) -> Tuned | None:
    """The tuned model, where it was trained on that one."""
    training = tuned_model()
    return training if training and training.trained_on(ref) else None


def held() -> tuple[str, int] | None:
    """The models that the app holds in memory, whichever session loaded them, and their bytes; None for none."""
    models = _holding().held()
    weights = [weight for model in models.values() for weight in model.native.parameters()]
    size = sum(weight.numel() * weight.element_size() for weight in weights)
    return (", ".join(map(str, models)), size) if models else None


def unload() -> None:
    """Let go of the models that are held in memory. What was made with them stays on the pages."""
    stop_comparison()
    _holding().drop()


def stop_comparison() -> None:
    """Leave the comparison of this session where it is."""
    session.WANTED.put(False)
    comparison = session.LIVE.get()
    if comparison and not comparison.over:
        comparison.stop()


@st.cache_resource(show_spinner=False)
def _holding() -> Holding:
    return Holding()
