"""The processes of one training run, as torchrun or a cluster starts them."""

import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from core.process.signals import Preempted

# Processes wait for the first one while it evaluates a checkpoint, which takes longer than the usual ten minutes.
PATIENCE = timedelta(hours=6)

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """This process among those that train together.

    >>> World(rank=0, size=1, device=torch.device("cpu")).is_main
    True
    """

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes files and speaks."""
        return self.rank == 0

    def from_main(self, make: Callable[[], T]) -> T:
        """What `make` gives on the main process, on all of them; if it raises there, it raises everywhere."""
        if self.size == 1:
            return make()
        box: list[Any] = [None, None]
        if self.is_main:
            try:
                box[0] = make()
            except (Exception, Preempted) as error:  # whatever it is: the others wait for an answer
                box[1] = error
        dist.broadcast_object_list(box, src=0)
        if box[1] is not None:
            raise box[1]
        return box[0]

    def all_gather(self, make: Callable[[], T]) -> list[T]:
        """What `make` gives on each process, by rank, on all of them; what one of them raises, all raise."""
        if self.size == 1:
            return [make()]
        own: tuple[Any, BaseException | None]
        try:
            own = (make(), None)
        except (Exception, Preempted) as error:  # whatever it is: the others wait for an answer
            own = (None, error)
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, own)
        for _, error in found:
            if error is not None:
                raise error
        return [made for made, _ in found]

    def shard(self, count: int) -> slice:
        """This process's part of `count` things in a row, which are a multiple of the processes."""
        each = count // self.size
        return slice(self.rank * each, (self.rank + 1) * each)

    def all_sum(self, values: Sequence[float]) -> list[float]:
        """The values added up over all processes, in fp64."""
        if self.size == 1:
            return list(values)
        # Reduced on the device of the weights: NCCL knows no other.
        total_V = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(total_V)
        return total_V.tolist()

    def barrier(self) -> None:
        """Returns once all processes are here."""
        if self.size > 1:
            dist.barrier()


def join_world() -> World:
    """Finds the processes that were started together; the first call of a process joins their group.

    Reads RANK, WORLD_SIZE and LOCAL_RANK, which torchrun sets; without them this process is alone. A process of several must
    end in `core.process.exit.exit_without_teardown`.
    """
    size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    on_gpu = torch.cuda.is_available()
    if on_gpu and size > 1:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    if size > 1 and not dist.is_initialized():
        # FSDP2 and DDP call what torch itself has renamed, once a layer.
        warnings.filterwarnings("ignore", message=r"`torch\.distributed\..* is deprecated", category=FutureWarning)
        dist.init_process_group("nccl" if on_gpu else "gloo", timeout=PATIENCE)
    return World(rank=rank, size=size, device=torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu"))
