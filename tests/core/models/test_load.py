"""Models load ready for use, with a seeded head and a pad token of their own, or say what to do."""

import importlib.util
import math
import sys
from dataclasses import replace
from importlib import util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    DistilBertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)

from core.config import Dtype, LoraConfig, ModelConfig, Quantize
from core.data.chat import encode_prompts
from core.data.pad_token import PAD_TOKEN
from core.generators.local import TransformersGenerator
from core.models.export import export_model
from core.models.load import head_names, load_policy, load_reward_model, load_tokenizer, new_reward_model, quantization
from core.models.locate import ModelLocation, resolve
from core.records import Sampling, user
from tests.fakes import WORD_IDS, WORDS, tiny_llama, word_tokenizer


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


@pytest.mark.parametrize(("dtype", "held", "bits"), [(Dtype.bf16, torch.bfloat16, 8), (Dtype.fp16, torch.float16, 11)])
def test_the_weights_are_held_in_the_number_format_asked_for(
    reward_model_folder: Path, reward_model: LlamaForSequenceClassification, dtype: Dtype, held: torch.dtype, bits: int
) -> None:
    model, _ = load_reward_model(config(reward_model_folder, dtype))
    assert {parameter.dtype for parameter in model.parameters()} == {held}
    ids = torch.tensor([[1, 7, 8, 9]])
    with torch.no_grad():
        reward, exact = model(ids).logits, reward_model(ids).logits
    assert reward.dtype == held
    assert reward.item() == pytest.approx(exact.item(), abs=20 * 2**-bits)  # the mantissa's rounding through two layers


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


def test_an_added_pad_token_has_an_embedding_and_the_reward_model_knows_it(padless_folder: Path) -> None:
    first, tokenizer = new_reward_model(config(padless_folder), seed=0)
    assert len(first.get_input_embeddings().get_parameter("weight")) == len(tokenizer) == len(WORDS) + 1
    assert first.config.get_text_config().pad_token_id == tokenizer.pad_token_id
    torch.manual_seed(1)
    second, _ = new_reward_model(config(padless_folder), seed=0)
    for name, weight in first.named_parameters():
        assert torch.equal(weight, second.get_parameter(name)), name


def test_a_policy_without_a_pad_token_keeps_the_shape_of_its_base_and_so_does_its_export(padless_folder: Path, tmp_path: Path) -> None:
    base: Any = AutoModelForCausalLM.from_pretrained(padless_folder)
    policy, tokenizer = load_policy(config(padless_folder))
    assert (len(tokenizer), tokenizer.pad_token) == (len(WORDS), "</s>")
    export_model(policy, tokenizer, tmp_path / "exported")
    again: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "exported")
    assert len(AutoTokenizer.from_pretrained(tmp_path / "exported")) == len(WORDS)
    for model in (policy, again):
        # What a server that holds the base is sent: names, shapes and, before training, values.
        assert {name: weight.shape for name, weight in model.state_dict().items()} == {n: w.shape for n, w in base.state_dict().items()}
        assert model.config.vocab_size == len(WORDS)
        for name, weight in model.named_parameters():
            assert torch.equal(weight, base.get_parameter(name)), name
    reward_model, own = new_reward_model(config(tmp_path / "exported"), seed=0)
    assert own.pad_token == PAD_TOKEN  # where it decides at which token the reward is read
    assert len(reward_model.get_input_embeddings().get_parameter("weight")) == len(WORDS) + 1


def test_a_policy_whose_pad_token_has_no_embedding_pads_with_eos(tmp_path: Path) -> None:
    tokenizer = word_tokenizer()
    torch.manual_seed(0)
    LlamaForCausalLM(tiny_llama(tokenizer)).save_pretrained(tmp_path)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    tokenizer.save_pretrained(tmp_path)
    policy, loaded = load_policy(config(tmp_path))
    assert loaded.pad_token == "</s>"
    assert len(policy.get_input_embeddings().get_parameter("weight")) == len(WORDS)
    generator = TransformersGenerator(policy, loaded)
    assert generator.generate([user("name a fruit")], Sampling(max_new_tokens=2))
    with pytest.raises(ValueError, match="prompt 2 of 2 holds '<image>', a token that the model has no embedding for; take it out"):
        generator.generate([user("name a fruit"), user("name <image> fruit")], Sampling(max_new_tokens=2))


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


def test_dropout_that_an_attention_layer_holds_as_a_number_is_off_also_in_training(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    LlamaForCausalLM(tiny_llama(tokenizer, attention_dropout=0.5)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model, _ = load_policy(config(tmp_path))
    model.train()
    ids = torch.tensor([[1, 7, 8, 9]])
    with torch.no_grad():
        assert torch.equal(model(ids).logits, model(ids).logits)


def test_a_tokenizer_without_chat_template_is_refused_with_a_remedy(policy: LlamaForCausalLM, tmp_path: Path) -> None:
    tokenizer = word_tokenizer()
    tokenizer.chat_template = None
    policy.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has no chat template; give one"):
        load_policy(config(tmp_path))


@pytest.mark.parametrize("as_file", [True, False])
def test_a_chat_template_that_is_given_replaces_the_models_own_or_the_lack_of_one(
    policy: LlamaForCausalLM, tmp_path: Path, as_file: bool
) -> None:
    tokenizer = word_tokenizer()
    own, tokenizer.chat_template = str(tokenizer.chat_template), None
    policy.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    given = own.replace("<s>", "plum")
    (tmp_path / "mine.jinja").write_text(given)
    _, found = load_policy(replace(config(tmp_path), chat_template=str(tmp_path / "mine.jinja") if as_file else given))
    assert found.chat_template == given
    assert encode_prompts(found, [user("lamp")]) == [[WORD_IDS["plum"], *encode_prompts(word_tokenizer(), [user("lamp")])[0][1:]]]
    _, trained = new_reward_model(replace(config(tmp_path), chat_template=given), seed=0)
    assert trained.chat_template == given


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("nowhere.jinja", r"model.chat_template=nowhere.jinja cannot be read \(No such file or directory\); name a Jinja file"),
        ("{% for m in messages %}", r"model.chat_template is no chat template \(line 1: "),
        ("{{ 'hello' }}", "model.chat_template is no chat template, since it writes none of the `messages`"),
    ],
)
def test_what_is_no_chat_template_is_refused_before_anything_is_loaded(
    policy: LlamaForCausalLM, tmp_path: Path, given: str, said: str
) -> None:
    policy.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=said):
        resolve(replace(config(tmp_path), chat_template=given))


def test_a_classifier_of_several_outputs_is_no_reward_model(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    LlamaForSequenceClassification(tiny_llama(tokenizer, num_labels=3)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has 3 outputs; a reward model has one"):
        load_reward_model(config(tmp_path))


def test_a_language_model_is_no_reward_model_since_its_head_would_be_random(policy_folder: Path) -> None:
    with pytest.raises(ValueError, match=r"policy is not a trained reward model: it lacks score\.weight, .* train one .* `rewardloop rm`"):
        load_reward_model(config(policy_folder))


def test_a_reward_model_is_no_policy_since_its_output_layer_would_be_random(reward_model_folder: Path) -> None:
    with pytest.raises(ValueError, match=r"reward-model is not a complete language model: it lacks lm_head\.weight; give a policy"):
        load_policy(config(reward_model_folder))


def test_a_checkpoint_that_lacks_a_layer_is_refused_with_the_first_names(
    tmp_path: Path, reward_model: LlamaForSequenceClassification, tokenizer: PreTrainedTokenizerFast
) -> None:
    weights = {name: weight for name, weight in reward_model.state_dict().items() if ".layers.1." not in name}
    reward_model.save_pretrained(tmp_path, state_dict=weights)
    tokenizer.save_pretrained(tmp_path)
    # A Llama layer has nine weights: four of attention, three of the MLP, two norms.
    with pytest.raises(ValueError, match=r"lacks model\.layers\.1\.input_layernorm\.weight, [^,]*, [^,]* and 6 more weights, so"):
        load_reward_model(config(tmp_path))
    with pytest.raises(ValueError, match=r"model\.path=.* is not a complete language model: it lacks model\.layers\.1\.input_layernorm"):
        new_reward_model(config(tmp_path), seed=0)


def test_a_head_of_another_name_than_score_is_loaded(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    shape = DistilBertConfig(vocab_size=len(tokenizer), dim=16, hidden_dim=16, n_layers=1, n_heads=2)
    shape.num_labels = 1
    saved = DistilBertForSequenceClassification(shape)
    saved.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model, _ = load_reward_model(config(tmp_path))
    assert torch.equal(model.get_parameter("classifier.weight"), saved.get_parameter("classifier.weight"))


def test_quantising_without_bitsandbytes_is_refused_with_the_command_that_installs_it(
    policy_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.models.load.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"model\.quantize=nf4 needs .* bitsandbytes; run `pip install 'rewardloop\[quantized\]'`"):
        load_policy(ModelConfig(path=str(policy_folder), quantize=Quantize.nf4))


def test_quantising_means_normal_float_of_four_bits_computed_in_the_dtype_with_the_head_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.models.load.util.find_spec", lambda name: name)
    found = quantization(ModelConfig(path="org/name", dtype=Dtype.bf16, quantize=Quantize.nf4), ["score"])
    assert found is not None
    assert (found.load_in_4bit, found.bnb_4bit_quant_type, found.bnb_4bit_compute_dtype) == (True, "nf4", torch.bfloat16)
    assert found.llm_int8_skip_modules == ["score"]
    assert quantization(ModelConfig(path="org/name"), ["score"]) is None


def test_the_head_is_what_a_model_has_beside_its_body(tmp_path: Path, tokenizer: PreTrainedTokenizerFast, policy_folder: Path) -> None:
    source = ModelLocation(path=str(policy_folder))
    assert head_names(AutoModelForSequenceClassification, source, num_labels=1) == ["score"]
    assert head_names(AutoModelForCausalLM, source) == ["lm_head"]
    shape = DistilBertConfig(vocab_size=len(tokenizer), dim=16, hidden_dim=16, n_layers=1, n_heads=2)
    DistilBertModel(shape).save_pretrained(tmp_path)
    found = head_names(AutoModelForSequenceClassification, ModelLocation(path=str(tmp_path)))
    assert set(found) >= {"pre_classifier", "classifier"}
    assert "distilbert" not in found


@pytest.mark.skipif(util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
def test_a_quantised_reward_model_keeps_its_head_and_about_its_rewards(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    torch.manual_seed(0)
    shape = tiny_llama(tokenizer, num_labels=1)
    shape.hidden_size, shape.intermediate_size, shape.head_dim = 64, 64, 32  # bitsandbytes asks for multiples of 32 on a CPU
    shape.initializer_range = 0.1
    saved = LlamaForSequenceClassification(shape).eval()
    saved.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model, _ = load_reward_model(ModelConfig(path=str(tmp_path), quantize=Quantize.nf4))
    assert type(model.get_submodule("model.layers.0.mlp.up_proj")).__name__ == "Linear4bit"
    assert torch.equal(model.get_parameter("score.weight").cpu(), saved.get_parameter("score.weight"))
    ids_BL = torch.randint(5, 280, (64, 8), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        rewards_2B = torch.stack([model(ids_BL.to(model.device)).logits[:, 0].cpu(), saved(ids_BL).logits[:, 0]])
    assert torch.corrcoef(rewards_2B)[0, 1].item() > 0.9


def test_an_architecture_without_a_linear_score_head_is_refused_with_a_remedy(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    shape = DistilBertConfig(vocab_size=len(tokenizer), dim=16, hidden_dim=16, n_layers=1, n_heads=2)
    DistilBertModel(shape).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"model\.path=.*DistilBertForSequenceClassification has no linear head 'score'; give a decoder"):
        new_reward_model(config(tmp_path), seed=0)


class FakeLiger:
    """The part of liger-kernel that is called, which knows one type of model and keeps what it is asked to patch."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, known: str = "llama") -> None:
        self.asked: list[dict[str, Any]] = []
        self.error: Exception | None = None
        package, transformers, patches = (ModuleType(f"liger_kernel{part}") for part in ("", ".transformers", ".transformers.monkey_patch"))
        vars(patches)["MODEL_TYPE_TO_APPLY_LIGER_FN"] = {known: None}
        vars(transformers)["_apply_liger_kernel_to_instance"] = self.apply
        for module in (package, transformers, patches):
            monkeypatch.setitem(sys.modules, module.__name__, module)
        real = importlib.util.find_spec
        monkeypatch.setattr("core.models.load.util.find_spec", lambda name: name if name == "liger_kernel" else real(name))
        monkeypatch.setattr("torch.cuda.is_available", lambda: True)
        monkeypatch.setattr("core.models.load._device", lambda: torch.device("cpu"))

    def apply(self, **options: Any) -> None:
        if self.error is not None:
            raise self.error
        self.asked.append(options)


def liger(path: Path) -> ModelConfig:
    return ModelConfig(path=str(path), liger=True)


def test_liger_is_applied_to_the_body_without_its_losses_and_in_training_alone(
    policy_folder: Path, reward_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeLiger(monkeypatch)
    load_reward_model(liger(reward_model_folder))
    assert fake.asked == []
    for lora in (None, LoraConfig(rank=2)):
        model, _ = new_reward_model(liger(policy_folder), seed=0, lora=lora)
        # Its fused loss would replace the forward pass by that of a language model, which needs an output layer.
        assert fake.asked.pop() == {"model": model.base_model, "cross_entropy": False, "fused_linear_cross_entropy": False}
        assert fake.asked == []
    new_reward_model(config(policy_folder), seed=0)
    assert fake.asked == []


def test_liger_without_its_package_a_device_or_a_known_architecture_is_refused_before_anything_is_loaded(
    policy_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.models.load._load", lambda *_, **__: pytest.fail("a model was loaded"))
    with monkeypatch.context() as patch:
        patch.setattr("core.models.load.util.find_spec", lambda name: None)
        with pytest.raises(ValueError, match=r"model\.liger needs the package liger-kernel; run `pip install 'rewardloop\[liger\]'`"):
            new_reward_model(liger(policy_folder), seed=0)
    with monkeypatch.context() as patch:
        FakeLiger(patch)
        patch.setattr("torch.cuda.is_available", lambda: False)
        with pytest.raises(ValueError, match=r"model\.liger needs a CUDA device, and there is none; leave it out"):
            new_reward_model(liger(policy_folder), seed=0)
    FakeLiger(monkeypatch, known="gemma2")
    with pytest.raises(ValueError, match=r"model\.liger knows no models of type 'llama', such as .*policy; leave it out"):
        new_reward_model(liger(policy_folder), seed=0)


def test_an_architecture_that_liger_cannot_patch_as_a_body_is_refused_with_its_own_words(
    policy_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FakeLiger(monkeypatch).error = TypeError("Unsupported model type")
    with pytest.raises(ValueError, match=r"model\.liger does not go with a LlamaModel \(Unsupported model type\); leave it out"):
        new_reward_model(liger(policy_folder), seed=0)
