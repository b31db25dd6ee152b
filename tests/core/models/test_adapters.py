"""A LoRA adapter is merged into its base, head and vocabulary included, and all else sees a plain model."""

import json
from importlib import util
from pathlib import Path

import pytest
import torch
from peft import LoraConfig as PeftConfig
from peft import PeftModel, TaskType, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoModelForSequenceClassification,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from core.config import Dtype, LoraConfig, ModelConfig, Quantize
from core.data.chat import pad_id
from core.models.adapters import PACKED_BASE, inject_adapter, injected_adapter, model_fingerprint
from core.models.export import export_model, read_weights
from core.models.head import head_of, padded_rewards, reward_obstacle, tree_rewards
from core.models.load import load_policy, load_reward_model, load_tokenizer, new_reward_model
from core.models.locate import ModelLocation
from core.trees.attention import tree_attention
from tests.fakes import WORDS, tiny_llama, word_tokenizer

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers` to `True`:UserWarning"),
]
IDS = torch.tensor([[1, 7, 8, 9, 40], [1, 30, 20, 10, 5], [1, 3, 3, 90, 77]])
TOLERANCE = {"abs": 1e-5, "rel": 0}


def config(path: Path, dtype: Dtype = Dtype.fp32) -> ModelConfig:
    return ModelConfig(path=str(path), dtype=dtype)


def rewards(model: torch.nn.Module) -> list[float]:
    with torch.no_grad():
        return model(IDS).logits[:, 0].tolist()


def logits(model: torch.nn.Module, ids: Tensor = IDS) -> Tensor:
    with torch.no_grad():
        return model(ids).logits


def trained(
    model: PreTrainedModel, task: TaskType | None, whole: list[str] | None = None, targets: tuple[str, ...] = ("q_proj", "v_proj")
) -> PeftModel:
    """A LoRA adapter on `model`, with all that it trains drawn at random, as far from its start as training would bring it.

    `whole` names modules that are trained and saved whole.
    """
    wrapped = get_peft_model(model, PeftConfig(task_type=task, r=2, target_modules=list(targets), modules_to_save=whole))
    assert isinstance(wrapped, PeftModel)
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.normal_(0.0, 0.5, generator=draw)
    return wrapped.eval()


@pytest.fixture
def lora_reward_model(tmp_path: Path, policy_folder: Path) -> tuple[Path, list[float]]:
    """The folder of an adapter trained on the policy as a classifier, and its rewards before it was saved."""
    base = AutoModelForSequenceClassification.from_pretrained(policy_folder, num_labels=1)
    wrapped = trained(base, TaskType.SEQ_CLS)
    wrapped.save_pretrained(str(tmp_path / "lora"))
    return tmp_path / "lora", rewards(wrapped)


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
    with pytest.raises(ValueError, match=r"lora is no trained reward model: it lacks score\.weight, .* save the head .*modules_to_save"):
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


@pytest.fixture
def lora_policy(tmp_path: Path, policy_folder: Path) -> tuple[Path, Tensor]:
    """The folder of an adapter trained on the policy, and its logits before it was saved."""
    wrapped = trained(LlamaForCausalLM.from_pretrained(policy_folder), TaskType.CAUSAL_LM)
    wrapped.save_pretrained(str(tmp_path / "lora"))
    return tmp_path / "lora", logits(wrapped)


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
    with pytest.raises(ValueError, match="base_model_name_or_path=org/base@v1 asks for another revision than the one set beside it, v2"):
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
    with pytest.raises(ValueError, match=r"model\.quantize=nf4 does not go with an adapter such as .*lora, .* save the merged model"):
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


# New adapters, to be trained.

LORA = LoraConfig(rank=2, alpha=8)
GROUPS = [[[1, 7, 8, 9, 40, 41, 42, 43, 44, 45, 5], [1, 7, 8, 9, 40, 41, 42, 43, 44, 45, 9, 9]], [[1, 30, 20], [1, 30, 77, 12]]]


def stirred(model: PreTrainedModel) -> PreTrainedModel:
    """The model with A, B and the head drawn at random: at a fresh B of zeros A would have no gradient."""
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(0.0, 0.3, generator=draw)
    return model


def gradients(model: PreTrainedModel) -> dict[str, Tensor]:
    """The gradients by name, which are taken away from the model."""
    found = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def pair_loss(rewards_R: Tensor) -> Tensor:
    chosen_B, rejected_B = rewards_R.view(-1, 2).unbind(1)
    return -torch.nn.functional.logsigmoid(chosen_B - rejected_B).mean()


def assert_close_gradients(found: dict[str, Tensor], expected: dict[str, Tensor], relative: float) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        assert (gradient - expected[name]).norm() <= relative * expected[name].norm(), name


def test_a_fresh_adapter_changes_nothing_and_only_a_b_and_the_head_are_trained(policy_folder: Path) -> None:
    model, _ = new_reward_model(config(policy_folder), seed=3, lora=LORA)
    plain, _ = new_reward_model(config(policy_folder), seed=3)
    assert type(model) is LlamaForSequenceClassification
    assert rewards(model) == rewards(plain)
    # Two layers of seven linear layers each, with two matrices, and the head.
    trained_names = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert len(trained_names) == 2 * 7 * 2 + 1
    model.train()
    pair_loss(padded_rewards(model, [row for group in GROUPS for row in group], 0)).backward()
    assert gradients(model).keys() == trained_names
    assert "score.weight" in trained_names


def test_a_is_drawn_from_the_seed_as_peft_draws_it_and_b_is_zero(policy_folder: Path) -> None:
    before = torch.get_rng_state()
    first, again, other = (new_reward_model(config(policy_folder), seed=seed, lora=LORA)[0] for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    name = "model.layers.0.self_attn.q_proj.lora_{}.default.weight"
    a_RN = first.get_parameter(name.format("A"))
    assert torch.equal(a_RN, again.get_parameter(name.format("A")))
    assert not torch.equal(a_RN, other.get_parameter(name.format("A")))
    assert a_RN.shape == (2, 16)
    # Kaiming's uniform bound for a = sqrt(5): sqrt(6 / (1 + 5) / n) = 1 / sqrt(16); 32 draws come near it.
    assert 0.2 < a_RN.abs().max() <= 0.25
    assert not first.get_parameter(name.format("B")).any()
    # No two layers have the same A.
    assert not torch.equal(a_RN, first.get_parameter(name.format("A").replace("q_proj", "k_proj")))


def test_the_update_of_an_adapter_is_alpha_over_rank_times_b_a(policy_folder: Path) -> None:
    model, _ = new_reward_model(config(policy_folder), seed=3, lora=LORA)
    stirred(model)
    layer = "model.layers.1.mlp.up_proj"
    x_1N = torch.randn(1, 16, generator=torch.Generator().manual_seed(0))
    weight, a, b = (model.get_parameter(f"{layer}.{part}.weight") for part in ("base_layer", "lora_A.default", "lora_B.default"))
    with torch.no_grad():
        expected = x_1N @ (weight + 8 / 2 * b @ a).T
        torch.testing.assert_close(model.get_submodule(layer)(x_1N), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("is_checkpointed", [False, True])
def test_the_gradients_of_an_adapter_through_trees_equal_those_through_padded_rows(policy_folder: Path, is_checkpointed: bool) -> None:
    model, tokenizer = new_reward_model(config(policy_folder), seed=3, lora=LORA)
    stirred(model).train()
    assert reward_obstacle(model, 100) is None
    pair_loss(padded_rewards(model, [row for group in GROUPS for row in group], pad_id(tokenizer))).backward()
    expected = gradients(model)
    if is_checkpointed:
        model.activation_checkpointing_enable()
    with tree_attention(model):
        pair_loss(tree_rewards(model, GROUPS)).backward()
    assert_close_gradients(gradients(model), expected, 1e-4)


def test_the_frozen_base_is_held_in_the_number_format_asked_for_and_what_is_trained_in_fp32(policy_folder: Path) -> None:
    model, tokenizer = new_reward_model(config(policy_folder, Dtype.bf16), seed=3, lora=LORA)
    for name, weight in model.named_parameters():
        assert weight.dtype == (torch.float32 if weight.requires_grad else torch.bfloat16), name
    stirred(model)
    rows = [row for group in GROUPS for row in group]
    for is_mixed in (False, True):
        with torch.no_grad(), tree_attention(model), torch.autocast("cpu", torch.bfloat16, enabled=is_mixed):
            on_trees_R = tree_rewards(model, GROUPS)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=is_mixed):
            padded_R = padded_rewards(model, rows, pad_id(tokenizer))
        torch.testing.assert_close(on_trees_R, padded_R, atol=0.3, rtol=0)  # 8 bits of mantissa through two layers
        assert not torch.equal(padded_R, padded_R.bfloat16().float())  # the head computes in fp32


def test_without_an_adapter_all_weights_are_trained_and_held_in_fp32(policy_folder: Path) -> None:
    for lora in (None, LoraConfig()):
        model, _ = new_reward_model(config(policy_folder, Dtype.bf16), seed=3, lora=lora)
        assert all(weight.requires_grad and weight.dtype == torch.float32 for weight in model.parameters())
        assert injected_adapter(model) is None


def test_dropout_is_that_of_the_adapter_alone(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    LlamaForCausalLM(tiny_llama(tokenizer, attention_dropout=0.5)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    for dropout in (0.0, 0.5):
        model, _ = new_reward_model(config(tmp_path), seed=0, lora=LoraConfig(rank=2, dropout=dropout))
        stirred(model).train()
        assert (rewards(model) == rewards(model)) == (dropout == 0.0)


def test_only_the_named_layers_get_an_adapter_and_an_unknown_name_is_refused(policy_folder: Path) -> None:
    model, _ = new_reward_model(config(policy_folder), seed=0, lora=LoraConfig(rank=2, targets=["q_proj", "mlp.up_proj"]))
    assert {name.split(".")[4] for name, weight in model.named_parameters() if "lora" in name and weight.requires_grad} == {
        "q_proj",
        "up_proj",
    }
    for unknown in ("q_prj", "score", "proj"):
        with pytest.raises(
            ValueError, match=rf"lora\.targets names '{unknown}', but the linear layers of a Llama.* are down_proj, gate_proj"
        ):
            new_reward_model(config(policy_folder), seed=0, lora=LoraConfig(rank=2, targets=["q_proj", unknown]))


def test_a_base_on_the_hub_is_named_with_its_revision(policy_folder: Path, tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    model, _ = new_reward_model(config(policy_folder), seed=0)
    inject_adapter(model, LORA, base=ModelLocation(path="org/base", revision="v2"), draw=torch.Generator().manual_seed(0))
    export_model(model, tokenizer, tmp_path)
    found = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (found["base_model_name_or_path"], found["revision"]) == ("org/base", "v2")


def test_an_adapter_on_an_adapter_is_refused_with_a_remedy(lora_policy: tuple[Path, Tensor]) -> None:
    with pytest.raises(ValueError, match=r"lora\.rank=2 on .*lora, an adapter itself; save the merged model and name its folder"):
        new_reward_model(config(lora_policy[0]), seed=0, lora=LORA)


def test_the_head_of_pefts_own_model_is_the_copy_that_is_trained(policy_folder: Path) -> None:
    wrapped = trained(AutoModelForSequenceClassification.from_pretrained(policy_folder, num_labels=1), TaskType.SEQ_CLS)
    model = wrapped.get_base_model()
    assert isinstance(model, PreTrainedModel)
    assert head_of(model).weight.requires_grad
    expected = rewards(wrapped)
    with torch.no_grad(), tree_attention(model):
        assert tree_rewards(model, [IDS.tolist()]).tolist() == pytest.approx(expected, **TOLERANCE)


def test_packed_weights_without_an_adapter_are_refused(policy_folder: Path) -> None:
    with pytest.raises(ValueError, match=r"model\.quantize=nf4 packs the weights, and packed weights cannot be trained"):
        new_reward_model(ModelConfig(path=str(policy_folder), quantize=Quantize.nf4), seed=0)


@pytest.fixture
def wide_folder(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> Path:
    """A policy as wide as bitsandbytes asks for on a CPU: multiples of 32."""
    if util.find_spec("bitsandbytes") is None:
        pytest.skip("bitsandbytes is not installed")
    shape = tiny_llama(tokenizer)
    shape.hidden_size, shape.intermediate_size, shape.head_dim, shape.initializer_range = 64, 64, 32, 0.1
    torch.manual_seed(0)
    LlamaForCausalLM(shape).save_pretrained(tmp_path / "wide")
    tokenizer.save_pretrained(tmp_path / "wide")
    return tmp_path / "wide"


def unpacked(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """The same model with its packed weights written out as the numbers that they stand for."""
    from bitsandbytes.functional import dequantize_4bit

    plain, _ = new_reward_model(config(folder), seed=0, lora=LORA)
    with torch.no_grad():
        for name, weight in plain.named_parameters():
            own = model.get_parameter(name)
            weight.copy_(dequantize_4bit(own.data, own.quant_state) if own.dtype == torch.uint8 else own)  # type: ignore[attr-defined]
    return plain


def test_an_adapter_on_packed_weights_has_the_gradients_of_those_weights_unpacked(wide_folder: Path) -> None:
    packed = ModelConfig(path=str(wide_folder), quantize=Quantize.nf4)
    model, _ = new_reward_model(packed, seed=0, lora=LORA)
    assert type(model.get_submodule("model.layers.0.mlp.up_proj.base_layer")).__name__ == "Linear4bit"
    # Rewards in evaluation come first, as in a run that resumes: on some CPUs bitsandbytes then lays the weights out anew.
    assert reward_obstacle(stirred(model), 100) is None
    same = unpacked(model, wide_folder)
    found = []
    for each in (model, same):
        each.train()
        with tree_attention(each):
            pair_loss(tree_rewards(each, GROUPS)).backward()
        found.append(gradients(each))
    assert_close_gradients(found[0], found[1], 1e-3)


@pytest.mark.parametrize("dtype", [Dtype.fp32, Dtype.bf16])
def test_training_an_adapter_on_packed_weights_lowers_the_loss(wide_folder: Path, dtype: Dtype) -> None:
    model, _ = new_reward_model(ModelConfig(path=str(wide_folder), quantize=Quantize.nf4, dtype=dtype), seed=0, lora=LORA)
    model.train()
    model.activation_checkpointing_enable()
    frozen = {name: weight.clone() for name, weight in model.named_parameters() if not weight.requires_grad}
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=3e-3)
    losses: list[float] = []
    for _ in range(8):
        with tree_attention(model), torch.autocast("cpu", torch.bfloat16, enabled=dtype == Dtype.bf16):
            loss = pair_loss(tree_rewards(model, GROUPS))
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
    assert all(torch.equal(model.get_parameter(name), weight) for name, weight in frozen.items())


def test_an_adapter_trained_on_packed_weights_is_merged_into_what_they_stood_for_and_so_gives_the_rewards_of_training(
    wide_folder: Path, tmp_path: Path
) -> None:
    packed = ModelConfig(path=str(wide_folder), quantize=Quantize.nf4)
    model, tokenizer = new_reward_model(packed, seed=0, lora=LORA)
    export_model(stirred(model), tokenizer, tmp_path / "lora")
    merged_model, _ = load_reward_model(config(tmp_path / "lora"))
    assert not [name for name, module in merged_model.named_modules() if type(module).__name__ == "Linear4bit"]
    ids_BL = torch.randint(5, 280, (16, 8), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(logits(merged_model, ids_BL), logits(model, ids_BL), atol=1e-4, rtol=1e-4)
    # Merged into the base as it was before packing the adapter gives other rewards.
    (tmp_path / "lora" / PACKED_BASE).unlink()
    other, _ = load_reward_model(config(tmp_path / "lora"))
    assert (logits(other, ids_BL) - logits(model, ids_BL)).abs().max() > 0.01
    again, _ = new_reward_model(packed, seed=1, lora=LORA)
    again.load_state_dict(read_weights(tmp_path / "lora"), strict=False)
    torch.testing.assert_close(logits(again, ids_BL), logits(model, ids_BL), atol=1e-5, rtol=0)
    # Saved over, a folder does not remember.
    export_model(new_reward_model(config(wide_folder), seed=0, lora=LORA)[0], tokenizer, tmp_path / "lora")
    assert not (tmp_path / "lora" / PACKED_BASE).exists()


def test_a_merged_model_that_was_trained_on_packed_weights_saves_as_a_plain_one(wide_folder: Path, tmp_path: Path) -> None:
    model, tokenizer = new_reward_model(ModelConfig(path=str(wide_folder), quantize=Quantize.nf4), seed=0, lora=LORA)
    export_model(stirred(model), tokenizer, tmp_path / "lora")
    export_model(*load_reward_model(config(tmp_path / "lora")), tmp_path / "plain")
    assert "quantization_config" not in json.loads((tmp_path / "plain" / "config.json").read_text())
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "plain")
    torch.testing.assert_close(logits(loaded), logits(model), atol=1e-4, rtol=1e-4)


def test_unpacking_the_base_of_an_adapter_needs_bitsandbytes(wide_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = new_reward_model(ModelConfig(path=str(wide_folder), quantize=Quantize.nf4), seed=0, lora=LORA)
    export_model(model, tokenizer, tmp_path / "lora")
    monkeypatch.setattr("core.models.load.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"lora was trained on a base packed as nf4.* needs the package bitsandbytes; run `pip install"):
        load_reward_model(config(tmp_path / "lora"))
