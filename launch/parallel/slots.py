"""How many jobs run at a time on this machine, and what each of them gets."""

import os


def slots(parallel: int) -> tuple[int, int, bool]:
    """Jobs at a time, threads per job, and whether each gets a GPU; of 0 jobs, one for each GPU, or for each core without GPUs."""
    import torch  # takes seconds

    gpus, cores = torch.cuda.device_count(), os.cpu_count() or 1
    count = parallel or gpus or cores
    return count, max(1, cores // count), gpus > 0
