"""LoRA adapters in peft's format: found, and merged into the model that they were trained on, so that all else sees a plain model."""

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.config import ModelConfig
from core.runs import fingerprint
from core.sources import ADAPTER_CONFIG, Source, find_file, locate, resolve

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

_PREFIX = "base_model.model."
"""What peft writes before the name of every weight."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Adapter:
    """An adapter and the model that it was trained on; `task` is peft's name for the kind of model, "SEQ_CLS" or "CAUSAL_LM".

    >>> Adapter(source=Source(path="org/lora"), base=Source(path="org/name", revision="v1.0"), task="SEQ_CLS").base.path
    'org/name'
    """

    source: Source
    base: Source
    task: str


def find_adapter(source: Source) -> Adapter | None:
    """The adapter at `source` with its base, None where `source` holds a whole model.

    Raises `ValueError` for a method other than LoRA, for a configuration that names no base, and for a base that does not
    exist or is an adapter itself.
    """
    file = find_file(source, ADAPTER_CONFIG)
    if file is None:
        return None
    found = json.loads(file.read_text(encoding="utf-8"))
    if found.get("peft_type") != "LORA":
        raise ValueError(f"{file}: peft_type={found.get('peft_type')} is not supported; only LORA adapters can be merged here.")
    path = found.get("base_model_name_or_path")
    if not path:
        raise ValueError(f"{file} names no base model; set base_model_name_or_path to the model that the adapter was trained on.")
    base = locate(ModelConfig(path=path, revision=found.get("revision")), f"{file}: base_model_name_or_path")
    if find_file(base, ADAPTER_CONFIG) is not None:
        raise ValueError(f"{file}: base_model_name_or_path={path} is an adapter itself; merge it into its own base and name the result.")
    return Adapter(source=source, base=base, task=found.get("task_type") or "")


def content_of(config: ModelConfig, key: str = "model.path") -> Any:
    """What a model is, for the identity of a run: its `fingerprint`, and with an adapter in a folder that of its base too."""
    own, source = fingerprint(resolve(config, key)), locate(config, key)
    adapter = find_adapter(source) if Path(source.path).is_dir() else None
    if adapter is None:
        return own
    return {"adapter": own, "base": fingerprint(resolve(ModelConfig(path=adapter.base.path, revision=adapter.base.revision)))}


def adapter_weights(adapter: Adapter) -> "dict[str, Tensor]":
    """The tensors of an adapter by name: its matrices, and whole weights under the names that they have in the base.

    Raises `ValueError` where the folder of an adapter holds no weights.
    """
    from peft.utils import load_peft_weights

    if all(find_file(adapter.source, f"adapter_model.{kind}") is None for kind in ("safetensors", "bin")):
        raise ValueError(f"{adapter.source.path} has an {ADAPTER_CONFIG} but no adapter_model.safetensors; save the adapter again.")
    weights = load_peft_weights(adapter.source.path, device="cpu", revision=adapter.source.revision)
    return {name.removeprefix(_PREFIX): weight for name, weight in weights.items()}


def merged(model: "PreTrainedModel", adapter: Adapter, weights: "Mapping[str, Tensor]") -> "PreTrainedModel":
    """`model`, changed in place: the adapter's updates added to its weights, and the weights saved whole in place of its own.

    The embeddings take the number of tokens that the adapter's have. Raises `ValueError` where the adapter does not fit.
    """
    from peft import LoraConfig, PeftModel

    _match_vocabulary(model, weights)
    whole = {name: weights[name] for name, _ in model.named_parameters() if name in weights}
    for name, weight in whole.items():
        if weight.shape != model.get_parameter(name).shape:
            shapes = f"{tuple(weight.shape)} where its base, {adapter.base.path}, has {tuple(model.get_parameter(name).shape)}"
            raise ValueError(f"the {name} of the adapter {adapter.source.path} has the shape {shapes}; it belongs to another model.")
    config = LoraConfig.from_pretrained(adapter.source.path, revision=adapter.source.revision)
    assert isinstance(config, LoraConfig)
    # What was saved whole goes straight into the model, whether or not the configuration lists it: a trained head must not
    # get lost. And for a task peft asks more of the model than merging takes, for instance that it can generate.
    config.modules_to_save, config.task_type = None, None
    with warnings.catch_warnings():
        # peft asks transformers for an attribute under its old name.
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
        try:
            wrapped = PeftModel.from_pretrained(
                model, adapter.source.path, config=config, revision=adapter.source.revision, torch_device="cpu"
            )
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:300]
            raise ValueError(f"the adapter {adapter.source.path} does not fit its base, {adapter.base.path}: {reason}") from error
    plain = wrapped.merge_and_unload()
    # By name once more: where LoRA wraps a module that was saved whole, peft does not find the place of its weight.
    plain.load_state_dict(whole, strict=False)
    return plain.requires_grad_(True)  # peft freezes what it wraps, and a policy from here may be trained


def _match_vocabulary(model: "PreTrainedModel", weights: "Mapping[str, Tensor]") -> None:
    """Gives the embeddings as many rows as those saved with an adapter, where there are any."""
    embeddings = model.get_input_embeddings().get_parameter("weight")
    for name, parameter in model.named_parameters():
        saved = weights.get(name, weights.get(f"{name.removesuffix('.weight')}.base_layer.weight"))
        if parameter is embeddings and saved is not None and len(saved) != len(embeddings):
            model.resize_token_embeddings(len(saved), mean_resizing=False)
            return
