"""The head of a language model computes in fp32 whatever the rest does, a chunk of tokens at a time."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

from core.config import Dtype
from core.models import logprobs
from core.models.logprobs import PLAIN, LanguageHead, LogitRule, TokenQuery, compute_head_in_fp32, head_logprobs, logit_rule
from core.process.precision import autocast

NUM_TOKENS, HIDDEN, VOCABULARY = 150, 24, 301
SHAPE: dict[str, Any] = {"vocab_size": 60, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
QUERIES = [
    {},
    {"temperature": 0.7, "entropy": True},
    {"entropy_gradient": True},
    {"rule": LogitRule(multiplier=0.5, cap=3.0), "temperature": 1.3, "entropy_gradient": True},
]


def drawn(*shape: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def head_of(*, bias: bool = False, scale: float = 0.3) -> LanguageHead:
    head = LanguageHead(HIDDEN, VOCABULARY, bias=bias)
    with torch.no_grad():
        head.weight.copy_(drawn(VOCABULARY, HIDDEN, scale=scale))
    return head


def tokens() -> Tensor:
    return torch.randint(VOCABULARY, (NUM_TOKENS,), generator=torch.Generator().manual_seed(0))


class LargestTensor(TorchDispatchMode):
    """Remembers the number of elements of the largest tensor that an operation made, and how many operations it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.elements, self.seen = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else [made]:
            if isinstance(tensor, Tensor):
                self.elements, self.seen = max(self.elements, tensor.numel()), self.seen + 1
        return made


def measured(head: LanguageHead, query: TokenQuery) -> list[Tensor]:
    """Log-probabilities, entropies, and the gradients of a weighted sum of them."""
    hidden_NH = drawn(NUM_TOKENS, HIDDEN).requires_grad_()
    answer_2N = head(hidden_NH, query)
    (answer_2N * drawn(2, NUM_TOKENS)).sum().backward()
    grads = [hidden_NH.grad, *(parameter.grad for parameter in head.parameters() if parameter.requires_grad)]
    head.zero_grad()
    return [answer_2N.detach(), *(grad for grad in grads if grad is not None)]


@pytest.mark.parametrize("options", QUERIES)
@pytest.mark.parametrize("bias", [False, True])
def test_chunks_give_the_values_and_gradients_of_the_whole(options: Any, bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    head, query = head_of(bias=bias), TokenQuery(tokens_N=tokens(), **options)
    whole = measured(head, query)
    monkeypatch.setattr(logprobs, "CHUNK", logprobs.UNIT * VOCABULARY)  # 150 tokens in chunks of 64
    for ours, expected in zip(measured(head, query), whole, strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)
    head.weight.requires_grad_(False)  # as under an adapter
    torch.testing.assert_close(measured(head, query)[1], whole[1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("options", QUERIES)
def test_no_array_of_tokens_by_vocabulary_is_ever_made(options: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    head, query = head_of(), TokenQuery(tokens_N=tokens(), **options)
    with LargestTensor() as whole:
        measured(head, query)
    assert whole.elements == NUM_TOKENS * VOCABULARY
    monkeypatch.setattr(logprobs, "CHUNK", logprobs.UNIT * VOCABULARY)
    with LargestTensor() as chunked:
        measured(head, query)
    assert chunked.elements == logprobs.UNIT * VOCABULARY
    assert chunked.seen > whole.seen


@pytest.mark.parametrize("chunked", [False, True])
def test_bf16_autocast_leaves_logits_and_log_probabilities_in_fp32(chunked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    # Logits of a standard deviation of about 10, among which neighbouring bf16 numbers are 1/16 apart.
    head, hidden_NH = head_of(scale=2.0), drawn(NUM_TOKENS, HIDDEN)
    exact_NV = hidden_NH.double() @ head.weight.double().T
    assert exact_NV.std() > 8
    expected_N = Categorical(logits=exact_NV).log_prob(tokens())
    if chunked:
        monkeypatch.setattr(logprobs, "CHUNK", logprobs.UNIT * VOCABULARY)
    with autocast(hidden_NH.device, Dtype.bf16):
        logits_NV = head(hidden_NH)
        logprobs_N, _ = head(hidden_NH, TokenQuery(tokens_N=tokens()))
    assert logits_NV.dtype == logprobs_N.dtype == torch.float32
    torch.testing.assert_close(logits_NV.double(), exact_NV, atol=1e-4, rtol=0)
    torch.testing.assert_close(logprobs_N.double(), expected_N, atol=1e-4, rtol=0)


def test_a_head_held_in_bf16_rounds_its_weights_and_nothing_else() -> None:
    head = head_of(scale=2.0).to(torch.bfloat16)
    hidden_NH = drawn(NUM_TOKENS, HIDDEN).to(torch.bfloat16)
    logprobs_N, _ = head(hidden_NH, TokenQuery(tokens_N=tokens()))
    expected_N = Categorical(logits=hidden_NH.double() @ head.weight.double().T).log_prob(tokens())
    torch.testing.assert_close(logprobs_N.double(), expected_N, atol=1e-4, rtol=0)
    gradients = measured(head, TokenQuery(tokens_N=tokens()))
    assert gradients[2].dtype == torch.bfloat16


def models() -> list[tuple[PreTrainedModel, LogitRule]]:
    torch.manual_seed(0)
    return [
        (LlamaForCausalLM(LlamaConfig(**SHAPE, initializer_range=0.4)), PLAIN),
        (Gemma2ForCausalLM(Gemma2Config(**SHAPE, num_key_value_heads=2, head_dim=8)), LogitRule(cap=30.0)),
        (CohereForCausalLM(CohereConfig(**SHAPE, pad_token_id=0, logit_scale=0.25)), LogitRule(multiplier=0.25)),
        (GraniteForCausalLM(GraniteConfig(**SHAPE, logits_scaling=8.0)), LogitRule(divisor=8.0)),
    ]


@pytest.mark.parametrize("number", range(4), ids=["llama", "gemma2", "cohere", "granite"])
def test_log_probabilities_follow_what_an_architecture_does_to_its_logits(number: int) -> None:
    model, rule = models()[number]
    with torch.no_grad():
        model.get_parameter("lm_head.weight").mul_(20)  # into the range where a cap tells
    ids_BL = torch.randint(60, (1, 12), generator=torch.Generator().manual_seed(0))
    expected = copy.deepcopy(model).eval()(ids_BL).logits[0, :-1]
    compute_head_in_fp32(model.eval())
    found = logit_rule(model)
    assert found is not None
    # Settings that an architecture has but leaves at None or 1 change nothing.
    assert found.logits(torch.tensor([40.0])) == rule.logits(torch.tensor([40.0]))
    hidden_NH = model.base_model(input_ids=ids_BL).last_hidden_state[0, :-1]
    logprobs_N, entropy_N = head_logprobs(model, hidden_NH, ids_BL[0, 1:], rule=found, entropy=True)
    torch.testing.assert_close(logprobs_N, Categorical(logits=expected).log_prob(ids_BL[0, 1:]), atol=1e-5, rtol=0)
    torch.testing.assert_close(entropy_N, Categorical(logits=expected).entropy(), atol=1e-5, rtol=0)


def test_tied_embeddings_stay_tied_and_weights_keep_their_names() -> None:
    model = LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=True))
    before = list(model.state_dict())
    compute_head_in_fp32(model)
    assert isinstance(model.lm_head, LanguageHead)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert list(model.state_dict()) == before
    model(torch.tensor([[1, 2, 3]]), labels=torch.tensor([[1, 2, 3]])).loss.backward()
    assert model.model.embed_tokens.weight.grad is not None
