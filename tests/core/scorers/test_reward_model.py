"""Rewards equal those of a plain loop and of transformers' own pipeline, whatever the batches and the order."""

# pyright: reportPrivateUsage=false

import copy
import random

import pytest
import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    Gemma2Config,
    Gemma2ForSequenceClassification,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
    pipeline,
)

from core.data.chat import pad_id, preamble
from core.models.head import padded_rewards, reward_obstacle, tree_rewards
from core.progress import NoProgress
from core.records import CompletionScore, DetailedScorer, Dialogue, Message, user
from core.scorers.reward_model import RewardModelScorer
from core.trees.attention import tree_attention
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


@torch.no_grad()
def test_the_reward_is_read_at_eos_on_trees_and_although_batches_are_padded(
    reward_model: LlamaForSequenceClassification, tokenizer: PreTrainedTokenizerFast
) -> None:
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    short, long = (tokenizer(text, add_special_tokens=False).input_ids for text in (rendered(tokenizer)[1], rendered(tokenizer)[3]))
    assert short[-1] == tokenizer.eos_token_id
    hidden_LH = reward_model.get_submodule("model")(torch.tensor([short])).last_hidden_state[0]
    at_eos = reward_model.get_submodule("score")(hidden_LH[-1]).item()
    assert padded_rewards(reward_model, [short, long], pad_id(tokenizer))[0].item() == pytest.approx(at_eos, **TOLERANCE)
    with tree_attention(reward_model):
        assert tree_rewards(reward_model, [[long], [short]])[1].item() == pytest.approx(at_eos, **TOLERANCE)


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


@pytest.mark.parametrize("padding_reason", [None, "the test wants it"])
@pytest.mark.parametrize("max_length", [9, 8, 3])
def test_what_was_read_is_counted_and_marked_where_it_was_cut(padding_reason: str | None, max_length: int) -> None:
    words = word_tokenizer(pad="<unk>")
    torch.manual_seed(0)
    model = LlamaForSequenceClassification(tiny_llama(words, num_labels=1)).eval()
    scorer = RewardModelScorer(model, words, max_length=max_length)
    assert isinstance(scorer, DetailedScorer)
    scorer.padding_reason = padding_reason
    (first, second), none, (third,) = scorer.score_detailed([user("name a fruit"), user("a"), user("a")], [["a plum", "plum"], [], [""]])
    # <s> [user] name a fruit [assistant] a plum </s>; the same without the second "a"; <s> [user] a [assistant] </s>
    rows = [[0, 4, 6, 7, 8, 5, 7, 9, 1], [0, 4, 6, 7, 8, 5, 9, 1], [0, 4, 7, 5, 1]]
    with torch.no_grad():
        naive = [model(torch.tensor([row[:max_length]])).logits.item() for row in rows]
    for item, row, reward in zip((first, second, third), rows, naive, strict=True):
        alike = max_length == 3 and item is not third  # both answers to the first prompt were cut to <s> [user] name
        expected = CompletionScore(
            reward=item.reward, num_tokens=min(len(row), max_length), truncated=len(row) > max_length, repeated=alike
        )
        assert item == expected
        assert item.reward == pytest.approx(reward, **TOLERANCE)
    assert none == []
    assert scorer.num_truncated == sum(len(row) > max_length for row in rows)


def tiny_gemma2(tokenizer: PreTrainedTokenizerFast) -> Gemma2ForSequenceClassification:
    """A classifier that attends through a sliding window in every other layer and caps its attention."""
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        sliding_window=16,
        initializer_range=0.4,
        pad_token_id=pad_id(tokenizer),
    )
    config.num_labels = 1
    return Gemma2ForSequenceClassification(config).eval()


def test_an_architecture_that_cannot_run_on_trees_is_padded_and_this_is_said_once(tokenizer: PreTrainedTokenizerFast) -> None:
    model, said = tiny_gemma2(tokenizer), list[str]()
    scorer = RewardModelScorer(model, tokenizer, batch_tokens=150, say=said.append)
    with torch.no_grad():
        naive = [model(torch.tensor([tokenizer(text, add_special_tokens=False).input_ids])).logits.item() for text in rendered(tokenizer)]
    for _ in range(2):
        assert flat(scorer.score(PROMPTS, COMPLETIONS)) == pytest.approx(naive, **TOLERANCE)
    assert said == ["scoring with padding: Gemma2ForSequenceClassification has layers of sliding_attention"]
    assert scorer.score([PROMPTS[0]], [[]]) == [[]]


def test_nothing_is_said_of_a_model_that_runs_on_trees(
    reward_model: LlamaForSequenceClassification, tokenizer: PreTrainedTokenizerFast
) -> None:
    said: list[str] = []
    scorer = RewardModelScorer(reward_model, tokenizer, say=said.append)
    scorer.score(PROMPTS, COMPLETIONS)
    assert said == []
    assert scorer.preamble == preamble(tokenizer)
    assert reward_model.config._attn_implementation == "sdpa"


def test_a_head_that_is_no_linear_layer_named_score_is_not_read_from_trees(
    reward_model: LlamaForSequenceClassification, tokenizer: PreTrainedTokenizerFast
) -> None:
    assert reward_obstacle(reward_model, 100) is None
    small = BertConfig(vocab_size=99, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2)
    assert (
        reward_obstacle(BertForSequenceClassification(small), 100)
        == "the head of BertForSequenceClassification is not a linear layer named score"
    )
    deep = copy.deepcopy(reward_model)
    deep.register_module("score", nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 1)))
    assert "is not a linear layer" in (reward_obstacle(deep, 100) or "")


@torch.no_grad()
def test_a_bias_of_the_head_is_added(reward_model: LlamaForSequenceClassification) -> None:
    biased = copy.deepcopy(reward_model)
    biased.score = nn.Linear(16, 1, bias=True)
    biased.score.weight.copy_(reward_model.get_parameter("score.weight"))
    biased.score.bias.fill_(3.0)
    with tree_attention(reward_model), tree_attention(biased):
        plain_R, biased_R = (tree_rewards(model, [[[1, 5, 9], [1, 7]]]) for model in (reward_model, biased))
    torch.testing.assert_close(biased_R, plain_R + 3.0)


class Counter(NoProgress):
    """Keeps what it is told of a scorer's progress."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []

    def start(self, description: str, total: int, *, unit: str = "", done: int = 0) -> None:
        self.calls.append((description, total))

    def advance(self, n: int = 1) -> None:
        self.calls.append(("advance", n))

    def finish(self) -> None:
        self.calls.append(("finish", 0))


@pytest.mark.parametrize("padding_reason", [None, "the test wants it"])
def test_progress_is_counted_in_completions(
    reward_model: LlamaForSequenceClassification, tokenizer: PreTrainedTokenizerFast, padding_reason: str | None
) -> None:
    counter = Counter()
    scorer = RewardModelScorer(reward_model, tokenizer, batch_tokens=1, progress=counter)
    scorer.padding_reason = padding_reason
    scorer.score(PROMPTS, COMPLETIONS)
    assert counter.calls[0] == ("scoring", 6)
    assert counter.calls[-1] == ("finish", 0)
    assert sum(n for what, n in counter.calls if what == "advance") == 6
