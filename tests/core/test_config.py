"""Every setting that is a number: what no number can be is refused wherever it stands."""

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, get_args, get_type_hints

import pytest

from bon.config import PoolConfig
from core.config import EngineConfig, LoraConfig, ModelConfig, OptimConfig, RolloutConfig
from core.records import Sampling
from evalhooks.config import HooksConfig, SamplingConfig, TaskConfig
from evalhooks.judges.config import JudgeConfig
from launch.rewards.config import RewardConfig
from launch.schema import BenchJob
from microworld.config import SKILL_NAMES, PolicyConfig, WorldConfig
from ppo.config import KLConfig, MissingEOS, MissingEOSConfig, OverlongConfig, PPOConfig, Scale, ShapingConfig
from rmtrain.config import PreferenceDataConfig, RewardModelConfig, SourceConfig

MODEL = ModelConfig(path="M")
CONFIGS: Mapping[type, dict[str, Any]] = {
    BenchJob: {"from_scores": "scores.jsonl"},
    EngineConfig: {},
    HooksConfig: {},
    JudgeConfig: {},
    KLConfig: {},
    LoraConfig: {},
    MissingEOSConfig: {"how": MissingEOS.replace, "value": -3.0},
    OptimConfig: {},
    OverlongConfig: {},
    PPOConfig: {"model": MODEL, "prompts": ["p.jsonl"]},
    PolicyConfig: {},
    PoolConfig: {},
    PreferenceDataConfig: {"paths": ["p.jsonl"]},
    RewardConfig: {"path": "RM"},
    RewardModelConfig: {"model": MODEL, "data": PreferenceDataConfig(paths=["p.jsonl"])},
    RolloutConfig: {},
    Sampling: {},
    SamplingConfig: {},
    ShapingConfig: {"scale": Scale.fixed, "std": 1.0},
    SourceConfig: {"path": "p.jsonl"},
    TaskConfig: {"path": "t.jsonl", "verifier": "a:b"},
}
"""Configurations, each with the arguments that it cannot do without."""

UNBOUNDED = {
    *((PPOConfig, name) for name in ("clip", "value_clip", "dual_clip", "importance_cap", "save_minutes")),
    *(
        (KLConfig, "stop"),
        (OptimConfig, "max_grad_norm"),
        (RewardModelConfig, "save_minutes"),
        (ShapingConfig, "clip"),
        (PreferenceDataConfig, "cache_gb"),
    ),
}
"""Bounds and periods, which infinity switches off."""


def is_number(hint: object) -> bool:
    return hint is float or any(map(is_number, get_args(hint)))


NUMBERS = [
    (config, item.name)
    for config in CONFIGS
    for item in fields(config)
    if is_number(hint := get_type_hints(config)[item.name]) and "list" not in str(hint)
]


def made(config: type, **given: Any) -> None:
    found = config(**CONFIGS.get(config, {}) | given)
    if isinstance(found, RewardConfig):
        found.require_complete()


def test_the_settings_are_found() -> None:
    assert {(OptimConfig, "lr"), (KLConfig, "target"), (PPOConfig, "temperature"), (RewardConfig, "beta")} <= set(NUMBERS)
    assert len(NUMBERS) > 40
    for config in CONFIGS:
        made(config)


@pytest.mark.parametrize(("config", "name"), NUMBERS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_nan_is_refused_everywhere_and_infinity_where_it_switches_nothing_off(config: type, name: str, value: float) -> None:
    if value == math.inf and (config, name) in UNBOUNDED:
        made(config, **{name: value})
        return
    with pytest.raises(ValueError, match=f"{name} is {value}|of p.jsonl is {value}|limit.* is {value}"):
        made(config, **{name: value})


@pytest.mark.parametrize(
    ("config", "given", "message"),
    [
        (RewardConfig, {"beta": 0.0}, r"reward.beta is 0.0; it must be above 0"),
        (RewardConfig, {"beta": -0.1}, r"reward.beta is -0.1; it must be above 0"),
        (RewardConfig, {"members": ["a", "b"], "scales": [[0.0, 1.0]]}, r"reward.scales has 1 entries for 2 members"),
        (RewardConfig, {"members": ["a"], "scales": [[math.nan, 1.0]]}, r"reward.scales is .*; a mean must be finite"),
        (RewardConfig, {"members": ["a"], "scales": [[0.0, 0.0]]}, r"reward.scales is .*; a mean must be finite"),
        (RewardConfig, {"members": ["a", "b"]}, r"reward.members=.* does nothing with reward.kind=model; give reward.kind=ensemble"),
        (SamplingConfig, {"temperature": 0.0, "n": 2}, r"hooks.downstream.temperature=0 gives hooks.downstream.n=2 equal answers"),
        (SamplingConfig, {"n": 0}, r"hooks.downstream.n is 0; it must be above 0"),
        (WorldConfig, {"mistakes": dict.fromkeys(SKILL_NAMES, math.nan)}, r"world.mistakes.facts is nan; it is a share from 0 to 1"),
        (WorldConfig, {"vocab_size": 261}, r"world.vocab_size is 261; the bytes .* take 262"),
        (RolloutConfig, {"urls": ["5"]}, r"rollout.urls names 5; an address must begin with http"),
        (RolloutConfig, {"url": "localhost:8000"}, r"rollout.url=localhost:8000; an address must begin with http"),
        (LoraConfig, {"targets": ["q_proj"]}, r"lora.targets=\['q_proj'\] does nothing with lora.rank=0"),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_key(config: type, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made(config, **given)
