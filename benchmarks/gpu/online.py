"""Rollouts by every engine that needs no server, beside transformers' `generate`; and a batch of PPO split into its parts."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from benchmarks.gpu.ceilings import copy_rate
from benchmarks.gpu.findings import Finding
from benchmarks.gpu.start import Kept
from benchmarks.gpu.subjects import Scale, language_model, saved_policy, saved_reward_model, word_tokenizer, words
from benchmarks.machine import device, peak_mib, reset_peak, seconds
from core.config import Dtype, ModelConfig, OptimConfig
from core.generators.continuous import ContinuousGenerator
from core.generators.graphed import GraphGenerator
from core.generators.local import TransformersGenerator
from core.hooks.run_context import RunContext
from core.models.load import load_reward_model
from core.records import Dialogue, Generator, Sampling, user
from core.scorers.reward_model import RewardModelScorer
from ppo.config import PPOConfig
from ppo.train import train


@torch.no_grad()
def rollouts(scale: Scale) -> Iterator[Finding]:
    """Tokens per second in bf16; the floor of a step is the time to read the weights once."""
    model, tokenizer = language_model(scale.one, torch.bfloat16), word_tokenizer(scale.one)
    prompts = drawn_prompts(scale)
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    floor = weights / (copy_rate(scale))
    few = Sampling(temperature=1.0, max_new_tokens=4, seed=0)
    engines: dict[str, Generator] = {
        "graphed": GraphGenerator(model, tokenizer),
        "generate": Plain(model, tokenizer),
        "transformers": TransformersGenerator(model, tokenizer),
        "continuous": ContinuousGenerator(model, tokenizer),
    }
    steps: dict[str, float] = {}
    for name, engine in engines.items():
        # The graph's memory depends on the length, so its first call is one of the same length; the others' steps are slow.
        length = scale.new_tokens if isinstance(engine, GraphGenerator) else max(4, scale.new_tokens // 16)
        sampling = Sampling(temperature=1.0, max_new_tokens=length, seed=0)
        engine.generate(prompts, sampling if isinstance(engine, GraphGenerator) else few)
        reset_peak()
        done: list[Any] = []
        spent = seconds(lambda engine=engine, done=done, sampling=sampling: done.extend(engine.generate(prompts, sampling)))
        tokens = sum(len(answers[0].token_ids) for answers in done)
        figures: Finding = {"tokens/s": tokens / spent, "ms a token, prompts included": 1e3 * spent / length, "peak MiB": peak_mib()}
        half = Sampling(temperature=1.0, max_new_tokens=length // 2, seed=0)
        if isinstance(engine, GraphGenerator):  # it records a graph for the other length
            engine.generate(prompts, half)
        shorter = seconds(lambda engine=engine, half=half: engine.generate(prompts, half))
        a_step = max(0.0, spent - shorter) / (length - length // 2)  # without reading the prompts
        steps[name] = a_step
        yield {"what": f"{name}, {len(prompts)} rows", **figures, "ms a step": 1e3 * a_step, "floors": a_step / floor}
        if name == "generate" and steps["graphed"] > 0:  # tiny models are too fast for the clock
            yield {"what": "a step of generate over one with graphs", "ratio": a_step / steps["graphed"]}


class Plain:
    """transformers' own `generate`, as it comes."""

    def __init__(self, model: Any, tokenizer: PreTrainedTokenizerFast) -> None:
        self.model, self.tokenizer = model, tokenizer

    def generate(self, prompts: Any, sampling: Sampling) -> list[list[Any]]:
        rows = self.tokenizer([prompt[0].content for prompt in prompts], padding=True, padding_side="left", return_tensors="pt")
        inputs = {name: tensor.to(device()) for name, tensor in rows.items() if name != "token_type_ids"}
        out = self.model.generate(**inputs, do_sample=True, top_k=0, top_p=1.0, max_new_tokens=sampling.max_new_tokens, pad_token_id=0)
        new = out[:, inputs["input_ids"].shape[1] :]
        return [[_Drawn(row)] for row in new.tolist()]

    def load_weights(self, weights: Any) -> None:
        raise NotImplementedError


class _Drawn:
    def __init__(self, token_ids: list[int]) -> None:
        self.token_ids = token_ids


def drawn_prompts(scale: Scale) -> list[Dialogue]:
    draw = np.random.default_rng(0)
    return [user(words(scale.prompt, scale.one, draw)) for _ in range(scale.rollouts)]


def ppo(scale: Scale) -> Iterator[Finding]:
    """Two batches of 64 episodes, the second measured: actor and critic in fp32, bf16 under autocast, one epoch."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = PPOConfig(
            model=ModelConfig(path=saved_policy(scale), dtype=Dtype.bf16),
            prompts=["given"],
            optim=OptimConfig(lr=1e-6),
            num_batches=3,
            batch_size=scale.rollouts,
            minibatch_size=scale.rollouts,
            micro_batch_size=min(8, scale.rollouts),
            epochs=1,
            max_new_tokens=max(4, scale.new_tokens // 2),
            max_prompt_length=2 * scale.prompt,
            num_checkpoints=1,
        )
        model, tokenizer = load_reward_model(ModelConfig(path=saved_reward_model(scale), dtype=Dtype.bf16))
        kept = Stopping(2)
        context = RunContext(dir=folder / "run", tracker=kept, say=lambda line: None)
        read = sum(weight.numel() for weight in model.parameters()) * 2  # bytes of a policy as large, in bf16
        floor = config.max_new_tokens * read / copy_rate(scale)
        reset_peak()
        try:
            scorer = RewardModelScorer(model, tokenizer)
            train(config, context, prompts=drawn_prompts(scale), scorer=scorer, reward_model=model)
        except EnoughError:  # before a checkpoint of 30 GB is written
            pass
    for number, row in enumerate(kept.rows, 1):
        parts = {part: row[f"train/seconds/{part}"] for part in ("generation", "scoring", "forward", "update")}
        yield {
            "what": f"batch {number} of {scale.rollouts} episodes",
            **{f"{part} s": spent for part, spent in parts.items()},
            "generation's floor s": floor,
            "episodes/s": scale.rollouts / sum(parts.values()),
            "approx KL": row["train/approx_kl"],
            "gradient norm": row["train/grad_norm"],
            "peak MiB": peak_mib(),
        }
        yield {"what": f"batch {number}, the first ratios", "largest |ratio - 1|": row["train/first_ratio_error"]}
        yield {"what": f"batch {number}, engine and trainer", "mean gap in nats a token": row["train/importance_gap"]}


class EnoughError(Exception):
    """Raised once a run has been measured."""


class Stopping(Kept):
    """Ends the run after some batches."""

    def __init__(self, num_batches: int) -> None:
        super().__init__()
        self.num_batches = num_batches

    def log(self, metrics: Any, *, axis: str, step: int) -> None:
        super().log(metrics, axis=axis, step=step)
        if len(self.rows) == self.num_batches:
            raise EnoughError
