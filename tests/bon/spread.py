"""What `torchrun -m tests.bon.spread FOLDER LOG [LIMIT]` does: draws and verifies pools, each process its share, and dies after `LIMIT`
calls of the generator."""

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from bon.draw import PoolPlan, PoolTask, make_pools
from core.process.exit import exit_without_teardown
from core.process.world import join_world
from core.records import Completion, Dialogue, Prompt, Sampling, user


def is_even(completion: str, reference: Mapping[str, Any]) -> float:
    return float(int(completion) % 2 == reference["odd"])


def plan() -> PoolPlan:
    prompts = [Prompt(id=str(i), dialogue=user(f"{i}?"), reference={"odd": i % 2}) for i in range(10)]
    return PoolPlan(tasks={"a": PoolTask(prompts=prompts, verifier=is_even, identity={})}, sampling=Sampling(n=2), policy={})


class Logged:
    """Answers with a prompt's index, and writes down what it was asked."""

    def __init__(self, log: str, limit: int) -> None:
        self.log, self.limit, self.num_calls = log, limit, 0

    def generate(self, prompts: Sequence[Dialogue], sampling: Sampling) -> list[list[Completion]]:
        if self.num_calls == self.limit:
            os.kill(os.getpid(), signal.SIGKILL)
        self.num_calls += 1
        with open(self.log, "a", encoding="utf-8") as file:
            file.write("".join(prompt[-1].content + "\n" for prompt in prompts))
        texts = [str(sampling.first + place) for place in range(len(prompts))]
        return [[Completion(text=text, token_ids=(1,), finished=True)] * sampling.n for text in texts]


def main() -> None:
    folder, log, *limit = sys.argv[1:]
    torch.set_num_threads(1)
    world = join_world()
    generator = Logged(log, int(limit[0]) if limit and not world.is_main else -1)
    make_pools(Path(folder), plan(), lambda: generator, batch_size=2, world=world, say=lambda line: None)


if __name__ == "__main__":
    with exit_without_teardown():
        main()
