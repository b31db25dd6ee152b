"""TRL's trainer for RLOO and GRPO, with our policy, prompts and reward."""

import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState
from datasets import Dataset
from peft import PeftModel
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.rloo_config import RLOOConfig
from trl.trainer.rloo_trainer import RLOOTrainer
from trl.trainer.utils import add_fused_lm_head

from core.config import Dtype
from core.data.chat import encode_prompts
from core.data.turn_ends import turn_ends
from core.hooks.run_context import RunContext
from core.models.adapters import require_no_adapter
from core.models.load import load_policy
from core.models.locate import locate
from core.models.logprobs import compute_head_in_fp32
from core.models.modes import require_equal_modes
from core.models.positions import require_room
from core.records import Dialogue
from ppo.config import PPOConfig
from ppo.critic_free.arguments import peft_arguments, trl_arguments
from ppo.critic_free.served import Draw, ServedGRPOTrainer, ServedRLOOTrainer
from ppo.prompts import batch_prompts, fitting_prompts


@contextmanager
def own_forward(model: PreTrainedModel) -> Generator[None]:
    """Context in which a model in training computes by its own forward pass.

    For training in bf16 accelerate puts one in its place that is always under autocast, whatever surrounds it.
    """
    prepared = vars(model).pop("forward", None)
    try:
        yield
    finally:
        if prepared is not None:
            vars(model)["forward"] = prepared


def load_trainable(config: PPOConfig) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The policy in fp32, where small steps are not lost, and its tokenizer. Raises `ValueError` for a new adapter on an adapter."""
    require_no_adapter(config.model, config.lora)
    policy, tokenizer = load_policy(replace(config.model, dtype=Dtype.fp32))
    require_equal_modes(policy)
    return policy, tokenizer


def usable_prompts(
    prompts: Sequence[Dialogue], policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: PPOConfig, run: RunContext
) -> list[Dialogue]:
    """The prompts that fit (`ppo.prompts.fitting_prompts`).

    Raises `ValueError` if the policy has no positions for their answers, and if TRL would give it other tokens than the rest of this
    project does.
    """
    if rich := next((prompt for prompt in prompts if any(turn.fields for turn in prompt)), None):
        raise ValueError(
            f"algo={config.algo}: TRL is handed role and content of each turn alone, and the prompt {rich[-1].content!r:.80} has tools or "
            "tool calls; leave such prompts out, or use algo=ppo."
        )
    fitting, longest = fitting_prompts(prompts, tokenizer, config, run.world, run.progress)
    require_room(policy, longest, config.max_new_tokens)
    rendered: Any = tokenizer.apply_chat_template(_messages(prompts[0]), add_generation_prompt=True, return_dict=True)
    if rendered["input_ids"] != encode_prompts(tokenizer, prompts[:1])[0]:
        raise ValueError(
            f"{config.model.path}: its chat template leaves BOS to the tokenizer, but TRL adds none; put {{{{ bos_token }}}} at the "
            "beginning of tokenizer.chat_template, or use algo=ppo."
        )
    return fitting


def open_trainer(
    config: PPOConfig,
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Dialogue],
    *,
    reward: Callable[..., list[float]],
    scratch: Path,
    draw: Draw | None = None,
) -> RLOOTrainer | GRPOTrainer:
    """TRL's trainer of `config.algo`, with the prompts of the whole run in order; it trains `policy` in place.

    Completions are those that `draw` gives, or sampled by TRL. The policy's generation config is replaced by one that names all ends
    of a turn, and nothing else.
    """
    AcceleratorState._reset_state(reset_partial_state=True)  # pyright: ignore[reportPrivateUsage]  # an earlier job in this process may have used another precision
    asked = [prompt for step in range(1, config.num_batches + 1) for prompt in group_prompts(prompts, step, config)]
    args = trl_arguments(config, scratch, on_cpu=not torch.cuda.is_available())
    parts: dict[str, Any] = {
        "model": policy,
        "reward_funcs": reward,
        "train_dataset": Dataset.from_list([{"prompt": _messages(prompt)} for prompt in asked]),
        "processing_class": tokenizer,
        "peft_config": peft_arguments(config.lora, policy),
    }
    # TRL reads here what ends an answer. A config of its own, since transformers refuses to save many published ones once changed.
    policy.generation_config = GenerationConfig(eos_token_id=sorted(turn_ends(policy, tokenizer)))
    with old_names():
        trainer = _opened(args, parts, draw)
    _compute_heads_in_fp32(trainer)
    if config.lora.rank:
        source = locate(config.model)
        assert isinstance(trainer.model, PeftModel)
        adapter = trainer.model.peft_config["default"]
        adapter.base_model_name_or_path = str(Path(source.path).resolve()) if Path(source.path).is_dir() else source.path
        adapter.revision = source.revision
    else:
        assert isinstance(trainer.ref_model, PreTrainedModel)
        _align(trainer.ref_model, policy)
    return trainer


def _opened(args: RLOOConfig | GRPOConfig, parts: Mapping[str, Any], draw: Draw | None) -> RLOOTrainer | GRPOTrainer:
    if draw is None:
        return RLOOTrainer(args=args, **parts) if isinstance(args, RLOOConfig) else GRPOTrainer(args=args, **parts)
    if isinstance(args, RLOOConfig):
        trainer = ServedRLOOTrainer(args=args, **parts)
    else:
        trainer = ServedGRPOTrainer(args=args, **parts)
        # Only now: it opens no client of TRL's, and lets the weights of tokens be computed from the server's log-probabilities.
        trainer.use_vllm = True
    trainer.draw = draw
    return trainer


def _compute_heads_in_fp32(trainer: RLOOTrainer | GRPOTrainer) -> None:
    """Has TRL compute log-probabilities in fp32: it multiplies by the head's weight itself, past `LanguageHead`, in the format of autocast.

    GRPO's own setting for that (cast_lm_head_to_fp32) also changes the embeddings, and RLOO has none.
    """
    policy = trainer.model.get_base_model() if isinstance(trainer.model, PeftModel) else trainer.model
    models: list[tuple[Any, tuple[str, ...]]] = [(policy, ("log_probs", "entropy")), (trainer.ref_model, ("log_probs",))]
    for model, outputs in models:
        if model is not None:
            add_fused_lm_head(model, temperature=trainer.temperature, cast_lm_head_to_fp32=True, outputs=outputs)


def group_prompts(prompts: Sequence[Dialogue], step: int, config: PPOConfig) -> list[Dialogue]:
    """The prompts of rollout batch `step`, one per group, in PPO's order (`ppo.prompts.batch_prompts`)."""
    num = config.batch_size // config.group_size
    return batch_prompts(prompts, step, replace(config, batch_size=num, minibatch_size=num, micro_batch_size=num))


@contextmanager
def old_names() -> Generator[None]:
    """Suppresses the warning about an attribute that TRL and peft access in transformers by its old name."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
        yield


def _align(reference: PreTrainedModel, policy: PreTrainedModel) -> None:
    """Copies the policy's weights: TRL loads the reference from its folder, but the policy may have been merged."""
    rows = len(policy.get_input_embeddings().get_parameter("weight"))
    if len(reference.get_input_embeddings().get_parameter("weight")) != rows:
        reference.resize_token_embeddings(rows, mean_resizing=False)
    reference.load_state_dict(policy.state_dict())
    compute_head_in_fp32(reference)


def _messages(dialogue: Dialogue) -> list[dict[str, str]]:
    assert not any(turn.fields for turn in dialogue), "usable_prompts refuses them"
    return [{"role": turn.role, "content": turn.content} for turn in dialogue]
