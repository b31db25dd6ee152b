"""Checkpoints that any tool can load: transformers from 4.46 on and what builds on it, such as the official rewardbench tool.

transformers 5 stores some settings where transformers 4 does not look. The latter then silently falls back on defaults: for
rotary embeddings, which changes rewards, and for the tokenizer's class, which makes it fail. So these settings are written
under both names; transformers 5 prefers its own.
"""

import copy
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from core.config import Quantize
from core.disk import read_json, write_json
from core.models.adapters import PACKED_BASE, adapter_state, adapter_tensors, injected_adapter, is_trained
from core.models.locate import ADAPTER_CONFIG
from core.models.shards import write_weights

if TYPE_CHECKING:
    import peft

_OLD_NAMES = {"gpt_neox": {"rope_theta": "rotary_emb_base", "partial_rotary_factor": "rotary_pct"}}
"""Names of rotary-embedding parameters in transformers 4, for model types where they differ from today's."""
_SAVE_AGAIN = "it was written a moment ago, so the disk is not to be trusted"
_NEW_CLASS, _OLD_CLASS = "TokenizersBackend", "PreTrainedTokenizerFast"


def export_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    *,
    weights: Iterable[tuple[str, Tensor]] | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Writes a trained model and its tokenizer into `folder`, so that other tools compute the same rewards.

    A plain model becomes a folder for `AutoModelForSequenceClassification.from_pretrained`. One with an injected adapter
    (`core.models.adapters.inject_adapter`) becomes a peft adapter folder that includes the head and refers to the base.
    To load that with peft's own classes, pass `num_labels=1`, which the base does not know, and set
    `model.config.pad_token_id` to the tokenizer's before padding; `core.models.load.load_reward_model` does both. If the base
    was quantized in training (`model.quantize`), peft must load it with the same `BitsAndBytesConfig` to reproduce the
    rewards; to publish such a model, load it with `load_reward_model`, which merges it, and export the result.

    `weights` are those of the model's state dict, one at a time, needed where `model` itself is sharded (FSDP2, ZeRO-3): they are
    written as they are gathered (`core.models.shards`). They are written in `dtype`, by default in their own; an adapter's, which are
    few, always in their own.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = model.state_dict().items() if weights is None else weights
    adapter = injected_adapter(model)
    if adapter is None:
        _write_model(model, folder, weights, dtype)
    else:
        _write_adapter(model, adapter, folder, weights)
    _write_tokenizer(tokenizer, folder)


def export_formats(model: PreTrainedModel, dtype: torch.dtype) -> dict[str, torch.dtype]:
    """The formats to gather weights in for `export_model` with this `dtype`, by name; those not named are left as they are."""
    if injected_adapter(model) is not None:
        return {}
    return {name: dtype for name, weight in model.named_parameters(remove_duplicate=False) if weight.is_floating_point()}


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The weights that `export_model` wrote into `folder`, under state-dict names, to continue training from.

    For a model with an injected adapter these are the adapter's weights and the head, everything that was trained. Raises
    `ValueError` if there are no weights.
    """
    from safetensors.torch import load_file

    if (folder / ADAPTER_CONFIG).is_file():
        return adapter_state(load_file(folder / "adapter_model.safetensors"))
    files = sorted(folder.glob("model*.safetensors"))
    if not files:
        raise ValueError(f"{folder} holds no model.safetensors; name the folder of a checkpoint.")
    return {name: weight for file in files for name, weight in load_file(file).items()}


def _write_model(model: PreTrainedModel, folder: Path, weights: Iterable[tuple[str, Tensor]], dtype: torch.dtype | None) -> None:
    held = write_weights(model, weights, folder, dtype=dtype)
    model.config.architectures = [type(model).__name__.removeprefix("FSDP")]
    model.config.save_pretrained(folder)
    if model.can_generate():
        model.generation_config.save_pretrained(folder)
    config = read_json(folder / "config.json", remedy=_SAVE_AGAIN)
    write_json(folder / "config.json", with_transformers4_names(config | {"dtype": str(held).removeprefix("torch.")}))


def with_transformers4_names(config: Mapping[str, Any]) -> dict[str, Any]:
    """A model's `config.json` with the names that transformers 4 reads added to those of transformers 5.

    >>> old = with_transformers4_names({"dtype": "float32", "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}})
    >>> old["torch_dtype"], old["rope_theta"], old["rope_scaling"]
    ('float32', 500000.0, None)

    If full-attention and sliding-window layers have separate parameters, the names are Gemma 3's.
    """
    old: dict[str, Any] = {key: with_transformers4_names(value) if _has_rope(value) else value for key, value in config.items()}
    if old.get("dtype") is not None:
        old["torch_dtype"] = old["dtype"]
    rope = old.get("rope_parameters")
    if not rope:
        return old
    if isinstance(rope.get("sliding_attention"), Mapping):
        old["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        rope = rope["full_attention"]
    names = _OLD_NAMES.get(str(old.get("model_type")), {})
    moved = ("rope_theta", "partial_rotary_factor")
    for key in moved:
        if rope.get(key) is not None:
            old[names.get(key, key)] = rope[key]
    kind = rope.get("rope_type", "default")
    scaling = {key: value for key, value in rope.items() if key not in moved}
    if kind == "longrope":  # Phi 3 rejects any other key
        scaling = {"type": kind, "short_factor": rope["short_factor"], "long_factor": rope["long_factor"]}
    old["rope_scaling"] = scaling if kind != "default" else None
    return old


def _has_rope(value: object) -> TypeGuard[Mapping[str, Any]]:
    """Whether an entry is the configuration of a submodel with rotary embeddings."""
    return isinstance(value, Mapping) and "rope_parameters" in value


def _write_adapter(model: PreTrainedModel, adapter: "peft.LoraConfig", folder: Path, weights: Iterable[tuple[str, Tensor]]) -> None:
    from safetensors.torch import save_file

    own = {name: weight.detach().to("cpu", copy=True).contiguous() for name, weight in weights if is_trained(name)}
    tensors = adapter_tensors(model, own)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = copy.copy(adapter)
    config.inference_mode = True  # as peft writes it: whoever loads the adapter decides whether to train it
    config.save_pretrained(str(folder))
    file = folder / "adapter_config.json"
    written = read_json(file, remedy=_SAVE_AGAIN)
    # peft keeps the names in a set, whose order varies between processes.
    write_json(file, written | {"target_modules": sorted(written["target_modules"])})
    (folder / PACKED_BASE).unlink(missing_ok=True)  # left by an earlier model in this folder
    if "quantization_config" in vars(model.config):
        write_json(folder / PACKED_BASE, {"quantize": Quantize.nf4})  # the only kind


def _write_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    tokenizer.save_pretrained(folder)
    file = folder / "tokenizer_config.json"
    config = read_json(file, remedy=_SAVE_AGAIN)
    if config.get("tokenizer_class") == _NEW_CLASS:
        config["tokenizer_class"] = _OLD_CLASS
    elif tokenizer.bos_token_id is not None and tokenizer("a")["input_ids"][:1] != [tokenizer.bos_token_id]:
        config.setdefault("add_bos_token", False)  # some classes of transformers 4, such as Llama's, add it by default
    # In transformers 4 that class returns token types by default, which decoders reject.
    config["model_input_names"] = list(tokenizer.model_input_names)
    if isinstance(config.get("extra_special_tokens"), list):
        config["additional_special_tokens"] = config.pop("extra_special_tokens")
    if tokenizer.chat_template is not None:
        config["chat_template"] = tokenizer.chat_template  # also in its own file, which transformers before 4.52 may ignore
    write_json(file, config)
