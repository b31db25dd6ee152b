"""What a configuration of PPO means to TRL, and what TRL cannot do."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from core.config import EngineConfig, EngineKind, OptimConfig, RolloutConfig, RolloutKind
from ppo.config import Algo, KLConfig, KLEstimator, KLPlace, MissingEOS, MissingEOSConfig, PPOConfig, ShapingConfig
from ppo.critic_free.arguments import NO_CRITIC, ignored_settings, require_supported, trl_arguments
from tests.ppo.critic_free.runs import BOTH, config_of, run


@BOTH
def test_a_configuration_reaches_trl_key_by_key(algo: Algo) -> None:
    config = config_of(Path("."), algo, temperature=0.7, clip=0.3, seed=5, epochs=3, optim=OptimConfig(lr=2e-4, warmup_ratio=0.5))
    args = trl_arguments(config, Path("scratch"), on_cpu=True)
    assert config.updates_per_batch == 6  # three passes over two minibatches
    assert (args.max_steps, args.warmup_steps, args.learning_rate) == (24, 12, 2e-4)
    assert (args.generation_batch_size, args.num_generations, args.num_iterations) == (8, 4, 3)
    assert (args.per_device_train_batch_size, args.gradient_accumulation_steps, args.steps_per_generation) == (2, 2, 4)
    assert (args.temperature, args.top_p, args.top_k, args.max_completion_length) == (0.7, 1.0, 0, 6)
    assert (args.beta, args.epsilon, args.seed, args.bf16) == (0.05, 0.3, 5, False)
    assert (args.adam_epsilon, args.max_grad_norm, args.weight_decay, args.lr_scheduler_type) == (1e-5, 1.0, 0.0, "linear")


def test_what_the_algorithms_have_of_their_own_is_carried_over() -> None:
    grpo: Any = trl_arguments(config_of(Path("."), Algo.grpo, dual_clip=3.0, entropy_coef=0.01), Path("s"), on_cpu=True)
    assert (grpo.loss_type, grpo.scale_rewards, grpo.delta, grpo.entropy_coef) == ("dapo", "group", 3.0, 0.01)
    plain: Any = trl_arguments(config_of(Path("."), Algo.grpo, whiten_advantages=False), Path("s"), on_cpu=True)
    assert plain.scale_rewards == "none"
    rloo: Any = [trl_arguments(config_of(Path("."), Algo.rloo, whiten_advantages=w), Path("s"), on_cpu=True) for w in (True, False)]
    assert [args.normalize_advantages for args in rloo] == [True, False]


@pytest.mark.parametrize(
    ("algo", "options", "message"),
    [
        (Algo.grpo, {"group_size": 3}, "batch_size=8 is no multiple of group_size=3; set group_size to a divisor"),
        (Algo.rloo, {"group_size": 1}, "group_size=1 leaves a completion nothing to be compared with; choose 2"),
        (Algo.grpo, {"gamma": 0.9}, "gamma=0.9 discounts .* leave it at 1"),
        (Algo.grpo, {"value_warmup": 1}, "value_warmup=1 trains a critic.* set it to 0"),
        (Algo.grpo, {"importance_cap": 3.0}, "importance_cap=3.0 corrects .* rollout.kind=vllm; leave it out"),
        (Algo.grpo, {"kl": KLConfig(target=1.0)}, "kl.target=1.0 adapts .* leave it out"),
        (
            Algo.grpo,
            {"kl": KLConfig(place=KLPlace.loss, estimator=KLEstimator.k2)},
            "not kl.place=loss kl.estimator=k2; set kl.place=loss kl.estimator=k3",
        ),
        (Algo.rloo, {"kl": KLConfig(place=KLPlace.loss, estimator=KLEstimator.k3)}, "leave out kl.place=loss kl.estimator=k3"),
        (Algo.rloo, {"kl": KLConfig(estimator=KLEstimator.k3)}, "leave out kl.place=reward kl.estimator=k3"),
        (Algo.rloo, {"dual_clip": 3.0}, "dual_clip=3.0 has no counterpart.* algo=grpo"),
        (Algo.grpo, {"dual_clip": 1.1}, "dual_clip=1.1 is not above 1 \\+ clip = 1.2; raise it"),
        (Algo.rloo, {"entropy_coef": 0.1}, "entropy_coef=0.1 has no counterpart.* algo=grpo"),
        (Algo.grpo, {"rollout": RolloutConfig(kind=RolloutKind.continuous)}, "rollout=continuous is for algo=ppo"),
        (Algo.grpo, {"rollout": RolloutConfig(batch_size=4)}, "rollout.batch_size=4 is below batch_size=8"),
        (Algo.grpo, {"engine": EngineConfig(kind=EngineKind.fsdp2)}, "engine=fsdp2 is for algo=ppo, so choose ddp"),
    ],
)
def test_what_trl_cannot_do_is_refused_with_key_and_remedy_before_any_work(
    tmp_path: Path, algo: Algo, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=f"algo={algo}: .*{message}"):
        run(config_of(Path("no-such-policy"), algo, **options), tmp_path)


def test_several_processes_share_every_minibatch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    config = config_of(Path("."), Algo.grpo)
    require_supported(config)
    with pytest.raises(ValueError, match="minibatch_size=2 is no multiple of micro_batch_size=2 on each of 2 processes, 4 in all"):
        require_supported(replace(config, minibatch_size=2))
    with pytest.raises(ValueError, match=r"engine=single does not work with 2 process\(es\)"):
        require_supported(replace(config, engine=EngineConfig(kind=EngineKind.single)))


def test_a_server_s_probabilities_weigh_the_tokens_of_grpo_up_to_the_cap() -> None:
    server = RolloutConfig(kind=RolloutKind.vllm, url="http://x", folder="y")
    config = config_of(Path("."), Algo.grpo, rollout=server, importance_cap=1.5)
    require_supported(config)
    args: Any = trl_arguments(config, Path("s"), on_cpu=True)
    assert (args.vllm_importance_sampling_mode, args.vllm_importance_sampling_clip_max) == ("token_truncate", 1.5)
    with pytest.raises(ValueError, match=r"algo=rloo: importance_cap=1\.5 corrects"):
        require_supported(replace(config, algo=Algo.rloo))


@BOTH
def test_a_configuration_of_ppo_is_taken_as_it_is_but_for_the_algorithm(algo: Algo) -> None:
    shaping = ShapingConfig(missing_eos=MissingEOSConfig(how=MissingEOS.replace, value=-3.0))
    config = config_of(Path("."), algo, critic_lr=1e-3, lam=0.9, shaping=shaping, kl=KLConfig(stop=10.0))
    require_supported(config)
    assert ignored_settings(config) == f"algo={algo} has no critic; these have no effect: critic_lr=0.001, lam=0.9"


def test_keys_of_a_critic_are_told_to_be_without_effect() -> None:
    config = config_of(Path("."), Algo.grpo)
    assert ignored_settings(config) is None
    assert (
        ignored_settings(replace(config, critic_lr=1e-3, lam=1.0))
        == "algo=grpo has no critic; these have no effect: critic_lr=0.001, lam=1.0"
    )


def test_every_key_of_the_configuration_has_been_thought_of() -> None:
    # A new key must be carried over, refused or told to be without effect (ppo.critic_free.arguments), and then named here.
    carried = """model algo group_size lora prompts optim kl num_batches batch_size minibatch_size micro_batch_size epochs max_new_tokens
        max_prompt_length temperature clip dual_clip entropy_coef whiten_advantages shaping best_metric stop_after_falls num_checkpoints
        seed save_minutes gradient_checkpointing keep"""
    refused = "engine rollout gamma value_warmup importance_cap"
    assert {key.name for key in fields(PPOConfig)} == {*carried.split(), *refused.split(), *NO_CRITIC}
