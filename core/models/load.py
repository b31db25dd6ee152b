"""Loads policies and reward models.

Shapes: V vocabulary, H hidden.
"""

import math
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from importlib import util
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from core.config import Dtype, LoraConfig, ModelConfig, Quantize, require_trainable
from core.data.chat import pad_id, specials
from core.data.pad_token import require_own_pad, require_pad_below
from core.disk import require_undamaged
from core.models.adapters import Adapter, adapter_weights, find_adapter, inject_adapter, merge_adapter, require_no_adapter
from core.models.files import naming
from core.models.fit import require_embeddings, require_same_shapes, require_used, some
from core.models.fused.experts import let_autocast_reach_experts
from core.models.fused.layers import fuse_layers
from core.models.head import RewardHead, bias_of, head_of
from core.models.liger import apply_liger, require_liger
from core.models.locate import ModelLocation, find_file, locate, template_of
from core.models.logprobs import compute_head_in_fp32
from core.models.mapped import first_layers, restore_wider, stored_dtype, weight_files
from core.models.modes import require_equal_modes, switch_off_dropout
from core.models.own_code import TOKENIZER_CONFIG, require_known_classes, require_known_tokenizer
from core.runs.checkpoints import STATE

DTYPES = {Dtype.fp32: torch.float32, Dtype.bf16: torch.bfloat16, Dtype.fp16: torch.float16}

HEAD_WEIGHTS = {"score.weight", "score.bias"}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Loaded:
    """A model, the names of its weights that neither checkpoint nor adapter has, and of those in the checkpoint that it has no use for."""

    model: PreTrainedModel
    missing: set[str]
    unused: set[str]


AutoClass = type[AutoModelForCausalLM] | type[AutoModelForSequenceClassification]


def load_policy(
    config: ModelConfig, *, mapped: bool = False, say: Callable[[str], None] = print
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal language model in evaluation mode, with its tokenizer; its head computes in fp32 (`core.models.logprobs.LanguageHead`).

    With `mapped` its weights stay in their files, in the files' data type, for an engine that shards them
    (`core.models.mapped`); `say` is told where that cannot be. An adapter is merged into its base. Embeddings keep the rows that
    the checkpoint has, whatever the pad token (`core.data.pad_token.require_pad_below`). Raises `ValueError` for a checkpoint that
    lacks some of the model's weights, such as a reward model: missing weights would be random.
    """
    _require_known(config)
    tokenizer = load_tokenizer(config, own_pad=False)
    loaded = _load(AutoModelForCausalLM, config, tokenizer, mapped=mapped, say=say)
    if loaded.missing:
        raise ValueError(f"{config.path} is not a complete language model: it lacks {some(loaded.missing)}; give a policy.")
    require_used(config.path, loaded.model, loaded.unused, policy=True)
    compute_head_in_fp32(loaded.model)
    return loaded.model, tokenizer


def load_reward_model(config: ModelConfig) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A trained sequence classifier with one output, in evaluation mode, with its tokenizer.

    An adapter is merged into its base, with the head saved beside it, otherwise the base's. An adapter trained here on
    quantized weights is merged into the dequantized ones, so that rewards are those of training: merged into the original
    weights, one on SmolLM2-135M changed them by 0.4 standard deviations. Other tools do not do this; give them the merged
    model (`core.models.export.export_model`).

    Its pad token stays the one that its configuration names, even if that is EOS: it decides at which token the model was
    trained to give its reward, and at which transformers reads it.

    Raises `ValueError` for a checkpoint that lacks some of the model's weights, such as a language model, whose rewards would
    come from a random head, and for one with several outputs.
    """
    _require_known(config)
    tokenizer = load_tokenizer(config, pairs=True)
    loaded = _load(AutoModelForSequenceClassification, config, tokenizer, keep_pad=True)
    model = loaded.model
    if loaded.missing:
        raise ValueError(
            f"{config.path} is not a trained reward model: it lacks {some(loaded.missing)}, so every reward would be random; train "
            "one from it with `rewardloop rm`, or save the head with the adapter (modules_to_save in peft)."
        )
    require_used(config.path, model, loaded.unused, policy=False)
    if model.config.num_labels != 1:
        raise ValueError(f"{config.path} has {model.config.num_labels} outputs; a reward model has one.")
    return model, tokenizer


def new_reward_model(
    config: ModelConfig, *, seed: int, lora: LoraConfig | None = None, mapped: bool = False, say: Callable[[str], None] = print
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A language model with a fresh scalar head, drawn from N(0, 1/sqrt(h+1)) without bias (Stiennon et al. 2020), to be trained.

    A base that is a reward model itself keeps its head with `config.keep_head`; otherwise `say` is told that it is replaced.

    Trained weights are kept in fp32, so that small steps are not lost: with `config.dtype` bf16, train under autocast.
    Without LoRA all weights are trained; with `lora.rank` the head and an adapter (Hu et al. 2021) injected into the body
    (`core.models.adapters.inject_adapter`), whose frozen weights stay in `config.dtype`, or in 4 bits with `config.quantize`
    (Dettmers et al. 2023). Norms and embeddings stay in `config.dtype` even then; peft's `prepare_model_for_kbit_training`
    casts them to fp32, which does nothing for frozen weights. With `mapped` all but the head stay in their files, in the files'
    data type, for an engine that shards them (`core.models.mapped`). Global random-number generators are left untouched.

    Raises `ValueError` for an architecture without a linear head `score`, for a checkpoint that lacks weights of the body,
    for quantized weights without an adapter, for a new adapter on an adapter, and if Liger is configured but unavailable.
    """
    lora = lora if lora and lora.rank else None
    require_trainable(config, lora)
    source = locate(config)
    _require_known(config)
    if lora:
        require_no_adapter(config, lora)
    if config.liger:
        require_liger(config)
    tokenizer = load_tokenizer(config)
    held = config if lora else replace(config, dtype=Dtype.fp32)
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):  # loading initialises a head of its own
        loaded = _load(
            AutoModelForSequenceClassification, held, tokenizer, redraws=not config.keep_head, mapped=mapped, say=say, num_labels=1
        )
        model, missing = loaded.model, loaded.missing - HEAD_WEIGHTS
        has_head = missing == loaded.missing
        if config.keep_head and not has_head:
            raise ValueError(f"model.keep_head=true, but {config.path} has no trained head 'score'; leave it out.")
        if has_head and not config.keep_head:
            say(f"{config.path} has a trained head, and a new one is drawn in its place; to go on from it, set model.keep_head=true")
        draw = torch.Generator().manual_seed(seed)
        try:
            _renew_head(model, draw, keep=config.keep_head)
        except ValueError as error:
            raise ValueError(f"model.path={config.path}: {error}") from error
        if missing:
            raise ValueError(f"model.path={config.path} is not a complete language model: it lacks {some(missing)}.")
        require_used(config.path, model, loaded.unused, policy=False)
        if config.liger:
            apply_liger(model)
        _keep_differentiable(model)
        require_equal_modes(model, first_layers(model) if mapped else model)
        if lora:
            inject_adapter(model, lora, base=source, draw=draw)
    return model, tokenizer


def holds_fp32(config: ModelConfig, lora: LoraConfig) -> bool:
    """Whether a model in training is held in fp32, whatever format its products are in; what lies under an adapter need not be."""
    return not lora.rank or config.dtype == Dtype.fp32


def load_tokenizer(config: ModelConfig, *, pairs: bool = False, own_pad: bool = True) -> PreTrainedTokenizerBase:
    """A model's tokenizer, or that of an adapter's base if the adapter has none, with a pad token that is nothing else
    (`core.data.pad_token.require_own_pad`) unless `own_pad` is false.

    Raises `ValueError` where it has no chat template. With `pairs`, an encoder needs none: it reads question and answer as two texts.
    """
    source = locate(config)
    adapter = find_adapter(source)
    if adapter is not None and find_file(source, TOKENIZER_CONFIG) is None:
        source = adapter.base
    require_known_tokenizer(source)
    with naming(config.path):
        tokenizer = AutoTokenizer.from_pretrained(source.path, revision=source.revision, trust_remote_code=False)
    tokenizer.chat_template = template_of(config) or tokenizer.chat_template
    if tokenizer.chat_template is None and not (pairs and tokenizer.sep_token is not None and specials(tokenizer)[1]):
        raise ValueError(f"{config.path} has no chat template; give one (model.chat_template=FILE), or save it with its tokenizer.")
    if own_pad:
        require_own_pad(tokenizer)
    return tokenizer


def declared_pad(config: ModelConfig) -> int | None:
    """The id of the pad token in a model's own configuration, without loading the model."""
    source = locate(config)
    adapter = find_adapter(source)
    if adapter is not None:  # its base knows nothing of the pad token that it was trained with
        return pad_id(load_tokenizer(config))
    return AutoConfig.from_pretrained(source.path, revision=source.revision, trust_remote_code=False).get_text_config().pad_token_id


def quantization(config: ModelConfig, skip: Collection[str]) -> BitsAndBytesConfig | None:
    """The configuration to quantize all linear layers except the modules in `skip`; None without quantization.

    Raises `ValueError` if bitsandbytes is not installed.
    """
    if config.quantize == Quantize.none:
        return None
    if util.find_spec("bitsandbytes") is None:
        raise ValueError("model.quantize=nf4 needs the package bitsandbytes; run `pip install 'rewardloop[quantized]'`.")
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=DTYPES[config.dtype],
        llm_int8_skip_modules=list(skip),  # despite its name it also applies to 4 bits
    )


def head_names(auto: AutoClass, source: ModelLocation, **options: Any) -> list[str]:
    """The names of the modules beside a model's body, which turn hidden states into logits or rewards."""
    with torch.device("meta"):  # only names, no weights
        shape = auto.from_config(AutoConfig.from_pretrained(source.path, revision=source.revision, trust_remote_code=False, **options))
    return [name for name, _ in shape.named_children() if name != shape.base_model_prefix]


def _load(
    auto: AutoClass,
    config: ModelConfig,
    tokenizer: PreTrainedTokenizerBase,
    *,
    keep_pad: bool = False,
    redraws: bool = False,
    mapped: bool = False,
    say: Callable[[str], None] = print,
    **options: Any,
) -> _Loaded:
    """The model, ready for use, and how it fits its checkpoint and adapter.

    With `keep_pad`, the pad token of a whole checkpoint's configuration becomes the tokenizer's, otherwise the reverse. A base
    knows nothing of the pad token that an adapter on it was trained with. With `redraws` the head's shape in the checkpoint is
    of no consequence. With `mapped` the model stays on the CPU, and its weights in their files unless something has to be done to
    them, of which `say` is told. Raises `ValueError` if weights or tokens do not fit the model.
    """
    source = locate(config)
    require_undamaged(Path(source.path), config.path, without=[STATE])
    adapter = find_adapter(source)
    if adapter is not None:
        _require_mergeable(config, adapter, auto)
        source = adapter.base
        if auto is AutoModelForSequenceClassification:
            options["num_labels"] = 1  # the base may be a language model, which does not set it
    packed = config if adapter is None else replace(config, quantize=adapter.quantize)
    if packed.quantize != Quantize.none:
        options["quantization_config"] = quantization(packed, head_names(auto, source, **options))
    if not sys.stderr.isatty():
        logging.disable_progress_bar()  # a progress bar is noise in a log
    dtype = DTYPES[config.dtype]
    files = weight_files(source) if mapped and packed.quantize == Quantize.none else []
    stored = _mapped_dtype(files, dtype, adapter, source, say) if mapped else None
    # Mismatched shapes are told below, in our words. The annotation leaves out what `output_loading_info` adds.
    options |= {"output_loading_info": True, "ignore_mismatched_sizes": True, "trust_remote_code": False}
    with naming(config.path):
        loaded: Any = auto.from_pretrained(source.path, revision=source.revision, dtype=stored or dtype, **options)
        if stored and restore_wider(loaded[0], files, stored) - set(loaded[1]["unexpected_keys"] or ()):
            loaded = auto.from_pretrained(source.path, revision=source.revision, dtype=dtype, **options)
    model, info = loaded
    mismatched = [entry for entry in info["mismatched_keys"] or () if not (redraws and entry[0] in HEAD_WEIGHTS)]
    require_same_shapes(source.path, model, mismatched)
    missing = set(info["missing_keys"])
    if adapter is not None:
        weights = adapter_weights(adapter)
        missing -= weights.keys()
        if adapter.quantize != Quantize.none:
            model = model.dequantize()
        model = merge_adapter(model, adapter, weights)
    own = model.config.get_text_config().pad_token_id
    if keep_pad and adapter is None and own is not None and 0 <= own < len(tokenizer):
        tokenizer.pad_token = str(tokenizer.convert_ids_to_tokens(own))
    require_embeddings(config.path, model, tokenizer)
    if auto is AutoModelForCausalLM:
        require_pad_below(tokenizer, len(model.get_input_embeddings().get_parameter("weight")))
    else:
        _grow(model, len(tokenizer))
    return _Loaded(model=_prepare(model, tokenizer, mapped=mapped), missing=missing, unused=set(info["unexpected_keys"] or ()))


def _mapped_dtype(
    files: Sequence[Path], dtype: torch.dtype, adapter: Adapter | None, source: ModelLocation, say: Callable[[str], None]
) -> torch.dtype | None:
    """The data type in which a model's weights can stay in their files; None, which `say` is told, if all are to be converted to `dtype`.

    Those to be trained can stay in any: they are converted to fp32 as they are sharded. So `dtype` fp32 goes with all.
    """
    stored = stored_dtype(files)
    if adapter is not None:
        reason = f"merging the adapter {adapter.source.path} into {source.path} changes all of its weights"
    elif stored is None:
        reason = f"{source.path} is not saved as safetensors"
    elif dtype not in (stored, torch.float32):
        reason = f"{source.path} is stored as {stored} and asked for as {dtype}".replace("torch.", "")
    else:
        return stored
    say(f"{reason}, so every process holds the whole model in the machine's memory until it is sharded; save the model as it is to be used")
    return None


def _require_known(config: ModelConfig) -> None:
    source = locate(config)
    adapter = find_adapter(source)
    require_known_classes(source if adapter is None else adapter.base)


def _require_mergeable(config: ModelConfig, adapter: Adapter, auto: AutoClass) -> None:
    if config.quantize != Quantize.none:
        raise ValueError(
            f"model.quantize={config.quantize} does not go with an adapter such as {config.path}: merging into 4 bits loses precision; "
            "leave it out, or save the merged model and name its folder."
        )
    if auto is AutoModelForCausalLM and adapter.task == "SEQ_CLS":
        raise ValueError(f"{config.path} is the adapter of a classifier (task_type=SEQ_CLS); a policy needs one of a language model.")
    if adapter.quantize != Quantize.none and util.find_spec("bitsandbytes") is None:
        raise ValueError(
            f"{config.path} was trained on a base packed as {adapter.quantize}; to unpack that needs the package bitsandbytes; "
            "run `pip install 'rewardloop[quantized]'`."
        )


def _renew_head(model: PreTrainedModel, draw: torch.Generator, *, keep: bool) -> None:
    """Gives the classifier a head that computes in fp32, newly initialised or, to be kept, with the weights of the old one."""
    old = head_of(model)
    head = RewardHead(old.in_features, old.out_features, bias=bias_of(old) is not None, device=old.weight.device)
    std = 1 / math.sqrt(head.in_features + 1)
    with torch.no_grad():
        head.weight.copy_(old.weight if keep else torch.empty(head.weight.shape).normal_(0.0, std, generator=draw))
        bias, old_bias = bias_of(head), bias_of(old)
        if bias is not None and old_bias is not None:
            bias.copy_(old_bias if keep else torch.zeros_like(bias))
    model.set_submodule("score", head)


def _keep_differentiable(model: PreTrainedModel) -> None:
    # On some CPUs the first pass without gradients permanently switches bitsandbytes' quantized layers to a layout whose
    # product has no gradient. Training would silently continue with only the head and the last layer.
    for module in model.modules():
        if "support_avx512bf16_for_cpu" in vars(module):
            vars(module)["support_avx512bf16_for_cpu"] = False


def _grow(model: PreTrainedModel, num_tokens: int) -> None:
    """Gives a reward model embeddings for all tokens, a new pad token among them."""
    weight_VH = model.get_input_embeddings().get_parameter("weight")
    num_known = len(weight_VH)
    if num_tokens > num_known:
        model.resize_token_embeddings(num_tokens, mean_resizing=False)
        # The mean instead of transformers' random values: two loads must agree.
        with torch.no_grad():
            weight_VH = model.get_input_embeddings().get_parameter("weight")
            weight_VH[num_known:] = weight_VH[:num_known].mean(0)


def _prepare(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, mapped: bool) -> PreTrainedModel:
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    switch_off_dropout(model)
    if not mapped:
        nn.Module.to(model, _device())  # typed, unlike PreTrainedModel's own
    fuse_layers(model, _device())
    let_autocast_reach_experts()
    return model.eval()


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
