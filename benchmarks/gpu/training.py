"""Training a reward model: passes on trees beside padded ones, a whole step of ours, and TRL's RewardTrainer."""

import gc
import math
import os
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaForSequenceClassification

from benchmarks.gpu.findings import Finding
from benchmarks.gpu.subjects import PEAK, Scale, Shape, causal, classifier, median_seconds, saved_policy, saved_reward_model
from benchmarks.gpu.trees import forward
from benchmarks.machine import device, forward_flops, now, peak_mib, reset_peak
from core.config import Dtype, EngineConfig, EngineKind, ModelConfig, OptimConfig
from core.models.fused.layers import fuse_layers
from core.process.world import join_world
from core.records import Preference, user
from core.trees.attention import tree_attention
from rmtrain.config import PreferenceDataConfig, RewardModelConfig
from rmtrain.loss import bradley_terry_loss
from rmtrain.session import RMSession
from rmtrain.tokens import TokenPair

TEXT = "w5 w6"
MICRO_BATCH = 32_768
"""Tokens of a micro batch, in which all pairs of a shape go through the model at once; engines that shard take memory of their own, and
half of it."""


def passes(scale: Scale) -> Iterator[Finding]:
    """Forward and backward of pairs in bf16, without an optimiser, beside the same pairs padded (they are equally long)."""
    model = classifier(scale.one, torch.bfloat16).train()
    for shape in scale.training:
        groups = [[row.tolist() for row in group] for group in shape.groups(scale.one.vocabulary)]
        rows_BL = torch.tensor([row for group in groups for row in group], device=device())
        figures: Finding = {"what": str(shape), "ideal": shape.padded / shape.unique}
        ours, memory = timed(scale, lambda groups=groups: backward(model, forward_of(model, groups)))
        flops = 3 * forward_flops(model, shape.unique, shape.seen)
        figures |= {"ms": 1e3 * ours, "tokens/s": shape.padded / ours, "MFU": flops / ours / PEAK, "peak MiB": memory}
        yield figures
        peer, memory = timed(scale, lambda rows=rows_BL: backward(model, model(input_ids=rows, use_cache=False).logits[:, 0].float()))
        flops = 3 * forward_flops(model, shape.padded, rows_BL.shape[0] * causal(rows_BL.shape[1]))
        padded = {"padded SDPA ms": 1e3 * peer, "its MFU": flops / peer / PEAK, "its peak MiB": memory}
        yield {"what": str(shape), **padded, "ratio": peer / ours, "ideal": shape.padded / shape.unique}


def forward_of(model: LlamaForSequenceClassification, groups: Any) -> torch.Tensor:
    with tree_attention(model):
        return forward(model, groups, on_trees=True)


def backward(model: LlamaForSequenceClassification, rewards_R: torch.Tensor) -> None:
    bradley_terry_loss(rewards_R[0::2], rewards_R[1::2]).backward()
    model.zero_grad()


def timed(scale: Scale, work: Any) -> tuple[float, float]:
    reset_peak()
    spent = median_seconds(work, min(scale.rounds, 3))
    return spent, peak_mib()


def step(scale: Scale) -> Iterator[Finding]:
    """Whole optimiser steps through our session: fp32 weights, bf16 under autocast, AdamW, all pairs in one micro batch."""
    session = session_of(scale, EngineConfig())
    for shape in scale.training:
        yield {"what": str(shape), **steps_of(session, shape, scale)}


def engines(scale: Scale) -> Iterator[Finding]:
    """The same steps by the engines that shard, in a world of one process: what they cost before they save anything."""
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}  # as torchrun sets them
    zero = [EngineKind.zero3] if find_spec("deepspeed") and not scale.tiny else []  # on a CPU it compiles for minutes
    kinds = [EngineKind.single, EngineKind.fsdp2, *zero]
    for kind in kinds:
        session = session_of(scale, EngineConfig(kind=kind), micro_batch=MICRO_BATCH // 2)
        shape = scale.training[0]
        yield {"what": f"{kind}, {shape}", **steps_of(session, shape, scale)}
        del session
        gc.collect()
    if not zero and not scale.tiny:
        yield {"what": "zero3", "said": "deepspeed is not there"}


def session_of(scale: Scale, engine: EngineConfig, *, micro_batch: int = MICRO_BATCH) -> RMSession:
    """A session around the model, with one pair."""
    config = RewardModelConfig(
        model=ModelConfig(path=saved_policy(scale), dtype=Dtype.bf16),
        data=PreferenceDataConfig(paths=["given as tokens"]),
        optim=OptimConfig(lr=1e-6),
        engine=engine,
        batch_size=8,
        micro_batch_tokens=micro_batch,
        max_length=8192,
    )
    return RMSession(config, [Preference(prompt=user(TEXT), chosen="w7", rejected="w8")], world=join_world())


def steps_of(session: RMSession, shape: Shape, scale: Scale) -> Finding:
    """Two steps after a first one."""
    prepared(session, shape, scale)
    reset_peak()
    session.step(1)
    started = now()
    losses = [session.step(number).sums.metrics()["loss"] for number in (2, 3)]
    spent = (now() - started) / 2
    flops = 3 * forward_flops(scale.one.shell(), shape.unique, shape.seen)
    return {"ms": 1e3 * spent, "tokens/s": shape.padded / spent, "MFU": flops / spent / PEAK, "peak MiB": peak_mib(), "loss": losses[-1]}


def prepared(session: RMSession, shape: Shape, scale: Scale) -> None:
    """Gives the session the pairs of a shape, all in one batch."""
    pairs = token_pairs(shape, scale)
    session.pairs, session.num_steps = pairs, 100
    session.order.num_pairs, session.order.batch_size, session.order._epoch = len(pairs), len(pairs), -1  # pyright: ignore[reportPrivateUsage]


def token_pairs(shape: Shape, scale: Scale) -> list[TokenPair]:
    return [TokenPair(chosen=chosen, rejected=rejected, margin=0.0) for chosen, rejected in shape.groups(scale.one.vocabulary)]


def trl(scale: Scale) -> Iterator[Finding]:
    """TRL's RewardTrainer on the same pairs: at its best, which is without checkpointing, with our fused layers and in micro batches as
    large as ours, or half as large where memory ends; and at its defaults."""
    path = saved_reward_model(scale)
    for shape in scale.training:
        # Of its micro batches at most a fourth more tokens than of ours, so that the number of pairs is a power of two.
        most = 2 ** int(math.log2(1.25 * MICRO_BATCH / (2 * (shape.prompt + shape.completion))))
        yield from trl_row(path, shape, scale, pairs_at_once=min(most, shape.prompts), best=True)
        yield from trl_row(path, shape, scale, pairs_at_once=min(8, shape.prompts), best=False)


def trl_row(path: str, shape: Shape, scale: Scale, *, pairs_at_once: int, best: bool) -> Iterator[Finding]:
    what = f"{shape}, {'at its best' if best else 'defaults'}, {pairs_at_once} pairs at once"
    found: tuple[float, float] | None = None
    try:
        with tempfile.TemporaryDirectory() as name:
            found = trl_steps(path, Path(name), shape, scale, pairs_at_once=pairs_at_once, best=best)
    except torch.OutOfMemoryError:
        yield {"what": what, "said": "out of memory"}
    gc.collect()  # a trainer is in cycles with its callbacks, and the next one would be measured with its memory
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if found is not None:
        yield {"what": what, "tokens/s": shape.padded / found[0], "peak MiB": found[1]}
    elif pairs_at_once > 1:
        yield from trl_row(path, shape, scale, pairs_at_once=pairs_at_once // 2, best=best)


def trl_steps(path: str, folder: Path, shape: Shape, scale: Scale, *, pairs_at_once: int, best: bool) -> tuple[float, float]:
    """Seconds of a step after the first, and peak memory."""
    # Imported here because TRL's imports take seconds.
    from datasets import Dataset, disable_progress_bars
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback
    from trl.trainer.reward_config import RewardConfig
    from trl.trainer.reward_trainer import RewardTrainer

    disable_progress_bars()
    times: list[float] = []

    class Timer(TrainerCallback):
        def on_step_end(self, *args: Any, **_: Any) -> None:
            times.append(now())

    on_gpu = torch.cuda.is_available()
    arguments = RewardConfig(
        output_dir=str(folder),
        per_device_train_batch_size=pairs_at_once,
        gradient_accumulation_steps=max(1, shape.prompts // pairs_at_once),
        max_steps=3,
        max_length=8192,
        learning_rate=1e-6,
        bf16=True,
        use_cpu=not on_gpu,
        dataloader_pin_memory=on_gpu,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        activation_checkpointing=False if best else None,
    )
    pairs = [pair for seed in range(3) for pair in shape.groups(scale.one.vocabulary, seed)]
    rows = [{"chosen_ids": chosen.tolist(), "rejected_ids": rejected.tolist()} for chosen, rejected in pairs]
    model = AutoModelForSequenceClassification.from_pretrained(path, dtype=torch.float32)
    if best:
        fuse_layers(model, device())
    trainer = RewardTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(path),
        callbacks=[Timer()],
    )
    reset_peak()
    trainer.train()
    return float(np.diff(times).mean()), peak_mib()
