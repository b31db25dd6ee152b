"""Whose defaults count: the embedded world's models bring toy sizes, every other model gets those of the dataclasses."""

from pathlib import Path
from typing import Any

import pytest

import conf
from bon.config import PoolConfig
from core.config import LoraConfig, ModelConfig, OptimConfig, RolloutConfig, Schedule
from evalhooks.config import HooksConfig
from launch.compose import ConfigError, command, composed
from launch.schema import SCHEMAS, BoNJob, PPOJob, RMJob
from ppo.config import Center, MissingEOS, MissingEOSConfig, PPOConfig, Scale, ShapingConfig
from rmtrain.config import Decontaminate, RewardModelConfig

EMBEDDED = ("coast", "ridge")
OTHERS = sorted({file.stem for file in (Path(next(iter(conf.__path__))) / "model").glob("*.yaml")} - {*EMBEDDED})
WORLD = "runs/demo/world-0"


def real(model: str, *overrides: str) -> list[str]:
    """The overrides that choose a model of the field, and whatever must be said beside it."""
    return [f"model={model}", *(["model.path=org/base"] if model == "custom" else []), *overrides]


def rm_of(*overrides: str) -> RMJob:
    job = composed(RMJob, overrides).job
    assert isinstance(job, RMJob)
    return job


def ppo_of(*overrides: str) -> PPOJob:
    job = composed(PPOJob, ["reward.path=some/rm", *overrides]).job
    assert isinstance(job, PPOJob)
    return job


def bon_of(*overrides: str) -> BoNJob:
    job = composed(BoNJob, overrides).job
    assert isinstance(job, BoNJob)
    return job


def own(job: Any, schema: type, *given: str) -> dict[str, Any]:
    """The settings of a job that `schema` declares, but for those that a command must give."""
    return {name: getattr(job, name) for name in schema.__dataclass_fields__ if name not in given}


# Any model of the field


@pytest.mark.parametrize("model", OTHERS)
def test_a_reward_model_on_any_other_model_gets_the_defaults_of_the_dataclasses(model: str) -> None:
    job = rm_of(*real(model, "data.paths=[pairs.jsonl]"))
    assert (job.optim.lr, job.batch_size, job.max_length) == (3e-6, 128, 2048)
    assert own(job, RewardModelConfig, "model") == own(RewardModelConfig(model=job.model, data=job.data), RewardModelConfig, "model")
    assert (job.hooks, job.tasks) == (HooksConfig(), {})
    assert (job.data.paths, job.data.sources, job.data.decontaminate) == (["pairs.jsonl"], {}, Decontaminate.report)


@pytest.mark.parametrize("model", OTHERS)
def test_ppo_of_any_other_model_gets_the_defaults_of_the_dataclasses(model: str) -> None:
    job = ppo_of(*real(model, "prompts=[prompts.jsonl]"))
    assert (job.optim.lr, job.critic_lr, job.kl.beta) == (3e-7, None, 0.05)
    assert (job.batch_size, job.minibatch_size, job.micro_batch_size, job.epochs) == (128, 64, 4, 2)
    assert (job.max_prompt_length, job.max_new_tokens) == (1024, 1024)
    assert own(job, PPOConfig, "model") == own(PPOConfig(model=job.model, prompts=["prompts.jsonl"]), PPOConfig, "model")
    assert (job.hooks, job.tasks) == (HooksConfig(), {})


@pytest.mark.parametrize("model", OTHERS)
def test_best_of_n_with_any_other_model_gets_the_defaults_of_the_dataclasses(model: str) -> None:
    job = bon_of(*real(model))
    assert (job.pool.n, job.pool.temperature, job.pool.max_new_tokens) == (16, 1.0, 1024)
    assert (job.pool, job.pools, job.hooks, job.tasks) == (PoolConfig(), "", HooksConfig(), {})


@pytest.mark.parametrize("model", OTHERS)
@pytest.mark.parametrize(
    ("name", "needed"), [("rm", ["data.paths=[x.jsonl]"]), ("ppo", ["prompts=[x.jsonl]", "reward.path=x"]), ("bon", [])]
)
def test_nothing_of_the_embedded_world_reaches_any_other_model(name: str, needed: list[str], model: str) -> None:
    text = composed(SCHEMAS[name], real(model, *needed)).yaml
    assert "${world}" not in text
    assert "microworld" not in text


def test_a_job_on_a_model_of_the_field_asks_for_its_data_by_key() -> None:
    with pytest.raises(ConfigError, match=r"data\.paths is empty; .*'data\.paths=\[pairs\.jsonl\]'"):
        composed(RMJob, real("custom"))
    with pytest.raises(ConfigError, match=r"prompts is empty; .*'prompts=\[pairs\.jsonl\]'"):
        composed(PPOJob, real("smollm2", "reward.path=x"))


# The embedded world's models


@pytest.mark.parametrize("overrides", [[], ["model=coast"], ["model=ridge"]], ids=["nothing", "coast", "ridge"])
def test_a_reward_model_on_the_embedded_world_is_a_quick_run(overrides: list[str]) -> None:
    job = rm_of(*overrides)
    assert job.model == ModelConfig(path=f"{WORLD}/policies/{'ridge' if 'model=ridge' in overrides else 'coast'}")
    assert job.data.name == "union"
    assert job.data.paths == [f"{WORLD}/preferences/atlas.jsonl", f"{WORLD}/preferences/harbor.jsonl"]
    assert job.data.decontaminate == Decontaminate.ignore
    assert job.optim == OptimConfig(lr=1e-3, schedule=Schedule.linear, warmup_ratio=0.0, weight_decay=0.0, adam_eps=1e-5, max_grad_norm=1.0)
    assert (job.batch_size, job.max_length, job.micro_batch_tokens, job.micro_batch_size, job.epochs) == (16, 256, 8192, None, 1)
    assert (job.num_checkpoints, job.log_every, job.seed, job.lora) == (3, 10, 0, LoraConfig())
    assert (job.hooks.rewardbench2, job.hooks.rewardbench1, job.hooks.pools, job.hooks.best_of) == (
        f"{WORLD}/benchmark/rewardbench2.jsonl", f"{WORLD}/benchmark/rewardbench1.jsonl", f"{WORLD}/pools", [16],
    )  # fmt: skip
    assert job.tasks == {}


@pytest.mark.parametrize("overrides", [[], ["model=ridge"]], ids=["nothing", "ridge"])
def test_ppo_on_the_embedded_world_is_a_quick_run(overrides: list[str]) -> None:
    job = ppo_of(*overrides)
    assert job.prompts == [f"{WORLD}/preferences/atlas.jsonl", f"{WORLD}/preferences/harbor.jsonl"]
    assert (job.optim.lr, job.critic_lr, job.num_batches, job.epochs, job.num_checkpoints) == (3e-4, 1e-3, 60, 2, 4)
    assert (job.batch_size, job.minibatch_size, job.micro_batch_size) == (128, 64, 64)
    assert (job.max_prompt_length, job.max_new_tokens, job.temperature) == (1024, 24, 1.0)
    assert job.shaping == ShapingConfig(
        center=Center.reference, scale=Scale.reference, clip=5.0, missing_eos=MissingEOSConfig(how=MissingEOS.replace, value=-3.0)
    )
    assert (job.rollout, job.best_metric) == (RolloutConfig(batch_size=512), "downstream/average")
    assert list(job.tasks) == ["facts", "lists", "sums", "requests", "topics", "choices"]
    assert (job.hooks.downstream.max_new_tokens, job.hooks.downstream.n, job.hooks.downstream.temperature) == (24, 4, 1.0)


def test_best_of_n_on_the_embedded_world_is_a_quick_run() -> None:
    job = bon_of()
    assert (job.pools, job.pool.n, job.pool.max_new_tokens, job.sizes) == (f"{WORLD}/pools", 16, 24, [1, 2, 4, 8, 16])
    assert list(job.tasks) == ["facts", "lists", "sums", "requests", "topics", "choices"]
    assert (job.hooks.rewardbench2, job.hooks.pools) == ("", "")


# Who wins


def test_the_command_line_wins_over_the_toy_sizes() -> None:
    job = rm_of("optim.lr=2e-5", "batch_size=32", "data=tulu", "hooks=none")
    assert (job.optim.lr, job.batch_size, job.max_length, job.data.name) == (2e-5, 32, 256, "tulu")
    assert job.data.paths == []
    assert job.hooks == HooksConfig()


def test_the_preset_can_be_chosen_apart_from_the_model() -> None:
    twin = rm_of("model=custom", "model.path=my/twin", "preset=microworld")
    assert (twin.model.path, twin.optim.lr, twin.data.name, twin.hooks.pools) == ("my/twin", 1e-3, "union", f"{WORLD}/pools")
    full = rm_of("model=coast", "preset=none", "data=atlas")
    assert (full.model.path, full.optim.lr, full.hooks) == (f"{WORLD}/policies/coast", 3e-6, HooksConfig())


def test_a_sweep_over_models_gives_each_its_own_defaults() -> None:
    jobs = command(RMJob, ["model=coast,smollm2,ridge", "data=tulu"], multirun=True).jobs
    assert [(job.model.path, job.optim.lr, job.batch_size, job.hooks.pools) for job in jobs] == [
        (f"{WORLD}/policies/coast", 1e-3, 16, f"{WORLD}/pools"),
        ("pip:smollm2-135m", 3e-6, 128, ""),
        (f"{WORLD}/policies/ridge", 1e-3, 16, f"{WORLD}/pools"),
    ]


@pytest.mark.parametrize(
    "overrides",
    [
        ["model.path=org/name"],
        ["model=ridge", "model.path=org/name"],
        ["model={path: org/name}"],
        ["++model.path=org/name"],
        ["experiment=theirs"],
    ],
)
@pytest.mark.parametrize("job", [RMJob, PPOJob])
def test_another_model_does_not_get_the_toy_sizes_however_its_path_is_given(
    job: type[RMJob | PPOJob], overrides: list[str], tmp_path: Path
) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "theirs.yaml").write_text("# @package _global_\nmodel:\n  path: org/name\n")
    given = [f"hydra.searchpath=[file://{tmp_path}]", "reward.path=rm"] if job is PPOJob else [f"hydra.searchpath=[file://{tmp_path}]"]
    with pytest.raises(ConfigError, match=r"model\.path=org/name with model=.*choose model=custom"):
        composed(job, [*given, *overrides])


def test_a_sweep_is_refused_where_one_of_its_models_would_get_the_toy_sizes() -> None:
    with pytest.raises(ConfigError, match=r"model\.path=org/name with model=coast"):
        command(RMJob, ["model=coast,custom", "model.path=org/name", "data=tulu"], multirun=True)
