"""The processes of one training run, as started by torchrun or a cluster.

Shapes: V values that are summed.
"""

import os
import pickle
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist

from core.process.signals import Preempted

# Processes wait for the main one while it evaluates a checkpoint, which takes longer than the default of ten minutes.
TIMEOUT = timedelta(hours=6)

_SHARED = "_rewardloop_shared"
"""An attribute of errors that were raised on all processes."""
_LONE = "_rewardloop_lone"
"""An attribute of errors that a process cannot tell the others of, since they wait for it elsewhere."""

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
        return cast("T", self.all_gather(lambda: make() if self.is_main else None)[0])

    def all_gather(self, make: Callable[[], T]) -> list[T]:
        """The results of `make` on each process, by rank; an exception on one of them is raised on all of them.

        `make` may itself share things between the processes: whichever call they are in learns of an exception.
        """
        if self.size == 1:
            return [make()]
        own: tuple[Any, BaseException | None]
        try:
            own = (make(), None)
        except (Exception, Preempted) as error:  # of any kind: the other processes are waiting for an answer
            if not _may_be_told(error):
                raise
            own = (None, _portable(error))
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, own)
        found[self.rank] = own  # an error with its traceback
        for _, error in found:
            if error is not None:
                raise _shared(error)
        return [made for made, _ in found]

    def shard(self, count: int) -> slice:
        """This process's slice of `count` items; the slices of all processes differ by one item at most."""
        return slice(self.rank * count // self.size, (self.rank + 1) * count // self.size)

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


@contextmanager
def in_step() -> Generator[None]:
    """Context of passes through weights that are split over processes, in which these wait for each other layer by layer.

    What one of them raises there it cannot tell the others: it is passed on by `World.all_gather`, and must end the process.
    """
    try:
        yield
    except (Exception, Preempted) as error:
        vars(error)[_LONE] = True
        raise


def was_shared(error: BaseException) -> bool:
    """Whether the error, or what led to it, was raised on all processes by `from_main` or `all_gather`."""
    return any(_SHARED in vars(link) for link in _chain(error))


def _shared(error: BaseException) -> BaseException:
    vars(error)[_SHARED] = True
    return error


def _may_be_told(error: BaseException) -> bool:
    """Whether the other processes are waiting to hear of this error: they are not if they raise it too, or wait elsewhere."""
    return not was_shared(error) and not any(_LONE in vars(link) for link in _chain(error))


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, and those in whose handling it arose."""
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__ or link.__context__


def _portable(error: BaseException) -> BaseException:
    """The error if another process can read it, else one of its message."""
    try:
        pickle.loads(pickle.dumps(error))
    except (pickle.PicklingError, AttributeError, TypeError):
        message = f"{type(error).__name__}: {error}"
        return ValueError(str(error)) if isinstance(error, ValueError) else RuntimeError(message)
    return error


def alone() -> World:
    """This process by itself, whether or not it belongs to a group."""
    on_gpu = torch.cuda.is_available()
    return World(rank=0, size=1, device=torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu"))


def _own_gpu() -> int:
    """The number of this process's GPU: its LOCAL_RANK, or 0 where a launcher such as srun lets each process see one GPU alone."""
    local_rank, visible = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if local_rank >= visible > 1:
        raise ValueError(
            f"LOCAL_RANK={local_rank}, but this process sees {visible} GPUs; start as many processes on a machine as it has GPUs "
            f"(--nproc-per-node {visible}), or let each see its own."
        )
    return local_rank if local_rank < visible else 0


def join_group_alone() -> None:
    """Makes a process group of this process, which torch's and DeepSpeed's sharding ask for even then."""
    if not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)  # pyright: ignore[reportPrivateImportUsage]


def join_world() -> World:
    """Joins the process group at the first call, and describes it.

    Reads RANK, WORLD_SIZE and LOCAL_RANK, which torchrun sets; without them this process is alone. Where there are
    several, each must run inside `core.process.exit.exit_without_teardown`.
    """
    size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    on_gpu = torch.cuda.is_available()
    if on_gpu and size > 1:
        torch.cuda.set_device(_own_gpu())
    if size > 1 and not dist.is_initialized():
        # FSDP2 and DDP call functions that torch has since renamed, and warn once per layer.
        warnings.filterwarnings("ignore", message=r"`torch\.distributed\..* is deprecated", category=FutureWarning)
        # Gloo beside NCCL for what an engine keeps in the machine's memory.
        dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=TIMEOUT)
    return World(rank=rank, size=size, device=alone().device)
