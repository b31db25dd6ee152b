"""How long a text may be is known before any work: the positions that a model has learned, and the context of a rotary one."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)

from core.config import ModelConfig
from core.generators.local import TransformersGenerator
from core.models.load import load_policy, load_reward_model
from core.models.positions import beyond_context, context_of, num_positions
from core.process.world import join_world
from core.records import Preference, Sampling, user
from core.runs.warnings import RunWarning
from core.scorers.reward_model import RewardModelScorer
from ppo.config import Algo
from rmtrain.config import PreferenceDataConfig, RewardModelConfig
from rmtrain.session import RMSession
from tests.fakes import only_id, tiny_llama
from tests.ppo.anything import run_any

SIZE: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 48}
LEARNED: dict[str, dict[str, Any]] = {
    "gpt2": {"n_positions": 20},
    "opt": {"max_position_embeddings": 20, "ffn_dim": 48, "word_embed_proj_dim": 32},
    "gpt_neo": {"max_position_embeddings": 20, "num_layers": 1, "num_heads": 4, "attention_types": [[["global"], 1]]},
    "biogpt": {"max_position_embeddings": 20},
    "bert": {"max_position_embeddings": 20},
    "distilbert": {"max_position_embeddings": 20, "dim": 32, "n_heads": 4, "n_layers": 1, "hidden_dim": 48},
    "electra": {"max_position_embeddings": 20},
    "roberta": {"max_position_embeddings": 22, "pad_token_id": 1},
    "gptj": {"n_positions": 20, "n_embd": 32, "n_head": 4, "n_layer": 1, "rotary_dim": 4},
}
FREE: dict[str, dict[str, Any]] = {
    "llama": {"max_position_embeddings": 20},
    "gpt_neox": {"max_position_embeddings": 20},
    "bloom": {},
    "modernbert": {"max_position_embeddings": 20},
}


@pytest.mark.parametrize("kind", list(LEARNED))
def test_as_many_tokens_fit_as_there_are_learned_positions_and_not_one_more(kind: str) -> None:
    model = AutoModel.from_config(AutoConfig.for_model(kind, **({"vocab_size": 100} | SIZE | LEARNED[kind]))).eval()
    assert num_positions(model) == 20
    with torch.no_grad():
        model(input_ids=torch.arange(5, 25)[None])
        with pytest.raises((IndexError, RuntimeError)):
            model(input_ids=torch.arange(5, 26)[None])


@pytest.mark.parametrize("kind", list(FREE))
def test_rotary_and_relative_positions_set_no_limit(kind: str) -> None:
    model = AutoModel.from_config(AutoConfig.for_model(kind, **({"vocab_size": 100, "pad_token_id": 0} | SIZE | FREE[kind]))).eval()
    assert num_positions(model) is None
    with torch.no_grad():
        model(input_ids=torch.arange(5, 26)[None])
    assert context_of(model) == (None if kind == "bloom" else 20)


@pytest.mark.parametrize(
    ("rope", "context"),
    [
        ({"rope_type": "default"}, 512),
        ({"rope_type": "linear", "factor": 4.0}, 2048),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}, 2048),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}, 512),
    ],
)
def test_the_context_of_a_scaled_rotary_model_counts_its_factor(
    tokenizer: PreTrainedTokenizerFast, rope: dict[str, Any], context: int
) -> None:
    model = LlamaForSequenceClassification(tiny_llama(tokenizer, rope_parameters={"rope_theta": 1e4, **rope}))
    assert context_of(model) == context
    assert beyond_context(model, context) == ""
    assert beyond_context(model, context + 1).startswith(
        f"warning: the longest text has {context + 1} tokens, more than the {context} that"
    )


def saved_gpt2(folder: Path, tokenizer: PreTrainedTokenizerFast, *, positions: int, policy: bool) -> ModelConfig:
    torch.manual_seed(0)
    auto = AutoModelForCausalLM if policy else AutoModelForSequenceClassification
    ids = {name: only_id(getattr(tokenizer, name)) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    shape = AutoConfig.for_model(
        "gpt2", vocab_size=len(tokenizer), n_positions=positions, n_embd=16, n_head=2, n_layer=1, num_labels=1, **ids
    )
    auto.from_config(shape).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return ModelConfig(path=str(folder))


def test_a_scorer_reads_as_many_tokens_as_there_are_positions_and_says_so(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    said: list[str] = []
    scorer = RewardModelScorer(*load_reward_model(saved_gpt2(tmp_path, tokenizer, positions=40, policy=False)), say=said.append)
    assert said[0] == (
        "max_length=2048 is more than the 40 positions that GPT2ForSequenceClassification has learned, so 40 tokens are the limit"
    )
    scorer.score([user("Name a fruit.")], [["A plum.", "A plum is a fruit. " * 20]])
    assert (scorer.max_length, scorer.num_truncated) == (40, 1)


def test_a_scorer_warns_once_of_texts_beyond_a_rotary_context(
    reward_model: LlamaForSequenceClassification, tokenizer: PreTrainedTokenizerFast
) -> None:
    said: list[str] = []
    scorer = RewardModelScorer(reward_model, tokenizer, say=said.append)
    scorer.score([user("Name a fruit.")], [["A plum."]])
    assert said == []
    for _ in range(2):
        scorer.score([user("Name a fruit.")], [["A plum is a fruit. " * 80]])
    assert len(said) == 1
    assert "more than the 512 that LlamaForSequenceClassification was made for" in said[0]


def test_training_drops_what_has_no_positions_and_says_the_number(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    base = saved_gpt2(tmp_path, tokenizer, positions=40, policy=True)
    pairs = [Preference(prompt=user("Name a fruit."), chosen=chosen, rejected="A lamp.") for chosen in ("A plum.", "A plum " * 30)]
    said: list[str] = []
    config = RewardModelConfig(model=base, data=PreferenceDataConfig(paths=["."]))
    warned: list[RunWarning | None] = []
    session = RMSession(config, pairs, world=join_world(), say=said.append, warn=warned.append)
    assert (session.tokens.num_dropped, len(session.pairs)) == (1, 1)
    assert said[0].startswith("max_length=2048 is more than the 40 positions")
    assert any(warning and "1 of 2 pairs" in warning.text and "max_length=40" in warning.text for warning in warned)


def test_a_generator_refuses_new_tokens_without_positions(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    generator = TransformersGenerator(*load_policy(saved_gpt2(tmp_path, tokenizer, positions=60, policy=True)))
    generator.generate([user("a")], Sampling(temperature=0, max_new_tokens=30))
    with pytest.raises(ValueError, match=r"GPT2LMHeadModel has learned 60 positions, and the longest prompt has \d+ tokens, to which"):
        generator.generate([user("a")], Sampling(temperature=0, max_new_tokens=60))


@pytest.mark.parametrize("algo", list(Algo))
def test_online_training_refuses_prompts_whose_answers_have_no_positions(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, algo: Algo
) -> None:
    folder = tmp_path / "policy"
    saved_gpt2(folder, tokenizer, positions=60, policy=True)
    with pytest.raises(ValueError, match="GPT2LMHeadModel has learned 60 positions"):
        run_any(folder, algo, tmp_path, max_new_tokens=50)
