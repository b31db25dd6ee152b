"""Rollouts in memory of fixed size give what transformers' cache gives, token for token. On a CPU the steps run without a graph."""

# pyright: reportPrivateUsage=false

import copy
import logging
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from core.config import RolloutConfig
from core.data.chat import encode_prompts
from core.generators import graphed
from core.generators.graphed import GraphGenerator, graph_obstacle
from core.generators.local import TransformersGenerator
from core.generators.open import open_generator
from core.records import Completion, Sampling, user

PROMPTS = [user(text) for text in ("Name a fruit.", "What is 2 plus 3?", "A plum is a fruit. Name a fruit.", "2?")]


def logprobs(completions: list[list[Completion]]) -> list[float]:
    return [value for row in completions for completion in row for value in completion.logprobs or ()]


@pytest.mark.parametrize("sampling", [
    Sampling(temperature=1.0, max_new_tokens=40, n=3, seed=5),
    Sampling(temperature=0.7, max_new_tokens=7, seed=5, first=3),
    Sampling(temperature=0.0, max_new_tokens=20, seed=0),
    Sampling(temperature=1.0, max_new_tokens=1, seed=1),
], ids=["n of 3", "warm, from the fourth prompt on", "greedy", "one token"])  # fmt: skip
def test_the_same_tokens_are_drawn_with_the_same_log_probabilities(
    policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, sampling: Sampling
) -> None:
    ours, plain = (make(policy, tokenizer).generate(PROMPTS, sampling) for make in (GraphGenerator, TransformersGenerator))
    assert ours == plain
    assert logprobs(ours) == pytest.approx(logprobs(plain), abs=1e-4)
    assert policy.config._attn_implementation == "sdpa"


def test_batches_change_nothing_and_a_decoder_serves_equal_batches_again(
    policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    sampling = Sampling(temperature=1.0, max_new_tokens=12, n=2, seed=3)
    whole = GraphGenerator(policy, tokenizer).generate(PROMPTS, sampling)
    batched = GraphGenerator(policy, tokenizer, batch_size=4)
    assert batched.generate(PROMPTS, sampling) == whole
    decoder = batched._decoder
    assert batched.generate(PROMPTS, sampling) == whole, "what the batch before left in memory must not be seen"
    assert batched._decoder is decoder
    assert batched.generate([], sampling) == []


def test_a_smaller_last_batch_is_filled_so_that_one_decoder_serves_a_whole_call(
    policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, make = list[int](), graphed._Decoder.__init__

    def counted(self: graphed._Decoder, model: PreTrainedModel, num_rows: int, *rest: Any) -> None:
        made.append(num_rows)
        make(self, model, num_rows, *rest)

    monkeypatch.setattr(graphed._Decoder, "__init__", counted)
    prompts, sampling = [*PROMPTS, *PROMPTS, *PROMPTS][:7], Sampling(temperature=1.0, max_new_tokens=12, n=2, seed=3)
    whole = GraphGenerator(policy, tokenizer).generate(prompts, sampling)
    made.clear()
    assert GraphGenerator(policy, tokenizer, batch_size=7).generate(prompts, sampling) == whole
    assert made == [6], "three batches of 3 prompts, the last of which holds one: 2 completions and 4 that nobody reads"


@pytest.mark.parametrize(("count", "most", "sizes"), [(8, 7, [4, 4]), (9, 4, [3, 3, 3]), (5, 8, [5]), (10, 4, [4, 4, 2]), (0, 4, [])])
def test_batches_are_as_even_as_may_be(count: int, most: int, sizes: list[int]) -> None:
    batches = list(graphed.equal_batches(range(count), most))
    assert [len(batch) for batch, _ in batches] == sizes
    assert {len(filled) for _, filled in batches} <= {max(sizes, default=0)}
    assert [place for batch, _ in batches for place in batch] == [*range(count)]


def test_all_rows_stop_soon_after_the_last_has_ended(
    policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    step = graphed._Decoder._step
    monkeypatch.setattr(graphed._Decoder, "_step", lambda self: (steps.append(1), step(self))[1])
    (answers,) = GraphGenerator(policy, tokenizer).generate(PROMPTS[:1], Sampling(temperature=1.0, max_new_tokens=400, seed=0))
    assert answers[0].finished
    assert len(answers[0].token_ids) <= len(steps) + 1 <= len(answers[0].token_ids) + 2 * graphed.LOOK


def test_new_weights_are_sampled_from_at_the_next_call(policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    model = copy.deepcopy(policy)
    sampling = Sampling(temperature=0.0, max_new_tokens=8, seed=0)
    ours, plain = GraphGenerator(model, tokenizer), TransformersGenerator(model, tokenizer)
    with torch.autocast("cpu", torch.bfloat16):
        before = ours.generate(PROMPTS, sampling)
        assert before == plain.generate(PROMPTS, sampling), "the copy computes as autocast does"
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)) * weight.std()
    with torch.autocast("cpu", torch.bfloat16):  # a new one: it keeps the casts of its first use
        after = ours.generate(PROMPTS, sampling)
        assert after == plain.generate(PROMPTS, sampling)
    assert after != before
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}


def test_long_prompts_are_read_in_several_passes(
    policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampling = Sampling(temperature=1.0, max_new_tokens=12, n=2, seed=3)
    whole = GraphGenerator(policy, tokenizer).generate(PROMPTS, sampling)
    lengths = sorted((len(ids) for ids in encode_prompts(tokenizer, PROMPTS)), reverse=True)
    read: list[int] = []
    hidden = graphed._Decoder._hidden
    monkeypatch.setattr(graphed._Decoder, "_hidden", lambda self, ids, at: (read.append(len(ids)), hidden(self, ids, at))[1])
    monkeypatch.setattr(graphed, "READ", lengths[0])
    assert GraphGenerator(policy, tokenizer).generate(PROMPTS, sampling) == whole
    assert read[:2] == [lengths[0], lengths[1]], "the longest alone, and the next one, which does not fit beside the third"
    assert sum(size for size in read if size != len(PROMPTS) * sampling.n) == sum(lengths)


class Stream:
    def wait_stream(self, other: object) -> None:
        pass


class Streams:
    """Of `torch.cuda`, the current stream, and a recording whose end fails: it does not leave its stream, as torch's does not."""

    def __init__(self) -> None:
        self.current = self.first = Stream()

    @contextmanager
    def stream(self, other: Stream) -> Generator[None]:
        before, self.current = self.current, other
        try:
            yield
        finally:
            self.current = before

    @contextmanager
    def graph(self, graph: object) -> Generator[None]:
        self.current = Stream()
        yield
        raise RuntimeError("operation failed due to a previous error during capture")


def test_a_step_that_cannot_be_recorded_is_launched_kernel_by_kernel_on_the_stream_of_before(
    policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sampling = Sampling(temperature=1.0, max_new_tokens=12, n=2, seed=3)
    whole, streams, make = GraphGenerator(policy, tokenizer).generate(PROMPTS, sampling), Streams(), graphed._Decoder.__init__

    def capturing(self: graphed._Decoder, *rest: Any) -> None:
        make(self, *rest)
        self.captures = True

    monkeypatch.setattr(graphed._Decoder, "__init__", capturing)
    stand_ins: dict[str, Any] = {"Stream": Stream, "CUDAGraph": object, "stream": streams.stream, "graph": streams.graph}
    for name, stand_in in (stand_ins | {"current_stream": lambda: streams.current}).items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    with caplog.at_level(logging.WARNING):
        assert GraphGenerator(policy, tokenizer).generate(PROMPTS, sampling) == whole
    assert streams.current is streams.first
    assert caplog.messages == [
        "rollouts launch kernel by kernel, slower: no CUDA graph of a step (operation failed due to a previous error during capture)"
    ]


def test_what_stays_for_the_next_call_is_little_of_the_memory_with_the_copy_of_the_weights(
    policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampling, generator = Sampling(temperature=1.0, max_new_tokens=4, seed=0), GraphGenerator(policy, tokenizer)
    with torch.autocast("cpu", torch.bfloat16):
        generator.generate(PROMPTS, sampling)
        decoder, copied = generator._decoder, generator._copy
        assert decoder is not None
        assert copied is not None
        kept = generator._num_kept_bytes()
        halved = sum(weight.numel() * 2 for weight in policy.parameters() if weight.dim() == 2) - policy.lm_head.weight.numel() * 2
        assert copied.num_bytes == halved
        assert kept == decoder.memory.num_bytes + copied.num_bytes
        for total, stays in ((kept, True), (kept - 1, False)):
            monkeypatch.setattr(graphed, "_total_memory", lambda device, total=total: total / graphed.KEPT)
            generator.generate(PROMPTS, sampling)
            assert (generator._copy is not None, generator._decoder is not None) == (stays, stays)


def test_models_with_windows_or_capped_logits_sample_by_transformers_cache(tokenizer: PreTrainedTokenizerFast) -> None:
    sizes: dict[str, Any] = {
        "vocab_size": 280,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    windowed = MistralForCausalLM(MistralConfig(**sizes, num_key_value_heads=1, sliding_window=64))
    capped = Gemma2ForCausalLM(Gemma2Config(**sizes, num_key_value_heads=1, head_dim=8))
    assert "attends to the last 64 tokens only" in (graph_obstacle(windowed) or "")
    assert "does more to its logits" in (graph_obstacle(capped) or "")


def test_on_a_cpu_transformers_cache_stays_the_default(policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    assert isinstance(open_generator(RolloutConfig(), policy, tokenizer), TransformersGenerator)
