"""Checkpoints that any tool loads: transformers from 4.46 on, and what stands on it, such as the official rewardbench tool.

transformers 5 writes some facts where transformers 4 does not look, which then falls back on defaults without a word: of
its rotary embeddings and so gives other rewards; of the tokenizer's class and so fails. Here these facts are written under
both names. transformers 5 reads its own names where it finds them.
"""

import copy
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from core.config import Quantize
from core.disk import write_json
from core.models.adapters import PACKED_BASE, adapter_state, adapter_tensors, injected_adapter
from core.models.locate import ADAPTER_CONFIG

if TYPE_CHECKING:
    import peft

_OLD_NAMES = {"gpt_neox": {"rope_theta": "rotary_emb_base", "partial_rotary_factor": "rotary_pct"}}
"""What transformers 4 calls the parameters of rotary embeddings, by type of model, where not by the names of today."""
_NEW_CLASS, _OLD_CLASS = "TokenizersBackend", "PreTrainedTokenizerFast"


def export_model(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, *, weights: Mapping[str, Tensor] | None = None
) -> None:
    """Writes a trained model and its tokenizer into `folder`, so that other tools load them with the same rewards.

    A whole model becomes a folder for `AutoModelForSequenceClassification.from_pretrained`; one with an adapter in it
    (`core.models.adapters.inject_adapter`) becomes an adapter folder of peft, with the head, which needs its base to be where it was.
    To load that by peft's own classes, say what the base does not know, as peft asks everyone: `num_labels=1`, and set
    `model.config.pad_token_id` to the tokenizer's before padding; `core.models.load.load_reward_model` does both. And where the
    base was packed in training (`model.quantize`), peft must load it packed alike for the same rewards, with transformers'
    `BitsAndBytesConfig`; to give such a model away, load it by `load_reward_model`, which merges it, and export that.

    `weights` is the model's whole state dict, in its own names and not sharded, where the tensors of `model` itself hold
    less than that: under FSDP2 or ZeRO-3, where one process gathers it and calls this. It is taken in the number format
    that it is in.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not torch.cuda.is_available():
        # `save_pretrained` imports deepspeed where it is installed, which without this looks for a device, and says so.
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    adapter = injected_adapter(model)
    if adapter is None:
        _write_model(model, folder, weights)
    else:
        _write_adapter(model, adapter, folder, weights)
    _write_tokenizer(tokenizer, folder)


def read_weights(folder: Path) -> dict[str, Tensor]:
    """What `export_model` wrote into `folder`, by the names of the model's state dict, to go on with training from there.

    Of a model with an adapter in it these are the adapter's weights and the head, all that was trained. Raises `ValueError`
    where there are no weights.
    """
    from safetensors.torch import load_file

    if (folder / ADAPTER_CONFIG).is_file():
        return adapter_state(load_file(folder / "adapter_model.safetensors"))
    files = sorted(folder.glob("model*.safetensors"))
    if not files:
        raise ValueError(f"{folder} holds no model.safetensors; name the folder of a checkpoint.")
    return {name: weight for file in files for name, weight in load_file(file).items()}


def _write_model(model: PreTrainedModel, folder: Path, weights: Mapping[str, Tensor] | None) -> None:
    model.save_pretrained(folder, state_dict=None if weights is None else dict(weights))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    held = next((str(w.dtype).removeprefix("torch.") for w in (weights or {}).values() if w.is_floating_point()), config.get("dtype"))
    write_json(folder / "config.json", with_transformers4_names(config | {"dtype": held}))


def with_transformers4_names(config: Mapping[str, Any]) -> dict[str, Any]:
    """A model's `config.json`, with the names that transformers 4 reads beside those of transformers 5.

    >>> old = with_transformers4_names({"dtype": "float32", "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}})
    >>> old["torch_dtype"], old["rope_theta"], old["rope_scaling"]
    ('float32', 500000.0, None)

    Where layers of full attention and of a sliding window have parameters of their own, the names are Gemma 3's.
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
    if kind == "longrope":  # Phi 3, which refuses any other key
        scaling = {"type": kind, "short_factor": rope["short_factor"], "long_factor": rope["long_factor"]}
    old["rope_scaling"] = scaling if kind != "default" else None
    return old


def _has_rope(value: Any) -> bool:
    """Whether a part of a configuration is the configuration of a part of the model, with rotary embeddings."""
    return isinstance(value, Mapping) and "rope_parameters" in value


def _write_adapter(model: PreTrainedModel, adapter: "peft.LoraConfig", folder: Path, weights: Mapping[str, Tensor] | None) -> None:
    from safetensors.torch import save_file

    tensors = {name: weight.detach().cpu().contiguous() for name, weight in adapter_tensors(model, weights).items()}
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = copy.copy(adapter)
    config.inference_mode = True  # what peft writes: whoever loads it says whether to train on
    config.save_pretrained(str(folder))
    file = folder / "adapter_config.json"
    written = json.loads(file.read_text(encoding="utf-8"))
    # peft holds the names in a set, whose order differs from process to process.
    write_json(file, written | {"target_modules": sorted(written["target_modules"])})
    (folder / PACKED_BASE).unlink(missing_ok=True)  # of an earlier model in the same folder
    if "quantization_config" in vars(model.config):
        write_json(folder / PACKED_BASE, {"quantize": Quantize.nf4})  # the one way there is


def _write_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    tokenizer.save_pretrained(folder)
    file = folder / "tokenizer_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    if config.get("tokenizer_class") == _NEW_CLASS:
        config["tokenizer_class"] = _OLD_CLASS
    elif tokenizer.bos_token_id is not None and tokenizer("a")["input_ids"][:1] != [tokenizer.bos_token_id]:
        config.setdefault("add_bos_token", False)  # else those classes of transformers 4 that add it unasked, Llama's for one, do
    # A class of that name gives token types in transformers 4 unless told otherwise, which decoders refuse.
    config["model_input_names"] = list(tokenizer.model_input_names)
    if isinstance(config.get("extra_special_tokens"), list):
        config["additional_special_tokens"] = config.pop("extra_special_tokens")
    if tokenizer.chat_template is not None:
        config["chat_template"] = tokenizer.chat_template  # beside the file, which tools before transformers 4.52 may overlook
    write_json(file, config)
