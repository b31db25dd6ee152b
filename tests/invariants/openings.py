"""What several processes do for `test_openings`: `torchrun -m tests.invariants.openings OUT_FOLDER ENGINE rm|ppo`.

Each opens a session of reward-model training or of PPO on a model of a gigabyte, and writes to `rank-R.json` how much memory of
its own it held at most while that opened, above what its imports took; then, above what it held before, while the reward model was
saved, or while a copy of the policy to draw from was gathered. One job per start: DeepSpeed keeps the engine of the last.
"""

import gc
import json
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import deepspeed
import torch
from safetensors.torch import save_file
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import LlamaConfig, LlamaForCausalLM

from core.config import Dtype, EngineConfig, EngineKind, ModelConfig
from core.engines.saving import Weights, export
from core.models import shards
from core.models.export import export_formats, export_model
from core.models.load import load_reward_model
from core.process.exit import exit_without_teardown
from core.process.world import World, join_world
from core.records import Preference, user
from microworld.tokenizer import train_tokenizer
from ppo.config import PPOConfig
from ppo.session import PPOSession, open_session
from rmtrain.config import PreferenceDataConfig, RewardModelConfig
from rmtrain.session import RMSession
from tests.fakes import LengthScorer
from tests.spread import silent

SENTENCES = ("What is 2 plus 3?", "Name a fruit.", "A plum is a fruit.", "The sum of 2 and 3 is 5.")
PAIRS = [Preference(prompt=user("Name a fruit."), chosen="A plum is a fruit.", rejected="The sum of 2 and 3 is 5.")]


class Peak:
    """The most memory that is not backed by files (RssAnon), in bytes above what it was at the beginning."""

    def __init__(self) -> None:
        self.highest = self.first = _anonymous()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    @contextmanager
    def watching(self) -> Generator[None]:
        self._thread.start()
        yield
        self._done.set()
        self._thread.join()

    @property
    def bytes(self) -> int:
        return self.highest - self.first

    def _watch(self) -> None:
        while not self._done.wait(0.003):
            self.highest = max(self.highest, _anonymous())


def _anonymous() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) * 1024


def save_models(folder: Path, num_layers: int) -> int:
    """A policy and a reward model in bf16, of equal bodies; returns the policy's number of weights."""
    folder.mkdir()
    tokenizer = train_tokenizer(SENTENCES, vocab_size=280)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=num_layers,
        num_attention_heads=16,
        num_key_value_heads=8,
        pad_token_id=cast("int", tokenizer.pad_token_id),
        eos_token_id=cast("int", tokenizer.eos_token_id),
    )
    with torch.device("meta"):
        shapes = {name: weight.shape for name, weight in LlamaForCausalLM(config).named_parameters()}
    block = (0.02 * torch.randn(1 << 18, generator=torch.Generator().manual_seed(0))).bfloat16()
    weights = {name: block.repeat(-(-shape.numel() // len(block)))[: shape.numel()].view(shape).clone() for name, shape in shapes.items()}
    for name in ("policy", "reward"):
        (folder / name).mkdir()
        tokenizer.save_pretrained(folder / name)
        config.architectures = ["LlamaForCausalLM" if name == "policy" else "LlamaForSequenceClassification"]
        config.num_labels = 1
        config.dtype = torch.bfloat16
        config.save_pretrained(folder / name)
    save_file(weights, folder / "policy" / "model.safetensors", metadata={"format": "pt"})
    head = {"score.weight": block[:1024].view(1, 1024).clone()}
    save_file(head, folder / "reward" / "head.safetensors", metadata={"format": "pt"})
    (folder / "reward" / "body.safetensors").symlink_to(folder / "policy" / "model.safetensors")
    index = dict.fromkeys(weights, "body.safetensors") | {"score.weight": "head.safetensors"}
    (folder / "reward" / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return sum(shape.numel() for shape in shapes.values())


def open_rm(folder: Path, kind: EngineKind, world: World) -> RMSession:
    config = RewardModelConfig(
        model=ModelConfig(path=str(folder / "policy"), dtype=Dtype.bf16),
        data=PreferenceDataConfig(paths=["unused.jsonl"]),
        engine=EngineConfig(kind=kind),
        batch_size=1,
    )
    return RMSession(config, PAIRS, world=world, say=silent)


def open_ppo(folder: Path, kind: EngineKind, world: World) -> PPOSession:
    reward_model, _ = load_reward_model(ModelConfig(path=str(folder / "reward"), dtype=Dtype.bf16))
    config = PPOConfig(
        model=ModelConfig(path=str(folder / "policy"), dtype=Dtype.bf16),
        prompts=["unused.jsonl"],
        engine=EngineConfig(kind=kind),
        max_new_tokens=8,
    )
    prompts = [pair.prompt for pair in PAIRS]
    return open_session(config, prompts=prompts, scorer=LengthScorer(), reward_model=reward_model, world=world, say=silent)


def measured(peak: Peak, opened: Callable[[], nn.Module]) -> dict[str, Any]:
    """How many bytes were held at most until all was sharded, and how many weights this process holds by format.

    DeepSpeed goes on to lay out its whole state: gradients, a copy of the weights to update, and the moments.
    """
    sharded: list[int] = []
    initialize = deepspeed.initialize

    def noted(**options: Any) -> Any:
        sharded.append(peak.bytes)
        return initialize(**options)

    deepspeed.initialize = noted
    with peak.watching():
        module = opened()
    deepspeed.initialize = initialize
    held: dict[str, int] = {}
    for weight in module.parameters():
        own = weight.to_local() if isinstance(weight, DTensor) else getattr(weight, "ds_tensor", weight)
        held[str(own.dtype)] = held.get(str(own.dtype), 0) + own.numel()
    trained = sum(getattr(weight, "ds_numel", weight.numel()) for weight in module.parameters() if weight.requires_grad)
    return {"peak": (sharded or [peak.bytes])[0], "held": held, "trained": trained}


def gathered(session: PPOSession) -> dict[str, int]:
    """How many bytes the copy that is drawn from takes, and how many were held at most while it was gathered."""
    gc.collect()
    peak = Peak()
    with peak.watching():
        policy = session.policy_to_evaluate()
    return {"peak": peak.bytes, "copy": sum(weight.untyped_storage().nbytes() for weight in policy.parameters())}


def saved(session: RMSession, world: World, out: Path) -> dict[str, int]:
    """How many bytes were held at most while the model was saved in fp32, in files of 100 MB, and how many were written."""
    shards.SHARD = 100_000_000

    def write(folder: Path, weights: Weights) -> None:
        export_model(session.model, session.tokenizer, folder, weights=weights, dtype=torch.float32)

    gc.collect()
    peak = Peak()
    with peak.watching():
        export(world, session.engine, out, write, prefix="model.", formats=export_formats(session.model, torch.float32))
    return {"peak": peak.bytes, "written": sum(file.stat().st_size for file in out.glob("*.safetensors"))}


def main() -> None:
    out, kind, job = Path(sys.argv[1]), EngineKind(sys.argv[2]), sys.argv[3]
    torch.set_num_threads(1)
    world = join_world()
    world.from_main(lambda: save_models(out / "small", 1))
    num_weights = world.from_main(lambda: save_models(out / "large", 16))
    open_rm(out / "small", kind, world)  # what is imported only now
    gc.collect()
    opened: list[Any] = []

    def networks() -> nn.Module:
        session = open_rm(out / "large", kind, world) if job == "rm" else open_ppo(out / "large", kind, world)
        opened.append(session)
        return session.rewards if isinstance(session, RMSession) else session.networks

    found = measured(Peak(), networks)
    if job == "rm":
        found["saving"] = saved(opened[0], world, out / "saved")
    else:
        found["drawing"] = gathered(opened[0])
    (out / f"rank-{world.rank}.json").write_text(json.dumps({**found, "num_weights": num_weights}))
    world.barrier()


if __name__ == "__main__":
    with exit_without_teardown():
        main()
