"""The tiles of a stream, against the rule of `core.trees.layout`; on a GPU the kernels that go through them, against a dense mask."""

# pyright: reportPrivateUsage=false

import pytest
import torch
from torch import Tensor

from core.trees import tiled
from core.trees.layout import Stream, pack_rows, pack_trees
from core.trees.tiles import TILE, Tiles, lay_tiles
from tests.kernels import INTERPRETED

CPU = torch.device("cpu")
PREAMBLE = list(range(10, 15))
PROMPT = [*PREAMBLE, *range(20, 170)]
GROUPS = [
    [[*PROMPT, 1, 2], [*PROMPT, *range(30, 60), 3], [*PROMPT, *range(30, 60), 4, 5], PROMPT],
    [[7, 8, 9], [6]],
    [[*PREAMBLE, *range(40, 200), *range(number, number + 60)] for number in range(6)],
]
STREAMS = {
    "trees": pack_trees(GROUPS, whole=True),
    "below a preamble": pack_trees(GROUPS, PREAMBLE, whole=True),
    "rows": pack_rows([[5, 6, 7], list(range(300)), [0] * TILE]),
}


def tiles_of(stream: Stream, device: torch.device = CPU) -> Tiles:
    return lay_tiles(stream.lengths, stream.ancestors, stream.trees, device)


def seen(stream: Stream) -> Tensor:
    """Which key (column) each query sees."""
    place = torch.arange(stream.num_tokens)
    return (place <= place[:, None]) & (place[:, None] < stream.subtree_end_N)


@pytest.mark.parametrize("stream", STREAMS.values(), ids=STREAMS.keys())
def test_the_ranges_of_a_tile_hold_every_key_that_its_queries_see_once_and_unmasked_ones_no_others(stream: Stream) -> None:
    tiles, truth = tiles_of(stream), seen(stream)
    covered = torch.zeros(stream.num_tokens, dtype=torch.long)
    for start, end, first, masked, last, behind in tiles.tiles.tolist():
        covered[start:end] += 1
        times = torch.zeros(stream.num_tokens, dtype=torch.long)
        for number in range(first, last):
            low, high = tiles.ranges[number].tolist()
            times[low:high] += 1
            if number < masked:
                assert truth[start:end, low:high].all()
        assert times.max() == 1
        assert not truth[start:end][:, times == 0].any()
        assert times[truth[start:end].any(0)].all()
        assert not truth[behind:, start:end].any(), "queries behind the end see none of its keys"
        assert not truth[:start, start:end].any()
    assert covered.eq(1).all()


def test_the_tiles_of_two_levels_written_out() -> None:
    prompt = list(range(50, 200))
    stream = pack_trees([[[*prompt, 1, 2], [*prompt, 3]], [[4, 5]]], whole=True)
    tiles = tiles_of(stream)
    # The second tile has the prompt's end and both completions: most keys, so it comes first. All of its queries see the prompt.
    assert tiles.tiles.tolist() == [[128, 153, 1, 2, 3, 153], [0, 128, 0, 0, 1, 153], [153, 155, 3, 3, 4, 155]]
    assert tiles.ranges.tolist() == [[0, 128], [0, 128], [128, 153], [153, 155]]


def test_the_tiles_of_a_tree_do_not_depend_on_the_trees_before_it() -> None:
    alone, after = tiles_of(pack_trees(GROUPS[2:], whole=True)), tiles_of(pack_trees([GROUPS[1], *GROUPS[2:]], whole=True))
    shift = sum(map(len, GROUPS[1]))
    moved = [(start - shift, end - shift) for start, end, *_ in after.tiles.tolist() if start >= shift]
    assert moved == [(start, end) for start, end, *_ in alone.tiles.tolist()]


def test_on_a_cpu_no_tiles_are_asked_for() -> None:
    query, key, value = (torch.zeros(1, heads, 4, 64, dtype=torch.bfloat16) for heads in (4, 2, 2))
    assert not tiled.fits_tiles(query, key, value)


def test_ranges_begin_at_a_multiple_of_16_bytes_whatever_the_number_of_tiles() -> None:
    lengths = (7, *[TILE] * 4)
    for number in range(1, 6):  # of trees of one tile
        tiles = lay_tiles(lengths[:number], ((),) * number, tuple(range(number)), CPU)
        assert tiles.number == number
        assert tiles.ranges.storage_offset() * tiles.ranges.element_size() % 16 == 0
        assert tiles.ranges.tolist() == [
            [start, start + length] for start, length in zip((0, 7, 135, 263, 391), lengths[:number], strict=False)
        ]


@pytest.mark.gpu
@pytest.mark.parametrize("num_channels", [64, 128])
@pytest.mark.parametrize("stream", STREAMS.values(), ids=STREAMS.keys())
def test_outputs_and_gradients_there_are_those_of_a_dense_mask(stream: Stream, num_channels: int) -> None:
    assert tiled.fits_tiles(*(torch.zeros(1, heads, 4, num_channels, dtype=torch.bfloat16, device="cuda") for heads in (8, 2, 2)))
    assert largest_error(stream, (8, 2, num_channels), torch.bfloat16, torch.device("cuda")) < 0.01


# Places of a tile behind its tree see no key; what comes out there is not stored.
@pytest.mark.filterwarnings("ignore:(divide by zero|invalid value) encountered:RuntimeWarning")
@pytest.mark.skipif(not INTERPRETED, reason="needs Triton's interpreter")
@pytest.mark.parametrize("heads", [(2, 1, 64), (1, 1, 128)])
@pytest.mark.parametrize("stream", STREAMS.values(), ids=STREAMS.keys())
def test_outputs_and_gradients_of_the_interpreted_kernels_are_those_of_a_dense_mask(stream: Stream, heads: tuple[int, int, int]) -> None:
    assert largest_error(stream, heads, torch.float32, CPU) < 1e-5


def largest_error(stream: Stream, heads: tuple[int, int, int], dtype: torch.dtype, device: torch.device) -> float:
    """Of outputs and gradients by the kernels, the norm of the difference from fp64 under a dense mask over the norm, at most."""
    num_heads, num_key_heads, num_channels = heads
    group = num_heads // num_key_heads
    draw = torch.Generator().manual_seed(0)
    shapes = [(1, number, stream.num_tokens, num_channels) for number in (num_heads, num_key_heads, num_key_heads, num_heads)]
    query, key, value, shares = (torch.randn(shape, generator=draw).to(device, dtype) for shape in shapes)
    leaves = [tensor.requires_grad_() for tensor in (query, key, value)]
    out = tiled.attend_on_tiles(query, key, value, tiles_of(stream, device), stream.to(device).subtree_end_N, 0.2)
    ours = [out, *torch.autograd.grad(out, leaves, shares.transpose(1, 2))]
    wide = [tensor.detach().double().requires_grad_() for tensor in leaves]
    scores = (wide[0] @ wide[1].repeat_interleave(group, 1).transpose(2, 3) * 0.2).masked_fill(~seen(stream).to(device), float("-inf"))
    dense = (scores.softmax(-1) @ wide[2].repeat_interleave(group, 1)).transpose(1, 2)
    truth = [dense, *torch.autograd.grad(dense, wide, shares.transpose(1, 2).double())]
    return max(
        float((own.double() - expected).detach().norm() / expected.detach().norm()) for own, expected in zip(ours, truth, strict=True)
    )
