"""Configuration of reward-model training."""

import math
import os
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from core.config import (
    ContentHashed,
    Dtype,
    EngineConfig,
    EngineKind,
    Hashed,
    LoraConfig,
    ModelConfig,
    OptimConfig,
    Quantize,
    RoundingOnly,
    Unhashed,
    require_fraction,
    require_positive,
    require_trainable,
)
from core.runs.retention import KEPT, Keep


class Decontaminate(StrEnum):
    """What happens to training pairs whose prompt overlaps with a benchmark prompt."""

    ignore = "ignore"
    report = "report"
    drop = "drop"


class Overlong(StrEnum):
    """What happens to pairs longer than `max_length` tokens: they are dropped, or the beginning of their prompt is cut off."""

    drop = "drop"
    cut = "cut"


@dataclass(kw_only=True)
class SourceConfig:
    """One source of a data mix.

    A JSONL or parquet file, a folder of parquet files, a folder written by `datasets.save_to_disk`, or a hub dataset
    (`org/name` or `org/name@revision`).
    """

    path: ContentHashed[str] = ""
    """A JSONL or parquet file, a folder of parquet files, a saved dataset, or a hub dataset."""
    split: Hashed[str] = "train"
    """Split of a hub dataset or of a folder with several; a file has none."""
    weight: Hashed[float] = 1.0
    """How often the mix contains each pair: 1 is once, 0.5 a seeded half of them once, 2 all of them twice."""

    def __post_init__(self) -> None:
        if not self.path:
            raise ValueError("a source of data.sources has no path; give a preference file or a hub dataset such as org/name.")
        if not 0 < self.weight < float("inf"):
            raise ValueError(f"the weight of {self.path} is {self.weight}; it is how often each pair is in the mix, above 0.")


@dataclass(kw_only=True)
class PreferenceDataConfig:
    """Where preference pairs come from and what is done to them, in the order of the fields.

    `sources` are mixed by their weights; `paths` is short for sources of weight 1, named after their files.
    """

    name: Hashed[str] = "custom"
    """What the mix is called in the run's name and in reports."""
    paths: ContentHashed[list[str]] = field(default_factory=list)
    """Preference files or hub datasets, as in 'data.paths=[a.jsonl,b.jsonl]'; one alone needs no brackets."""
    sources: Hashed[dict[str, SourceConfig]] = field(default_factory=dict)
    """Further sources by the user's names, as in data.sources.mine.path=FILE."""
    skip_broken: Hashed[bool] = False
    """Skip and count broken rows instead of rejecting the data."""
    deduplicate: Hashed[bool] = True
    """Keep one of several pairs with the same prompt, chosen and rejected."""
    decontaminate: Hashed[Decontaminate] = Decontaminate.report
    """Against the prompts of the benchmarks that the hooks score."""
    subsample: Hashed[float] = 1.0
    """Share of the pairs to keep, drawn by the seed."""
    held_out: Hashed[float] = 0.0
    """Share of the pairs held out of training to measure accuracy on; no prompt is in both parts."""
    validation: ContentHashed[str] = ""
    """A file of pairs of its own to measure accuracy on, beside those of `held_out` if there are any."""
    flip: Hashed[float] = 0.0
    """Share of the pairs whose label is flipped, drawn by the seed; 1.0 inverts all of them."""
    cache: Unhashed[str] = field(default_factory=lambda: f"{os.environ.get('REWARDLOOP_CACHE', '~/.cache/rewardloop')}/pairs")
    """Folder for the pairs as they were read and tokenised, which all runs share; $REWARDLOOP_CACHE moves its default."""
    cache_gb: Unhashed[float] = 100.0
    """GB that the folder may hold: what was not used for longest is removed."""

    def __post_init__(self) -> None:
        if not self.paths and not self.sources:
            raise ValueError("data.paths is empty; give preference files, for instance 'data.paths=[pairs.jsonl]'.")
        require_fraction("data.subsample", self.subsample, positive=True)
        require_fraction("data.flip", self.flip)
        if not 0 <= self.held_out < 1:
            raise ValueError(f"data.held_out is {self.held_out}; it is a share from 0 to below 1.")
        if not self.cache:
            raise ValueError("data.cache is empty; name a folder, for instance 'data.cache=/scratch/pairs'.")
        require_positive("data.cache_gb", self.cache_gb, may_be_infinite=True)


@dataclass(kw_only=True)
class RewardModelConfig:
    """Bradley-Terry training of one reward model."""

    model: Hashed[ModelConfig]
    data: Hashed[PreferenceDataConfig]
    optim: Hashed[OptimConfig] = field(default_factory=OptimConfig)
    lora: Hashed[LoraConfig] = field(default_factory=LoraConfig)
    engine: Hashed[EngineConfig] = field(default_factory=EngineConfig)
    epochs: Hashed[int] = 1
    """Passes over the pairs."""
    batch_size: Hashed[int] = 128
    """Pairs per optimiser step, over all processes and forward passes. This default and that of `max_length` are the Tulu 3 recipe's."""
    micro_batch_tokens: RoundingOnly[int] = 8192
    """Tokens per forward pass of one process; a larger pair has a pass of its own. Bounds memory; changes only rounding."""
    micro_batch_size: RoundingOnly[int | None] = None
    """Maximum number of pairs per forward pass; empty: as many as the tokens allow."""
    max_length: Hashed[int] = 2048
    """Tokens of prompt and completion together."""
    overlong: Hashed[Overlong] = Overlong.drop
    label_smoothing: Hashed[float] = 0.0
    """Probability with which a label counts as flipped in the loss, from 0 to below 0.5."""
    center: Hashed[float] = 0.0
    """Weight of a penalty, the squared sum of a pair's rewards, which keeps rewards around zero."""
    gradient_checkpointing: RoundingOnly[bool] = False
    """Recompute activations in the backward pass instead of storing them: less memory, about a third more time."""
    num_checkpoints: Hashed[int] = 3
    """Checkpoints per run, evenly spaced, the last one at the end; the hooks run at each."""
    checkpoint_every: Hashed[float] = 0.0
    """Instead of `num_checkpoints`: a checkpoint every so many steps or, below 1, every such share of an epoch, and one at the end."""
    export_dtype: Hashed[Dtype | None] = None
    """Data type in which reward models are saved; empty: that of the model. What resuming needs is kept in fp32 beside it."""
    save_minutes: Unhashed[float] = 15.0
    """Minutes without a checkpoint after which one is saved to resume from, so that a killed run loses no more than that."""
    keep: Unhashed[Any] = field(default_factory=lambda: [*KEPT])
    """Checkpoints that keep their weights: [best,last], all, last, or how many of the newest beside the best. Metrics are always kept."""
    best_metric: Hashed[str] = ""
    """The checkpoint with its highest value becomes `best`; empty: rewardbench2/overall or, if not measured, held_out/accuracy."""
    log_every: Hashed[int] = 10
    """Steps averaged into one row of the training log; fewer in a short run, so that it has ten rows or more."""
    seed: Hashed[int] = 0
    """Of the draw and order of the pairs, the new head, and dropout."""

    def __post_init__(self) -> None:
        for key in ("epochs", "batch_size", "micro_batch_tokens", "max_length", "num_checkpoints", "log_every"):
            require_positive(key, getattr(self, key))
        require_positive("save_minutes", self.save_minutes, may_be_infinite=True)
        Keep.of(self.keep)  # raises for an unknown choice
        if self.micro_batch_size is not None:
            require_positive("micro_batch_size", self.micro_batch_size)
        require_trainable(self.model, self.lora)
        if self.model.dtype == Dtype.fp16:
            raise ValueError("model.dtype=fp16 would need loss scaling in training; choose bf16 or fp32.")
        if self.model.quantize != Quantize.none and self.engine.kind in (EngineKind.fsdp2, EngineKind.zero3):
            raise ValueError(
                f"engine={self.engine.kind} cannot shard packed weights (model.quantize={self.model.quantize}); choose ddp or zero2."
            )
        if self.export_dtype is not None and self.lora.rank:
            raise ValueError(f"export_dtype={self.export_dtype} is for whole weights; an adapter is saved as it was trained. Leave it out.")
        every = self.checkpoint_every
        if not 0 <= every < math.inf or (every > 1 and every != int(every)):
            raise ValueError(
                f"checkpoint_every is {self.checkpoint_every}; give whole steps such as 500, or a share of an epoch such as 0.25."
            )
        if not 0 <= self.center < math.inf:
            raise ValueError(f"center is {self.center}; it is a weight, 0 or above, such as 0.01.")
        if not 0 <= self.label_smoothing < 0.5:
            raise ValueError(f"label_smoothing is {self.label_smoothing}; it is a probability from 0 to below 0.5.")
