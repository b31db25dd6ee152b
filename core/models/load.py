"""Loading of policies and reward models."""

import math
import sys
from collections.abc import Collection
from dataclasses import replace
from importlib import util
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
from core.models.adapters import Adapter, adapter_weights, find_adapter, inject_adapter, merge_adapter, require_no_adapter
from core.models.head import RewardHead, bias_of, head_of
from core.models.locate import ModelLocation, find_file, locate

DTYPES = {Dtype.fp32: torch.float32, Dtype.bf16: torch.bfloat16, Dtype.fp16: torch.float16}
PAD_TOKEN = "<|pad|>"


def load_policy(config: ModelConfig) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal language model in evaluation mode, with its tokenizer.

    An adapter is merged into its base. Raises `ValueError` for a checkpoint without all of the model's weights, a reward
    model for instance: what is missing would be random.
    """
    tokenizer = load_tokenizer(config)
    model, missing = _load(AutoModelForCausalLM, config, tokenizer)
    if missing:
        raise ValueError(f"{config.path} is no whole language model: it lacks {_some(missing)}, which would be random; give a policy.")
    return model, tokenizer


def load_reward_model(config: ModelConfig) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A trained sequence classifier with one output, in evaluation mode, with its tokenizer.

    An adapter is merged into its base; its head is the one saved with it, else the base's. One that was trained here on
    packed weights is merged into the numbers that they stood for, so that the rewards are those of training: merged into
    the weights as they were before, one of SmolLM2-135M moved them by 0.4 standard deviations. Other tools do not know of
    it; give them the merged model (`core.models.export.export_model`).

    Raises `ValueError` for a checkpoint without all of the model's weights, a language model for instance, whose rewards
    would be those of a random head, and for one with several outputs.
    """
    tokenizer = load_tokenizer(config)
    model, missing = _load(AutoModelForSequenceClassification, config, tokenizer)
    if missing:
        raise ValueError(
            f"{config.path} is no trained reward model: it lacks {_some(missing)}, which would be random, and so would every reward; train "
            "one from it with `rewardloop rm`, or save the head with the adapter (modules_to_save in peft)."
        )
    if model.config.num_labels != 1:
        raise ValueError(f"{config.path} has {model.config.num_labels} outputs; a reward model has one.")
    return model, tokenizer


def new_reward_model(config: ModelConfig, *, seed: int, lora: LoraConfig | None = None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A language model with a fresh scalar head, drawn from N(0, 1/sqrt(h+1)) without bias (Stiennon et al. 2020), to be trained.

    What is trained is held in fp32, where small steps are not lost: train a model for `config.dtype` bf16 under autocast.
    That is all of it; or with `lora.rank` the head and an adapter (Hu et al. 2021) inside the body (`core.models.adapters.inject_adapter`),
    whose frozen weights are held in `config.dtype`, or packed in 4 bits where `config.quantize` says so (Dettmers et al.
    2023). Norms and embeddings stay in `config.dtype` also beside packed weights; peft's `prepare_model_for_kbit_training` casts
    them to fp32, which frozen weights gain nothing from. The generators of random numbers are left as they were.

    Raises `ValueError` for an architecture without a linear head `score`, for a checkpoint that lacks weights of the body,
    for packed weights without an adapter, for a new adapter on an adapter, and where Liger is asked for and cannot be had.
    """
    lora = lora if lora and lora.rank else None
    require_trainable(config, lora)
    source = locate(config)
    if lora:
        require_no_adapter(config, lora)
    if config.liger:
        require_liger(config)
    tokenizer = load_tokenizer(config)
    held = config if lora else replace(config, dtype=Dtype.fp32)
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):  # loading draws a head of its own
        model, missing = _load(AutoModelForSequenceClassification, held, tokenizer, num_labels=1)
        draw = torch.Generator().manual_seed(seed)
        try:
            _renew_head(model, draw)
        except ValueError as error:
            raise ValueError(f"model.path={config.path}: {error}") from error
        missing -= {"score.weight", "score.bias"}
        if missing:
            raise ValueError(f"model.path={config.path} is no whole language model: it lacks {_some(missing)}, which would be random.")
        if config.liger:
            _apply_liger(model)
        _keep_differentiable(model)
        if lora:
            inject_adapter(model, lora, base=source, draw=draw)
    return model, tokenizer


def require_liger(config: ModelConfig) -> None:
    """Raises `ValueError` where the kernels of Liger cannot be had: no package, no CUDA device, or an architecture it does not know."""
    if util.find_spec("liger_kernel") is None:
        raise ValueError("model.liger needs the package liger-kernel; run `pip install 'rewardloop[liger]'`, or leave it out.")
    if not torch.cuda.is_available():
        raise ValueError("model.liger needs a CUDA device, and there is none; leave it out.")
    from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN  # type: ignore[import-not-found]

    source = locate(config)
    adapter = find_adapter(source)
    source = source if adapter is None else adapter.base
    kind = AutoConfig.from_pretrained(source.path, revision=source.revision).get_text_config().model_type
    if kind not in MODEL_TYPE_TO_APPLY_LIGER_FN:
        raise ValueError(f"model.liger knows no models of type {kind!r}, such as {config.path}; leave it out.")


def load_tokenizer(config: ModelConfig) -> PreTrainedTokenizerBase:
    """The tokenizer of a model, or of an adapter's base if the adapter has none, with a pad token other than EOS.

    Otherwise a head that pools the last non-pad token would read the one before EOS.
    """
    source = locate(config)
    adapter = find_adapter(source)
    if adapter is not None and find_file(source, "tokenizer_config.json") is None:
        source = adapter.base
    tokenizer = AutoTokenizer.from_pretrained(source.path, revision=source.revision)
    if tokenizer.chat_template is None:
        raise ValueError(f"{config.path} has no chat template; save one with its tokenizer (tokenizer.chat_template).")
    if tokenizer.pad_token is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        tokenizer.add_special_tokens({"pad_token": PAD_TOKEN})
    return tokenizer


def quantization(config: ModelConfig, skip: Collection[str]) -> BitsAndBytesConfig | None:
    """What transformers needs to pack the linear layers, all but the modules in `skip`; None where nothing is to be packed.

    Raises `ValueError` where bitsandbytes is not installed.
    """
    if config.quantize == Quantize.none:
        return None
    if util.find_spec("bitsandbytes") is None:
        raise ValueError("model.quantize=nf4 needs the package bitsandbytes; run `pip install 'rewardloop[quantized]'`.")
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=DTYPES[config.dtype],
        llm_int8_skip_modules=list(skip),  # despite its name it holds for 4 bits too
    )


def head_names(auto: Any, source: ModelLocation, **options: Any) -> list[str]:
    """The names of a model's parts beside its body: what turns hidden states into logits or rewards."""
    with torch.device("meta"):  # the names alone, no weights
        shape = auto.from_config(AutoConfig.from_pretrained(source.path, revision=source.revision, **options))
    return [name for name, _ in shape.named_children() if name != shape.base_model_prefix]


def _load(auto: Any, config: ModelConfig, tokenizer: PreTrainedTokenizerBase, **options: Any) -> tuple[PreTrainedModel, set[str]]:
    """The model, ready for use, and the names of its weights that neither checkpoint nor adapter holds."""
    source = locate(config)
    adapter = find_adapter(source)
    if adapter is not None:
        _require_mergeable(config, adapter, auto)
        if adapter.quantize != Quantize.none and util.find_spec("bitsandbytes") is None:
            raise ValueError(
                f"{config.path} was trained on a base packed as {adapter.quantize}; to unpack that needs the package bitsandbytes; "
                "run `pip install 'rewardloop[quantized]'`."
            )
        source = adapter.base
        if auto is AutoModelForSequenceClassification:
            options["num_labels"] = 1  # the base may be a language model, which says nothing of outputs
    packed = config if adapter is None else replace(config, quantize=adapter.quantize)
    if packed.quantize != Quantize.none:
        options["quantization_config"] = quantization(packed, head_names(auto, source, **options))
    if not sys.stderr.isatty():
        logging.disable_progress_bar()  # its bar is noise in a log
    dtype = DTYPES[config.dtype]
    model, info = auto.from_pretrained(source.path, revision=source.revision, dtype=dtype, output_loading_info=True, **options)
    missing = set(info["missing_keys"])
    if adapter is not None:
        weights = adapter_weights(adapter)
        missing -= weights.keys()
        if adapter.quantize != Quantize.none:
            model = model.dequantize()
        model = merge_adapter(model, adapter, weights)
    return _prepared(model, tokenizer), missing


def _require_mergeable(config: ModelConfig, adapter: Adapter, auto: Any) -> None:
    if config.quantize != Quantize.none:
        raise ValueError(
            f"model.quantize={config.quantize} does not go with an adapter such as {config.path}, which merging into 4 bits would blur; "
            "leave it out, or save the merged model and name its folder."
        )
    if auto is AutoModelForCausalLM and adapter.task == "SEQ_CLS":
        raise ValueError(f"{config.path} is the adapter of a classifier (task_type=SEQ_CLS); a policy needs one of a language model.")


def _renew_head(model: PreTrainedModel, draw: torch.Generator) -> None:
    """Gives the classifier a head of fresh weights, which computes in fp32."""
    old = head_of(model)
    head = RewardHead(old.in_features, old.out_features, bias=bias_of(old) is not None, device=old.weight.device)
    std = 1 / math.sqrt(head.in_features + 1)
    with torch.no_grad():
        head.weight.copy_(torch.empty(head.weight.shape).normal_(0.0, std, generator=draw))
        bias = bias_of(head)
        if bias is not None:
            bias.zero_()
    model.set_submodule("score", head)


def _keep_differentiable(model: PreTrainedModel) -> None:
    # On some CPUs the packed layers of bitsandbytes change for good, in the first pass without gradients, to a layout whose
    # product has no gradient: training would go on, silently, with nothing but the head and the last layer.
    for module in model.modules():
        if "support_avx512bf16_for_cpu" in vars(module):
            vars(module)["support_avx512bf16_for_cpu"] = False


def _apply_liger(model: PreTrainedModel) -> None:
    from liger_kernel.transformers import _apply_liger_kernel_to_instance  # type: ignore[import-not-found]

    # The body, which Liger knows as part of a language model; a classifier it would give a language model's forward pass.
    body = model.base_model
    try:
        _apply_liger_kernel_to_instance(model=body, cross_entropy=False, fused_linear_cross_entropy=False)
    except (AttributeError, TypeError, ValueError) as error:  # it knows the type of model, but not by itself
        raise ValueError(f"model.liger does not go with a {type(body).__name__} ({error}); leave it out.") from error


def _some(names: Collection[str]) -> str:
    first = sorted(names)[:3]
    return ", ".join(first) + (f" and {len(names) - 3} more weights" if len(names) > 3 else "")


def _prepared(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    num_known = len(model.get_input_embeddings().get_parameter("weight"))
    if len(tokenizer) > num_known:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        # The mean, not transformers' random draw: two loads of one policy must agree, and by Jensen's inequality a
        # policy then gives the new token no more than an even share, 1/V, of its probability.
        with torch.no_grad():
            for layer in filter(None, (model.get_input_embeddings(), model.get_output_embeddings())):
                weight_VH = layer.get_parameter("weight")
                weight_VH[num_known:] = weight_VH[:num_known].mean(0)
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    for module in model.modules():
        _switch_off_dropout(module)
    nn.Module.to(model, _device())  # typed, unlike PreTrainedModel's own
    return model.eval()


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _switch_off_dropout(module: nn.Module) -> None:
    if isinstance(module, nn.Dropout):
        module.p = 0.0
    # Attention layers keep their rate as a number and call the function: Llama's attention_dropout, for instance.
    for name, value in list(vars(module).items()):
        if name.endswith("dropout") and isinstance(value, float):
            setattr(module, name, 0.0)
