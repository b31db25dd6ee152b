"""LoRA adapters in peft's format: injected into a model for training, found on disk, and merged into their base.

In training an adapter lives inside the model, without a wrapper, so that body, head and attention functions stay where they
always are. When loaded for anything else it is merged, so that all other code sees a plain model.
"""

import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.config import LoraConfig, ModelConfig, Quantize
from core.data.fingerprint import fingerprint
from core.models.locate import ADAPTER_CONFIG, ModelLocation, find_file, locate, resolve

if TYPE_CHECKING:
    import peft
    from torch import Generator, Tensor
    from transformers import PreTrainedModel

HEAD = "score"
"""The linear layer of a classifier that is trained whole beside its adapter."""
PACKED_BASE = "packed_base.json"
"""Our own file in an adapter's folder: how the weights of its base were packed in training, which peft does not note."""
_NAME = "default"
"""What peft calls an adapter that nobody named."""
_PREFIX = "base_model.model."
"""What peft writes before the name of every weight."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Adapter:
    """An adapter and the model that it was trained on; `task` is peft's name for the kind of model, "SEQ_CLS" or "CAUSAL_LM".

    `quantize` says how the weights of the base were packed in training.

    >>> Adapter(source=ModelLocation(path="org/lora"), base=ModelLocation(path="org/name", revision="v1.0"), task="SEQ_CLS").base.path
    'org/name'
    """

    source: ModelLocation
    base: ModelLocation
    task: str
    quantize: Quantize = Quantize.none


def find_adapter(source: ModelLocation) -> Adapter | None:
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
    packed = find_file(source, PACKED_BASE)
    quantize = Quantize.none if packed is None else Quantize(json.loads(packed.read_text(encoding="utf-8"))["quantize"])
    return Adapter(source=source, base=base, task=found.get("task_type") or "", quantize=quantize)


def model_fingerprint(config: ModelConfig, key: str = "model.path") -> Any:
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


def require_no_adapter(config: ModelConfig, lora: LoraConfig) -> None:
    """Raises `ValueError` for a new adapter on a model that is an adapter itself: nothing could load what it would be saved as."""
    if lora.rank and find_adapter(locate(config)) is not None:
        raise ValueError(f"lora.rank={lora.rank} on {config.path}, an adapter itself; save the merged model and name its folder.")


def inject_adapter(model: "PreTrainedModel", lora: LoraConfig, *, base: ModelLocation, draw: "Generator") -> None:
    """Puts an adapter into `model`, in place: the linear layers of its body become peft's, a classifier's head stays the layer it is.

    Afterwards A, B and that head require gradients, and nothing else. A is drawn from U(-1/sqrt(n), 1/sqrt(n)) for n inputs
    and B is zero, as in peft: at first the model is what it was. Both are held in fp32, whatever the base is held in.
    `base` is where the weights of the model lie, for those who load the adapter. Raises `ValueError` for a name in
    `lora.targets` that no linear layer of the body has.
    """
    import torch
    from peft import LoraConfig as PeftConfig
    from peft import TaskType

    linear = _linear_layers(model)
    _require_targets(lora.targets, linear, type(model).__name__)
    has_head = any(name == HEAD for name, _ in model.named_children())
    config = PeftConfig(
        task_type=TaskType.SEQ_CLS if has_head else TaskType.CAUSAL_LM,
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # annotated as whole, and used as a factor
        lora_dropout=lora.dropout,
        target_modules=lora.targets or sorted({name.rpartition(".")[2] for name in linear}),
    )
    model.add_adapter(config, _NAME)
    folder = Path(base.path)
    config.base_model_name_or_path = str(folder.resolve()) if folder.is_dir() else base.path
    config.revision = base.revision
    # Set afterwards: the head needs no copy beside an original. But whoever loads the adapter must know that it has one.
    config.modules_to_save = [HEAD] if has_head else None
    for name, weight in model.named_parameters():
        if ".lora_A." in name:
            bound = weight.shape[1] ** -0.5
            drawn = torch.empty(weight.shape).uniform_(-bound, bound, generator=draw)
            weight.data = drawn.to(weight.device)
        elif ".lora_B." in name:
            weight.data = weight.data.float()
        else:
            weight.requires_grad_(name.startswith(f"{HEAD}."))


def injected_adapter(model: "PreTrainedModel") -> "peft.LoraConfig | None":
    """peft's configuration of the adapter in a model, None where it has none."""
    return vars(model).get("peft_config", {}).get(_NAME)


def adapter_tensors(model: "PreTrainedModel", weights: "Mapping[str, Tensor] | None" = None) -> "dict[str, Tensor]":
    """What the adapter in a model has learned, under peft's names: A and B of every layer, and the head.

    `weights` is the model's state dict, or what matters of it; empty: the model's own.
    """
    from peft import get_peft_model_state_dict

    found = dict(model.state_dict() if weights is None else weights)
    # Embeddings that took a pad token are not among it: they are frozen, and made again from the tokenizer.
    tensors = get_peft_model_state_dict(model, state_dict=found, adapter_name=_NAME, save_embedding_layers=False)
    tensors |= {name: weight for name, weight in found.items() if name.startswith(f"{HEAD}.")}
    return {_PREFIX + name: weight for name, weight in tensors.items()}


def adapter_state(tensors: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
    """The reverse of `adapter_tensors`: by the names of the state dict of a model with an adapter in it."""
    own = {name.removeprefix(_PREFIX): weight for name, weight in tensors.items()}
    return {re.sub(r"\.(lora_[AB])\.", rf".\1.{_NAME}.", name): weight for name, weight in own.items()}


def _linear_layers(model: "PreTrainedModel") -> set[str]:
    """The names of the linear layers of a model's body; packed layers are linear too."""
    from torch import nn

    return {name for name, module in model.base_model.named_modules() if isinstance(module, nn.Linear)}


def _require_targets(targets: list[str], linear: set[str], model: str) -> None:
    for target in targets:
        if not any(f".{name}".endswith(f".{target}") for name in linear):
            known = ", ".join(sorted({name.rpartition(".")[2] for name in linear}))
            raise ValueError(f"lora.targets names {target!r}, but the linear layers of a {model} are {known}; choose among them.")


def merge_adapter(model: "PreTrainedModel", adapter: Adapter, weights: "Mapping[str, Tensor]") -> "PreTrainedModel":
    """`model`, changed in place: the adapter's updates added to its weights, and the weights saved whole in place of its own.

    The embeddings take the number of tokens that the adapter's have. Raises `ValueError` where the adapter does not fit.
    """
    from peft import LoraConfig as PeftConfig
    from peft import PeftModel

    _match_vocabulary(model, weights)
    whole = {name: weights[name] for name, _ in model.named_parameters() if name in weights}
    for name, weight in whole.items():
        if weight.shape != model.get_parameter(name).shape:
            shapes = f"{tuple(weight.shape)} where its base, {adapter.base.path}, has {tuple(model.get_parameter(name).shape)}"
            raise ValueError(f"the {name} of the adapter {adapter.source.path} has the shape {shapes}; it belongs to another model.")
    config = PeftConfig.from_pretrained(adapter.source.path, revision=adapter.source.revision)
    assert isinstance(config, PeftConfig)
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
