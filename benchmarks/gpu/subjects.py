"""The models, tokens and shapes of `benchmarks.gpu`: Llamas with random weights, made on the device."""

import shutil
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast

from benchmarks.machine import device, seconds
from core.models.fused.layers import fuse_layers
from core.models.logprobs import compute_head_in_fp32

CHECKOUT = Path(__file__).parents[2]
PEAK = 989e12
"""Matrix products in bf16 by the data sheet of an H100 or H200, per second; what MFU is a share of."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """The sizes of a Llama."""

    hidden: int
    inner: int
    layers: int
    heads: int
    key_heads: int
    vocabulary: int

    def config(self, **options: Any) -> LlamaConfig:
        return LlamaConfig(
            hidden_size=self.hidden,
            intermediate_size=self.inner,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.key_heads,
            vocab_size=self.vocabulary,
            max_position_embeddings=8192,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            tie_word_embeddings=True,
            **options,
        )

    def shell(self) -> LlamaForSequenceClassification:
        """A reward model of these sizes without weights, whose work can be counted even where another's weights are split."""
        with torch.device("meta"):
            return LlamaForSequenceClassification(self.config(num_labels=1))


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """Prompts, completions of each, and their tokens."""

    prompts: int
    completions: int
    prompt: int
    completion: int

    def __str__(self) -> str:
        return f"{self.prompts} x {self.completions}, {self.prompt}+{self.completion}"

    @property
    def unique(self) -> int:
        return self.prompts * (self.prompt + self.completions * self.completion)

    @property
    def padded(self) -> int:
        return self.prompts * self.completions * (self.prompt + self.completion)

    @property
    def seen(self) -> int:
        """Query-key pairs that the trees attend to."""
        return self.prompts * (causal(self.prompt) + self.completions * (causal(self.prompt + self.completion) - causal(self.prompt)))

    def groups(self, vocabulary: int, seed: int = 0) -> list[list[NDArray[np.int32]]]:
        draw = np.random.default_rng(seed)

        def tokens(number: int) -> NDArray[np.int32]:
            return draw.integers(3, vocabulary, number, dtype=np.int32)

        prompts = [tokens(self.prompt) for _ in range(self.prompts)]
        return [[np.concatenate([prompt, tokens(self.completion)]) for _ in range(self.completions)] for prompt in prompts]


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """What is measured: on a GPU, or tiny to see that the script works."""

    tiny: bool
    folder: Path
    """Where models are saved that several rows read."""
    small: Size
    """A few layers of the large one: for values, not for speed."""
    one: Size
    eight: Size
    scoring: tuple[Shape, ...]
    training: tuple[Shape, ...]
    rollouts: int
    prompt: int
    new_tokens: int
    benchmark_prompts: int
    rounds: int


_VOCABULARY = 128_256
_NOWHERE = Path("models")
FULL = Scale(
    tiny=False,
    folder=_NOWHERE,
    small=Size(hidden=2048, inner=8192, layers=4, heads=32, key_heads=8, vocabulary=_VOCABULARY),
    one=Size(hidden=2048, inner=8192, layers=16, heads=32, key_heads=8, vocabulary=_VOCABULARY),
    eight=Size(hidden=4096, inner=14336, layers=32, heads=32, key_heads=8, vocabulary=_VOCABULARY),
    scoring=(
        Shape(prompts=12, completions=4, prompt=256, completion=256),
        Shape(prompts=4, completions=16, prompt=256, completion=128),
        Shape(prompts=6, completions=16, prompt=1024, completion=64),
        Shape(prompts=3, completions=4, prompt=1024, completion=1024),
    ),
    training=(
        Shape(prompts=8, completions=2, prompt=512, completion=1536),
        Shape(prompts=32, completions=2, prompt=256, completion=256),
        Shape(prompts=16, completions=2, prompt=1024, completion=256),
    ),
    rollouts=64,
    prompt=256,
    new_tokens=256,
    benchmark_prompts=466,
    rounds=5,
)
_TINY = Size(hidden=32, inner=48, layers=2, heads=4, key_heads=2, vocabulary=500)
TINY = Scale(
    tiny=True,
    folder=_NOWHERE,
    small=_TINY,
    one=_TINY,
    eight=_TINY,
    scoring=(Shape(prompts=2, completions=4, prompt=16, completion=8),),
    training=(Shape(prompts=2, completions=2, prompt=16, completion=8),),
    rollouts=4,
    prompt=8,
    new_tokens=6,
    benchmark_prompts=8,
    rounds=2,
)


def causal(length: int) -> int:
    return length * (length + 1) // 2


def classifier(size: Size, dtype: torch.dtype, *, fused: bool = True) -> LlamaForSequenceClassification:
    """A reward model with random weights, its layers fused as those of a loaded one are."""
    torch.manual_seed(0)
    with device():
        model = LlamaForSequenceClassification(size.config(num_labels=1, dtype=dtype))
    nn.Module.to(model, dtype)
    if fused:
        fuse_layers(model)
    return model.eval()


def language_model(size: Size, dtype: torch.dtype) -> LlamaForCausalLM:
    """A policy with random weights, its layers and its head as those of a loaded one are."""
    torch.manual_seed(1)
    with device():
        model = LlamaForCausalLM(size.config(dtype=dtype))
    nn.Module.to(model, dtype)
    fuse_layers(model)
    compute_head_in_fp32(model)
    return model.eval()


def word_tokenizer(size: Size) -> PreTrainedTokenizerFast:
    """A tokenizer whose every token but the first four is a word of its own, so that drawn ids survive as text."""
    words = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3} | {f"w{number}": number for number in range(4, size.vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        chat_template="<s> {% for m in messages %}{{ m.content }} {% if m.role == 'assistant' %}</s>{% endif %}{% endfor %}",
    )


def words(number: int, size: Size, draw: np.random.Generator) -> str:
    """A text of that many tokens of `word_tokenizer`."""
    return " ".join(f"w{token}" for token in draw.integers(4, size.vocabulary, number).tolist())


def saved(model: LlamaForCausalLM | LlamaForSequenceClassification, size: Size, folder: Path) -> str:
    """The model with its tokenizer on disk, as commands read them."""
    model.save_pretrained(folder)
    word_tokenizer(size).save_pretrained(folder)
    return str(folder)


def saved_policy(scale: Scale) -> str:
    """A policy in bf16 on disk, made by the first row that asks for it."""
    return _saved_once(lambda: language_model(scale.one, torch.bfloat16), scale.one, scale.folder / "policy")


def saved_reward_model(scale: Scale) -> str:
    """A reward model in bf16 on disk, made by the first row that asks for it."""
    return _saved_once(lambda: classifier(scale.one, torch.bfloat16), scale.one, scale.folder / "reward")


def _saved_once(make: Callable[[], LlamaForCausalLM | LlamaForSequenceClassification], size: Size, folder: Path) -> str:
    if not folder.exists():
        aside = folder.with_name(f"{folder.name}-unfinished")  # left by a row whose time was over while it saved
        shutil.rmtree(aside, ignore_errors=True)
        saved(make(), size, aside)
        aside.rename(folder)
    return str(folder)


def median_seconds(work: Callable[[], object], rounds: int) -> float:
    """Of one call, after one that warms up."""
    seconds(work)
    return statistics.median(seconds(work) for _ in range(rounds))


def relative(found: Sequence[torch.Tensor], truth: Sequence[torch.Tensor]) -> float:
    """The norm of the difference over the norm, over all tensors; NaN where one is not finite."""
    off = sum((a.double() - b.double()).square().sum() for a, b in zip(found, truth, strict=True))
    size = sum(b.double().square().sum() for b in truth)
    return float((torch.as_tensor(off) / torch.as_tensor(size)).sqrt())
