"""The implicit reward is beta times the difference of two sums of log-probabilities, as full logits give them."""

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from core.models import logprobs
from core.records import DetailedScorer, Dialogue, Message, user
from core.scorers.implicit import ImplicitRewardScorer, logprob_obstacle
from tests.fakes import tiny_llama, word_tokenizer

PROMPTS: list[Dialogue] = [
    user("Name a fruit."),
    (Message(role="system", content="Answer in one short sentence."), *user("What is 2 plus 3?")),
    (*user("Name a fruit."), Message(role="assistant", content="A plum."), *user("Another one, please, and say why you chose it.")),
]
COMPLETIONS = [["A plum.", "5", ""], ["The sum of 2 and 3 is 5."], ["A plum is a fruit. " * 6, "A plum is a fruit. No.", "", "No."]]
TOLERANCE = {"abs": 1e-4, "rel": 0}  # of sums of tens of terms of the order of 5
PATHS = pytest.mark.parametrize("padding_reason", [None, "the test wants it"], ids=["trees", "padded"])


@pytest.fixture(scope="module")
def reference(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    torch.manual_seed(5)
    return LlamaForCausalLM(tiny_llama(tokenizer)).eval()


def flat(rewards: list[list[float]]) -> list[float]:
    assert [len(row) for row in rewards] == [len(answers) for answers in COMPLETIONS]
    return [reward for row in rewards for reward in row]


@torch.no_grad()
def log_probability(model: PreTrainedModel, row: Sequence[int], start: int) -> float:
    """Of the tokens from `start` on, from the logits of the whole row."""
    logprobs_LV = torch.log_softmax(model(input_ids=torch.tensor([row])).logits[0].double(), -1)
    return sum(logprobs_LV[place - 1, row[place]].item() for place in range(start, len(row)))


def naive(policy: PreTrainedModel, reference: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, max_length: int = 2048) -> list[float]:
    """With beta 1, prompt by prompt and completion by completion."""
    rewards = []
    for prompt, answers in zip(PROMPTS, COMPLETIONS, strict=True):
        turns = [{"role": turn.role, "content": turn.content} for turn in prompt]
        asked = tokenizer(str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)), add_special_tokens=False)
        for answer in answers:
            whole = str(tokenizer.apply_chat_template([*turns, {"role": "assistant", "content": answer}], tokenize=False))
            row, start = tokenizer(whole, add_special_tokens=False).input_ids, len(asked.input_ids)
            assert row[:start] == asked.input_ids
            row = row[:max_length]
            rewards.append(log_probability(policy, row, start) - log_probability(reference, row, start))
    return rewards


@PATHS
@pytest.mark.parametrize("batch_tokens", [1, 150, 16384])
def test_the_reward_is_the_difference_of_the_log_probabilities_of_the_completion(
    policy: LlamaForCausalLM, reference: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, batch_tokens: int, padding_reason: str | None
) -> None:
    scorer = ImplicitRewardScorer(policy, reference, tokenizer, tokenizer, beta=1.0, batch_tokens=batch_tokens)
    assert scorer.padding_reason is None
    scorer.padding_reason = padding_reason
    expected = naive(policy, reference, tokenizer)
    assert flat(scorer.score(PROMPTS, COMPLETIONS)) == pytest.approx(expected, **TOLERANCE)
    assert max(expected) - min(expected) > 5


@PATHS
def test_by_hand_on_single_words(padding_reason: str | None) -> None:
    words = word_tokenizer(pad="<unk>")
    torch.manual_seed(0)
    policy, reference = (LlamaForCausalLM(tiny_llama(words)).eval() for _ in range(2))
    scorer = ImplicitRewardScorer(policy, reference, words, words, beta=0.5)
    scorer.padding_reason = padding_reason
    ((plum, nothing),) = scorer.score_detailed([user("name a fruit")], [["a plum", ""]])
    # <s> [user] name a fruit [assistant] is the prompt; a plum </s>, or </s> alone, is what is scored.
    prompt = [0, 4, 6, 7, 8, 5]
    for item, answer in ((plum, [7, 9, 1]), (nothing, [1])):
        of_policy, of_reference = (log_probability(model, [*prompt, *answer], 6) for model in (policy, reference))
        assert item.reward == pytest.approx(0.5 * (of_policy - of_reference), **TOLERANCE)
        assert (item.num_tokens, item.truncated) == (6 + len(answer), False)
    assert scorer.num_truncated == 0


@PATHS
@pytest.mark.parametrize("max_length", [8, 6, 4])
def test_a_row_cut_within_its_completion_counts_what_is_left_and_one_cut_within_its_prompt_nothing(
    padding_reason: str | None, max_length: int
) -> None:
    words = word_tokenizer(pad="<unk>")
    torch.manual_seed(0)
    policy, reference = (LlamaForCausalLM(tiny_llama(words)).eval() for _ in range(2))
    scorer = ImplicitRewardScorer(policy, reference, words, words, beta=1.0, max_length=max_length)
    scorer.padding_reason = padding_reason
    ((cut,), (short,)) = scorer.score_detailed([user("name a fruit"), user("a")], [["a plum"], [""]])
    row = [0, 4, 6, 7, 8, 5, 7, 9, 1][:max_length]
    expected = log_probability(policy, row, 6) - log_probability(reference, row, 6)
    assert cut.reward == pytest.approx(expected, **TOLERANCE)
    assert (expected == 0) == (max_length <= 6)
    assert (cut.num_tokens, cut.truncated) == (max_length, True)
    # <s> [user] a [assistant] </s>
    assert (short.num_tokens, short.truncated) == (min(5, max_length), max_length < 5)
    assert scorer.num_truncated == 1 + (max_length < 5)
    scorer.score([user("name a fruit")], [["a plum"]])
    assert scorer.num_truncated == 2 + (max_length < 5)  # over the scorer's life


@PATHS
def test_a_policy_that_is_its_own_reference_gives_zero(
    policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, padding_reason: str | None
) -> None:
    scorer = ImplicitRewardScorer(policy, copy.deepcopy(policy), tokenizer, tokenizer)
    scorer.padding_reason = padding_reason
    assert set(flat(scorer.score(PROMPTS, COMPLETIONS))) == {0.0}


def test_beta_scales_the_rewards_and_is_a_tenth_unless_said(
    policy: LlamaForCausalLM, reference: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    expected = naive(policy, reference, tokenizer)
    default = ImplicitRewardScorer(policy, reference, tokenizer, tokenizer)
    assert flat(default.score(PROMPTS, COMPLETIONS)) == pytest.approx([0.1 * reward for reward in expected], **TOLERANCE)
    large = ImplicitRewardScorer(policy, reference, tokenizer, tokenizer, beta=3.0)
    assert flat(large.score(PROMPTS, COMPLETIONS)) == pytest.approx([3 * reward for reward in expected], abs=3e-4)


def test_a_reward_does_not_depend_on_what_is_scored_beside_it(
    policy: LlamaForCausalLM, reference: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    scorer = ImplicitRewardScorer(policy, reference, tokenizer, tokenizer, beta=1.0)
    together = scorer.score(PROMPTS, COMPLETIONS)
    for prompt, answers, rewards in zip(PROMPTS, COMPLETIONS, together, strict=True):
        assert scorer.score([prompt], [answers])[0] == pytest.approx(rewards, **TOLERANCE)
        assert scorer.score([prompt], [answers[::-1]])[0][::-1] == pytest.approx(rewards, **TOLERANCE)
    assert scorer.score(PROMPTS, [[], COMPLETIONS[1], []]) == [[], pytest.approx(together[1], **TOLERANCE), []]
    assert scorer.score([], []) == []
    assert isinstance(scorer, DetailedScorer)


def test_logits_are_made_a_part_at_a_time(
    monkeypatch: pytest.MonkeyPatch, policy: LlamaForCausalLM, reference: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    monkeypatch.setattr(logprobs, "UNIT", 7)
    monkeypatch.setattr(logprobs, "CHUNK", 7 * len(tokenizer))
    rewards = ImplicitRewardScorer(policy, reference, tokenizer, tokenizer, beta=1.0).score(PROMPTS, COMPLETIONS)
    assert flat(rewards) == pytest.approx(naive(policy, reference, tokenizer), **TOLERANCE)


def test_models_of_different_vocabularies_are_refused(policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ValueError, match="different vocabularies; name the model that the policy was trained from"):
        ImplicitRewardScorer(policy, policy, tokenizer, word_tokenizer(pad="<unk>"))
    renamed = copy.deepcopy(tokenizer)
    renamed.add_tokens(["plums"])
    with pytest.raises(ValueError, match="different vocabularies"):
        ImplicitRewardScorer(policy, policy, tokenizer, renamed)


def tiny(kind: str, vocab_size: int, **options: Any) -> PreTrainedModel:
    settings = {
        "vocab_size": vocab_size,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "initializer_range": 0.4,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    } | options
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **settings)).eval()


CAPPED_BEHIND_THE_HEAD = {"head_dim": 8, "layer_types": ["full_attention"] * 2, "attn_logit_softcapping": None, "initializer_range": 0.2}


@pytest.mark.parametrize(
    ("kind", "options", "reason"),
    [
        ("llama", {}, ""),
        ("qwen2", {"tie_word_embeddings": True}, ""),
        ("gpt_neox", {}, ""),
        ("granite", {"logits_scaling": 4.0}, "changes its logits after the output embeddings"),
        ("cohere", {}, "changes its logits after the output embeddings"),
        ("gemma2", CAPPED_BEHIND_THE_HEAD, "changes its logits after the output embeddings"),
        ("gemma2", {"head_dim": 8, "final_logit_softcapping": None}, "has layers of sliding_attention"),
    ],
)
def test_a_model_whose_log_probabilities_trees_would_miss_is_padded_and_this_is_said(
    tokenizer: PreTrainedTokenizerFast, kind: str, options: dict[str, Any], reason: str
) -> None:
    model, said = tiny(kind, len(tokenizer), **options), list[str]()
    assert reason in (logprob_obstacle(model, 256) or "")
    plain = tiny("llama", len(tokenizer))
    for policy, reference in ((model, plain), (plain, model)):  # either of them is reason enough
        scorer = ImplicitRewardScorer(policy, reference, tokenizer, tokenizer, beta=1.0, max_length=256, say=said.append)
        rewards = flat(scorer.score(PROMPTS, COMPLETIONS))
        assert rewards == pytest.approx(naive(policy, reference, tokenizer, 256), **TOLERANCE)
    assert said == ([f"scoring with padding: {type(model).__name__} {reason}"] * 2 if reason else [])


def test_a_classifier_is_no_policy(reward_model: LlamaForSequenceClassification) -> None:
    assert logprob_obstacle(reward_model, 256) == "LlamaForSequenceClassification has no linear output embeddings"
