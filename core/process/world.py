"""The processes of one training run, as started by torchrun or a cluster.

Shapes: V values that are summed.
"""

import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from core.process.signals import Preempted

# Processes wait for the main one while it evaluates a checkpoint, which takes longer than the default of ten minutes.
TIMEOUT = timedelta(hours=6)

_SHARED = "_rewardloop_shared"
"""An attribute of errors that were raised on all processes."""

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """This process among those that train together: its rank, their number, and its device.

    >>> World(rank=0, size=1, device=torch.device("cpu")).is_main
    True
    """

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files and prints."""
        return self.rank == 0

    def from_main(self, make: Callable[[], T]) -> T:
        """The result of `make`, called on the main process only, on all processes; an exception there is raised on all of them."""
        if self.size == 1:
            return make()
        box: list[Any] = [None, None]
        if self.is_main:
            try:
                box[0] = make()
            except (Exception, Preempted) as error:  # of any kind: the other processes are waiting for an answer
                box[1] = error
        dist.broadcast_object_list(box, src=0)
        if box[1] is not None:
            raise _shared(box[1])
        return box[0]

    def all_gather(self, make: Callable[[], T]) -> list[T]:
        """The results of `make` on each process, by rank; an exception on one of them is raised on all of them."""
        if self.size == 1:
            return [make()]
        own: tuple[Any, BaseException | None]
        try:
            own = (make(), None)
        except (Exception, Preempted) as error:  # of any kind: the other processes are waiting for an answer
            own = (None, error)
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, own)
        for _, error in found:
            if error is not None:
                raise _shared(error)
        return [made for made, _ in found]

    def shard(self, count: int) -> slice:
        """This process's slice of `count` items; `count` must be a multiple of the number of processes."""
        each = count // self.size
        return slice(self.rank * each, (self.rank + 1) * each)

    def all_sum(self, values: Sequence[float]) -> list[float]:
        """The values summed over all processes, in fp64."""
        if self.size == 1:
            return list(values)
        # On the device of the weights: NCCL reduces only there.
        total_V = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(total_V)
        return total_V.tolist()

    def barrier(self) -> None:
        """Returns once all processes have called it."""
        if self.size > 1:
            dist.barrier()


def was_shared(error: BaseException) -> bool:
    """Whether the error, or what led to it, was raised on all processes by `from_main` or `all_gather`."""
    link: BaseException | None = error
    while link is not None and _SHARED not in vars(link):
        link = link.__cause__
    return link is not None


def _shared(error: BaseException) -> BaseException:
    vars(error)[_SHARED] = True
    return error


def join_world() -> World:
    """Joins the process group at the first call, and describes it.

    Reads RANK, WORLD_SIZE and LOCAL_RANK, which torchrun sets; without them this process is alone. Where there are
    several, each must run inside `core.process.exit.exit_without_teardown`.
    """
    size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    on_gpu = torch.cuda.is_available()
    if on_gpu and size > 1:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    if size > 1 and not dist.is_initialized():
        # FSDP2 and DDP call functions that torch has since renamed, and warn once per layer.
        warnings.filterwarnings("ignore", message=r"`torch\.distributed\..* is deprecated", category=FutureWarning)
        dist.init_process_group("nccl" if on_gpu else "gloo", timeout=TIMEOUT)
    return World(rank=rank, size=size, device=torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu"))
