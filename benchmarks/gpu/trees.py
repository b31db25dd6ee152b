"""Prompt trees on the device: their attention against a dense mask, and values, gradients and speed against padding."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import LlamaForSequenceClassification

from benchmarks.gpu.findings import Finding
from benchmarks.gpu.subjects import PEAK, Scale, Shape, classifier, median_seconds, relative
from benchmarks.machine import device, forward_flops, peak_mib, reset_peak
from core.models.head import padded_rewards, tree_rewards
from core.transfer import to_host
from core.trees.attention import Plan, attend_on_tree, tree_attention
from core.trees.layout import Stream, pack_trees
from core.trees.tiled import fits_tiles
from core.trees.varlen import fits_kernel
from rmtrain.loss import bradley_terry_loss

Groups = Sequence[Sequence[Sequence[int] | NDArray[np.int32]]]


def attention(scale: Scale) -> Iterator[Finding]:
    """Outputs and gradients of one call on a stream of three levels, against fp64 under a dense mask."""
    stream = three_levels(20 if scale.tiny else 300).to(device())
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        for heads, key_heads, channels in ((4, 2, 8), (4, 4, 16)) if scale.tiny else ((32, 8, 64), (32, 8, 128), (12, 12, 80)):
            drawn = [random_heads(stream.num_tokens, number, channels, dtype) for number in (heads, key_heads, key_heads)]
            ours = with_gradients(lambda *parts: attend(parts, Plan(stream)), drawn)
            truth = with_gradients(lambda *parts: dense(parts, stream), [part.double() for part in drawn])
            plan = Plan(stream)
            attend(drawn, plan)
            yield {
                "what": f"{str(dtype).removeprefix('torch.')}, {heads} heads on {key_heads} of {channels}",
                "road": road(drawn),
                "error": relative(ours[:1], truth[:1]),
                "error of the gradient": relative(ours[1:], truth[1:]),
                "ms": 1e3 * median_seconds(lambda drawn=drawn, plan=plan: attend(drawn, plan), scale.rounds),
            }


def road(parts: Sequence[Tensor]) -> str:
    query, key, value = parts
    return "tiles" if fits_tiles(query, key, value) else "varlen_attn" if fits_kernel(query, key, value) else "by block"


def three_levels(length: int) -> Stream:
    draw = np.random.default_rng(0)

    def tokens(number: int) -> list[int]:
        return draw.integers(3, 100, number).tolist()

    groups = [[[*(prompt := tokens(length)), *(own := tokens(length // 2)), *tokens(40)], [*prompt, *own, 1], [*prompt, *tokens(length)]]]
    groups += [[[*(prompt := tokens(length // 3)), *tokens(17)] for _ in range(5)]]
    return pack_trees(groups, whole=device().type == "cuda")


def random_heads(length: int, number: int, channels: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(1, number, length, channels, device=device()).to(dtype)


def attend(parts: Sequence[Tensor], plan: Plan) -> Tensor:
    query, key, value = parts
    return attend_on_tree(torch.nn.Identity(), query, key, value, None, prompt_tree=plan)[0]


def dense(parts: Sequence[Tensor], stream: Stream) -> Tensor:
    query, key, value = parts
    repeats = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    place = torch.arange(stream.num_tokens, device=query.device)
    hidden = (place > place[:, None]) | (place[:, None] >= stream.subtree_end_N)
    scores = (query @ key.transpose(2, 3) / query.shape[-1] ** 0.5).masked_fill(hidden, float("-inf"))
    return (scores.softmax(-1) @ value).transpose(1, 2)


def with_gradients(work: Callable[..., Tensor], drawn: Sequence[Tensor]) -> list[Tensor]:
    leaves = [part.detach().clone().requires_grad_() for part in drawn]
    out = work(*leaves)
    torch.manual_seed(5)
    shares = torch.randn(out.shape, device=out.device, dtype=torch.float32).to(out.dtype)
    return [out.detach(), *torch.autograd.grad(out, leaves, shares)]


def values(scale: Scale) -> Iterator[Finding]:
    """Rewards and gradients of the pairs' loss on trees and padded, both against padded rows in fp32."""
    shape = Shape(prompts=2, completions=4, prompt=16, completion=8)
    if not scale.tiny:
        shape = Shape(prompts=3, completions=4, prompt=256, completion=128)
    groups = shape.groups(scale.small.vocabulary)
    truth_model = classifier(scale.small, torch.float32)
    truth = rewards_and_gradients(truth_model, groups, on_trees=False)
    for dtype in (torch.float32, torch.bfloat16):
        model = classifier(scale.small, torch.float32)
        model.load_state_dict(truth_model.state_dict())
        torch.nn.Module.to(model, dtype)  # in place; the model's own method is typed as a wrapped function
        on_trees, padded = (rewards_and_gradients(model, groups, on_trees=on_trees) for on_trees in (True, False))
        yield {
            "what": str(dtype).removeprefix("torch."),
            "trees: error of rewards": relative(on_trees[:1], truth[:1]),
            "padded": relative(padded[:1], truth[:1]),
            "trees: error of gradients": relative(on_trees[1:], truth[1:]),
            "padded, gradients": relative(padded[1:], truth[1:]),
        }


def rewards_and_gradients(model: LlamaForSequenceClassification, groups: Groups, *, on_trees: bool) -> list[Tensor]:
    model.zero_grad()
    rewards_R = forward(model, groups, on_trees=on_trees)
    bradley_terry_loss(rewards_R[0::2], rewards_R[1::2]).backward()
    return [rewards_R.detach(), *(weight.grad.clone() for weight in model.parameters() if weight.grad is not None)]


def forward(model: LlamaForSequenceClassification, groups: Groups, *, on_trees: bool) -> Tensor:
    if not on_trees:
        return padded(model, groups)
    with tree_attention(model):
        return tree_rewards(model, groups)


def padded(model: LlamaForSequenceClassification, groups: Groups) -> Tensor:
    return padded_rewards(model, [list(row) for rows in groups for row in rows], 0)


@torch.no_grad()
def scoring(scale: Scale) -> Iterator[Finding]:
    """The whole call, from token ids to rewards on the host, beside the same rows padded (they are equally long: nothing is wasted)."""
    model = classifier(scale.one, torch.bfloat16)
    for shape in scale.scoring:
        groups = shape.groups(scale.one.vocabulary)
        rows_BL = torch.from_numpy(np.stack([row for group in groups for row in group])).to(device(), torch.long)

        def ours(groups: Groups = groups) -> object:
            return forward(model, groups, on_trees=True).tolist()

        def in_a_row(groups: Groups = groups) -> object:
            """As scorers do: the next is launched before the last is fetched."""
            return [fetch() for fetch in [to_host(forward(model, groups, on_trees=True)) for _ in range(4)]]

        reset_peak()
        call = median_seconds(ours, scale.rounds)
        streamed = median_seconds(in_a_row, 3) / 4
        memory = peak_mib()
        # The peer's ids are on the device already, and it needs no mask.
        peer = median_seconds(lambda rows=rows_BL: model(input_ids=rows, use_cache=False).logits[:, 0].float().tolist(), scale.rounds)
        flops = forward_flops(model, shape.unique, shape.seen)
        yield {
            "what": str(shape),
            "ms": 1e3 * call,
            "ms in a row": 1e3 * streamed,
            "padded SDPA ms": 1e3 * peer,
            "ratio": peer / call,
            "ratio in a row": peer / streamed,
            "ideal": shape.padded / shape.unique,
            "MFU": flops / call / PEAK,
            "MFU in a row": flops / streamed / PEAK,
            "peak MiB": memory,
        }
