"""What two processes do for `test_footprint`: `torchrun -m tests.core.engines.footprints OUT_FOLDER`.

Each engine trains a small reward model for a step; the main process writes down how many bytes it held of what. PPO's networks are
opened under FSDP2.
"""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import LlamaConfig, LlamaForCausalLM

from core.config import Dtype, EngineConfig, EngineKind, ModelConfig
from core.engines.footprint import Decoder
from core.process.exit import exit_without_teardown
from core.process.world import World, join_world
from core.records import user
from microworld.tokenizer import train_tokenizer
from ppo.config import PPOConfig
from ppo.session import open_session
from rmtrain.config import PreferenceDataConfig, RewardModelConfig
from rmtrain.session import RMSession
from tests.fakes import LengthScorer, only_id
from tests.rmtrain.spread import PAIRS
from tests.spread import silent

KINDS = ("ddp", "fsdp2", "zero2", "zero3")
SIZES = Decoder(hidden=64, intermediate=224, num_layers=3, num_heads=4, num_kv_heads=1, head_size=16, vocabulary=280)


def save_policy(folder: Path) -> None:
    tokenizer = train_tokenizer(("What is 2 plus 3?", "Name a fruit.", "A plum is a fruit."), vocab_size=SIZES.vocabulary)
    config = LlamaConfig(
        vocab_size=SIZES.vocabulary,
        hidden_size=SIZES.hidden,
        intermediate_size=SIZES.intermediate,
        num_hidden_layers=SIZES.num_layers,
        num_attention_heads=SIZES.num_heads,
        num_key_value_heads=SIZES.num_kv_heads,
        pad_token_id=only_id(tokenizer.pad_token_id),
        eos_token_id=only_id(tokenizer.eos_token_id),
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def nbytes(tensors: Iterable[Any]) -> int:
    """The bytes of this process's parts of some tensors."""
    own = [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in tensors if isinstance(tensor, Tensor)]
    return sum(tensor.numel() * tensor.element_size() for tensor in own)


def measured(kind: str, folder: Path, world: World) -> dict[str, int]:
    config = RewardModelConfig(
        model=ModelConfig(path=str(folder), dtype=Dtype.bf16),
        data=PreferenceDataConfig(paths=["unused.jsonl"]),
        engine=EngineConfig(kind=EngineKind(kind)),
        batch_size=8,
    )
    session = RMSession(config, PAIRS, world=world, say=silent)
    engine: Any = session.engine
    parameters = list(session.model.parameters())
    found = {"weights": nbytes(getattr(weight, "ds_tensor", weight) for weight in parameters)}
    whole = _watch_whole(session.rewards) if kind == "fsdp2" else [0]
    session.accumulate(session.pairs[:8])
    found["gathered"] = max(whole)
    inner: Any = engine.module.optimizer if kind.startswith("zero") else None
    match kind:
        case "ddp":
            buckets = engine.module.reducer._get_zeros_like_grad_buckets()
            found["gradients"] = nbytes(weight.grad for weight in parameters) + nbytes(bucket.buffer() for bucket in buckets)
        case "fsdp2":
            found["gradients"] = nbytes(weight.grad for weight in parameters)
        case _:
            found["gradients"] = nbytes(gradient for group in inner.averaged_gradients.values() for gradient in group or ())
            found["bucket"] = 4 * inner.reduce_bucket_size
    engine.step(1.0)
    optimizer = engine.optimizer if inner is None else inner.optimizer
    moments = [state[name] for state in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")]
    copies = [] if inner is None else inner.fp32_partitioned_groups_flat if kind == "zero3" else inner.single_partition_of_fp32_groups
    found["optimizer"] = nbytes(moments) + nbytes(copies)
    return found


def _watch_whole(module: nn.Module) -> list[int]:
    """A list to which every layer adds, as it runs, the bytes of weights that are whole."""
    seen: list[int] = []

    def look(*_: object) -> None:
        seen.append(nbytes(weight for weight in module.parameters() if not isinstance(weight, DTensor)))

    for part in module.modules():
        if type(part).__name__ in ("LlamaMLP", "Embedding", "FSDPEmbedding"):
            part.register_forward_hook(look)
    return seen


def ppo_of(folder: Path, world: World) -> dict[str, int]:
    """The bytes of the reference, and of the copy that is drawn from."""
    config = PPOConfig(
        model=ModelConfig(path=str(folder), dtype=Dtype.bf16),
        prompts=["unused.jsonl"],
        engine=EngineConfig(kind=EngineKind.fsdp2),
        max_new_tokens=4,
    )
    session = open_session(config, prompts=[user("Name a fruit.")], scorer=LengthScorer(), reward_model=None, world=world)
    assert session.networks.reference is not None
    assert session.whole_copy is not None
    return {"reference": nbytes(session.networks.reference.parameters()), "drawn": nbytes(session.whole_copy.model.parameters())}


def main() -> None:
    out = Path(sys.argv[1])
    torch.set_num_threads(1)
    world = join_world()
    world.from_main(lambda: save_policy(out / "policy"))
    found: dict[str, Any] = {kind: measured(kind, out / "policy", world) for kind in KINDS}
    found |= ppo_of(out / "policy", world)
    if world.is_main:
        (out / "found.json").write_text(json.dumps(found))
    world.barrier()


if __name__ == "__main__":
    with exit_without_teardown():
        main()
