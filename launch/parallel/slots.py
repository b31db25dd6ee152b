"""How many jobs run at a time on this machine, and what each of them gets."""

import os

GPUS = "CUDA_VISIBLE_DEVICES"


def slots(parallel: int) -> tuple[int, int, tuple[str, ...]]:
    """Jobs at a time, threads per job, and the GPUs that they are dealt out to, by the names that CUDA knows them by; of 0 jobs, one for
    each GPU, or for each core without GPUs. More jobs than GPUs share them."""
    import torch  # takes seconds

    count, cores = torch.cuda.device_count(), os.cpu_count() or 1
    # Which of them a scheduler of a cluster, or the user, has given to this process: its first GPU need not be the machine's.
    given = [name.strip() for name in os.environ.get(GPUS, "").split(",") if name.strip()]
    gpus = tuple((given or [str(number) for number in range(count)])[:count])
    jobs = parallel or count or cores
    return jobs, max(1, cores // jobs), gpus
