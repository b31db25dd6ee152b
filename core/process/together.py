"""Failures of several processes: those that all of them share, after which they go on together, and those of one alone.

A process that fails alone leaves the others waiting for it in the middle of their work, so it must end, and the launcher with it ends
them. If it went on to the next job instead, its messages would meet those of the job before.
"""

import time
from datetime import timedelta

import torch.distributed as dist

from core.process.world import join_world, was_shared

PATIENCE = timedelta(seconds=60)
"""How long a process that has failed waits for the others to fail as well."""
_POLL_S = 0.2

_judged: list[tuple[BaseException, bool]] = []
"""The failures of this process, in order, and whether they were those of all."""


def failed_together(error: BaseException) -> bool:
    """Whether all processes fail with an error of the same type, none of them in the middle of something that the others wait for.

    An error that `World.from_main` or `World.all_gather` raised is that of all. For any other this waits for `PATIENCE`. What torch raises
    where memory or a connection fails, and any other RuntimeError, never counts: it interrupts the exchange between the processes, even
    if all of them meet it. Asked twice about an error, it answers the same. A process on its own fails together with itself.
    """
    for known, verdict in _judged:
        if known is error:
            return verdict
    verdict = was_shared(error) or _all_say(error)
    _judged.append((error, verdict))
    return verdict


def _all_say(error: BaseException) -> bool:
    world = join_world()  # whoever fails before that would otherwise leave the others waiting there
    if world.size == 1:
        return True
    shares = not isinstance(error, (RuntimeError, MemoryError))
    try:
        store = dist.distributed_c10d._get_default_store()  # pyright: ignore[reportPrivateUsage]  # a collective could meet one of the job's
        place = f"rewardloop/failure/{len(_judged)}"
        store.set(f"{place}/{world.rank}", type(error).__name__ if shares else "")
        keys = [f"{place}/{rank}" for rank in range(world.size)]
        end = time.monotonic() + PATIENCE.total_seconds()
        while shares and not store.check(keys):
            if time.monotonic() > end:
                store.set(f"{place}/{world.rank}", "")  # for those that come late
                return False
            time.sleep(_POLL_S)
        return shares and {store.get(key) for key in keys} == {type(error).__name__.encode()}
    except RuntimeError:  # the process that keeps the store is gone
        return False
