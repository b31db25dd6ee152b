"""What two processes of one group do for the tests of `core`: `torchrun -m tests.core.spread OUT_FOLDER`.

Each process writes `rank-R.json`: what `World` gave it, and what every engine did with a module small enough for a test to work
out its updates by hand.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from core.config import Dtype, EngineConfig, EngineKind, OptimConfig
from core.data.chat import UnreadableError
from core.engines.engine import Engine, open_engine
from core.engines.saving import Export, Saver
from core.generators.shared import draw_share
from core.process.exit import exit_without_teardown
from core.process.signals import Preempted
from core.process.world import World, join_world
from core.records import Completion, Dialogue, Sampling, user
from core.scorers.shared import SharedScorer
from tests.fakes import LengthScorer

KINDS = ("ddp", "fsdp2", "zero2", "zero3")
INPUTS = ([1.0, 0.0], [0.0, 2.0])
"""What each process passes through the module."""
OPTIM = OptimConfig(weight_decay=0.5, max_grad_norm=1.0, adam_eps=1 / 6)
LR = {"actor": 0.1, "critic": 0.2}


class Block(nn.Module):
    """Two outputs of two inputs; all weights begin as 1, all biases as 0.5."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        nn.init.ones_(self.linear.weight)
        nn.init.constant_(self.linear.bias, 0.5)

    def forward(self, x_N: Tensor) -> Tensor:
        return self.linear(x_N) + 0  # not a view, of which FSDP2 warns


class TwoBlocks(nn.Module):
    """The sums of an actor's and of a critic's outputs."""

    _no_split_modules = ("Block",)

    def __init__(self) -> None:
        super().__init__()
        self.actor, self.critic = Block(), Block()

    def forward(self, x_N: Tensor) -> tuple[Tensor, Tensor]:
        return self.actor(x_N).sum(), self.critic(x_N).sum()


def opened(kind: EngineKind, world: World, dtype: Dtype = Dtype.fp32) -> Engine:
    module = TwoBlocks()
    groups = [{"name": name, "params": [*module.get_submodule(name).parameters()], "lr": lr} for name, lr in LR.items()]
    return open_engine(EngineConfig(kind=kind), module, groups, optim=OPTIM, dtype=dtype, world=world)


def update(engine: Engine, inputs: list[list[float]], *, rate: float = 0.5, frozen: tuple[str, ...] = ()) -> float:
    """One update by half the loss twice; returns the gradient's norm."""
    for last in (False, True):
        actor_and_critic = [engine.module(torch.tensor(values)) for values in inputs]
        loss = torch.stack([actor + critic for actor, critic in actor_and_critic]).sum()
        engine.backward(0.5 * loss, last=last)
    return engine.step(rate, frozen_groups=frozen)


def weights_of(engine: Engine) -> dict[str, list[float]]:
    return {name: tensor.flatten().tolist() for name, tensor in engine.iter_weights()}


def measured(kind: str, world: World, folder: Path) -> dict[str, Any]:
    inputs = [INPUTS[world.rank]]
    engine = opened(EngineKind(kind), world)
    found: dict[str, Any] = {"sharded": engine.sharded}
    parameters = [*engine.module.parameters()]
    found["held"] = sum(p.to_local().numel() if isinstance(p, DTensor) else p.numel() for p in parameters)
    found["norm"] = update(engine, inputs)
    found["updated"] = weights_of(engine)
    found["critic"] = {name: tensor.flatten().tolist() for name, tensor in engine.iter_weights("critic.")}
    halves = dict.fromkeys(found["critic"], torch.bfloat16)
    found["critic in bf16"] = {name: (str(t.dtype), t.flatten().tolist()) for name, t in engine.iter_weights("critic.", formats=halves)}

    engine = opened(EngineKind(kind), world)
    found["norm_of_actor"] = update(engine, inputs, frozen=("critic",))
    found["frozen"] = weights_of(engine)
    run_dir = folder / kind
    try:
        save_step(world, engine, run_dir, 1, planned=[1], write=fill_disk)
    except OSError as error:
        told = str(error)
        found["told"] = world.all_gather(lambda: told)
    save_step(world, engine, run_dir, 1, planned=[1], write=write_model)
    update(engine, inputs)
    found["after"] = weights_of(engine)
    again = opened(EngineKind(kind), world)
    again.load(run_dir / "checkpoints" / "step-000001" / "state")
    found["loaded"] = weights_of(again)
    update(again, inputs)
    found["again"] = weights_of(again)
    return found


def save_step(world: World, engine: Engine, run_dir: Path, step: int, *, planned: Sequence[int], write: Export) -> Path:
    """Saves a step and waits for the disk."""
    saver = Saver(world, engine, run_dir, planned=planned)
    folder = saver.save(step, write)
    saver.wait()
    return folder


def write_model(folder: Path, weights: Iterator[tuple[str, Tensor]]) -> None:
    (folder / "model.txt").write_text("whole")


def fill_disk(folder: Path, weights: Iterator[tuple[str, Tensor]]) -> None:
    next(weights)
    raise OSError("disk full")


def raised(call: Callable[[], object]) -> str:
    try:
        call()
    except (ValueError, Preempted) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def fail(message: str) -> None:
    raise ValueError(message)


def preempt() -> None:
    raise Preempted("told to stop")


def gathered(world: World) -> dict[str, Any]:
    values = [0.1 * (world.rank + 1), 2.0**53 * world.rank]
    return {
        "rank": [world.rank, world.size, world.is_main],
        "from_main": world.from_main(lambda: f"made by {world.rank}"),
        "main_fails": raised(lambda: world.from_main(lambda: fail(f"no such run, says {world.rank}"))),
        "main_is_preempted": raised(lambda: world.from_main(preempt)),
        "all_gather": world.all_gather(lambda: world.rank * 10),
        "second_fails": raised(lambda: world.all_gather(lambda: fail("out of memory") if world.rank else None)),
        "all_sum": world.all_sum(values),
        "shard": [*range(6)][world.shard(6)],
        "uneven": [*range(5)][world.shard(5)],
        "drawn": [drawn(world, FirstAndText()), drawn(world, FirstAndText() if world.is_main else None)],
        "scored": SharedScorer(LengthScorer(), world).score(PROMPTS, [["a", "bc"], ["def"], []]),
        "unreadable": raised(lambda: SharedScorer(Refusing(), world).score(PROMPTS, [["a"]] * 3)),
        "fails_inside": raised(lambda: world.all_gather(lambda: nested(world, fails=1))),
        "fails_after": raised(lambda: world.all_gather(lambda: nested(world, fails=2))),
        "not_portable": raised(lambda: world.from_main(raise_local)),
        "and_go_on": world.all_gather(lambda: world.rank),
    }


PROMPTS = [user("one"), user("two"), user("three")]


class FirstAndText:
    """Answers with the prompt's own index and text."""

    def generate(self, prompts: Sequence[Dialogue], sampling: Sampling) -> list[list[Completion]]:
        texts = [f"{sampling.first + place} {prompt[-1].content}" for place, prompt in enumerate(prompts)]
        return [[Completion(text=text, token_ids=(1,), finished=True)] for text in texts]


class Refusing:
    """Cannot read the second prompt of those that it is given."""

    def score(self, prompts: Sequence[Dialogue], completions: Sequence[Sequence[str]]) -> list[list[float]]:
        if len(prompts) > 1:
            raise UnreadableError({1: "no such role"}, len(prompts))
        return [[0.0] * len(answers) for answers in completions]


def drawn(world: World, generator: FirstAndText | None) -> list[str]:
    return [row[0].text for row in draw_share(generator, PROMPTS, Sampling(first=10), world)]


def nested(world: World, *, fails: int) -> list[int]:
    """Shares twice; the second process fails before or after that."""
    if fails == 1 and not world.is_main:
        fail("before")
    found = world.from_main(lambda: world.rank)
    if fails == 2 and not world.is_main:
        fail("after")
    return [found]


def raise_local() -> None:
    class LocalError(ValueError):
        """Which another process cannot import."""

    raise LocalError("of this process alone")


def main() -> None:
    out = Path(sys.argv[1])
    torch.set_num_threads(1)
    world = join_world()
    found: dict[str, Any] = gathered(world)
    # The second comes late: a barrier that does not wait lets the first look for its file too early.
    if not world.is_main:
        time.sleep(0.3)
        (out / "late").touch()
    world.barrier()
    found["barrier"] = (out / "late").exists()
    found["engines"] = {kind: measured(kind, world, out) for kind in KINDS}
    (out / f"rank-{world.rank}.json").write_text(json.dumps(found))
    world.barrier()


if __name__ == "__main__":
    with exit_without_teardown():
        main()
