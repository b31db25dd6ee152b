"""Opens the configured generator."""

from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from core.config import RolloutConfig, RolloutKind, WeightSync
from core.data.turn_ends import turn_ends
from core.generators.continuous import ContinuousGenerator
from core.generators.graphed import GraphGenerator, graph_obstacle
from core.generators.local import TransformersGenerator
from core.generators.vllm import VLLMGenerator
from core.models.load import DTYPES
from core.records import Generator
from core.vllm.server import Server
from core.vllm.weights import BroadcastTransfer, FolderTransfer, NCCLGroup, WeightTransfer


def open_generator(
    config: RolloutConfig,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    device: torch.device | None = None,
    probe: PreTrainedModel | None = None,
) -> Generator:
    """The generator for completions of `model`, the policy in training.

    A `RolloutEngine` (vllm) has its own copy of the weights: load those of `model` into it before it first generates and after
    every update, and open it on one process only. `device` is where they are gathered, by default where `model` lies. `probe` stands
    in for a model that cannot run yet, to learn about its architecture. Raises `ValueError` if a server cannot be reached.
    """
    match config.kind:
        case RolloutKind.transformers:
            if model.device.type == "cuda" and graph_obstacle(probe or model) is None:
                return GraphGenerator(model, tokenizer, batch_size=config.batch_size, memory=config.memory)
            return TransformersGenerator(model, tokenizer, batch_size=config.batch_size, memory=config.memory, probe=probe)
        case RolloutKind.continuous:
            return ContinuousGenerator(model, tokenizer, memory=config.memory, probe=probe)
        case RolloutKind.vllm:
            servers = [Server(url, parallel=config.parallel, timeout_s=config.timeout_s) for url in config.addresses]
            transfer = weight_transfer(config, device or model.device)
            return VLLMGenerator(servers, tokenizer, transfer, ends=turn_ends(model, tokenizer), parallel=config.parallel)


def weight_transfer(config: RolloutConfig, device: torch.device) -> WeightTransfer:
    """How weights are sent to the servers. Raises `ValueError` for NCCL without a GPU."""
    dtype = DTYPES[config.dtype]
    if config.sync == WeightSync.folder:
        return FolderTransfer(Path(config.folder).absolute(), dtype)
    NCCLGroup.require(device)
    return BroadcastTransfer(lambda size: NCCLGroup(size, device), dtype)
