"""What a rollout measures, against a model run on one unpadded episode at a time."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)

from core.data.chat import encode_prompts
from core.functions import SkippedError
from core.generators.local import TransformersGenerator
from core.records import Completion, Dialogue, Message, Sampling, Scorer, user
from core.scorers.verifier import VerifierScorer
from core.scorers.weighted import WeightedScorer
from ppo.metrics import Metric, rollout_metrics
from ppo.model import ActorCritic, actor_critic, frozen_copy
from ppo.rollout import Episodes, rollout
from tests.fakes import LengthScorer
from tests.ppo.engines import ALONE, trained

PROMPTS = [user("Name a fruit."), user("What is 2 plus 3? Answer in one short sentence."), user("2?")]
ANSWERS = ["A plum.", "5", "The sum of 2 and 3 is 5."]


class Recital:
    """A generator that answers every prompt with the text prepared for it, byte by byte, as no tokenizer would cut it."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> None:
        self.tokenizer, self.texts = tokenizer, texts

    def generate(self, prompts: Sequence[Dialogue], sampling: Sampling) -> list[list[Completion]]:
        return [[self.completion(text)] for text, _ in zip(self.texts, prompts, strict=True)]

    def completion(self, text: str) -> Completion:
        ids = [i for character in text for i in self.tokenizer(character)["input_ids"]]
        end = self.tokenizer.eos_token_id
        assert isinstance(end, int)
        finished = text != "5"
        return Completion(text=text, token_ids=(*ids, end) if finished else tuple(ids), finished=finished)


def episodes_of(
    policy: LlamaForCausalLM,
    reward_model: LlamaForSequenceClassification | None,
    tokenizer: PreTrainedTokenizerFast,
    rows: Sequence[int] = (0, 1, 2),
    *,
    temperature: float = 0.7,
    micro_batch_size: int = 2,
    scorer: Scorer | None = None,
) -> Episodes:
    model = actor_critic(copy.deepcopy(policy), reward_model, temperature=temperature)
    model.reference = noisy(policy)
    return rollout(
        [PROMPTS[i] for i in rows],
        world=ALONE,
        generator=Recital(tokenizer, [ANSWERS[i] for i in rows]),
        scorer=WeightedScorer.of(scorer or LengthScorer()),
        networks=model,
        tokenizer=tokenizer,
        sampling=Sampling(temperature=temperature, max_new_tokens=32),
        micro_batch_size=micro_batch_size,
    )


def noisy(policy: LlamaForCausalLM) -> LlamaForCausalLM:
    """A reference that is not the policy."""
    reference = frozen_copy(policy)
    assert isinstance(reference, LlamaForCausalLM)
    reference.lm_head.weight.add_(0.1 * torch.randn(reference.lm_head.weight.shape, generator=torch.Generator().manual_seed(3)))
    return reference


@torch.no_grad()
def logprobs_alone(model: LlamaForCausalLM, prompt: list[int], answer: list[int], temperature: float) -> Tensor:
    logits_LV = model(torch.tensor([[*prompt, *answer]])).logits[0].double() / temperature
    return torch.stack([logits_LV[len(prompt) + t - 1].log_softmax(-1)[token] for t, token in enumerate(answer)]).float()


def test_prompts_are_padded_at_the_start_and_the_drawn_ids_at_the_end(policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    episodes = episodes_of(policy, None, tokenizer)
    prompt_ids = encode_prompts(tokenizer, PROMPTS)
    num_prompt_tokens = max(map(len, prompt_ids))
    for row, text in enumerate(ANSWERS):
        drawn = list(Recital(tokenizer, ANSWERS).completion(text).token_ids)
        # The episode keeps the bytes that were drawn; the tokenizer would merge some of them.
        assert text == "5" or drawn[:-1] != tokenizer(text)["input_ids"]
        assert episodes.ids_BL[row][episodes.mask_BL[row].bool()].tolist() == prompt_ids[row] + drawn
        assert episodes.mask_BL[row].tolist() == (
            [0] * (num_prompt_tokens - len(prompt_ids[row])) + [1] * len(prompt_ids[row] + drawn) + [0] * (episodes.num_tokens - len(drawn))
        )
        assert episodes.mask_BT[row].tolist() == [1] * len(drawn) + [0] * (episodes.num_tokens - len(drawn))
    assert episodes.finished_B.tolist() == [True, False, True]
    assert episodes.scores_B.tolist() == [7.0, 1.0, 24.0]  # characters of each answer
    assert set(episodes.seconds) == {"generation", "scoring", "forward"}


def test_answers_that_a_verifier_cannot_judge_are_counted(policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    def words_alone(text: str, reference: Mapping[str, Any]) -> float:
        if text == "5":
            raise SkippedError("a number")
        return 1.0

    scorer = VerifierScorer(words_alone, {prompt: {} for prompt in PROMPTS})
    scorer.score(PROMPTS[:1], [["5"]])  # an earlier batch's does not count
    episodes = episodes_of(policy, None, tokenizer, scorer=scorer)
    assert episodes.scores_B.tolist() == [1.0, 0.0, 1.0]
    assert rollout_metrics(episodes)[Metric.SKIPPED] == pytest.approx(1 / 3)
    assert Metric.SKIPPED not in rollout_metrics(episodes_of(policy, None, tokenizer))


def test_log_probabilities_are_those_of_each_episode_alone_at_the_temperature_of_the_draw(
    policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    episodes = episodes_of(policy, None, tokenizer, temperature=0.7)
    for row, prompt in enumerate(encode_prompts(tokenizer, PROMPTS)):
        answer = episodes.ids_BL[row, -episodes.num_tokens :][episodes.mask_BT[row].bool()].tolist()
        for measured_BT, model in ((episodes.logprobs_BT, policy), (episodes.reference_BT, noisy(policy))):
            expected_T = logprobs_alone(model, prompt, answer, 0.7)
            torch.testing.assert_close(measured_BT[row, : len(answer)], expected_T, atol=1e-5, rtol=0)


def test_the_critic_starts_as_the_reward_of_what_is_written_before_each_token(
    policy: LlamaForCausalLM, reward_model: LlamaForSequenceClassification, tokenizer: PreTrainedTokenizerFast
) -> None:
    episodes = episodes_of(policy, reward_model, tokenizer)
    for row, prompt in enumerate(encode_prompts(tokenizer, PROMPTS)):
        answer = episodes.ids_BL[row, -episodes.num_tokens :][episodes.mask_BT[row].bool()].tolist()
        with torch.no_grad():
            expected = [reward_model(torch.tensor([[*prompt, *answer[:t]]])).logits.item() for t in range(len(answer))]
        assert episodes.values_BT[row, : len(answer)].tolist() == pytest.approx(expected, abs=1e-5)


def test_a_critic_from_the_policy_starts_with_values_of_zero(policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    assert not episodes_of(policy, None, tokenizer).values_BT.any()


@pytest.mark.parametrize("micro_batch_size", [1, 3])
def test_neither_padding_nor_the_micro_batch_changes_what_is_measured(
    policy: LlamaForCausalLM, reward_model: LlamaForSequenceClassification, tokenizer: PreTrainedTokenizerFast, micro_batch_size: int
) -> None:
    together = episodes_of(policy, reward_model, tokenizer, micro_batch_size=micro_batch_size)
    for row in range(3):
        alone = episodes_of(policy, reward_model, tokenizer, [row])
        for name in ("logprobs_BT", "reference_BT", "values_BT"):
            torch.testing.assert_close(getattr(together, name)[row, : alone.num_tokens], getattr(alone, name)[0], atol=1e-5, rtol=0)


def test_padding_moves_no_positions_of_a_model_that_learns_them(tokenizer: PreTrainedTokenizerFast) -> None:
    # Llama's rotary positions are relative and forgive an offset; GPT-2's are not and do not.
    torch.manual_seed(0)
    sizes = GPT2Config(vocab_size=len(tokenizer), n_positions=128, n_embd=16, n_layer=1, n_head=2)
    sizes.num_labels, sizes.pad_token_id = 1, tokenizer.pad_token_id  # pyright: ignore[reportAttributeAccessIssue]
    policy, reward_model = GPT2LMHeadModel(sizes).eval(), GPT2ForSequenceClassification(sizes).eval()
    with torch.no_grad():
        policy.transformer.wpe.weight.mul_(50)
        reward_model.transformer.wpe.weight.mul_(50)
    model = actor_critic(policy, reward_model, temperature=1.0).eval()

    def measured(rows: Sequence[int]) -> Episodes:
        return rollout(
            [PROMPTS[i] for i in rows],
            world=ALONE,
            generator=Recital(tokenizer, [ANSWERS[i] for i in rows]),
            scorer=WeightedScorer.of(LengthScorer()),
            networks=model,
            tokenizer=tokenizer,
            sampling=Sampling(max_new_tokens=32),
            micro_batch_size=3,
        )

    together = measured([0, 1, 2])
    for row in range(3):
        alone = measured([row])
        for name in ("logprobs_BT", "reference_BT", "values_BT"):
            torch.testing.assert_close(getattr(together, name)[row, : alone.num_tokens], getattr(alone, name)[0], atol=1e-5, rtol=0)


def test_a_policy_that_is_its_own_reference_has_equal_log_probabilities(
    policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    model = actor_critic(copy.deepcopy(policy), None, temperature=1.0)
    episodes = rollout(
        PROMPTS,
        world=ALONE,
        generator=TransformersGenerator(policy, tokenizer),
        scorer=WeightedScorer.of(LengthScorer()),
        networks=model,
        tokenizer=tokenizer,
        sampling=Sampling(max_new_tokens=8, seed=3),
        micro_batch_size=2,
    )
    assert torch.equal(episodes.logprobs_BT, episodes.reference_BT)
    assert not episodes.logprobs_BT.requires_grad


def test_learning_leaves_the_reference_and_the_model_that_the_critic_came_from_alone(
    policy: LlamaForCausalLM, reward_model: LlamaForSequenceClassification
) -> None:
    actor, critic = copy.deepcopy(policy), copy.deepcopy(reward_model)
    model: ActorCritic = actor_critic(actor, critic, temperature=1.0)
    reference = model.reference
    assert reference is not None
    with torch.no_grad():
        for parameter in trained(model):
            parameter.zero_()
    assert all(torch.equal(a, b) for a, b in zip(reference.parameters(), policy.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(critic.parameters(), reward_model.parameters(), strict=True))
    assert not any(parameter.requires_grad for parameter in reference.parameters())


def test_a_dialogue_of_several_turns_is_a_prompt_too(policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    turns = (Message(role="user", content="2?"), Message(role="assistant", content="3"), Message(role="user", content="No."))
    episodes = rollout(
        [turns],
        world=ALONE,
        generator=Recital(tokenizer, ["A plum."]),
        scorer=WeightedScorer.of(LengthScorer()),
        networks=actor_critic(copy.deepcopy(policy), None, temperature=1.0),
        tokenizer=tokenizer,
        sampling=Sampling(max_new_tokens=8),
        micro_batch_size=1,
    )
    decoded = tokenizer.decode(episodes.ids_BL[0].tolist())
    assert decoded == "<|begin|><|user|>2?<|assistant|>3<|end|><|user|>No.<|assistant|>A plum.<|end|>"
