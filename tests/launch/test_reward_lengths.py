"""How much of a text PPO's reward models read, and that what they cut is counted."""

from pathlib import Path

import pytest
import torch
from transformers import LlamaForSequenceClassification, PreTrainedTokenizerFast

from core.records import Dialogue, Message, Prompt, user
from core.runs.warnings import reward_texts_cut
from launch.compose import composed
from launch.rewards.build import build_terms
from launch.rewards.lengths import longest_text
from launch.rewards.locate import locate_terms
from launch.schema import PPOJob
from tests.fakes import tiny_llama, word_tokenizer

PROMPTS = [Prompt(id="1", dialogue=user("Name a fruit."))]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A reward model that reads words."""
    tokenizer = word_tokenizer(pad="<pad>")
    torch.manual_seed(2)
    LlamaForSequenceClassification(tiny_llama(tokenizer, num_labels=1)).save_pretrained(tmp_path / "rm")
    tokenizer.save_pretrained(tmp_path / "rm")
    return tmp_path / "rm"


def job_of(*overrides: str) -> PPOJob:
    job = composed(PPOJob, overrides).job
    assert isinstance(job, PPOJob)
    return job


def words(count: int) -> str:
    return " ".join(["plum"] * count)


def test_answers_that_differ_at_the_end_of_a_long_text_score_differently_whatever_the_hooks_read(
    folder: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    job = job_of(f"reward.path={folder}", "hooks.max_length=64", "max_prompt_length=1900", "max_new_tokens=200")
    scorer = build_terms(job, locate_terms(job, PROMPTS), PROMPTS, tokenizer)
    prompt, answers = user(words(1850)), [f"{words(150)} saw", f"{words(150)} lamp"]
    [[one, other]] = scorer.score([prompt], [answers])
    assert one != other
    assert scorer.num_truncated == 0


def test_texts_longer_than_any_of_the_job_are_cut_and_counted(folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    job = job_of(
        f"reward.path={folder}", "hooks.max_length=8", "max_prompt_length=8", "max_new_tokens=8", "hooks.downstream.max_new_tokens=8"
    )
    scorer = build_terms(job, locate_terms(job, PROMPTS), PROMPTS, tokenizer)
    scorer.score([user("plum"), user("plum")], [[words(200), words(2)], [words(300)]])
    assert scorer.num_truncated == 2


def test_the_limit_is_prompt_answer_and_template(tokenizer: PreTrainedTokenizerFast) -> None:
    job = job_of(
        "reward.path=RM", "hooks.max_length=8", "max_prompt_length=20", "max_new_tokens=30",
        "hooks.downstream.max_new_tokens=25",
    )  # fmt: skip
    chat: Dialogue = (*user("a"), Message(role="assistant", content="b"), *user("c"))
    foreign = word_tokenizer(pad="<pad>")
    # A turn of each with one word: <s> [user] WORD [assistant] WORD </s>, as the word tokenizer's template has it.
    around = len(foreign("<s> [user] a [assistant] a </s>", add_special_tokens=False)["input_ids"])
    length = longest_text(job, foreign, [chat])
    assert length(foreign) == 20 + 30 + 3 * around
    assert length(tokenizer) > 2 * (20 + 30)  # another vocabulary may need more tokens for the same text
    assert longest_text(job_of("reward.path=RM", "hooks.max_length=9999"), foreign, [])(foreign) == 9999


def test_a_batch_with_cut_texts_is_told() -> None:
    assert reward_texts_cut(0.0, batch=3) is None
    found = reward_texts_cut(0.25, batch=4)
    assert found is not None
    assert "in batch 4 reward models cut 25.0% of the texts" in found.text
