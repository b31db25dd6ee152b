"""Sampling on one GPU without a server: keys and values in memory of fixed size, and the step of a token replayed as a CUDA graph.

At a token a time a GPU waits for Python: a model of 16 layers is hundreds of small kernels. A graph launches all of them at once,
which needs every tensor to stay where it is. Prompts go through the model as a packed stream, without padding.

Shapes: B prompts, R rows (completions), L tokens that a row has room for, T completion tokens, N tokens of all prompts, H query
heads, J key heads, G query heads that share a key head, D channels of a head, V vocabulary, E tokens that end an answer.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel, PreTrainedTokenizerBase

from core.data.turn_ends import turn_ends
from core.generators.answers import Answers
from core.generators.filled import attend_filled, fits_rows, turns_rows
from core.generators.half import HalfCopy, asked_format
from core.generators.local import completions, prompt_tokens, uniforms
from core.generators.merged import MergedProducts
from core.generators.room import MEMORY, portions, rows_that_fit
from core.models.fused.decoding import carried_sums
from core.models.fused.rotations import AngleTables, Rotations, asks_for_lengths
from core.models.logprobs import has_plain_head
from core.records import Completion, Dialogue, Sampling
from core.transfer import to_device, to_host
from core.trees.attention import Plan, attend_on_tree, attending_by, obstacle
from core.trees.layout import pack_rows
from core.trees.trial import first_line

NAME = "row_memory"
LOOK = 16
"""Whether all rows have ended is looked at every so many tokens: looking waits for the device."""
ROOM = 64
"""Rows have room for a multiple of this many tokens, so that the graph of one batch often serves the next."""
READ = 32_768
"""Tokens of prompts that go through the model at a time: in its layers a token takes several times the memory of its keys and values."""
KEPT = 0.05
"""What a call leaves for the next one, keys and values with their graph and the copy of the weights, may take at most this share of the
device's memory: training needs it."""
_ANY_LENGTH = 10**9


def graph_obstacle(model: PreTrainedModel) -> str | None:
    """Why the model cannot sample this way; None if it can."""
    if not has_plain_head(model):
        return f"{type(model).__name__} does more to its logits than a matrix product"
    return obstacle(model, _ANY_LENGTH)


def equal_batches(order: Sequence[int], most: int) -> Iterator[tuple[Sequence[int], list[int]]]:
    """Batches of at most `most`, as few and as even as may be, each with what fills it up to the size of all: its last one again.

    The graph of a step is captured for a number of rows, and capturing one anew takes longer than a few rows that nobody needs.

    >>> list(equal_batches([5, 3, 4, 0, 1, 2, 6], 3))
    [([5, 3, 4], [5, 3, 4]), ([0, 1, 2], [0, 1, 2]), ([6], [6, 6, 6])]
    """
    size = -(-len(order) // max(1, -(-len(order) // most)))
    for start in range(0, len(order), max(1, size)):
        batch = order[start : start + size]
        yield batch, [*batch, *[batch[-1]] * (size - len(batch))]


class GraphGenerator:
    """Generates with a causal language model that `graph_obstacle` does not refuse.

    A prompt's completions depend on the seed, the prompt and its index in the list, not on the batches (up to rounding). Under
    autocast it samples from a copy (`core.generators.half`), which stays for the next call as keys and values do.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, batch_size: int = 512, memory: float = MEMORY
    ) -> None:
        self.model, self.tokenizer, self.batch_size, self.memory = model, tokenizer, batch_size, memory
        self.ends = turn_ends(model, tokenizer)
        self._copy: HalfCopy | None = None
        self._merged: MergedProducts | None = None
        self._decoder: _Decoder | None = None

    @torch.no_grad()
    def generate(self, prompts: Sequence[Dialogue], sampling: Sampling) -> list[list[Completion]]:
        """`sampling.n` completions per prompt, in the order of the prompts."""
        prompt_ids = prompt_tokens(self.model, self.tokenizer, prompts, sampling)
        model = self._current_model()
        merged = self._merged_products(model)
        results: list[list[Completion]] = [[] for _ in prompts]
        order = sorted(range(len(prompts)), key=lambda i: -len(prompt_ids[i]))
        longest = max(map(len, prompt_ids), default=0)
        length = -(-(longest + sampling.max_new_tokens) // ROOM) * ROOM
        fit = rows_that_fit(model, length, memory=self.memory)
        per_batch = max(1, min(self.batch_size, fit or self.batch_size) // sampling.n)
        for batch, filled in equal_batches(order, per_batch):
            decoder = self._decoder_for(model, merged, len(filled) * sampling.n, length, sampling)
            places = [sampling.first + i for i in filled]
            with merged.in_place(), carried_sums(model):
                rows, logprobs = decoder.run([prompt_ids[i] for i in filled], places, sampling)
            for place, index in enumerate(batch):
                own = slice(place * sampling.n, (place + 1) * sampling.n)
                results[index] = completions(self.tokenizer, rows[own], logprobs[own], self.ends)
        if self._num_kept_bytes() > KEPT * _total_memory(model.device):
            self._decoder = self._copy = self._merged = None
        return results

    def _num_kept_bytes(self) -> int:
        parts = (None if self._decoder is None else self._decoder.memory, self._merged, self._copy)
        return sum(part.num_bytes for part in parts if part is not None)

    def _current_model(self) -> PreTrainedModel:
        dtype = asked_format(self.model)
        if dtype is None:
            return self.model
        if self._copy is None:
            self._copy = HalfCopy(self.model, dtype)
        self._copy.refresh()
        return self._copy.model

    def _merged_products(self, model: PreTrainedModel) -> MergedProducts:
        """Those of the last call if they still fit, with the current weights."""
        if self._merged is None or not self._merged.serves(model):
            self._merged = None
            copied = self._copy
            self._merged = MergedProducts(model) if copied is None else MergedProducts(model, copied.owns)
        self._merged.refresh()
        return self._merged

    def _decoder_for(self, model: PreTrainedModel, merged: MergedProducts, num_rows: int, length: int, sampling: Sampling) -> "_Decoder":
        """The decoder of the last batch if it fits, otherwise a new one."""
        # A graph reads the weights where they lay.
        places = (*(weight.data_ptr() for weight in model.parameters()), *merged.places)
        settings = (sampling.max_new_tokens, sampling.temperature, torch.is_autocast_enabled(model.device.type))
        key = (id(model), places, num_rows, length, *settings)
        if self._decoder is None or self._decoder.key != key:
            self._decoder = None
            self._decoder = _Decoder(model, num_rows, length, sampling, self.ends, key)
        return self._decoder


class _Memory:
    """The keys and values of all rows, by layer, each (R, J, L, D), and what attention needs to know of the tokens that are added."""

    def __init__(self, num_rows: int, length: int) -> None:
        self.num_rows, self.length = num_rows, length
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}
        self.rotations = Rotations(turns_rows)
        self.plan: Plan | None = None
        """While prompts are read: the plan of their stream."""
        self.rows_N: Tensor
        self.positions_N: Tensor
        self._mask_R11L: Tensor | None = None

    @property
    def dtype(self) -> torch.dtype:
        """Of keys and values, once prompts are in."""
        return next(iter(self.layers.values()))[0].dtype

    @property
    def num_bytes(self) -> int:
        """Of all keys and values."""
        return sum(tensor.nbytes for pair in self.layers.values() for tensor in pair)

    def at_positions(self, rows_N: Tensor, positions_N: Tensor) -> None:
        """Where the next tokens go: their rows, and their places there."""
        self.rows_N, self.positions_N, self._mask_R11L = rows_N, positions_N, None

    def mask(self) -> Tensor:
        """What each row's new token does not see, as an additive mask (R, 1, 1, L), the same for all layers."""
        if self._mask_R11L is None:
            hidden_RL = torch.arange(self.length, device=self.positions_N.device) > self.positions_N[:, None]
            zeros_RL = torch.zeros(hidden_RL.shape, dtype=self.dtype, device=hidden_RL.device)
            self._mask_R11L = zeros_RL.masked_fill_(hidden_RL, float("-inf"))[:, None, None]
        return self._mask_R11L

    def write(self, layer: int, key_1JND: Tensor, value_1JND: Tensor) -> tuple[Tensor, Tensor]:
        """Writes one token or more at their rows and positions; returns all keys and values of the layer."""
        if layer not in self.layers:
            shape = (self.num_rows, key_1JND.shape[1], self.length, key_1JND.shape[-1])
            # Not left empty: what is masked is multiplied by zero, and memory may hold NaN.
            self.layers[layer] = value_1JND.new_zeros(shape), value_1JND.new_zeros((*shape[:-1], value_1JND.shape[-1]))
        keys, values = self.layers[layer]
        keys[self.rows_N, :, self.positions_N] = key_1JND[0].transpose(0, 1)
        values[self.rows_N, :, self.positions_N] = value_1JND[0].transpose(0, 1)
        return keys, values

    def repeat(self, n: int) -> None:
        """Copies each prompt's first row to the n - 1 rows after it."""
        for tensor in (tensor for pair in self.layers.values() for tensor in pair if n > 1):
            by_prompt = tensor.view(-1, n, *tensor.shape[1:])
            by_prompt[:, 1:] = by_prompt[:, :1]


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    row_memory: _Memory,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention of prompts in one stream, or of one new token in each row, with the signature that transformers calls."""
    layer = module.layer_idx
    assert isinstance(layer, int)
    angles = row_memory.rotations.receive(query, key, value)
    if row_memory.plan is not None:
        out = attend_on_tree(module, query, key, value, attention_mask, prompt_tree=row_memory.plan, scaling=scaling, **options)
        row_memory.write(layer, key.to(value.dtype), value)
        return out
    # (1, heads, R, D): the rows' new tokens lie side by side in one stream.
    query, key = query.to(value.dtype), key.to(value.dtype)
    if fits_rows(query, key, value):
        return attend_filled(query, key, value, *row_memory.layers[layer], row_memory.positions_N, scaling, angles), None
    assert angles is None, "left to the kernel only where it takes them"
    keys_RJLD, values_RJLD = row_memory.write(layer, key, value)
    num_rows, num_key_heads = keys_RJLD.shape[:2]
    query_RJGD = query[0].transpose(0, 1).reshape(num_rows, num_key_heads, -1, query.shape[-1])
    out_RJGD = scaled_dot_product_attention(query_RJGD, keys_RJLD, values_RJLD, attn_mask=row_memory.mask(), scale=scaling)
    return out_RJGD.reshape(1, num_rows, query.shape[1], values_RJLD.shape[-1]), None


AttentionInterface.register(NAME, _attend)


class _Decoder:
    """Memory for a number of rows, and the graph of their next token."""

    def __init__(
        self, model: PreTrainedModel, num_rows: int, length: int, sampling: Sampling, ends: frozenset[int], key: tuple[object, ...]
    ) -> None:
        self.model, self.key, self.temperature = model, key, sampling.temperature
        device = model.device
        self.memory = _Memory(num_rows, length)
        self.angles = AngleTables(model.base_model, length)
        self.answers = Answers.empty(num_rows, sampling.max_new_tokens, device)
        self.ends_E = to_device(torch.tensor(sorted(ends), dtype=torch.long), device)
        self.rows_R = torch.arange(num_rows, device=device)
        self.graph: torch.cuda.CUDAGraph | None = None
        # A recording that fails leaves torch's allocator as if it still went on, so one that must fail is not begun.
        self.captures = device.type == "cuda" and sampling.max_new_tokens > 1 and not asks_for_lengths(model)

    def run(self, prompt_ids: Sequence[list[int]], indices: Sequence[int], sampling: Sampling) -> tuple[list[list[int]], list[list[float]]]:
        """Token ids and log-probabilities of `sampling.n` completions of each prompt; `indices` seed their random numbers."""
        answers, n = self.answers, sampling.n
        lengths_R = torch.tensor([len(ids) for ids in prompt_ids for _ in range(n)])
        drawn_RT = torch.cat([uniforms(sampling, index) for index in indices])
        with attending_by(self.model, NAME):
            logits_RV = self._read(prompt_ids, n)
            if self.captures:
                self._capture()
            answers.begin(to_device(lengths_R, self.model.device), to_device(drawn_RT, self.model.device))
            answers.draw(logits_RV, self.temperature, self.ends_E)
            looks: deque[Callable[[], Tensor]] = deque()
            for step in range(1, sampling.max_new_tokens):
                self.graph.replay() if self.graph is not None else self._step()
                if step % LOOK == 0:
                    looks.append(to_host(answers.active_R.any()))
                # One look back: that one has been answered while the next tokens were on their way.
                if len(looks) > 1 and not looks.popleft()():
                    break
        waiting = [to_host(tensor) for tensor in (answers.tokens_RT, answers.logprobs_RT, answers.lengths_R)]
        tokens_RT, logprobs_RT, counts_R = (fetch().tolist() for fetch in waiting)
        cut = [row[:count] for row, count in zip(tokens_RT, counts_R, strict=True)]
        return cut, [row[:count] for row, count in zip(logprobs_RT, counts_R, strict=True)]

    def _read(self, prompt_ids: Sequence[list[int]], n: int) -> Tensor:
        """Reads the prompts into memory; returns the logits of each row's first token, (R, V)."""
        parts = portions([len(ids) for ids in prompt_ids], READ)
        last_BH = torch.cat([self._read_some(prompt_ids[part], part.start * n, n) for part in parts])
        self.memory.repeat(n)
        return self._logits(last_BH).repeat_interleave(n, 0)

    def _read_some(self, prompt_ids: Sequence[list[int]], first_row: int, n: int) -> Tensor:
        """Reads some of the prompts, into every n-th row from `first_row` on; returns the hidden states of their last tokens."""
        memory = self.memory
        stream = pack_rows(prompt_ids)
        first_rows = first_row + torch.arange(len(prompt_ids)) * n
        rows_N = to_device(first_rows.repeat_interleave(torch.tensor(stream.lengths)), self.model.device)
        stream = stream.to(self.model.device)
        memory.at_positions(rows_N, stream.positions_N)
        memory.plan = Plan(stream)
        try:
            with memory.rotations.observed():
                hidden_NH = self._hidden(stream.ids_N, stream.positions_N)
        finally:
            memory.plan = None
        return hidden_NH[stream.last_token_indices()]

    def _step(self) -> None:
        """One token more in every row."""
        answers = self.answers
        self.memory.at_positions(self.rows_R, answers.positions_R)
        with self.angles.in_place(), self.memory.rotations.observed(leaving=True):
            logits_RV = self._logits(self._hidden(answers.next_R, answers.positions_R))
        answers.draw(logits_RV, self.temperature, self.ends_E)

    def _capture(self) -> None:
        """Records a step as a graph, on whatever the state holds; the keys and values that it overwrites are put back."""
        self.captures = False
        firsts = [tensor[:, :, :1] for pair in self.memory.layers.values() for tensor in pair]  # the place that it writes to
        kept = [first.clone() for first in firsts]
        try:
            # A recording that fails leaves its own stream as the current one; this context puts ours back.
            with torch.cuda.stream(torch.cuda.current_stream()):
                self.graph = self._recorded()
        except torch.OutOfMemoryError:
            self.captures = True  # where there is room again
            raise
        except RuntimeError as problem:
            warning = "rollouts launch kernel by kernel, slower: no CUDA graph of a step (%s)"
            logging.getLogger(__name__).warning(warning, first_line(problem))
        for first, before in zip(firsts, kept, strict=True):
            first.copy_(before)

    def _recorded(self) -> torch.cuda.CUDAGraph:
        # As if prompts had one token, so that the first step writes to the first place.
        lengths_R = torch.ones_like(self.answers.positions_R)
        self.answers.begin(lengths_R, self.answers.uniforms_RT)
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            self._step()  # compiled and allocated before anything is recorded
        torch.cuda.current_stream().wait_stream(aside)
        self.answers.begin(lengths_R, self.answers.uniforms_RT)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._step()
        return graph

    def _hidden(self, ids_N: Tensor, positions_N: Tensor) -> Tensor:
        options: dict[str, Any] = {"row_memory": self.memory}
        kind = self.model.device.type
        # Nothing is cached: a graph must not refer to a cast weight that is gone after it.
        with torch.autocast(kind, torch.get_autocast_dtype(kind), enabled=torch.is_autocast_enabled(kind), cache_enabled=False):
            return self.model.base_model(
                input_ids=ids_N[None], position_ids=positions_N[None], use_cache=False, **options
            ).last_hidden_state[0]

    def _logits(self, hidden_RH: Tensor) -> Tensor:
        head = self.model.get_output_embeddings()
        assert head is not None, "graph_obstacle asks for it"
        return head(hidden_RH)


def _total_memory(device: torch.device) -> float:
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else float("inf")
