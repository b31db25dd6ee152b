"""Loading of policies and reward models."""

import math

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from core.config import Dtype, ModelConfig
from core.sources import resolve

DTYPES = {Dtype.fp32: torch.float32, Dtype.bf16: torch.bfloat16, Dtype.fp16: torch.float16}
PAD_TOKEN = "<|pad|>"


def load_policy(config: ModelConfig) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal language model in evaluation mode, with its tokenizer."""
    path = resolve(config)
    tokenizer = load_tokenizer(config)
    model = AutoModelForCausalLM.from_pretrained(path, revision=config.revision, dtype=DTYPES[config.dtype])
    return _prepared(model, tokenizer), tokenizer


def load_reward_model(config: ModelConfig) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A trained sequence classifier with one output, in evaluation mode, with its tokenizer."""
    path = resolve(config)
    tokenizer = load_tokenizer(config)
    model = AutoModelForSequenceClassification.from_pretrained(path, revision=config.revision, dtype=DTYPES[config.dtype])
    if model.config.num_labels != 1:
        raise ValueError(f"{config.path} has {model.config.num_labels} outputs; a reward model has one.")
    return _prepared(model, tokenizer), tokenizer


def new_reward_model(config: ModelConfig, *, seed: int) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A language model with a fresh scalar head, drawn from N(0, 1/sqrt(h+1)) without bias (Stiennon et al. 2020)."""
    path = resolve(config)
    tokenizer = load_tokenizer(config)
    model = AutoModelForSequenceClassification.from_pretrained(path, revision=config.revision, dtype=DTYPES[config.dtype], num_labels=1)
    head = dict(model.named_children()).get("score")
    if not isinstance(head, nn.Linear):
        raise ValueError(f"model.path={config.path}: {type(model).__name__} has no linear head 'score'; give a decoder such as a Llama.")
    draw = torch.Generator().manual_seed(seed)
    std = 1 / math.sqrt(head.in_features + 1)
    with torch.no_grad():
        head.weight.copy_(torch.empty(head.weight.shape).normal_(0.0, std, generator=draw))
        if head.bias is not None:
            head.bias.zero_()
    return _prepared(model, tokenizer), tokenizer


def load_tokenizer(config: ModelConfig) -> PreTrainedTokenizerBase:
    """The tokenizer of a model, with a pad token that is not EOS.

    A head that pools the last token that is not pad would otherwise read the one before EOS.
    """
    tokenizer = AutoTokenizer.from_pretrained(resolve(config), revision=config.revision)
    if tokenizer.chat_template is None:
        raise ValueError(f"{config.path} has no chat template; save one with its tokenizer (tokenizer.chat_template).")
    if tokenizer.pad_token is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        tokenizer.add_special_tokens({"pad_token": PAD_TOKEN})
    return tokenizer


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
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    nn.Module.to(model, torch.device("cuda" if torch.cuda.is_available() else "cpu"))  # typed, unlike PreTrainedModel's own
    return model.eval()
