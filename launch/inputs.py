"""The inputs of a job, read once before a study starts its first: what is broken must not be found out after an hour."""

from core.sources import resolve
from evalhooks.benchmark import load_rewardbench1, load_rewardbench2
from evalhooks.tasks import load_tasks
from launch.schema import BoNJob, Launch, PPOJob, RMJob
from ppo.prompts import read_prompts
from rmtrain.data import load_preferences


def check_inputs(job: Launch) -> None:
    """Raises `ValueError` for a file of the job that cannot be read, or a model that is not there. Loads no model."""
    if isinstance(job, RMJob):
        load_preferences(job.data, seed=job.seed, say=lambda _: None)
    if isinstance(job, PPOJob):
        read_prompts(job.prompts)
    if isinstance(job, (RMJob, PPOJob, BoNJob)):
        resolve(job.model)
    if job.hooks.rewardbench2:
        load_rewardbench2(job.hooks.rewardbench2, limit=job.hooks.limit)
    if job.hooks.rewardbench1:
        load_rewardbench1(job.hooks.rewardbench1, limit=job.hooks.limit)
    load_tasks(job.tasks)
