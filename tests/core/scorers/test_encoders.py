"""Encoders with a classification head give the rewards of transformers' pipeline, special tokens and token types included."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ModernBertConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
    pipeline,
)

from core.config import ModelConfig
from core.data.token_rows import require_readable
from core.models.load import load_policy, load_reward_model
from core.records import Message, user
from core.scorers.reward_model import RewardModelScorer

WORDS = ("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[user]", "[assistant]", "name", "a", "fruit", "plum", "lamp")
TURNS = "{% for m in messages %}[{{ m.role }}] {{ m.content }} {% endfor %}"
COMMON: dict[str, Any] = {"vocab_size": len(WORDS), "num_labels": 1, "max_position_embeddings": 64, "initializer_range": 1.0}
SIZES: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "pad_token_id": 0}
OTHER_NAMES: dict[str, Any] = {"dim": 16, "hidden_dim": 24, "n_layers": 1, "n_heads": 2}
KINDS = {
    "modernbert": ModernBertConfig(**COMMON, **SIZES, bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2),
    "bert": BertConfig(**COMMON, **SIZES),
    "roberta": RobertaConfig(**COMMON, **SIZES),
    "deberta": DebertaV2Config(**COMMON, **SIZES),
    "distilbert": DistilBertConfig(**COMMON, **OTHER_NAMES),
}
ANSWERS = ["a plum", "lamp", "plum plum plum a", ""]


def folder_of(tmp_path: Path, kind: str, template: str | None) -> Path:
    backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    names = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]"}
    inputs = ["input_ids", "token_type_ids", "attention_mask"] if kind == "bert" else ["input_ids", "attention_mask"]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, model_input_names=inputs, **names)
    tokenizer.chat_template = template
    torch.manual_seed(0)
    AutoModelForSequenceClassification.from_config(KINDS[kind]).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return tmp_path


def pipeline_rewards(folder: Path, inputs: list[Any], **options: Any) -> list[float]:
    classify: Any = pipeline("text-classification", model=str(folder), function_to_apply="none", device="cpu")
    return [classify([given], **options)[0]["score"] for given in inputs]


@pytest.mark.parametrize("kind", list(KINDS))
def test_rewards_are_those_of_the_pipeline_on_the_rendered_text(tmp_path: Path, kind: str) -> None:
    folder = folder_of(tmp_path, kind, TURNS)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    turns = [[{"role": "user", "content": "name a fruit"}, {"role": "assistant", "content": answer}] for answer in ANSWERS]
    texts = [tokenizer.apply_chat_template(dialogue, tokenize=False) for dialogue in turns]
    scorer = RewardModelScorer(*load_reward_model(ModelConfig(path=str(folder))), say=lambda line: None)
    found = scorer.score([user("name a fruit")], [ANSWERS])[0]
    assert found == pytest.approx(pipeline_rewards(folder, texts), rel=1e-5)
    assert max(found) - min(found) > 0.01
    short = RewardModelScorer(scorer.model, scorer.tokenizer, max_length=8, say=lambda line: None)
    cut = pipeline_rewards(folder, texts, truncation=True, max_length=8)
    assert short.score([user("name a fruit")], [ANSWERS])[0] == pytest.approx(cut, rel=1e-5)
    assert short.num_truncated == 2


def test_special_tokens_that_the_template_writes_are_not_written_twice(tmp_path: Path) -> None:
    (tmp_path / "bare").mkdir()
    (tmp_path / "written").mkdir()
    bare, written = (
        RewardModelScorer(*load_reward_model(ModelConfig(path=str(folder_of(tmp_path / name, "bert", template)))), say=lambda line: None)
        for name, template in (("bare", TURNS), ("written", f"[CLS] {TURNS} [SEP]"))
    )
    assert written.score([user("name a fruit")], [ANSWERS]) == bare.score([user("name a fruit")], [ANSWERS])


@pytest.mark.parametrize("kind", list(KINDS))
def test_without_a_template_prompt_and_answer_are_a_pair_of_texts(tmp_path: Path, kind: str) -> None:
    folder, said = folder_of(tmp_path, kind, None), list[str]()
    scorer = RewardModelScorer(*load_reward_model(ModelConfig(path=str(folder))), say=said.append)
    assert said[-1] == "the model has no chat template: question and answer are scored as a pair of texts"
    answers = ANSWERS[:3]  # an empty text alone makes no pair in transformers, in a batch it does
    expected = pipeline_rewards(folder, [{"text": "name a fruit", "text_pair": answer} for answer in answers])
    assert scorer.score([user("name a fruit")], [answers])[0] == pytest.approx(expected, rel=1e-5)


def test_without_a_template_other_dialogues_are_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "bert", None)
    scorer = RewardModelScorer(*load_reward_model(ModelConfig(path=str(folder))), say=lambda line: None)
    require_readable(scorer.tokenizer, {"1": user("a")}, "the reward")
    with pytest.raises(ValueError, match="the reward: 1 of 2 prompts"):
        require_readable(scorer.tokenizer, {"1": user("a"), "2": (Message(role="system", content="a"), *user("a"))}, "the reward")
    with pytest.raises(ValueError, match="number 2: the model has no chat template, so a prompt can only be one user turn"):
        scorer.score([user("a"), (Message(role="system", content="a"), *user("a"))], [["plum"], ["plum"]])
    with pytest.raises(ValueError, match="has no chat template"):
        load_policy(ModelConfig(path=str(folder)))
