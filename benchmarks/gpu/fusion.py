"""What fused layers (`core.models.fused`) give, on trees and padded alike, and torch.compile of each layer's MLP and norms."""

from collections.abc import Iterator

import torch
from transformers import LlamaForSequenceClassification
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm

from benchmarks.gpu.findings import Finding
from benchmarks.gpu.subjects import PEAK, Scale, causal, classifier, median_seconds
from benchmarks.gpu.training import backward, forward_of
from benchmarks.gpu.trees import forward
from benchmarks.machine import device, forward_flops


def fusion(scale: Scale) -> Iterator[Finding]:
    """The first shape of scoring and the second of training, on trees and padded."""
    for name in ("as they come", "fused", "torch.compile"):
        if scale.tiny and name == "torch.compile":  # on a CPU it takes a minute, and says nothing of a GPU
            continue
        model = classifier(scale.one, torch.bfloat16, fused=name == "fused")
        if name == "torch.compile":
            compile_parts(model)
        yield {"what": f"scoring, {name}", **scored(model, scale)}
        yield {"what": f"training, {name}", **trained(model, scale)}


@torch.no_grad()
def scored(model: LlamaForSequenceClassification, scale: Scale) -> Finding:
    shape = scale.scoring[0]
    groups = [[row.tolist() for row in group] for group in shape.groups(scale.one.vocabulary)]
    rows_BL = torch.tensor([row for group in groups for row in group], device=device())
    ours = median_seconds(lambda: forward(model, groups, on_trees=True).tolist(), scale.rounds)
    peer = median_seconds(lambda: model(input_ids=rows_BL, use_cache=False).logits.tolist(), scale.rounds)
    return figures(model, ours, peer, shape.unique, shape.seen, rows_BL, 1)


def trained(model: LlamaForSequenceClassification, scale: Scale) -> Finding:
    shape = scale.training[-1]
    groups = [[row.tolist() for row in group] for group in shape.groups(scale.one.vocabulary)]
    rows_BL = torch.tensor([row for group in groups for row in group], device=device())
    ours = median_seconds(lambda: backward(model, forward_of(model, groups)), 3)
    peer = median_seconds(lambda: backward(model, model(input_ids=rows_BL, use_cache=False).logits[:, 0].float()), 3)
    return figures(model, ours, peer, shape.unique, shape.seen, rows_BL, 3)


def figures(
    model: LlamaForSequenceClassification, ours: float, peer: float, unique: int, seen: int, rows_BL: torch.Tensor, passes: int
) -> Finding:
    padded = forward_flops(model, rows_BL.numel(), len(rows_BL) * causal(rows_BL.shape[1]))
    return {
        "ms": 1e3 * ours,
        "padded ms": 1e3 * peer,
        "ratio": peer / ours,
        "ideal": rows_BL.numel() / unique,
        "MFU": passes * forward_flops(model, unique, seen) / ours / PEAK,
        "padded MFU": passes * padded / peer / PEAK,
    }


def compile_parts(model: LlamaForSequenceClassification) -> None:
    for module in model.modules():
        if isinstance(module, LlamaMLP | LlamaRMSNorm):
            module.compile(dynamic=True)
