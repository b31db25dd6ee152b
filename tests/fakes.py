"""Small stand-ins that do the real thing in a way whose result a test can work out by hand."""

import math
import os
import signal
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from core.hooks.hook import Hook
from core.progress import NoProgress
from core.records import CheckpointSaved, Dialogue, RunEnded

WORDS = ("<s>", "</s>", "<unk>", "[system]", "[user]", "[assistant]", "name", "a", "fruit", "plum", "lamp", "short")
WORD_IDS = {word: index for index, word in enumerate(WORDS)}
TURNS = "{% for m in messages %}[{{ m.role }}] {{ m.content }} {% if m.role == 'assistant' %}</s>{% endif %}{% endfor %}"
ASK = "{% if add_generation_prompt %}[assistant]{% endif %}"


class LengthScorer:
    """Scores a completion by its number of characters, and remembers what it was asked."""

    def __init__(self) -> None:
        self.calls: list[tuple[Sequence[Dialogue], Sequence[Sequence[str]]]] = []

    def score(self, prompts: Sequence[Dialogue], completions: Sequence[Sequence[str]]) -> list[list[float]]:
        assert len(prompts) == len(completions)
        self.calls.append((prompts, completions))
        return [[float(len(text)) for text in answers] for answers in completions]


class ListTracker:
    """Keeps every call of `log` as `(axis, step, metrics)`."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, int, dict[str, float]]] = []
        self.closed = False

    def log(self, metrics: Mapping[str, float], *, axis: str, step: int) -> None:
        assert not self.closed, "log() after close()"
        self.rows.append((axis, step, dict(metrics)))

    def close(self, *, exit_code: int = 0) -> None:
        self.closed = True

    def on(self, axis: str) -> dict[int, dict[str, float]]:
        """The metrics of one axis by step, a later value over an earlier one."""
        steps: dict[int, dict[str, float]] = {}
        for row_axis, step, metrics in self.rows:
            if row_axis == axis:
                steps.setdefault(step, {}).update(metrics)
        return steps


class SignallingProgress(NoProgress):
    """Sends a signal to its own process as item `at` of the work called `during` ends."""

    def __init__(self, at: int, *, during: str, number: int = signal.SIGTERM) -> None:
        self.at, self.during, self.number = at, during, number
        self.done, self.tasks = 0, list[str]()

    def start(self, description: str, total: int, *, unit: str = "", done: int = 0) -> None:
        self.tasks.append(description)
        self.done = done if description == self.during else self.done

    def advance(self, n: int = 1) -> None:
        if self.tasks[-1] == self.during:
            self.done += n
            if self.done == self.at:
                os.kill(os.getpid(), self.number)

    def finish(self) -> None:
        self.tasks.pop()


class RecordingHook(Hook):
    """Keeps its events and returns the same metrics each time."""

    def __init__(self, **metrics: float) -> None:
        self.metrics = metrics
        self.events: list[CheckpointSaved] = []
        self.ended: list[RunEnded] = []

    def on_checkpoint(self, event: CheckpointSaved) -> Mapping[str, float]:
        self.events.append(event)
        return self.metrics

    def on_end(self, event: RunEnded) -> None:
        self.ended.append(event)


def tiny_llama(tokenizer: PreTrainedTokenizerBase, **options: Any) -> LlamaConfig:
    """Two layers of width 16; weights drawn wide, so that random logits differ by more than rounding."""
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=512,
        initializer_range=0.4,
        bos_token_id=only_id(tokenizer.bos_token_id),
        eos_token_id=only_id(tokenizer.eos_token_id),
        pad_token_id=None if tokenizer.pad_token is None else only_id(tokenizer.pad_token_id),
        **options,
    )


def only_id(value: Any) -> int:
    """A special token's id as the one number it is; transformers types it as much else besides."""
    assert isinstance(value, int)
    return value


def with_likely_end(model: LlamaForCausalLM, eos: int, *, share: float = 0.05) -> LlamaForCausalLM:
    """The model, its head changed in place so that EOS has about the probability `share` after most contexts."""
    contexts_BL = torch.randint(len(model.get_parameter("lm_head.weight")), (64, 8), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        output = model(contexts_BL, output_hidden_states=True)
        hidden_NH = output.hidden_states[-1].flatten(0, 1)
        wanted_N = output.logits.flatten(0, 1).logsumexp(-1) + math.log(share)
        model.get_parameter("lm_head.weight")[eos] = torch.linalg.lstsq(hidden_NH, wanted_N[:, None]).solution.squeeze(-1)
    return model


def word_tokenizer(
    *, template_bos: bool = True, adds_bos: bool = False, bos: bool = True, pad: str | None = None
) -> PreTrainedTokenizerFast:
    """One id per word of `WORDS`, so that a test can write down the ids of a rendered dialogue.

    BOS may come from the chat template, from the tokenizer itself, from both or from none.
    """
    backend = Tokenizer(models.WordLevel(WORD_IDS, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if adds_bos:
        backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", WORD_IDS["<s>"])])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>" if bos else None,
        eos_token="</s>",
        unk_token="<unk>",
        pad_token=pad,
        chat_template=("<s> " if template_bos else "") + TURNS + ASK,
    )
