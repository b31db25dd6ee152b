"""How a configuration of PPO translates to RLOO and GRPO as run by TRL, and what is not supported there."""

import os
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.config import Dtype, EngineKind, LoraConfig, Quantize, RolloutKind, Schedule, engine_for
from core.models.adapters import target_names
from ppo.config import Algo, KLConfig, KLEstimator, KLPlace, PPOConfig

if TYPE_CHECKING:
    import peft
    from transformers import PreTrainedModel
    from trl.trainer.grpo_config import GRPOConfig
    from trl.trainer.rloo_config import RLOOConfig

NO_CRITIC = ("critic", "critic_lr", "value_clip", "value_coef", "lam")
"""Keys that concern only a critic and have no effect without one."""
MEASURE_ONLY = 1e-12
"""In place of kl.beta=0, with which TRL loads no reference and measures no KL. Its share of a reward or loss is below rounding."""


_DEFAULT_CAP = next(field.default for field in fields(PPOConfig) if field.name == "importance_cap")


def require_supported(config: PPOConfig) -> None:
    """Raises `ValueError`, naming key and remedy, for settings that `config.algo` as run by TRL cannot honour."""
    for wrong, message in (*_refused(config), *_refused_by_algo(config)):
        if wrong:
            raise ValueError(f"algo={config.algo}: {message}")
    engine_for(config.engine.kind, num_processes())


def num_processes() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def ignored_settings(config: PPOConfig) -> str | None:
    """A line for the user that names the keys that were set but have no effect, if there are any."""
    defaults = PPOConfig(model=config.model, prompts=config.prompts)
    vain = [f"{key}={getattr(config, key)}" for key in NO_CRITIC if getattr(config, key) != getattr(defaults, key)]
    return f"algo={config.algo} has no critic; these have no effect: {', '.join(vain)}" if vain else None


def _refused(config: PPOConfig) -> list[tuple[bool, str]]:
    """What neither algorithm supports, each with whether it was requested."""
    size, group, kl = config.batch_size, config.group_size, config.kl
    processes, together = num_processes(), config.micro_batch_size * num_processes()
    served = config.rollout.kind == RolloutKind.vllm
    return [
        (group < 2, f"group_size={group} leaves a completion nothing to be compared with; choose 2 or more."),
        (size % group != 0, f"batch_size={size} is no multiple of group_size={group}; set group_size to a divisor of batch_size."),
        (config.gamma != 1, f"gamma={config.gamma} discounts towards a critic, and there is none; leave it at 1, or use algo=ppo."),
        (config.value_warmup > 0, f"value_warmup={config.value_warmup} trains a critic, and there is none; set it to 0."),
        (
            config.importance_cap not in (None, _DEFAULT_CAP) and not (served and config.algo == Algo.grpo),
            f"importance_cap={config.importance_cap} corrects for another engine, which is for algo=grpo with rollout.kind=vllm; leave it "
            "out.",
        ),
        (kl.target is not None, f"kl.target={kl.target} adapts the coefficient, which TRL keeps fixed; leave it out, or use algo=ppo."),
        (
            config.rollout.kind == RolloutKind.continuous,
            f"rollout={config.rollout.kind} is for algo=ppo; use rollout.kind=transformers or vllm.",
        ),
        (
            not served and config.rollout.batch_size < size and config.rollout.batch_size != type(config.rollout)().batch_size,
            f"rollout.batch_size={config.rollout.batch_size} is below batch_size={size}, which TRL samples at once; lower batch_size.",
        ),
        (
            config.engine.kind not in (EngineKind.auto, EngineKind.single, EngineKind.ddp),
            f"every process holds the whole policy; engine={config.engine.kind} is for algo=ppo, so choose ddp.",
        ),
        (
            config.minibatch_size % together != 0,
            f"minibatch_size={config.minibatch_size} is no multiple of micro_batch_size={config.micro_batch_size} on each of {processes} "
            f"processes, {together} in all; raise it, or lower micro_batch_size.",
        ),
        (config.model.quantize != Quantize.none, f"model.quantize={config.model.quantize} is not supported; leave it out."),
        (config.model.liger, "model.liger is not supported; leave it out."),
    ]


def _refused_by_algo(config: PPOConfig) -> list[tuple[bool, str]]:
    """What is not supported by one of the algorithms."""
    kl, default = (config.kl.place, config.kl.estimator), (KLConfig().place, KLConfig().estimator)
    asked = f"kl.place={kl[0]} kl.estimator={kl[1]}"
    if config.algo == Algo.rloo:
        return [
            (kl != default, f"the KL is part of the reward, by k1 (Ahmadian et al. 2024); leave out {asked}, or use algo=ppo."),
            (config.dual_clip is not None, f"dual_clip={config.dual_clip} has no counterpart; leave it out, or use algo=grpo."),
            (config.entropy_coef > 0, f"entropy_coef={config.entropy_coef} has no counterpart; leave it out, or use algo=grpo."),
        ]
    bound = 1 + config.clip
    return [
        (
            kl not in (default, (KLPlace.loss, KLEstimator.k3)),
            f"the KL is in the loss, by k3 (Shao et al. 2024, eq. 4), not {asked}; set kl.place=loss kl.estimator=k3, or use algo=ppo.",
        ),
        # TRL caps the ratio of good tokens too, which changes nothing only if the clip, at a lower ratio, has done so already.
        (
            config.dual_clip is not None and config.dual_clip <= bound,
            f"dual_clip={config.dual_clip} is not above 1 + clip = {bound:g}; raise it (usual: 3).",
        ),
    ]


def trl_arguments(config: PPOConfig, scratch: Path, *, on_cpu: bool) -> "RLOOConfig | GRPOConfig":
    """`config` as TRL's arguments; the trainer saves to `scratch`.

    The loss of RLOO is per completion (its ratio is that of the whole completion). GRPO uses TRL's loss_type "dapo": a mean
    over tokens, independent of micro batches; "bnpo" weighs by micro batch, "grpo" by completion, which favours short good
    ones and long bad ones (Yu et al. 2025, section 3.3). `whiten_advantages` divides by the standard deviation: of the group
    in GRPO (Shao et al. 2024, section 4.1.2), of the batch in RLOO.
    """
    from trl.trainer.grpo_config import GRPOConfig
    from trl.trainer.rloo_config import RLOOConfig

    common = _common(config, scratch, on_cpu=on_cpu)
    if config.algo == Algo.rloo:
        return RLOOConfig(**common, normalize_advantages=config.whiten_advantages)
    if config.rollout.kind == RolloutKind.vllm:
        common |= {"vllm_importance_sampling_correction": config.importance_cap is not None}
        common |= {"vllm_importance_sampling_mode": "token_truncate", "vllm_importance_sampling_clip_max": config.importance_cap}
    return GRPOConfig(
        **common,
        loss_type="dapo",
        scale_rewards="group" if config.whiten_advantages else "none",
        importance_sampling_level="token",
        delta=config.dual_clip,
        entropy_coef=config.entropy_coef,
    )


def _common(config: PPOConfig, scratch: Path, *, on_cpu: bool) -> dict[str, Any]:
    optim, steps = config.optim, config.num_updates
    schedule = "constant_with_warmup" if optim.schedule == Schedule.constant else str(optim.schedule)
    return {
        "output_dir": str(scratch),
        "seed": config.seed,
        "learning_rate": optim.lr,
        "lr_scheduler_type": schedule,
        "warmup_steps": round(optim.warmup_ratio * steps),
        "weight_decay": optim.weight_decay,
        "adam_epsilon": optim.adam_eps,
        "max_grad_norm": optim.max_grad_norm,
        "max_steps": steps,
        "per_device_train_batch_size": config.micro_batch_size,
        "gradient_accumulation_steps": config.minibatch_size // (config.micro_batch_size * num_processes()),
        "generation_batch_size": config.batch_size,
        "num_generations": config.group_size,
        "num_iterations": config.epochs,
        "max_completion_length": config.max_new_tokens,
        "temperature": config.temperature,
        "top_p": 1.0,
        "top_k": 0,
        "beta": config.kl.beta or MEASURE_ONLY,
        "epsilon": config.clip,
        "bf16": config.model.dtype == Dtype.bf16,
        "use_cpu": on_cpu,
        "dataloader_pin_memory": not on_cpu,
        "activation_checkpointing": config.gradient_checkpointing,
        "shuffle_dataset": False,  # the rows are in order already
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "no",  # a callback decides
        "report_to": "none",
        "disable_tqdm": True,
        "ddp_backend": "gloo" if on_cpu and num_processes() > 1 else None,
        "ddp_find_unused_parameters": False,
    }


def peft_arguments(lora: LoraConfig, policy: "PreTrainedModel") -> "peft.LoraConfig | None":
    """peft's configuration of an adapter on the policy; None if all weights are trained.

    Raises `ValueError` for a target that the policy does not have.
    """
    if not lora.rank:
        return None
    from peft import LoraConfig as PeftConfig
    from peft import TaskType

    _, transposed = target_names(policy, lora.targets)
    return PeftConfig(
        task_type=TaskType.CAUSAL_LM,
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # annotated as int, but used as a factor
        lora_dropout=lora.dropout,
        target_modules=list(lora.targets) or "all-linear",
        fan_in_fan_out=transposed,
    )
