"""A LoRA adapter is merged into its base, head and vocabulary included, and all else sees a plain model."""

import json
from pathlib import Path

import pytest
import torch
from peft import TaskType
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForSequenceClassification, LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast

from core.config import Dtype, ModelConfig, Quantize
from core.models.adapters import model_fingerprint
from core.models.load import load_policy, load_reward_model, load_tokenizer, new_reward_model
from tests.core.models.lora import TOLERANCE, config, logits, rewards, trained
from tests.fakes import WORDS, tiny_llama, word_tokenizer

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers` to `True`:UserWarning"),
]


def edit(folder: Path, **values: object) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def drop(folder: Path, *names: str) -> None:
    """Removes weights from an adapter."""
    weights = load_file(folder / "adapter_model.safetensors")
    for name in names:
        del weights[f"base_model.model.{name}"]
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def test_a_reward_models_adapter_gives_the_rewards_it_gave_before_it_was_saved(
    lora_reward_model: tuple[Path, list[float]], policy_folder: Path
) -> None:
    folder, expected = lora_reward_model
    model, _ = load_reward_model(config(folder))
    assert rewards(model) == pytest.approx(expected, **TOLERANCE)
    # The saved head on the bare base gives other rewards, and so does another head on the merged body.
    bare, _ = new_reward_model(config(policy_folder), seed=0)
    with torch.no_grad():
        bare.get_parameter("score.weight").copy_(model.get_parameter("score.weight"))
    assert rewards(bare) != pytest.approx(expected, abs=0.1)
    other, _ = new_reward_model(config(folder), seed=0)
    assert rewards(other) != pytest.approx(expected, abs=0.1)


def test_the_result_is_a_plain_model_that_saves_as_one(
    lora_reward_model: tuple[Path, list[float]], tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    folder, expected = lora_reward_model
    model, _ = load_reward_model(config(folder))
    assert type(model) is LlamaForSequenceClassification
    assert not model.training
    assert not [name for name, _ in model.named_parameters() if "lora" in name or "modules_to_save" in name]
    model.save_pretrained(tmp_path / "plain")
    tokenizer.save_pretrained(tmp_path / "plain")
    assert not (tmp_path / "plain" / "adapter_config.json").exists()
    again, _ = load_reward_model(config(tmp_path / "plain"))
    assert rewards(again) == pytest.approx(expected, **TOLERANCE)


def test_a_saved_head_counts_although_the_adapters_configuration_does_not_list_it(lora_reward_model: tuple[Path, list[float]]) -> None:
    folder, expected = lora_reward_model
    edit(folder, modules_to_save=None, task_type=None)
    model, _ = load_reward_model(config(folder))
    assert rewards(model) == pytest.approx(expected, **TOLERANCE)


@pytest.mark.filterwarnings("ignore:Found missing adapter keys:UserWarning")  # the head that peft would adapt was trained whole
def test_a_head_that_is_also_a_target_of_lora_is_the_one_that_was_trained(tmp_path: Path, policy_folder: Path) -> None:
    base = AutoModelForSequenceClassification.from_pretrained(policy_folder, num_labels=1)
    wrapped = trained(base, TaskType.SEQ_CLS, targets=("q_proj", "score"))
    wrapped.save_pretrained(str(tmp_path))
    model, _ = load_reward_model(config(tmp_path))
    assert rewards(model) == pytest.approx(rewards(wrapped), **TOLERANCE)


def test_an_adapter_without_a_head_on_a_language_model_is_refused(lora_reward_model: tuple[Path, list[float]]) -> None:
    folder, _ = lora_reward_model
    drop(folder, "score.weight")
    with pytest.raises(ValueError, match=r"lora is not a trained reward model: it lacks score\.weight, .* save the head .*modules_to_save"):
        load_reward_model(config(folder))


def test_an_adapter_without_a_head_on_a_reward_model_keeps_the_head_of_its_base(tmp_path: Path, reward_model_folder: Path) -> None:
    wrapped = trained(AutoModelForSequenceClassification.from_pretrained(reward_model_folder), None)
    wrapped.save_pretrained(str(tmp_path))
    model, _ = load_reward_model(config(tmp_path))
    assert rewards(model) == pytest.approx(rewards(wrapped), **TOLERANCE)


def test_a_head_of_two_outputs_is_refused_with_both_shapes(tmp_path: Path, policy_folder: Path) -> None:
    wrapped = trained(AutoModelForSequenceClassification.from_pretrained(policy_folder, num_labels=2), TaskType.SEQ_CLS)
    wrapped.save_pretrained(str(tmp_path))
    with pytest.raises(ValueError, match=r"score\.weight of the adapter .* has the shape \(2, 16\) where its base, .* has \(1, 16\)"):
        load_reward_model(config(tmp_path))


def test_a_policys_adapter_gives_the_logits_it_gave_before_it_was_saved_and_can_be_trained_on(
    lora_policy: tuple[Path, Tensor], policy: LlamaForCausalLM
) -> None:
    folder, expected = lora_policy
    model, _ = load_policy(config(folder))
    torch.testing.assert_close(logits(model), expected, atol=1e-4, rtol=1e-4)
    assert (logits(policy) - expected).abs().max() > 1
    assert type(model) is LlamaForCausalLM
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_new_reward_model_can_start_from_a_policys_adapter(lora_policy: tuple[Path, Tensor]) -> None:
    folder, _ = lora_policy
    merged_policy, _ = load_policy(config(folder))
    model, _ = new_reward_model(config(folder), seed=0)
    for name, weight in merged_policy.get_submodule("model").named_parameters():
        assert torch.equal(model.get_parameter(f"model.{name}"), weight), name


def test_the_merged_weights_are_held_in_the_number_format_asked_for(lora_reward_model: tuple[Path, list[float]]) -> None:
    folder, expected = lora_reward_model
    model, _ = load_reward_model(config(folder, Dtype.bf16))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert rewards(model) == pytest.approx(expected, abs=0.3)  # 8 bits of mantissa through two layers


def test_embeddings_that_grew_in_training_come_back_as_they_were_trained(tmp_path: Path) -> None:
    tokenizer = word_tokenizer()
    LlamaForCausalLM(tiny_llama(tokenizer)).save_pretrained(tmp_path / "base")
    base = LlamaForCausalLM.from_pretrained(tmp_path / "base")
    tokenizer.add_tokens(["<think>"])
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    base.resize_token_embeddings(16, mean_resizing=False)  # twelve words, two more, rounded up
    wrapped = trained(base, TaskType.CAUSAL_LM, ["embed_tokens", "lm_head"])
    wrapped.save_pretrained(str(tmp_path / "lora"))
    tokenizer.save_pretrained(tmp_path / "lora")
    model, loaded = load_policy(config(tmp_path / "lora"))
    assert len(loaded) == len(WORDS) + 2
    assert model.config.get_text_config().vocab_size == 16
    ids = torch.arange(14)[None]
    torch.testing.assert_close(logits(model, ids), logits(wrapped, ids), atol=1e-4, rtol=1e-4)


def test_the_tokenizer_is_the_adapters_own_if_it_has_one_else_that_of_its_base(
    lora_policy: tuple[Path, Tensor], tokenizer: PreTrainedTokenizerFast
) -> None:
    folder, _ = lora_policy
    assert load_tokenizer(config(folder)).chat_template == tokenizer.chat_template
    word_tokenizer(pad="<unk>").save_pretrained(folder)
    assert load_tokenizer(config(folder)).get_vocab() == word_tokenizer(pad="<unk>").get_vocab()


def test_the_adapter_of_a_classifier_is_no_policy(lora_reward_model: tuple[Path, list[float]]) -> None:
    with pytest.raises(ValueError, match=r"lora is the adapter of a classifier \(task_type=SEQ_CLS\); a policy needs one of a language"):
        load_policy(config(lora_reward_model[0]))


@pytest.mark.parametrize("base", ["/nowhere/base", "runs/demo/base"])
def test_a_base_that_does_not_exist_is_refused_by_its_name(lora_policy: tuple[Path, Tensor], base: str) -> None:
    edit(lora_policy[0], base_model_name_or_path=base)
    with pytest.raises(ValueError, match=rf"lora/adapter_config\.json: base_model_name_or_path={base} does not exist; give the folder"):
        load_policy(config(lora_policy[0]))


def test_a_base_on_the_hub_is_taken_at_the_revision_that_the_adapter_names(
    lora_policy: tuple[Path, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def unreachable(what: str) -> None:
        asked.append(what)
        raise ValueError(what)

    monkeypatch.setattr("core.models.locate.require_hub", unreachable)
    edit(lora_policy[0], base_model_name_or_path="org/base@v1", revision="v2")
    with pytest.raises(ValueError, match="base_model_name_or_path=org/base@v1 names another revision than the revision setting, v2"):
        load_policy(config(lora_policy[0]))
    edit(lora_policy[0], base_model_name_or_path="org/base")
    with pytest.raises(ValueError, match=r"adapter_config\.json: base_model_name_or_path=org/base"):
        load_policy(config(lora_policy[0]))
    assert len(asked) == 1


def test_an_adapter_that_names_no_base_is_refused(lora_policy: tuple[Path, Tensor]) -> None:
    edit(lora_policy[0], base_model_name_or_path=None)
    with pytest.raises(ValueError, match=r"adapter_config\.json names no base model; set base_model_name_or_path"):
        load_policy(config(lora_policy[0]))


def test_an_adapter_of_an_adapter_is_refused(lora_policy: tuple[Path, Tensor], tmp_path: Path) -> None:
    folder, _ = lora_policy
    (tmp_path / "second").mkdir()
    (tmp_path / "second" / "adapter_config.json").write_text((folder / "adapter_config.json").read_text())
    edit(tmp_path / "second", base_model_name_or_path=str(folder))
    with pytest.raises(ValueError, match=r"base_model_name_or_path=.*lora is an adapter itself; merge it into its own base"):
        load_policy(config(tmp_path / "second"))


def test_another_method_than_lora_is_refused_by_its_name(lora_policy: tuple[Path, Tensor]) -> None:
    edit(lora_policy[0], peft_type="PROMPT_TUNING")
    with pytest.raises(ValueError, match=r"adapter_config\.json: peft_type=PROMPT_TUNING is not supported; only LORA"):
        load_policy(config(lora_policy[0]))


def test_an_adapter_without_weights_is_refused(lora_policy: tuple[Path, Tensor]) -> None:
    (lora_policy[0] / "adapter_model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"lora has an adapter_config\.json but no adapter_model\.safetensors"):
        load_policy(config(lora_policy[0]))


def test_an_adapter_of_a_wider_model_is_refused_with_the_base_it_names(
    lora_policy: tuple[Path, Tensor], tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    shape = tiny_llama(tokenizer)
    shape.hidden_size, shape.head_dim = 32, 16
    LlamaForCausalLM(shape).save_pretrained(tmp_path / "wider")
    tokenizer.save_pretrained(tmp_path / "wider")
    edit(lora_policy[0], base_model_name_or_path=str(tmp_path / "wider"))
    with pytest.raises(ValueError, match=r"the adapter .*lora does not fit its base, .*wider: .*size mismatch"):
        load_policy(config(lora_policy[0]))


def test_quantising_an_adapter_is_refused_with_a_remedy(lora_policy: tuple[Path, Tensor]) -> None:
    with pytest.raises(ValueError, match=r"model\.quantize=nf4 does not go with an adapter such as .*lora: .* save the merged model"):
        load_policy(ModelConfig(path=str(lora_policy[0]), quantize=Quantize.nf4))


def test_what_an_adapter_is_changes_with_its_base(tmp_path: Path, policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    base = tmp_path / "base"
    policy.save_pretrained(base)
    tokenizer.save_pretrained(base)
    trained(AutoModelForSequenceClassification.from_pretrained(base, num_labels=1), TaskType.SEQ_CLS).save_pretrained(
        str(tmp_path / "lora")
    )
    before = model_fingerprint(config(tmp_path / "lora"))
    assert model_fingerprint(config(tmp_path / "lora")) == before
    weights = load_file(base / "model.safetensors")
    save_file({name: weight + 1 for name, weight in weights.items()}, base / "model.safetensors", metadata={"format": "pt"})
    assert model_fingerprint(config(tmp_path / "lora")) != before
    assert model_fingerprint(config(base)) == model_fingerprint(config(base))
