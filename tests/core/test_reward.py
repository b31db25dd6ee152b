"""Rewards equal those of a plain loop and of transformers' own pipeline, whatever the batches and the order."""

import copy
import random

import pytest
import torch
from transformers import LlamaForSequenceClassification, PreTrainedTokenizerFast, pipeline

from core.records import Dialogue, Message, user
from core.reward import RewardModelScorer
from tests.fakes import tiny_llama, word_tokenizer

PROMPTS: list[Dialogue] = [
    user("Name a fruit."),
    (Message(role="system", content="Answer in one short sentence."), *user("What is 2 plus 3?")),
    (*user("Name a fruit."), Message(role="assistant", content="A plum."), *user("Another one, please, and say why you chose it.")),
]
COMPLETIONS = [["A plum.", "5"], ["The sum of 2 and 3 is 5."], ["A plum is a fruit. " * 6, "", "No."]]
TOLERANCE = {"abs": 1e-5, "rel": 0}


def rendered(tokenizer: PreTrainedTokenizerFast) -> list[str]:
    """Prompt and completion as the template renders them, one text per completion."""
    texts = []
    for prompt, answers in zip(PROMPTS, COMPLETIONS, strict=True):
        for answer in answers:
            turns = [{"role": turn.role, "content": turn.content} for turn in prompt] + [{"role": "assistant", "content": answer}]
            texts.append(str(tokenizer.apply_chat_template(turns, tokenize=False)))
    return texts


def flat(rewards: list[list[float]]) -> list[float]:
    assert [len(row) for row in rewards] == [len(answers) for answers in COMPLETIONS]
    return [reward for row in rewards for reward in row]


def test_rewards_equal_those_of_one_sequence_at_a_time_without_padding(
    reward_model: LlamaForSequenceClassification, tokenizer: PreTrainedTokenizerFast
) -> None:
    with torch.no_grad():
        naive = [
            reward_model(tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids).logits.item()
            for text in rendered(tokenizer)
        ]
    rewards = flat(RewardModelScorer(reward_model, tokenizer).score(PROMPTS, COMPLETIONS))
    assert rewards == pytest.approx(naive, **TOLERANCE)
    assert max(naive) - min(naive) > 0.1  # far more than the tolerance


def test_rewards_equal_those_of_the_text_classification_pipeline(
    reward_model: LlamaForSequenceClassification, tokenizer: PreTrainedTokenizerFast
) -> None:
    classify = pipeline("text-classification", model=reward_model, tokenizer=tokenizer, function_to_apply="none", device="cpu")
    expected = [result["score"] for result in classify(rendered(tokenizer))]
    assert flat(RewardModelScorer(reward_model, tokenizer).score(PROMPTS, COMPLETIONS)) == pytest.approx(expected, **TOLERANCE)


@pytest.mark.parametrize("batch_tokens", [1, 40, 150, 100_000])
def test_neither_the_size_of_the_batches_nor_the_order_changes_a_reward(
    reward_model: LlamaForSequenceClassification, tokenizer: PreTrainedTokenizerFast, batch_tokens: int
) -> None:
    expected = RewardModelScorer(reward_model, tokenizer).score(PROMPTS, COMPLETIONS)
    scorer = RewardModelScorer(reward_model, tokenizer, batch_tokens=batch_tokens)
    assert flat(scorer.score(PROMPTS, COMPLETIONS)) == pytest.approx(flat(expected), **TOLERANCE)
    order = random.Random(0).sample(range(3), 3)
    shuffled = scorer.score([PROMPTS[i] for i in order], [COMPLETIONS[i] for i in order])
    for place, index in enumerate(order):
        assert shuffled[place] == pytest.approx(expected[index], **TOLERANCE)


def test_the_reward_is_read_at_eos_although_batches_are_padded(
    reward_model: LlamaForSequenceClassification, tokenizer: PreTrainedTokenizerFast
) -> None:
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    short, long = (tokenizer(text, add_special_tokens=False).input_ids for text in (rendered(tokenizer)[1], rendered(tokenizer)[3]))
    assert short[-1] == tokenizer.eos_token_id
    with torch.no_grad():
        hidden_LH = reward_model.get_submodule("model")(torch.tensor([short])).last_hidden_state[0]
        at_eos = reward_model.get_submodule("score")(hidden_LH[-1]).item()
    assert RewardModelScorer(reward_model, tokenizer).score_ids([short, long])[0] == pytest.approx(at_eos, **TOLERANCE)


def test_a_tokenizer_that_adds_its_own_bos_gives_the_rewards_of_one_bos() -> None:
    once, twice = word_tokenizer(pad="<unk>"), word_tokenizer(pad="<unk>", adds_bos=True)
    torch.manual_seed(0)
    model = LlamaForSequenceClassification(tiny_llama(once, num_labels=1)).eval()
    prompts, completions = [user("name a fruit")], [["a plum", "a lamp"]]
    rewards = RewardModelScorer(model, twice).score(prompts, completions)
    assert rewards == RewardModelScorer(model, once).score(prompts, completions)
    # <s> [user] name a fruit [assistant] a plum </s>
    with torch.no_grad():
        assert rewards[0][0] == pytest.approx(model(torch.tensor([[0, 4, 6, 7, 8, 5, 7, 9, 1]])).logits.item(), **TOLERANCE)


def test_rows_above_max_length_are_cut_at_the_end_and_counted(
    reward_model: LlamaForSequenceClassification, tokenizer: PreTrainedTokenizerFast
) -> None:
    rows = [tokenizer(text, add_special_tokens=False).input_ids for text in rendered(tokenizer)]
    limit = sorted(map(len, rows))[3]  # six rows: two are longer
    scorer = RewardModelScorer(reward_model, tokenizer, max_length=limit)
    rewards = flat(scorer.score(PROMPTS, COMPLETIONS))
    with torch.no_grad():
        expected = [reward_model(torch.tensor([row[:limit]])).logits.item() for row in rows]
    assert rewards == pytest.approx(expected, **TOLERANCE)
    assert scorer.num_truncated == 2
    scorer.score(PROMPTS, COMPLETIONS)
    assert scorer.num_truncated == 4  # over the scorer's life


def test_a_prompt_without_completions_keeps_its_place(
    reward_model: LlamaForSequenceClassification, tokenizer: PreTrainedTokenizerFast
) -> None:
    scorer = RewardModelScorer(reward_model, tokenizer)
    assert scorer.score([], []) == []
    rewards = scorer.score(PROMPTS[:2], [[], COMPLETIONS[1]])
    assert [len(row) for row in rewards] == [0, 1]


def test_rewards_are_plain_numbers_also_from_a_model_in_bfloat16(
    reward_model: LlamaForSequenceClassification, tokenizer: PreTrainedTokenizerFast
) -> None:
    half = copy.deepcopy(reward_model).bfloat16()
    exact = flat(RewardModelScorer(reward_model, tokenizer).score(PROMPTS, COMPLETIONS))
    rewards = flat(RewardModelScorer(half, tokenizer).score(PROMPTS, COMPLETIONS))
    assert {type(reward) for reward in rewards} == {float}
    assert rewards == pytest.approx(exact, abs=0.2)  # 8 bits of mantissa through two layers
