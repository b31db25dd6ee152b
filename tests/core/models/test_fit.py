"""A model is what it claims: weights, classes and tokenizer that do not belong together are refused by name."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedModel, PreTrainedTokenizerFast

from core.config import LoraConfig, ModelConfig
from core.models.load import load_policy, load_reward_model, load_tokenizer, new_reward_model
from tests.fakes import tiny_llama, word_tokenizer

Edit = Callable[[dict[str, Tensor]], object]


def saved(
    folder: Path, kind: type[PreTrainedModel], edit: Edit | None = None, *, tokenizer: PreTrainedTokenizerFast | None = None, **options: Any
) -> ModelConfig:
    """A tiny model of words, its file of weights changed by `edit`."""
    words = word_tokenizer(pad="<unk>")
    torch.manual_seed(0)
    kind(tiny_llama(words, **options)).save_pretrained(folder)
    (tokenizer or words).save_pretrained(folder)
    if edit is not None:
        weights = load_file(folder / "model.safetensors")
        edit(weights)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return ModelConfig(path=str(folder))


def rewrite(file: Path, **entries: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | entries))


@pytest.mark.parametrize("name", ["score.bias", "gating.weight", "model.layers.2.mlp.up_proj.weight", "v_head.weight"])
def test_weights_that_a_reward_model_does_not_use_are_refused_by_name(tmp_path: Path, name: str) -> None:
    config = saved(tmp_path, LlamaForSequenceClassification, lambda weights: weights.update({name: torch.ones(1)}), num_labels=1)
    for load in (lambda: load_reward_model(config), lambda: new_reward_model(config, seed=0, say=lambda _: None)):
        with pytest.raises(ValueError, match=f"holds weights that LlamaForSequenceClassification does not use: {name}"):
            load()


def test_what_belongs_to_other_tasks_may_lie_in_the_file(tmp_path: Path) -> None:
    def beside(weights: dict[str, Tensor]) -> None:
        weights["lm_head.weight"] = torch.ones(12, 16)
        weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)

    model, _ = load_reward_model(saved(tmp_path / "rm", LlamaForSequenceClassification, beside, num_labels=1))
    assert isinstance(model, LlamaForSequenceClassification)
    value = saved(tmp_path / "policy", LlamaForCausalLM, lambda weights: weights.update({"v_head.summary.weight": torch.ones(1, 16)}))
    assert isinstance(load_policy(value)[0], LlamaForCausalLM)
    for tied in (True, False):
        base = saved(tmp_path / f"base-{tied}", LlamaForCausalLM, tie_word_embeddings=tied)
        assert isinstance(new_reward_model(base, seed=0)[0], LlamaForSequenceClassification)


def test_a_reward_model_whose_policy_would_have_a_tied_head_is_no_policy(tmp_path: Path) -> None:
    config = saved(tmp_path, LlamaForSequenceClassification, num_labels=1, tie_word_embeddings=True)
    with pytest.raises(ValueError, match=r"holds weights that LlamaForCausalLM does not use: score\.weight"):
        load_policy(config)


def test_weights_of_another_shape_are_refused_with_both(tmp_path: Path) -> None:
    config = saved(
        tmp_path, LlamaForSequenceClassification, lambda weights: weights.update({"model.norm.weight": torch.ones(15)}), num_labels=1
    )
    with pytest.raises(ValueError, match=r"holds model\.norm\.weight \(15,\) instead of \(16,\)"):
        load_reward_model(config)


@pytest.mark.parametrize(
    ("file", "entries", "named"),
    [
        ("config.json", {"auto_map": {"AutoModelForSequenceClassification": "m.LlamaForRewardModelWithGating"}}, r"m\.LlamaForRewardModel"),
        ("config.json", {"auto_map": {"AutoModel": "org/x--m.Own"}}, r"org/x--m\.Own"),
        ("config.json", {"auto_map": {"AutoConfig": "c.OwnConfig"}, "model_type": "own"}, r"c\.OwnConfig"),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["t.OwnTokenizer", None]}, "tokenizer_class": "OwnTokenizer"}, "t.OwnTok"),
    ],
)
def test_code_of_a_models_own_is_named_and_neither_run_nor_asked_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, entries: dict[str, Any], named: str
) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked on the terminal"))
    config = saved(tmp_path, LlamaForSequenceClassification, num_labels=1)
    rewrite(tmp_path / file, **entries)
    for load in (load_reward_model, load_policy, lambda config: new_reward_model(config, seed=0)):
        with pytest.raises(ValueError, match=f"its {file} names code of its own .{named}.*, which is not run here"):
            load(config)


def test_a_class_that_transformers_has_adopted_may_still_be_named_as_code(tmp_path: Path) -> None:
    config = saved(tmp_path, LlamaForCausalLM)
    rewrite(
        tmp_path / "config.json",
        auto_map={"AutoConfig": "configuration_llama.MyConfig", "AutoModelForCausalLM": "modeling_llama.LlamaForCausalLM"},
    )
    assert type(load_policy(config)[0]) is LlamaForCausalLM


def grown(*, special: bool, written: bool = False, count: int = 3) -> PreTrainedTokenizerFast:
    tokenizer = word_tokenizer(pad="<unk>")
    tokenizer.add_tokens([f"<|new-{i}|>" for i in range(count)], special_tokens=special)
    if written:
        assert isinstance(tokenizer.chat_template, str)
        tokenizer.chat_template = tokenizer.chat_template.replace("</s>", "<|new-1|>")
    return tokenizer


@pytest.mark.parametrize(("special", "written"), [(False, False), (True, True)])
def test_tokens_that_a_text_can_hold_need_embeddings(tmp_path: Path, special: bool, written: bool) -> None:
    for number, kind in enumerate((LlamaForCausalLM, LlamaForSequenceClassification)):
        config = saved(tmp_path / str(number), kind, tokenizer=grown(special=special, written=written), num_labels=1)
        load = load_policy if kind is LlamaForCausalLM else load_reward_model
        with pytest.raises(ValueError, match=r"tokens without an embedding, such as '<\|new-.*embeddings for 12 ids, the tokenizer has 15"):
            load(config)


def test_special_tokens_that_the_template_never_writes_need_none(tmp_path: Path) -> None:
    model, _ = load_policy(saved(tmp_path / "policy", LlamaForCausalLM, tokenizer=grown(special=True)))
    assert len(model.get_input_embeddings().get_parameter("weight")) == 12  # a policy keeps the shape of its checkpoint
    model, _ = load_reward_model(saved(tmp_path / "rm", LlamaForSequenceClassification, tokenizer=grown(special=True), num_labels=1))
    assert len(model.get_input_embeddings().get_parameter("weight")) == 15


def test_a_tokenizer_without_its_configuration_is_refused(tmp_path: Path) -> None:
    config = saved(tmp_path, LlamaForSequenceClassification, num_labels=1)
    (tmp_path / "tokenizer_config.json").unlink()
    with pytest.raises(ValueError, match=r"has no tokenizer_config\.json, so that BOS, special tokens and the chat"):
        load_tokenizer(config)


@pytest.mark.parametrize("rank", [0, 2])
def test_the_head_of_a_reward_model_is_kept_on_demand_and_otherwise_replaced_aloud(tmp_path: Path, rank: int) -> None:
    config = saved(tmp_path, LlamaForSequenceClassification, num_labels=1)
    trained, said = load_file(tmp_path / "model.safetensors")["score.weight"], list[str]()
    lora = LoraConfig(rank=rank)
    drawn, _ = new_reward_model(config, seed=0, lora=lora, say=said.append)
    assert not torch.equal(drawn.get_parameter("score.weight"), trained)
    assert said == [f"{tmp_path} has a trained head, and a new one is drawn in its place; to go on from it, set model.keep_head=true"]
    kept, _ = new_reward_model(ModelConfig(path=str(tmp_path), keep_head=True), seed=0, lora=lora, say=said.append)
    assert torch.equal(kept.get_parameter("score.weight"), trained)
    assert len(said) == 1


def test_a_head_that_is_not_there_cannot_be_kept(tmp_path: Path) -> None:
    config = saved(tmp_path, LlamaForCausalLM)
    config.keep_head = True
    with pytest.raises(ValueError, match=r"model\.keep_head=true, but .* has no trained head 'score'"):
        new_reward_model(config, seed=0)


def test_a_head_of_two_outputs_is_replaced_but_not_kept(tmp_path: Path) -> None:
    config, said = saved(tmp_path, LlamaForSequenceClassification, num_labels=2), list[str]()
    model, _ = new_reward_model(config, seed=0, say=said.append)
    assert model.get_parameter("score.weight").shape == (1, 16)
    assert len(said) == 1
    config.keep_head = True
    with pytest.raises(ValueError, match=r"holds score\.weight \(2, 16\) instead of \(1, 16\)"):
        new_reward_model(config, seed=0)
