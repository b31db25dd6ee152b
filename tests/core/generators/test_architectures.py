"""A policy's tokens are those of its whole rows, read one by one, whatever it keeps from token to token; or it is refused by name."""

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from core.data.chat import encode_prompts
from core.generators.continuous import ContinuousGenerator
from core.generators.local import TransformersGenerator
from core.models.logprobs import require_paddable
from core.records import Sampling, user
from tests.fakes import only_id

PROMPTS = [user("Name a fruit."), user("Name"), user("What is 2 plus 3? Answer in one short sentence.")]
GREEDY = Sampling(temperature=0, max_new_tokens=10)
DELTA = {"linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8, "head_dim": 8}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16}
RIGHT: dict[str, dict[str, Any]] = {
    "mamba2": {"state_size": 8, "num_heads": 8, "head_dim": 8, "n_groups": 2, "chunk_size": 4},
    "jamba": {
        "mamba_d_state": 4,
        "num_experts": 2,
        "num_experts_per_tok": 1,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "use_mamba_kernels": False,
    },
    "qwen3_next": DELTA | EXPERTS,
    "lfm2": {"full_attn_idxs": [1, 3], "block_auto_adjust_ff_dim": False},
    "falcon_h1": {
        "mamba_d_ssm": 64,
        "mamba_n_heads": 8,
        "mamba_d_head": 8,
        "mamba_d_state": 8,
        "mamba_n_groups": 1,
        "mamba_chunk_size": 4,
        "head_dim": 8,
    },
    "gpt2": {},
    "mistral": {"sliding_window": 4},
}
REFUSED: dict[str, dict[str, Any]] = {
    "mamba": {"state_size": 4},
    "recurrent_gemma": {
        "lru_width": 32,
        "head_dim": 8,
        "attention_window_size": 64,
        "block_types": ["recurrent", "recurrent", "attention"],
    },
    "rwkv": {"attention_hidden_size": 32, "context_length": 256},
    "roberta": {"is_decoder": True},
    "bart": {"d_model": 32, "decoder_layers": 2, "decoder_attention_heads": 4, "encoder_attention_heads": 4, "decoder_ffn_dim": 48},
}


def tiny(kind: str, tokenizer: PreTrainedTokenizerFast, **options: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        kind,
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
        max_position_embeddings=256,
        initializer_range=0.3,
        bos_token_id=only_id(tokenizer.bos_token_id),
        eos_token_id=only_id(tokenizer.eos_token_id),
        pad_token_id=only_id(tokenizer.pad_token_id),
        **options,
    )
    return AutoModelForCausalLM.from_config(config).eval()


@torch.no_grad()
def one_by_one(model: PreTrainedModel, prompt: list[int], end: int) -> list[int]:
    row = list(prompt)
    while len(row) < len(prompt) + GREEDY.max_new_tokens and row[-1] != end:
        row.append(int(model(input_ids=torch.tensor([row]), use_cache=False).logits[0, -1].argmax()))
    return row[len(prompt) :]


@pytest.mark.parametrize("kind", list(RIGHT))
def test_completions_are_those_of_whole_rows_read_one_by_one(kind: str, tokenizer: PreTrainedTokenizerFast) -> None:
    model = tiny(kind, tokenizer, **RIGHT[kind])
    end = only_id(tokenizer.eos_token_id)
    expected = [one_by_one(model, prompt, end) for prompt in encode_prompts(tokenizer, PROMPTS)]
    # Two of each, drawn where only the most likely token has any probability.
    cold = Sampling(n=2, temperature=1e-5, max_new_tokens=GREEDY.max_new_tokens)
    found = TransformersGenerator(model, tokenizer).generate(PROMPTS, cold)
    assert [[list(completion.token_ids) for completion in row] for row in found] == [[row] * 2 for row in expected]
    require_paddable(model)


@pytest.mark.parametrize("kind", list(REFUSED))
def test_an_architecture_that_would_draw_other_tokens_is_refused_by_name(kind: str, tokenizer: PreTrainedTokenizerFast) -> None:
    model = tiny(kind, tokenizer, **REFUSED[kind])
    with pytest.raises(ValueError, match=rf"{type(model).__name__} \(model_type={kind}\) cannot be sampled here"):
        TransformersGenerator(model, tokenizer)


def test_continuous_batching_names_an_architecture_that_it_cannot_page(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ValueError, match=r"does not start with Lfm2ForCausalLM \(Invalid layer type: conv\)"):
        ContinuousGenerator(tiny("lfm2", tokenizer, **RIGHT["lfm2"]), tokenizer).generate(PROMPTS, GREEDY)
    with pytest.raises(ValueError, match="RwkvForCausalLM has attention of its own"):
        ContinuousGenerator(tiny("rwkv", tokenizer, **REFUSED["rwkv"]), tokenizer)


def test_log_probabilities_that_padding_changes_are_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ValueError, match=r"RwkvForCausalLM \(model_type=rwkv\) gives other log-probabilities with padding"):
        require_paddable(tiny("rwkv", tokenizer, **REFUSED["rwkv"]))
