"""How many jobs run at a time on this machine, and what each of them gets."""

import os

GPUS = "CUDA_VISIBLE_DEVICES"


def slots(parallel: int, processes: int = 1) -> tuple[int, int, tuple[str, ...]]:
    """Jobs at a time, threads per process, and the GPUs that jobs are dealt out to, by the names that CUDA knows them by: as many for each
    job as it has processes, with commas between them. Of 0 jobs as many as there are GPUs for, or cores without GPUs; more jobs than that
    share them. Raises `ValueError` where there are too few GPUs for one job."""
    import torch  # takes seconds

    count, cores = torch.cuda.device_count(), os.cpu_count() or 1
    if 0 < count < processes:
        raise ValueError(f"processes={processes} takes as many GPUs per job, and {count} can be used here; lower it.")
    # Which of them a scheduler of a cluster, or the user, has given to this process: its first GPU need not be the machine's.
    given = [name.strip() for name in os.environ.get(GPUS, "").split(",") if name.strip()]
    names = (given or [str(number) for number in range(count)])[:count]
    gpus = tuple(",".join(names[at : at + processes]) for at in range(0, count - processes + 1, processes))
    jobs = parallel or max(1, (count or cores) // processes)
    return jobs, max(1, cores // (jobs * processes)), gpus
