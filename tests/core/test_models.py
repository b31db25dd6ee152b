"""Models load ready for use, with a seeded head and a pad token of their own, or say what to do."""

import math
from pathlib import Path

import pytest
import torch
from transformers import (
    DistilBertConfig,
    DistilBertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)

from core.chat import encode_prompts
from core.config import Dtype, ModelConfig
from core.models import PAD_TOKEN, load_policy, load_reward_model, load_tokenizer, new_reward_model, resolve
from core.records import user
from tests.fakes import WORDS, tiny_llama, word_tokenizer


def config(path: Path, dtype: Dtype = Dtype.fp32) -> ModelConfig:
    return ModelConfig(path=str(path), dtype=dtype)


@pytest.fixture(params=[None, "</s>"])
def padless_folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A policy over twelve words whose tokenizer has no pad token, or EOS for it."""
    tokenizer = word_tokenizer(pad=request.param)
    torch.manual_seed(0)
    LlamaForCausalLM(tiny_llama(tokenizer)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return tmp_path


def test_a_saved_policy_is_loaded_as_it_was(policy_folder: Path, policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    model, loaded_tokenizer = load_policy(config(policy_folder))
    assert not model.training
    assert loaded_tokenizer.chat_template == tokenizer.chat_template
    ids = encode_prompts(loaded_tokenizer, [user("Name a fruit.")])
    assert ids == encode_prompts(tokenizer, [user("Name a fruit.")])
    with torch.no_grad():
        torch.testing.assert_close(model(torch.tensor(ids)).logits, policy(torch.tensor(ids)).logits)


def test_a_saved_reward_model_is_loaded_with_its_own_head(reward_model_folder: Path, reward_model: LlamaForSequenceClassification) -> None:
    model, _ = load_reward_model(config(reward_model_folder))
    assert not model.training
    torch.testing.assert_close(model.get_parameter("score.weight"), reward_model.get_parameter("score.weight"))


def test_the_weights_are_held_in_the_number_format_asked_for(policy_folder: Path) -> None:
    model, _ = load_policy(config(policy_folder, Dtype.bf16))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_a_new_head_is_drawn_with_standard_deviation_one_over_root_h_plus_one(policy_folder: Path) -> None:
    model, _ = new_reward_model(config(policy_folder), seed=3)
    # h = 16, so the standard deviation is 1 / sqrt(17); the same standard normal numbers, scaled by hand.
    normal = torch.randn(1, 16, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(model.get_parameter("score.weight"), normal / math.sqrt(17), rtol=1e-5, atol=0)
    assert dict(model.named_parameters()).get("score.bias") is None


def test_a_seed_gives_the_same_head_again_and_another_seed_another_one(policy_folder: Path) -> None:
    torch.manual_seed(1)
    first, _ = new_reward_model(config(policy_folder), seed=3)
    torch.manual_seed(2)
    again, _ = new_reward_model(config(policy_folder), seed=3)
    other, _ = new_reward_model(config(policy_folder), seed=4)
    assert torch.equal(first.get_parameter("score.weight"), again.get_parameter("score.weight"))
    assert not torch.equal(first.get_parameter("score.weight"), other.get_parameter("score.weight"))


def test_the_body_of_a_new_reward_model_is_the_policys(policy_folder: Path, policy: LlamaForCausalLM) -> None:
    model, _ = new_reward_model(config(policy_folder), seed=3)
    for name, weight in policy.get_submodule("model").named_parameters():
        assert torch.equal(model.get_parameter(f"model.{name}"), weight)


def test_a_pad_token_is_added_where_there_is_none_or_it_equals_eos(padless_folder: Path) -> None:
    tokenizer = load_tokenizer(config(padless_folder))
    assert tokenizer.pad_token == PAD_TOKEN
    assert tokenizer.pad_token_id == len(WORDS)  # the first id behind the twelve words
    assert tokenizer.eos_token_id == WORDS.index("</s>")


def test_a_pad_token_of_its_own_is_kept(policy_folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    loaded = load_tokenizer(config(policy_folder))
    assert loaded.pad_token_id == tokenizer.pad_token_id
    assert len(loaded) == len(tokenizer)


def test_an_added_pad_token_has_an_embedding_and_the_model_knows_it(padless_folder: Path) -> None:
    for model, tokenizer in (load_policy(config(padless_folder)), new_reward_model(config(padless_folder), seed=0)):
        assert len(model.get_input_embeddings().get_parameter("weight")) == len(tokenizer) == len(WORDS) + 1
        assert model.config.get_text_config().pad_token_id == tokenizer.pad_token_id


def test_two_loads_of_a_policy_agree_also_on_the_added_pad_token(padless_folder: Path) -> None:
    torch.manual_seed(1)
    policy, _ = load_policy(config(padless_folder))
    torch.manual_seed(2)
    reference, _ = load_policy(config(padless_folder))
    for name, weight in policy.named_parameters():
        assert torch.equal(weight, reference.get_parameter(name)), name


def test_a_policy_gives_an_added_pad_token_no_more_than_an_even_share(padless_folder: Path) -> None:
    policy, tokenizer = load_policy(config(padless_folder))
    with torch.no_grad():
        probabilities = torch.softmax(policy(torch.arange(len(WORDS))[None]).logits, -1)
    # The row is the mean of the others, so the logit is their mean, and exp(mean) <= mean(exp).
    assert probabilities[..., len(WORDS)].max().item() <= 1 / len(tokenizer)


def test_dropout_is_off_also_in_training(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    # Dropout of 0.5 everywhere; the log-probabilities of a policy in training must be those of its rollouts.
    shape = GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2, resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5)
    GPT2LMHeadModel(shape).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model, _ = load_policy(config(tmp_path))
    model.train()
    ids = torch.tensor([[1, 7, 8, 9]])
    with torch.no_grad():
        assert torch.equal(model(ids).logits, model(ids).logits)


def test_an_empty_path_is_refused_with_the_key_and_a_remedy() -> None:
    with pytest.raises(ValueError, match=r"model\.path is empty; give a local folder, a hub id or pip:smollm2-135m"):
        ModelConfig()


@pytest.mark.parametrize("path", ["/nowhere/policy", "./policy", "runs/demo/policy", "policy"])
def test_a_path_that_does_not_exist_is_refused_with_the_key_and_a_remedy(path: str) -> None:
    with pytest.raises(ValueError, match=rf"model\.path={path} does not exist; give the folder of a saved model, or a hub id"):
        load_policy(ModelConfig(path=path))


def test_a_folder_without_a_saved_model_is_refused_with_the_key_and_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"model\.path=.* is a folder without config\.json; name the folder of a saved model"):
        load_policy(config(tmp_path))


def test_an_unknown_model_of_a_package_is_refused_with_the_known_one() -> None:
    with pytest.raises(ValueError, match=r"model\.path=pip:gpt5 is unknown; .* pip:smollm2-135m"):
        load_policy(ModelConfig(path="pip:gpt5"))


def test_a_name_with_one_slash_is_a_hub_id(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr("core.sources.require_hub", asked.append)
    assert resolve(ModelConfig(path="allenai/olmo-2")) == "allenai/olmo-2"
    assert asked == ["model.path=allenai/olmo-2"]


def test_a_tokenizer_without_chat_template_is_refused_with_a_remedy(policy: LlamaForCausalLM, tmp_path: Path) -> None:
    tokenizer = word_tokenizer()
    tokenizer.chat_template = None
    policy.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has no chat template; save one with its tokenizer"):
        load_policy(config(tmp_path))


def test_a_classifier_of_several_outputs_is_no_reward_model(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    LlamaForSequenceClassification(tiny_llama(tokenizer, num_labels=3)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has 3 outputs; a reward model has one"):
        load_reward_model(config(tmp_path))


def test_an_architecture_without_a_linear_score_head_is_refused_with_a_remedy(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    shape = DistilBertConfig(vocab_size=len(tokenizer), dim=16, hidden_dim=16, n_layers=1, n_heads=2)
    DistilBertModel(shape).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"model\.path=.*DistilBertForSequenceClassification has no linear head 'score'; give a decoder"):
        new_reward_model(config(tmp_path), seed=0)
