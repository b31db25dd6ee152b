"""Hidden states over a prompt tree are those of one row at a time, for every architecture that is not refused."""

# pyright: reportPrivateUsage=false

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, LlamaConfig, LlamaModel, PreTrainedModel

from core.trees import attention
from core.trees.attention import encode, obstacle, tree_attention
from core.trees.layout import MAX_QUERIES, Stream, pack_trees


def numbers(seed: int, length: int) -> list[int]:
    return torch.randint(1, 97, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


PREAMBLE = numbers(0, 5)
LONG, SHORT = [*PREAMBLE, *numbers(1, 150)], [*PREAMBLE, *numbers(2, 12)]
GROUPS = [
    # A segment too long to be one block below the preamble, and three levels below that.
    [[*LONG, *numbers(3, 4)], [*LONG, *numbers(4, 20), 7], [*LONG, *numbers(4, 20), 8, 9], LONG],
    [numbers(5, 30), numbers(6, 3)],  # nothing in common, not even the preamble
    [[*SHORT, *numbers(7, 6)], [*SHORT, *numbers(8, 9)]],
]
ROWS = [row for rows in GROUPS for row in rows]
MAX_LENGTH = max(map(len, ROWS))

# What transformers calls them, and what is not as in a Llama of two layers with four heads.
PLAIN: list[tuple[str, dict[str, Any]]] = [
    ("llama", {}),
    ("llama", {"num_key_value_heads": 2}),
    ("llama", {"num_key_value_heads": 1}),
    ("qwen2", {"num_key_value_heads": 2}),
    ("qwen3", {"num_key_value_heads": 2, "head_dim": 12}),
    ("mistral", {"num_key_value_heads": 2, "sliding_window": None}),
    ("mistral", {"num_key_value_heads": 2, "sliding_window": MAX_LENGTH}),
    ("gemma", {"num_key_value_heads": 1, "head_dim": 12}),
    ("gpt_neox", {}),
    ("gpt2", {}),
    ("opt", {"word_embed_proj_dim": 32, "ffn_dim": 48}),
    ("mixtral", {"num_key_value_heads": 2, "num_local_experts": 4, "sliding_window": None}),
    ("qwen3_moe", {"num_key_value_heads": 2, "head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}),
    ("olmoe", {"num_experts": 4, "num_experts_per_tok": 2}),
]
SINKS = {
    "num_key_value_heads": 2,
    "head_dim": 8,
    "num_local_experts": 2,
    "num_experts_per_tok": 1,
    "layer_types": ["full_attention"] * 2,
    "sliding_window": None,
}
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("mistral", {"sliding_window": MAX_LENGTH - 1}, f"attends to the last {MAX_LENGTH - 1} tokens only"),
    ("qwen2", {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1}, "has layers of sliding_attention"),
    ("gemma2", {"head_dim": 8}, "has layers of sliding_attention"),
    ("gemma2", {"head_dim": 8, "layer_types": ["full_attention"] * 2}, "this layer has softcap"),
    ("gemma3_text", {"head_dim": 8}, "has layers of sliding_attention"),
    ("gpt_oss", SINKS, "this layer has s_aux"),
    ("bert", {}, "gives other values on prompt trees"),  # sees what comes after, too
    ("bloom", {}, "does not take attention functions"),
    ("mamba", {}, "does not take attention functions"),
]


def tiny(kind: str, **options: Any) -> PreTrainedModel:
    """A random decoder without a head; weights drawn wide, so that a wrong mask shows."""
    settings = {
        "vocab_size": 97,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 256,
        "initializer_range": 0.3,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    } | options
    torch.manual_seed(0)
    return AutoModel.from_config(AutoConfig.for_model(kind, **settings)).eval()


def one_at_a_time(model: PreTrainedModel) -> list[Tensor]:
    return [model(input_ids=torch.tensor([row]), use_cache=False).last_hidden_state[0] for row in ROWS]


def shapes(stream: Stream) -> set[tuple[bool, bool, bool]]:
    """The kinds of blocks: with a mask, with a context, of several segments."""
    return {(block.mask_QK is not None, bool(block.context), len(block.segments) > 1) for block in stream.blocks()}


def named(case: Any) -> str | None:
    return case if isinstance(case, str) else None


@pytest.mark.parametrize(("kind", "options"), PLAIN, ids=named)
@torch.no_grad()
def test_every_token_has_the_hidden_state_of_its_row_alone(kind: str, options: dict[str, Any]) -> None:
    model = tiny(kind, **options)
    assert obstacle(model, MAX_LENGTH) is None
    stream = pack_trees(GROUPS, PREAMBLE)
    assert len(stream.ids_N) < sum(map(len, ROWS)) / 2
    with tree_attention(model):
        hidden_NH = encode(model, stream)
    for number, naive_LH in enumerate(one_at_a_time(model)):
        ours_LH = hidden_NH[stream.token_indices(number)]
        assert (ours_LH - naive_LH).abs().max() <= 1e-5 * naive_LH.abs().max()


def test_the_rows_above_have_blocks_of_every_kind() -> None:
    causal, below, joined, joined_below = (False, False, False), (True, True, False), (True, False, True), (True, True, True)
    stream = pack_trees(GROUPS, PREAMBLE)
    assert shapes(stream) == {causal, below, joined, joined_below}
    assert MAX_QUERIES in stream.lengths


@pytest.mark.parametrize(("kind", "options", "reason"), REFUSED, ids=named)
@torch.no_grad()
def test_an_architecture_that_would_give_other_values_is_refused_with_a_reason(kind: str, options: dict[str, Any], reason: str) -> None:
    model = tiny(kind, **options)
    before = model.config._attn_implementation
    assert reason in (obstacle(model, MAX_LENGTH) or "")
    assert type(model).__name__ in (obstacle(model, MAX_LENGTH) or "")
    assert model.config._attn_implementation == before


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("gemma2", {"head_dim": 8}),
        ("gemma2", {"head_dim": 8, "layer_types": ["full_attention"] * 2}),
        ("gemma3_text", {"head_dim": 8, "sliding_window": 16}),
        ("mistral", {"num_key_value_heads": 2, "sliding_window": MAX_LENGTH - 1}),
    ],
    ids=named,
)
@torch.no_grad()
def test_a_model_that_is_run_all_the_same_raises_instead_of_giving_other_values(kind: str, options: dict[str, Any]) -> None:
    model = tiny(kind, **options)
    with tree_attention(model), pytest.raises(ValueError, match=r"plain and causal; this layer has s(liding_window|oftcap)"):
        encode(model, pack_trees(GROUPS, PREAMBLE))


class Narrow(PreTrainedModel):
    """A Llama whose forward pass takes the usual arguments alone."""

    _supports_sdpa = _supports_attention_backend = True

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(config)
        self.inner = LlamaModel(config)

    def forward(self, input_ids: Tensor, position_ids: Tensor | None = None, use_cache: bool | None = None) -> Any:
        return self.inner(input_ids=input_ids, position_ids=position_ids, use_cache=use_cache)


def test_a_forward_pass_that_cannot_hand_the_tree_on_is_refused() -> None:
    config = tiny("llama").config
    assert isinstance(config, LlamaConfig)
    assert "Narrow refuses prompt trees" in (obstacle(Narrow(config).eval(), MAX_LENGTH) or "")


def test_dropout_in_attention_is_refused() -> None:
    model = tiny("llama", attention_dropout=0.1).train()
    with tree_attention(model), pytest.raises(ValueError, match="this layer has dropout"):
        encode(model, pack_trees(GROUPS))


def test_in_bfloat16_rounding_is_accepted_and_other_values_are_not() -> None:
    assert obstacle(tiny("llama").bfloat16(), MAX_LENGTH) is None
    assert "other values" in (obstacle(tiny("bert").bfloat16(), MAX_LENGTH) or "")


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_the_model_attends_as_before_once_it_is_done_or_has_failed(implementation: str) -> None:
    model = AutoModelForSequenceClassification.from_config(tiny("llama", num_labels=1).config, attn_implementation=implementation)
    with tree_attention(model):
        assert model.config._attn_implementation == model.base_model.config._attn_implementation == "prompt_tree"
        with tree_attention(model):
            pass
        assert model.config._attn_implementation == "prompt_tree"
    assert model.config._attn_implementation == model.base_model.config._attn_implementation == implementation
    with pytest.raises(RuntimeError, match="the power went off"), tree_attention(model):
        raise RuntimeError("the power went off")
    assert model.config._attn_implementation == implementation


def random_heads(length: int, num_heads: int, num_key_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(1, num_heads, length, 8), torch.randn(1, num_key_heads, length, 8), torch.randn(1, num_key_heads, length, 8)


@pytest.mark.parametrize(("num_heads", "num_key_heads"), [(2, 2), (4, 2)])
def test_attention_by_blocks_equals_a_softmax_under_the_mask_of_the_whole_stream(num_heads: int, num_key_heads: int) -> None:
    stream = pack_trees(GROUPS, PREAMBLE)
    query_1HND, key_1JND, value_1JND = random_heads(len(stream.ids_N), num_heads, num_key_heads)
    place_N = torch.arange(len(stream.ids_N))
    visible_NN = (place_N <= place_N[:, None]) & (place_N[:, None] < stream.subtree_end_N)
    # Query heads 0 and 1 read key head 0, and 2 and 3 read 1.
    keys_1HND, values_1HND = (tensor.repeat_interleave(num_heads // num_key_heads, dim=1) for tensor in (key_1JND, value_1JND))
    scores_1HNN = (query_1HND @ keys_1HND.transpose(2, 3) * 0.3).masked_fill(~visible_NN, float("-inf"))
    expected_1HND = scores_1HNN.softmax(-1) @ values_1HND
    ours_1HND = attention._attend_by_block(query_1HND, key_1JND, value_1JND, attention.Plan(stream), 0.3)
    torch.testing.assert_close(ours_1HND, expected_1HND, atol=1e-5, rtol=0)


def test_queries_and_keys_that_autocast_leaves_in_another_format_follow_the_values() -> None:
    stream = pack_trees(GROUPS, PREAMBLE)
    query_1HND, key_1JND, value_1JND = random_heads(len(stream.ids_N), 2, 2)
    plan = attention.Plan(stream)
    out_1NHD, _ = attention.attend_on_tree(torch.nn.Identity(), query_1HND, key_1JND, value_1JND.bfloat16(), None, prompt_tree=plan)
    assert out_1NHD.dtype == torch.bfloat16
    expected_1NHD, _ = attention.attend_on_tree(torch.nn.Identity(), query_1HND, key_1JND, value_1JND, None, prompt_tree=plan)
    torch.testing.assert_close(out_1NHD.float(), expected_1NHD, atol=0.05, rtol=0)
