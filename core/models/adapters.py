"""LoRA adapters in peft's format: injected into a model for training, found on disk, and merged into their base.

For training, an adapter is injected into the model without a wrapper, so that body, head and attention functions stay in
their usual places. For anything else it is merged, so that all other code sees a plain model.
"""

import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from core.config import LoraConfig, ModelConfig, Quantize
from core.data.fingerprint import fingerprint
from core.disk import read_json
from core.models.fit import LANGUAGE_HEADS, some
from core.models.locate import ADAPTER_CONFIG, ModelLocation, find_file, locate, resolve

if TYPE_CHECKING:
    import peft
    from torch import Generator, Tensor
    from torch.nn import Module
    from transformers import PreTrainedModel

HEAD = "score"
"""The classifier's linear layer, which is fully trained beside an adapter."""
PACKED_BASE = "packed_base.json"
"""Our own file in an adapter's folder: how its base was quantized in training, which peft does not record."""
_NAME = "default"
"""peft's name for an unnamed adapter."""
_PREFIX = "base_model.model."
"""peft's prefix of every weight's name."""
_IN_ADAPTED_LAYER = re.compile(rf"(?P<layer>.+)\.(?:(?P<part>base_layer)|(?P<low>lora_[AB])\.{_NAME})\.weight")
_SAVE_AGAIN = "save the adapter again"


@dataclass(frozen=True, kw_only=True, slots=True)
class Adapter:
    """An adapter and the model that it was trained on; `task` is peft's name for the kind of model, "SEQ_CLS" or "CAUSAL_LM".

    `quantize` is the quantization of the base in training.

    >>> Adapter(source=ModelLocation(path="org/lora"), base=ModelLocation(path="org/name", revision="v1.0"), task="SEQ_CLS").base.path
    'org/name'
    """

    source: ModelLocation
    base: ModelLocation
    task: str
    quantize: Quantize = Quantize.none


def find_adapter(source: ModelLocation) -> Adapter | None:
    """The adapter at `source` with its base, or None if `source` holds a full model.

    Raises `ValueError` for a method other than LoRA, for a configuration that names no base, and for a base that does not
    exist or is an adapter itself.
    """
    file = find_file(source, ADAPTER_CONFIG)
    if file is None:
        return None
    found = read_json(file, remedy=_SAVE_AGAIN)
    if found.get("peft_type") != "LORA":
        raise ValueError(f"{file}: peft_type={found.get('peft_type')} is not supported; only LORA adapters can be merged here.")
    path = found.get("base_model_name_or_path")
    if not path:
        raise ValueError(f"{file} names no base model; set base_model_name_or_path to the model that the adapter was trained on.")
    base = locate(ModelConfig(path=path, revision=found.get("revision")), f"{file}: base_model_name_or_path")
    if find_file(base, ADAPTER_CONFIG) is not None:
        raise ValueError(f"{file}: base_model_name_or_path={path} is an adapter itself; merge it into its own base and name the result.")
    packed = find_file(source, PACKED_BASE)
    quantize = Quantize.none if packed is None else Quantize(read_json(packed, remedy=_SAVE_AGAIN).get("quantize", ""))
    return Adapter(source=source, base=base, task=found.get("task_type") or "", quantize=quantize)


def model_fingerprint(config: ModelConfig, key: str = "model.path") -> str | dict[str, str]:
    """A model's `fingerprint` for a run's identity; for a local adapter, also that of its base."""
    own, source = fingerprint(resolve(config, key), model=True), locate(config, key)
    adapter = find_adapter(source) if Path(source.path).is_dir() else None
    if adapter is None:
        return own
    base = ModelConfig(path=adapter.base.path, revision=adapter.base.revision)
    return {"adapter": own, "base": fingerprint(resolve(base), model=True)}


def adapter_weights(adapter: Adapter) -> "dict[str, Tensor]":
    """An adapter's tensors by name: its low-rank matrices, and fully trained weights under their names in the base.

    Raises `ValueError` if the adapter's folder holds no weights.
    """
    from peft.utils import load_peft_weights

    if all(find_file(adapter.source, f"adapter_model.{kind}") is None for kind in ("safetensors", "bin")):
        raise ValueError(f"{adapter.source.path} has an {ADAPTER_CONFIG} but no adapter_model.safetensors; save the adapter again.")
    weights = load_peft_weights(adapter.source.path, device="cpu", revision=adapter.source.revision)
    return {name.removeprefix(_PREFIX): weight for name, weight in weights.items()}


def require_no_adapter(config: ModelConfig, lora: LoraConfig) -> None:
    """Raises `ValueError` for a new adapter on a model that is itself an adapter: no tool could load the result."""
    if lora.rank and find_adapter(locate(config)) is not None:
        raise ValueError(f"lora.rank={lora.rank} on {config.path}, an adapter itself; save the merged model and name its folder.")


def inject_adapter(model: "PreTrainedModel", lora: LoraConfig, *, base: ModelLocation, draw: "Generator") -> None:
    """Injects an adapter into `model` in place: linear layers of the body become peft's, a classifier's head stays as it is.

    Afterwards only A, B and that head require gradients. As in peft, A is drawn from U(-1/sqrt(n), 1/sqrt(n)) for n inputs
    and B is zero, so that at first the model is unchanged. Both are kept in fp32, whatever the base's data type. `base` is the
    location of the model's weights, recorded for those who load the adapter. Raises `ValueError` for a name in `lora.targets`
    that no linear layer of the body has.
    """
    import torch
    from peft import LoraConfig as PeftConfig
    from peft import TaskType

    names, transposed = target_names(model, lora.targets)
    has_head = any(name == HEAD for name, _ in model.named_children())
    config = PeftConfig(
        task_type=TaskType.SEQ_CLS if has_head else TaskType.CAUSAL_LM,
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # annotated as int, used as a factor
        lora_dropout=lora.dropout,
        target_modules=names,
        fan_in_fan_out=transposed,
    )
    model.add_adapter(config, _NAME)
    folder = Path(base.path)
    config.base_model_name_or_path = str(folder.resolve()) if folder.is_dir() else base.path
    config.revision = base.revision
    # Set only now: injection must not copy the head, but whoever loads the adapter must know that it has one.
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
    """peft's configuration of a model's injected adapter, None if it has none."""
    return vars(model).get("peft_config", {}).get(_NAME)


def adapter_tensors(model: "PreTrainedModel", weights: "Mapping[str, Tensor] | None" = None) -> "dict[str, Tensor]":
    """An injected adapter's trained tensors under peft's names: A and B of every layer, and the head.

    `weights` is the model's state dict, or its relevant part; None: taken from the model.
    """
    from peft import get_peft_model_state_dict

    found = dict(model.state_dict() if weights is None else weights)
    # Embeddings resized for a pad token are left out: they are frozen, and rebuilt from the tokenizer.
    tensors = get_peft_model_state_dict(model, state_dict=found, adapter_name=_NAME, save_embedding_layers=False)
    tensors |= {name: weight for name, weight in found.items() if name.startswith(f"{HEAD}.")}
    return {_PREFIX + name: weight for name, weight in tensors.items()}


def is_trained(name: str) -> bool:
    """Whether a weight of a model with an injected adapter belongs to what is trained, of which `adapter_tensors` makes the adapter."""
    return ".lora_" in name or name.startswith(f"{HEAD}.")


def adapter_state(tensors: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
    """The inverse of `adapter_tensors`: the tensors under the state-dict names of a model with an injected adapter."""
    own = {name.removeprefix(_PREFIX): weight for name, weight in tensors.items()}
    return {re.sub(r"\.(lora_[AB])\.", rf".\1.{_NAME}.", name): weight for name, weight in own.items()}


def merged_weights(weights: "Iterable[tuple[str, Tensor]]", model: "PreTrainedModel") -> "Iterator[tuple[str, Tensor]]":
    """The weights of `model`, one at a time, with the update of its injected adapter added, under the names of its base.

    A weight is held back, as a copy, until both matrices of its layer have come, which follow it in a state dict. Added in fp32,
    which the sum is returned in. A model without an adapter has its weights returned as they are.
    """
    adapter = injected_adapter(model)
    parts: dict[str, dict[str, Tensor]] = {}
    for name, weight in weights:
        match = _IN_ADAPTED_LAYER.fullmatch(name)
        if match is None or adapter is None:
            yield name.replace(".base_layer.", "."), weight  # a bias, which an adapter leaves as it is
            continue
        layer, part = match["layer"], match["part"] or match["low"]
        parts.setdefault(layer, {})[part] = weight.detach().float().clone()
        if len(parts[layer]) == 3:
            found = parts.pop(layer)
            update = found["lora_B"] @ found["lora_A"] * (adapter.lora_alpha / adapter.r)
            yield f"{layer}.weight", found["base_layer"] + (update.T if adapter.fan_in_fan_out else update)
    assert not parts, f"parts of adapted layers are missing: {some(parts)}"


def target_names(model: "PreTrainedModel", targets: Sequence[str]) -> tuple[list[str], bool]:
    """The names of the layers that an adapter goes on, all of them without `targets`; and whether their weights are transposed.

    Raises `ValueError` for a name that no linear layer of the body has, and where there is no such layer at all.
    """
    from transformers.pytorch_utils import Conv1D

    linear = _linear_layers(model)
    _require_targets(targets, linear, model)
    names = list(targets) or sorted({name.rpartition(".")[2] for name in linear})
    transposed = {isinstance(layer, Conv1D) for name, layer in linear.items() if any(_is_named(name, target) for target in names)}
    if len(transposed) > 1:
        raise ValueError(
            f"lora.targets: {', '.join(names)} of a {type(model).__name__} are Conv1D and Linear layers, which one adapter cannot both "
            "adapt; choose some of one kind."
        )
    return names, transposed == {True}


def _linear_layers(model: "PreTrainedModel") -> "dict[str, Module]":
    """The linear layers of a model's body by name, quantized ones included, and GPT-2's, which are transposed (Conv1D)."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    return {name: module for name, module in model.base_model.named_modules() if isinstance(module, (nn.Linear, Conv1D))}


def _require_targets(targets: Sequence[str], linear: "Mapping[str, Module]", model: "PreTrainedModel") -> None:
    name = type(model).__name__
    if not linear:
        kinds = ", ".join(sorted({type(module).__name__ for module in model.base_model.modules() if not list(module.children())}))
        raise ValueError(f"lora.rank: a {name} has no linear layers to put an adapter on, only {kinds}; train it whole (lora.rank=0).")
    for target in targets:
        if not any(_is_named(layer, target) for layer in linear):
            known = ", ".join(sorted({layer.rpartition(".")[2] for layer in linear}))
            raise ValueError(f"lora.targets names {target!r}, but the linear layers of a {name} are {known}; choose among them.")


def _is_named(layer: str, target: str) -> bool:
    return f".{layer}".endswith(f".{target}")


def _require_applied(adapter: Adapter, model: "PreTrainedModel", weights: "Mapping[str, Tensor]") -> None:
    """Raises `ValueError` if an adapter holds weights of layers that the model lacks, but for those of a language model's head."""
    modules = {name for name, _ in model.named_modules()}
    layers = {re.split(r"\.(?:lora_|base_layer\.|modules_to_save\.|original_module\.|weight$|bias$)", name)[0] for name in weights}
    left = {name for name in layers if name not in modules and not f"{name}.".startswith(LANGUAGE_HEADS)}
    if left:
        raise ValueError(f"the adapter {adapter.source.path} does not fit its base, {adapter.base.path}, which has no {some(left)}.")


def merge_adapter(model: "PreTrainedModel", adapter: Adapter, weights: "Mapping[str, Tensor]") -> "PreTrainedModel":
    """Merges an adapter into `model` in place: adds its updates and replaces the weights that were fully trained.

    Embeddings are resized to the adapter's. Raises `ValueError` if the adapter does not fit the model.
    """
    from peft import LoraConfig as PeftConfig
    from peft import PeftModel

    _require_applied(adapter, model, weights)
    _match_vocabulary(model, weights)
    whole = {name: weights[name] for name, _ in model.named_parameters() if name in weights}
    for name, weight in whole.items():
        if weight.shape != model.get_parameter(name).shape:
            shapes = f"{tuple(weight.shape)} where its base, {adapter.base.path}, has {tuple(model.get_parameter(name).shape)}"
            raise ValueError(f"the {name} of the adapter {adapter.source.path} has the shape {shapes}; it belongs to another model.")
    config = PeftConfig.from_pretrained(adapter.source.path, revision=adapter.source.revision)
    assert isinstance(config, PeftConfig)
    # Fully trained weights are copied below, whether or not the configuration lists them: a trained head must not get lost.
    # And with a task type peft demands more of the model than merging needs, for instance that it can generate.
    config.modules_to_save, config.task_type = None, None
    with warnings.catch_warnings():
        # peft uses a deprecated attribute of transformers.
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
        try:
            wrapped = PeftModel.from_pretrained(
                model, adapter.source.path, config=config, revision=adapter.source.revision, torch_device="cpu"
            )
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:300]
            raise ValueError(f"the adapter {adapter.source.path} does not fit its base, {adapter.base.path}: {reason}") from error
    plain = wrapped.merge_and_unload()
    # Again by name: if LoRA wraps a module that was also saved in full, peft does not find its weight.
    plain.load_state_dict(whole, strict=False)
    return plain.requires_grad_(True)  # peft freezes what it wraps, but the model may be trained as a policy


def _match_vocabulary(model: "PreTrainedModel", weights: "Mapping[str, Tensor]") -> None:
    """Resizes the embeddings to those saved with an adapter, if there are any."""
    embeddings = model.get_input_embeddings().get_parameter("weight")
    for name, parameter in model.named_parameters():
        saved = weights.get(name, weights.get(f"{name.removesuffix('.weight')}.base_layer.weight"))
        if parameter is embeddings and saved is not None and len(saved) != len(embeddings):
            model.resize_token_embeddings(len(saved), mean_resizing=False)
            return
