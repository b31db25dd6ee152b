"""The models and pairs of `benchmarks.rm.speed`: real text, the microworld, and random tokens for a GPU."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from transformers import AutoConfig, AutoTokenizer, LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerBase

from benchmarks.rm.contender import SEED
from core.config import Dtype, ModelConfig
from core.models.load import load_tokenizer, new_reward_model
from microworld.config import WorldConfig
from microworld.tokenizer import train_tokenizer
from microworld.world import build_world
from rmtrain.config import Overlong, SourceConfig
from rmtrain.rows import read_pairs
from rmtrain.tokens import TokenPair, tokenize

MAX_LENGTH = 1024
"""Tokens of a text; longer pairs are left out. TRL's default."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """Pairs by name, as tokens, and the folder of a reward model with a fresh head, in fp32.

    Of a small model `batches_factor` times as many batches are timed.
    """

    name: str
    model: Path
    pairs: Sequence[TokenPair]
    batches_factor: int = 1
    dtype: Dtype = Dtype.bf16


def real(name: str, file: Path, model: str, folder: Path) -> Subject:
    """Pairs of a file, for a model by path."""
    saved, tokenizer = _saved(model, folder / "model")
    return Subject(name=name, model=saved, pairs=_pairs(file, tokenizer))


def microworld(world: Path | None, folder: Path) -> Subject:
    """The pairs of a world and its policy; without a world one is made, and a policy of its shape with random weights."""
    if world is None:
        from microworld.policy import SHAPES  # which imports TRL: seconds

        world = build_world(WorldConfig(corpus_size=4000), folder / "world")
        tokenizer = AutoTokenizer.from_pretrained(world / "tokenizer")
        torch.manual_seed(0)
        shape = LlamaConfig(
            **SHAPES["coast"],
            vocab_size=len(tokenizer),
            max_position_embeddings=tokenizer.model_max_length,
            tie_word_embeddings=True,
            initializer_range=0.05,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        LlamaForCausalLM(shape).save_pretrained(world / "policies" / "coast")
        tokenizer.save_pretrained(world / "policies" / "coast")
    saved, tokenizer = _saved(str(world / "policies" / "coast"), folder / "tiny")
    return Subject(
        name="microworld", model=saved, pairs=_pairs(world / "preferences" / "atlas.jsonl", tokenizer), batches_factor=20, dtype=Dtype.fp32
    )


def shrunk(subject: Subject, layers: int, folder: Path) -> Subject:
    """The same pairs with a model of the same kind, random weights and few layers; with 0 layers, or where it is small, as it is."""
    if not layers or subject.batches_factor > 1:
        return subject
    config = AutoConfig.from_pretrained(subject.model)
    heads = config.num_key_value_heads
    config.update(
        {
            "num_hidden_layers": layers,
            "hidden_size": config.hidden_size // config.num_attention_heads * heads,
            "intermediate_size": config.intermediate_size * heads // config.num_attention_heads,
            "num_attention_heads": heads,
            "num_key_value_heads": 1,
            "layer_types": None,
        }
    )
    torch.manual_seed(0)
    LlamaForSequenceClassification(config).save_pretrained(folder / "random")
    load_tokenizer(ModelConfig(path=str(subject.model))).save_pretrained(folder / "random")
    saved, _ = _saved(str(folder / "random"), folder / "few-layers")
    return replace(subject, model=saved)


def llama_1b(folder: Path, num_pairs: int = 256, prompt: int = 512) -> Subject:
    """Random weights in the shape of Llama-3.2-1B, and pairs of 2048 random tokens a side, `prompt` of them shared."""
    tokenizer = train_tokenizer(["the tokens are random"], vocab_size=512)
    shape = LlamaConfig(
        vocab_size=128256,
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=16,
        num_attention_heads=32,
        num_key_value_heads=8,
        max_position_embeddings=131072,
        rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
        tie_word_embeddings=True,
    )
    shape.num_labels, shape.pad_token_id = 1, 0  # the first of its special tokens
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        LlamaForSequenceClassification(shape).bfloat16().save_pretrained(folder / "random")
    tokenizer.save_pretrained(folder / "random")
    saved, _ = _saved(str(folder / "random"), folder / "model")
    draw = np.random.default_rng(0)
    beginnings = [draw.integers(10, 1000, prompt, dtype=np.int32) for _ in range(num_pairs)]
    sides = [[np.concatenate([start, draw.integers(10, 1000, 2048 - prompt, dtype=np.int32)]) for _ in range(2)] for start in beginnings]
    return Subject(name="llama-1b", model=saved, pairs=[TokenPair(chosen=a, rejected=b, margin=0.0) for a, b in sides])


def _saved(path: str, folder: Path) -> tuple[Path, PreTrainedTokenizerBase]:
    """The folder of a reward model with a fresh head on the model at `path`, which all contenders load, and its tokenizer."""
    model, tokenizer = new_reward_model(ModelConfig(path=path), seed=SEED)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder, tokenizer


def _pairs(file: Path, tokenizer: PreTrainedTokenizerBase) -> Sequence[TokenPair]:
    preferences = read_pairs(SourceConfig(path=str(file)), file.stem, key="--data").pairs
    return tokenize(preferences, tokenizer, max_length=MAX_LENGTH, overlong=Overlong.drop).pairs
