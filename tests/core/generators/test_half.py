"""Under bf16 autocast every engine samples from weights, keys and values in bf16, cast once, with a head in fp32."""

# pyright: reportPrivateUsage=false

import copy
from collections import Counter
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.generation.continuous_batching.cache import PagedAttentionCache

from core.config import Dtype
from core.data.chat import encode_prompts
from core.generators import local
from core.generators.continuous import ContinuousGenerator
from core.generators.graphed import GraphGenerator
from core.generators.half import HalfCopy, WholeCopy, to_sample_from
from core.generators.local import TransformersGenerator, require_generates
from core.models.logprobs import compute_head_in_fp32, head_logprobs
from core.models.mapped import first_layers
from core.process.precision import autocast
from core.records import Generator, Sampling, user
from core.trees.attention import encode, tree_attention
from core.trees.layout import pack_rows

CPU = torch.device("cpu")
PROMPTS = [user("Name " + "a short " * repeats + "fruit.") for repeats in (0, 3, 1, 7)]
ENGINES = pytest.mark.parametrize("engine", [TransformersGenerator, GraphGenerator, ContinuousGenerator])
Engine = Callable[[PreTrainedModel, PreTrainedTokenizerFast], Generator]


@pytest.fixture
def policy_in_training(policy: LlamaForCausalLM) -> LlamaForCausalLM:
    """The policy as `load_policy` gives it."""
    model = copy.deepcopy(policy)
    compute_head_in_fp32(model)
    return model


class Casts(TorchDispatchMode):
    """Counts the casts to bf16 of tensors that are as large as `large` or larger, by shape."""

    def __init__(self, large: int) -> None:
        super().__init__()
        self.large, self.shapes = large, Counter[tuple[int, ...]]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._to_copy.default and made.dtype == torch.bfloat16 and made.numel() >= self.large:
            self.shapes[tuple(made.shape)] += 1
        return made


@pytest.mark.parametrize("engine", [TransformersGenerator, GraphGenerator])
def test_no_weight_and_no_cache_is_cast_anew_for_every_token(
    policy_in_training: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, engine: Engine
) -> None:
    layer: Any = policy_in_training.model.layers[0]
    num_weights = sum(isinstance(module, torch.nn.Linear) for module in policy_in_training.model.modules())
    sampling = Sampling(max_new_tokens=30, seed=1)
    generator = engine(policy_in_training, tokenizer)
    with autocast(CPU, Dtype.bf16), Casts(large=layer.self_attn.q_proj.weight.numel()) as casts:
        rows = generator.generate(PROMPTS, sampling)
    assert max(len(completion.token_ids) for [completion] in rows) > 20
    weights = {tuple(weight.shape) for weight in layer.parameters() if weight.dim() == 2}
    assert sum(count for shape, count in casts.shapes.items() if shape in weights) <= num_weights
    # A cache has four axes, (rows, heads, tokens, channels); new keys and queries have one token.
    assert not [shape for shape in casts.shapes if len(shape) == 4 and shape[2] > 1 and casts.shapes[shape] > 8]


@ENGINES
def test_the_log_probabilities_are_those_of_a_trainer_in_bf16(
    policy_in_training: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, engine: Engine
) -> None:
    with autocast(CPU, Dtype.bf16):
        answers = engine(policy_in_training, tokenizer).generate(PROMPTS, Sampling(max_new_tokens=16, seed=3))
    gaps: list[Tensor] = []
    for prompt, [completion] in zip(encode_prompts(tokenizer, PROMPTS), answers, strict=True):
        row, start = torch.tensor([*prompt, *completion.token_ids]), len(prompt)
        for dtype in (Dtype.bf16, Dtype.fp32):
            with torch.no_grad(), tree_attention(policy_in_training), autocast(CPU, dtype):
                hidden_NH = encode(policy_in_training, pack_rows([row.numpy()]))[start - 1 : -1]
                expected_T, _ = head_logprobs(policy_in_training, hidden_NH, row[start:])
            assert completion.logprobs is not None
            gaps.append((torch.tensor(completion.logprobs) - expected_T).abs())
    in_bf16, in_fp32 = torch.cat(gaps[::2]).mean(), torch.cat(gaps[1::2]).mean()
    assert in_bf16 < 0.03
    assert in_fp32 > 1e-4  # bf16 it was


def test_keys_and_values_of_every_engine_are_in_bf16(
    policy_in_training: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    formats: dict[str, torch.dtype] = {}
    make_cache, make_pages = local.growing_cache, PagedAttentionCache.__init__

    def growing_cache(config: Any) -> Any:
        caches.append(make_cache(config))
        return caches[-1]

    def paged(self: Any, *args: Any, **kwargs: Any) -> None:
        make_pages(self, *args, **kwargs)
        formats["continuous"] = self.dtype

    caches: list[Any] = []
    monkeypatch.setattr(local, "growing_cache", growing_cache)
    monkeypatch.setattr(PagedAttentionCache, "__init__", paged)
    graphed = GraphGenerator(policy_in_training, tokenizer)
    with autocast(CPU, Dtype.bf16):
        for generator in (
            TransformersGenerator(policy_in_training, tokenizer),
            ContinuousGenerator(policy_in_training, tokenizer),
            graphed,
        ):
            generator.generate(PROMPTS, Sampling(max_new_tokens=3))
    assert formats == {"continuous": torch.bfloat16}
    assert {states.dtype for layer in caches[-1].layers for states in (layer.keys, layer.values)} == {torch.bfloat16}
    assert graphed._decoder is not None
    assert graphed._decoder.memory.dtype == torch.bfloat16


def test_the_copy_shares_what_it_does_not_cast_and_follows_the_weights(policy_in_training: LlamaForCausalLM) -> None:
    half, copied = HalfCopy(policy_in_training, torch.bfloat16), cast("Any", policy_in_training)
    ours: Any = half.model
    layer, theirs = ours.model.layers[0], copied.model.layers[0]
    assert layer.self_attn.q_proj.weight.dtype == torch.bfloat16
    assert layer.input_layernorm.weight is theirs.input_layernorm.weight
    assert ours.lm_head.weight is copied.lm_head.weight
    assert ours.model.embed_tokens.weight is copied.model.embed_tokens.weight
    with torch.no_grad():
        theirs.self_attn.q_proj.weight.fill_(0.5)
    half.refresh()
    assert (layer.self_attn.q_proj.weight == 0.5).all()
    for weight in copied.parameters():  # as where a model is moved to the machine's memory and back
        weight.data = weight.data.clone()
    with torch.no_grad():
        theirs.self_attn.q_proj.weight.fill_(0.25)
    half.refresh()
    assert (layer.self_attn.q_proj.weight == 0.25).all(), "weights are read where they lie now"
    whole: Any = HalfCopy(policy_in_training, torch.bfloat16, whole=True).model
    assert whole.dtype == torch.bfloat16
    assert {name for name, weight in whole.named_parameters() if weight.dtype == torch.float32} == {"lm_head.weight"}
    assert whole.lm_head.weight is copied.lm_head.weight


def test_the_transposed_layers_of_gpt2_are_cast_too() -> None:
    model = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=16, n_layer=1, n_head=2)).eval()
    compute_head_in_fp32(model)
    assert to_sample_from(model) is model  # without autocast
    with autocast(CPU, Dtype.bf16):
        ours: Any = to_sample_from(model)
    assert ours.transformer.h[0].attn.c_attn.weight.dtype == torch.bfloat16
    # The head is tied to the embeddings, which stay in fp32.
    assert ours.lm_head.weight is ours.transformer.wte.weight
    assert ours.lm_head.weight.dtype == torch.float32


def held(model: torch.nn.Module) -> int:
    """The bytes of a model's weights."""
    return sum({weight.untyped_storage().data_ptr(): weight.untyped_storage().nbytes() for weight in model.parameters()}.values())


def whole_copy(model: PreTrainedModel) -> WholeCopy:
    return WholeCopy(model, dtype=torch.bfloat16, device=CPU)


@ENGINES
def test_a_whole_copy_answers_as_the_policy_does_under_autocast(
    policy_in_training: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, engine: Any
) -> None:
    copied, probe = whole_copy(policy_in_training), first_layers(policy_in_training)
    options: dict[str, Any] = {} if engine is GraphGenerator else {"probe": probe}
    generator, sampling = engine(copied.model, tokenizer, **options), Sampling(max_new_tokens=12, seed=3)
    with autocast(CPU, Dtype.bf16):
        expected = engine(policy_in_training, tokenizer).generate(PROMPTS, sampling)
        for _ in range(2):  # also after its memory was given up in between
            copied.refresh(policy_in_training.state_dict().items())
            assert generator.generate(PROMPTS, sampling) == expected
            copied.release()


def test_a_whole_copy_takes_half_the_memory_and_none_before_it_is_filled_and_after_its_release(
    policy_in_training: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    copied, model = whole_copy(policy_in_training), policy_in_training
    assert held(copied.model) == 0
    copied.refresh(model.named_parameters())
    matrices = sum(weight.numel() for name, weight in model.named_parameters() if "_proj" in name)
    assert held(copied.model) == 4 * model.num_parameters() - 2 * matrices
    assert {copied.formats[name] == torch.bfloat16 for name in copied.formats if "_proj" in name} == {True}
    assert {copied.formats[name] for name in copied.formats if "_proj" not in name} == {torch.float32}
    require_generates(copied.model, tokenizer)  # outside autocast, as by whoever is handed it
    copied.release()
    assert held(copied.model) == 0
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}


def test_a_whole_copy_that_was_not_told_all_weights_is_not_sampled_from(policy_in_training: LlamaForCausalLM) -> None:
    weights = dict(policy_in_training.named_parameters())
    del weights["model.norm.weight"]
    with pytest.raises(AssertionError, match=r"\['model.norm.weight'\] would be sampled with whatever the memory holds"):
        whole_copy(policy_in_training).refresh(weights.items())


def test_tied_weights_of_a_whole_copy_are_one_and_in_fp32() -> None:
    model = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=16, n_layer=1, n_head=2)).eval()
    compute_head_in_fp32(model)
    copied = whole_copy(model)
    copied.refresh(model.named_parameters())  # which names a tied weight once
    ours: Any = copied.model
    assert ours.lm_head.weight is ours.transformer.wte.weight
    assert torch.equal(ours.lm_head.weight, model.transformer.wte.weight)
    assert ours.transformer.h[0].attn.c_attn.weight.dtype == torch.bfloat16


@pytest.mark.parametrize("implementation", ["eager", "grouped_mm"])
def test_the_matrices_of_experts_are_cast_once_too(tokenizer: PreTrainedTokenizerFast, implementation: str) -> None:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = MixtralConfig(vocab_size=len(tokenizer), num_key_value_heads=1, num_local_experts=3, pad_token_id=0, **sizes)
    model = MixtralForCausalLM(config).eval()
    model.set_experts_implementation(implementation)
    compute_head_in_fp32(model)
    experts = 3 * 2 * 48 * 32
    with autocast(CPU, Dtype.bf16):
        ours: Any = to_sample_from(model)
        with Casts(large=48 * 32) as casts:
            rows = TransformersGenerator(ours, tokenizer).generate(PROMPTS, Sampling(max_new_tokens=8, seed=1))
    layer = ours.model.layers[0].mlp
    assert {layer.experts.gate_up_proj.dtype, layer.experts.down_proj.dtype} == {torch.bfloat16}
    assert layer.experts.gate_up_proj.numel() == experts
    assert layer.gate.weight.dtype == torch.float32  # which decides who is an expert
    assert len(rows) == len(PROMPTS)
    assert not [shape for shape in casts.shapes if shape in {(96, 32), (32, 48), (3, 96, 32), (3, 32, 48)}]
