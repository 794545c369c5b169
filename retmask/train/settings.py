"""How to fine-tune: the settings of DPO (Rafailov et al. 2023, arXiv 2305.18290), and presets of them."""

from dataclasses import dataclass
from typing import ClassVar

from retmask.runs.settings import REQUIRED, Preset, check, command_line, setting, shared

_ON_GPU = {"micro_batch": 2, "dtype": "bfloat16", "gradient_checkpointing": True, "device": "cuda"}
PRESETS = {
    "laptop": Preset(
        "a small model on two CPU cores, in about a quarter of an hour",
        {"learning_rate": 2e-4, "max_steps": 16, "save_steps": 4, "device": "cpu"},
    ),
    "gpu": Preset(
        "an 8B model with LoRA on one GPU: bfloat16, FlashAttention-2, gradient checkpointing",
        _ON_GPU | {"learning_rate": 5e-6, "batch": 32, "max_length": 2048, "save_steps": 50, "eval_share": 0.02},
    ),
    "paper": Preset(
        "the published settings: all weights, 2 epochs, 512 pairs a step, on several GPUs",
        _ON_GPU
        | {"method": "full", "learning_rate": 5e-7, "adam_beta2": 0.95, "weight_decay": 0.1, "epochs": 2.0}
        | {"batch": 512, "max_length": 4096, "save_steps": 100, "eval_share": 0.0, "reference": "precomputed"},
    ),
}


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """What is fine-tuned, on what, and how. ValueError for a value outside its range."""

    presets: ClassVar = PRESETS
    model: str = shared("model", REQUIRED)
    pairs: str = setting(REQUIRED, "pairs.jsonl, or the folder or run of `retmask pairs`")
    any_pairs: bool = setting(False, "also pairs that another model made", matched=False)
    revision: str = shared("revision")
    method: str = setting("lora", "what is trained", choices={"lora": "a small adapter", "full": "all weights"})
    rank: int = setting(16, "of the LoRA matrices: more can learn more", min=1, max=1024)
    alpha: float = setting(32.0, "LoRA's scale: it is multiplied by alpha / rank", min=0.01, max=4096)
    dropout: float = setting(0.0, "of the LoRA layers", min=0.0, max=0.9, expert=True)
    target: str = setting(
        "all",
        "which layers get an adapter",
        choices={"all": "all linear ones", "attention": "those of attention"},
        expert=True,
    )
    beta: float = setting(0.1, "how strongly the model is held to where it began (DPO's beta)", min=0.001, max=10)
    loss: str = setting(
        "sigmoid",
        "what is made small",
        choices={"sigmoid": "DPO's", "ipo": "that of IPO", "hinge": "a hinge in its place"},
        expert=True,
    )
    sft_weight: float = setting(
        0.0,
        "how much plain likelihood of the chosen answer is added to the loss",
        label="SFT weight",
        min=0.0,
        max=10,
        expert=True,
    )
    learning_rate: float = setting(1e-4, "at its highest", min=1e-8, max=1e-2)
    schedule: str = setting(
        "cosine",
        "of the learning rate",
        choices={"cosine": "falls to a tenth", "linear": "falls to 0", "constant": "stays"},
        expert=True,
    )
    warmup: float = setting(0.1, "share of the steps in which the learning rate rises", min=0.0, max=0.9, expert=True)
    weight_decay: float = setting(0.0, "of AdamW", min=0.0, max=1.0, expert=True)
    adam_beta2: float = setting(0.999, "of AdamW", min=0.5, max=0.99999, expert=True)
    epochs: float = setting(1.0, "how often every pair is seen", min=0.01, max=100)
    max_steps: int = setting(0, "stop after so many steps; 0: by epochs", min=0, max=10_000_000, beside=("epochs", 0))
    batch: int = setting(8, "pairs a step, over all devices", min=1, max=65_536)
    micro_batch: int = setting(
        1, "pairs that a device holds at once; the rest of a step is accumulated", min=1, max=1024
    )
    max_length: int = setting(1024, "tokens of prompt and answer; the rest is cut", min=32, max=2_097_152)
    reference: str = setting(
        "adapter-off",
        "what the model is held to",
        choices={"adapter-off": "itself without the adapter", "precomputed": "its log-probabilities of before"},
        expert=True,
    )
    eval_share: float = setting(
        0.1, "share of the pairs that is held out to measure the reward accuracy", min=0.0, max=0.5
    )
    save_steps: int = setting(10, "steps between checkpoints", min=1, max=1_000_000, expert=True)
    seed: int = setting(0, "of the order of the pairs and of the adapter's beginning", min=0, max=2**31 - 1)
    dtype: str = setting(
        "",
        "of the weights; by default bfloat16 on cuda, else float32",
        choices=("", "float32", "bfloat16"),
        expert=True,
    )
    attention: str = setting(
        "",
        "by default FlashAttention-2 where it is installed, else PyTorch's",
        choices=("", "sdpa", "flash_attention_2", "eager"),
        expert=True,
    )
    gradient_checkpointing: bool = setting(
        False, "compute activations twice and keep few: less memory, more time", expert=True
    )
    device: str = setting("", "by default cuda where there is one", choices=("", "cpu", "cuda"))
    processes: int = setting(0, "how many GPUs of this machine; 0: all of them", min=0, max=1024, expert=True)
    accelerate_config: str = setting(
        "", "a config file of accelerate, for DeepSpeed or FSDP", expert=True, names="folder"
    )
    report_to: str = setting("none", "also report to", choices=("none", "tensorboard", "wandb", "trackio"), expert=True)

    def __post_init__(self) -> None:
        check(self)
        if self.batch % self.micro_batch:
            raise ValueError(
                f"a batch of {self.batch} is no multiple of the micro-batch {self.micro_batch}: change one"
            )
        if self.method == "full" and self.reference == "adapter-off":
            object.__setattr__(self, "reference", "precomputed")  # without an adapter there is nothing to switch off

    @property
    def command(self) -> list[str]:
        """The command line that does the same."""
        return command_line("train", self)
