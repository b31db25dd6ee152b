"""A reward is read where transformers reads it, at the last token that is not padding, whatever the pad token is."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, LlamaForCausalLM, LlamaForSequenceClassification

from core.config import ModelConfig
from core.data.pad_token import PAD_TOKEN, require_own_pad, same_tokens, without_trailing_pads
from core.models.export import export_model
from core.models.load import load_reward_model, new_reward_model
from core.records import user
from core.scorers.reward_model import RewardModelScorer
from tests.fakes import tiny_llama, word_tokenizer

# Turns of the assistant end with the word "short", which is the pad token too; EOS is </s>, which the template never writes.
ENDS_WITH_PAD = "<s> {% for m in messages %}[{{ m.role }}] {{ m.content }} {% if m.role == 'assistant' %}short{% endif %}{% endfor %}"
OPEN = "<s> {% for m in messages %}[{{ m.role }}] {{ m.content }} {% endfor %}"
ANSWERS = ["a plum", "lamp", "a plum short", "a plum short short", "plum </s>", "", f"a plum {PAD_TOKEN}"]
"""The last is a token of its own only where that pad token was added."""


def folder_of(tmp_path: Path, template: str, *, pad: str | None, config_pad: int | None, classifier: bool = True) -> Path:
    tokenizer = word_tokenizer(pad=pad)
    tokenizer.chat_template = template
    torch.manual_seed(0)
    shape = tiny_llama(tokenizer, num_labels=1)
    shape.pad_token_id = config_pad
    model = LlamaForSequenceClassification(shape) if classifier else LlamaForCausalLM(shape)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return tmp_path


@torch.no_grad()
def rewards_in_transformers(folder: Path) -> list[float]:
    model: Any = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    turns = [[{"role": "user", "content": "name a fruit"}, {"role": "assistant", "content": answer}] for answer in ANSWERS]
    texts = [tokenizer.apply_chat_template(dialogue, tokenize=False) for dialogue in turns]
    return [model(**tokenizer(text, return_tensors="pt", add_special_tokens=False)).logits.item() for text in texts]


def rewards_here(model: Any, tokenizer: Any, *, padded: bool) -> list[float]:
    scorer = RewardModelScorer(model, tokenizer)
    assert scorer.padding_reason is None
    scorer.padding_reason = "the test wants it" if padded else None
    return scorer.score([user("name a fruit")], [ANSWERS])[0]


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("template", [ENDS_WITH_PAD, OPEN])
@pytest.mark.parametrize(("pad", "config_pad"), [("short", 11), ("</s>", 1), (None, 11), ("short", 1)])
def test_a_foreign_reward_model_is_read_where_transformers_reads_it(
    tmp_path: Path, template: str, pad: str | None, config_pad: int, padded: bool
) -> None:
    folder = folder_of(tmp_path, template, pad=pad, config_pad=config_pad)
    expected = rewards_in_transformers(folder)
    found = rewards_here(*load_reward_model(ModelConfig(path=str(folder))), padded=padded)
    assert found[:-1] == pytest.approx(expected[:-1], abs=1e-5)
    assert len({round(reward, 4) for reward in expected}) > 2


@pytest.mark.parametrize("padded", [False, True])
def test_a_foreign_reward_model_without_a_pad_token_is_read_at_its_last_token(tmp_path: Path, padded: bool) -> None:
    folder = folder_of(tmp_path, ENDS_WITH_PAD, pad="short", config_pad=None)
    found = rewards_here(*load_reward_model(ModelConfig(path=str(folder))), padded=padded)
    assert found[:-1] == pytest.approx(rewards_in_transformers(folder)[:-1], abs=1e-5)


@pytest.mark.parametrize("template", [ENDS_WITH_PAD, OPEN])
def test_training_takes_another_pad_token_where_the_template_can_write_it_and_the_export_gives_the_same_rewards(
    tmp_path: Path, template: str
) -> None:
    (tmp_path / "base").mkdir()
    base = folder_of(tmp_path / "base", template, pad="short", config_pad=11, classifier=False)
    model, tokenizer = new_reward_model(ModelConfig(path=str(base)), seed=0)
    assert (tokenizer.pad_token == PAD_TOKEN) == (template == ENDS_WITH_PAD)
    export_model(model, tokenizer, tmp_path / "rm")
    expected = rewards_in_transformers(tmp_path / "rm")
    for padded in (False, True):
        assert rewards_here(model, tokenizer, padded=padded) == pytest.approx(expected, abs=1e-5)
        assert rewards_here(*load_reward_model(ModelConfig(path=str(tmp_path / "rm"))), padded=padded) == pytest.approx(expected, abs=1e-5)
    if template == ENDS_WITH_PAD:  # read at the end of the turn: the two answers differ in nothing but it
        assert abs(expected[2] - expected[0]) > 1e-3


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{{ m.content }} {{ pad_token }}{% endfor %}",
        "{% for m in messages %}{% if m.role == 'tool' %}short {% endif %}{{ m.content }} {% endfor %}",
        "{% for m in messages %}{{ m.content }} {{ 'sh' + 'ort' if m.role == 'system' }} {% endfor %}",
        "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}{% for m in messages %}short {% endfor %}",
    ],
)
def test_a_template_can_write_a_token_by_its_name_by_a_variable_or_in_one_branch_alone(template: str) -> None:
    tokenizer = word_tokenizer(pad="short")
    tokenizer.chat_template = template
    require_own_pad(tokenizer)
    assert tokenizer.pad_token == PAD_TOKEN


def test_a_new_pad_token_is_none_that_is_there_already() -> None:
    tokenizer = word_tokenizer(pad=PAD_TOKEN)
    tokenizer.chat_template = f"{{% for m in messages %}}{{{{ m.content }}}} {PAD_TOKEN}{{% endfor %}}"
    require_own_pad(tokenizer)
    assert tokenizer.pad_token == "<|pad-2|>"


def test_a_row_ends_with_its_last_token_that_is_no_pad() -> None:
    assert without_trailing_pads([0, 5, 0, 0], 0) == [0, 5]
    assert without_trailing_pads([0, 0], 0) == [0]
    assert without_trailing_pads([5, 0], None) == [5, 0]


def test_two_vocabularies_are_the_same_whatever_they_pad_with() -> None:
    policy, reward_model, renamed = word_tokenizer(), word_tokenizer(), word_tokenizer()
    require_own_pad(reward_model)
    policy.pad_token = policy.eos_token
    assert len(reward_model) == len(policy) + 1
    assert same_tokens(policy, reward_model)
    assert same_tokens(reward_model, policy)
    renamed.add_tokens(["plums"])
    assert not same_tokens(policy, renamed)
