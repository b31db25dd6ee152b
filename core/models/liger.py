"""Liger's kernels for the body of a reward model in training."""

from importlib import util

import torch
from transformers import AutoConfig, PreTrainedModel

from core.config import ModelConfig
from core.models.adapters import find_adapter
from core.models.locate import locate


def require_liger(config: ModelConfig) -> None:
    """Raises `ValueError` if Liger cannot be used: no package, no CUDA device, or an unsupported architecture."""
    if util.find_spec("liger_kernel") is None:
        raise ValueError("model.liger needs the package liger-kernel; run `pip install 'rewardloop[liger]'`, or leave it out.")
    if not torch.cuda.is_available():
        raise ValueError("model.liger needs a CUDA device, and there is none; leave it out.")
    from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN  # type: ignore[import-not-found]

    source = locate(config)
    adapter = find_adapter(source)
    source = source if adapter is None else adapter.base
    kind = AutoConfig.from_pretrained(source.path, revision=source.revision, trust_remote_code=False).get_text_config().model_type
    if kind not in MODEL_TYPE_TO_APPLY_LIGER_FN:
        raise ValueError(f"model.liger knows no models of type {kind!r}, such as {config.path}; leave it out.")


def apply_liger(model: PreTrainedModel) -> None:
    from liger_kernel.transformers import _apply_liger_kernel_to_instance  # type: ignore[import-not-found]

    # Only the body: Liger would give a classifier the forward pass of a language model.
    body = model.base_model
    try:
        _apply_liger_kernel_to_instance(model=body, cross_entropy=False, fused_linear_cross_entropy=False)
    except (AttributeError, TypeError, ValueError) as error:  # Liger supports the model type, but not its body alone
        raise ValueError(f"model.liger does not go with a {type(body).__name__} ({error}); leave it out.") from error
