"""Best-of-N as a job: the pools, made or found, and each reward model's choices from them."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bon.pools import Pools, bounds, make_pools, rerank
from core.config import RolloutKind
from core.data.chat import prompt_lengths
from core.data.token_rows import require_readable
from core.generators.open import open_generator
from core.models.load import load_policy, load_reward_model
from core.models.positions import require_room
from core.process.world import join_world
from core.progress import NoProgress, Progress
from core.records import Completion, Dialogue, Generator, RolloutEngine, Sampling
from core.runs.warnings import RunWarning, answers_cut, few_rows
from core.scorers.reward_model import RewardModelScorer
from launch.entry import print_on_main
from launch.inputs import BoNInputs, BoNResult
from launch.schema import BoNJob


def run(job: BoNJob, inputs: BoNInputs, progress: Progress, say: Callable[[str], None] = print_on_main) -> BoNResult:
    """Makes the pools, unless they are there, and reranks them by every reward model.

    Where several processes were started together, all of them call it, and each does its share. Raises `ValueError` where the
    folder holds pools of another identity.
    """
    world = join_world()
    progress = progress if world.is_main else NoProgress()
    folder = Path(job.pools or f"{job.runs_dir}/{job.study}/pools")
    prompts = {name: task.prompts[: job.pool.limit] for name, task in inputs.tasks.items()}
    verifiers = {name: task.verifier for name, task in inputs.tasks.items()}
    sampling = Sampling(n=job.pool.n, temperature=job.pool.temperature, max_new_tokens=job.pool.max_new_tokens, seed=job.pool.seed)
    progress.start("sampling pools", sum(map(len, prompts.values())))
    asked = {f"{task}, {prompt.id}": prompt.dialogue for task, rows in prompts.items() for prompt in rows}
    policy = _Policy(job, asked) if job.rollout.kind != RolloutKind.vllm or world.is_main else None
    pools = make_pools(folder, prompts, verifiers, policy, sampling, progress.advance, origin=inputs.identity, world=world)
    cut = _answers_cut(policy, sampling)
    del policy  # its memory is for the reward models
    progress.finish()
    for warning in (cut, _few_prompts(job, pools)):
        if warning:
            say(warning.line)
    size = min(len(row.completions) for rows in pools.values() for row in rows)
    rewards: dict[str, dict[str, float]] = {}
    for name, model in inputs.rewards.items():
        scorer = RewardModelScorer(
            *load_reward_model(model), batch_tokens=job.hooks.batch_tokens, max_length=job.hooks.max_length, say=say, world=world
        )
        rewards[name] = rerank(pools, scorer, job.sizes, say=lambda line, name=name: say(f"{name}: {line}"))
        if scorer.num_truncated:
            say(f"{name}: {scorer.num_truncated} texts were cut to hooks.max_length={job.hooks.max_length} tokens; raise it")
    return BoNResult(dir=str(folder), n=size, bounds=bounds(pools, size), rewards=rewards)


def _answers_cut(policy: "_Policy | None", sampling: Sampling) -> RunWarning | None:
    """Warns of pools that were drawn now and hold few whole answers."""
    if policy is None or not policy.num_answers:
        return None
    finished = policy.num_finished / policy.num_answers
    return answers_cut(finished, where="in the pools", key="pool.max_new_tokens", limit=sampling.max_new_tokens)


def _few_prompts(job: BoNJob, pools: Pools) -> RunWarning | None:
    """Warns of tasks with too few prompts to tell reward models apart."""
    key = "pool.limit" if job.pool.limit is not None else "tasks"
    return few_rows({task: len(rows) for task, rows in pools.items()}, what="a task", key=key, remedy=f"raise {key}, or give larger tasks")


class _Policy:
    """Answers prompts by a model that is loaded when it is first asked: pools that are there already need none.

    Raises `ValueError` before it answers the first one if it cannot read all prompts in `asked`, by name, or has no room for them.
    """

    def __init__(self, job: BoNJob, asked: Mapping[str, Dialogue]) -> None:
        self._job, self._asked = job, asked
        self._generator: Generator | None = None
        self.num_answers = self.num_finished = 0
        """Answers so far, and those among them that ended before the token limit."""

    def generate(self, prompts: Sequence[Dialogue], sampling: Sampling) -> list[list[Completion]]:
        if self._generator is None:
            policy, tokenizer = load_policy(self._job.model)
            require_readable(tokenizer, self._asked, self._job.model.path)
            require_room(policy, max(prompt_lengths(tokenizer, list(self._asked.values()))), sampling.max_new_tokens)
            self._generator = open_generator(self._job.rollout, policy, tokenizer)
            if isinstance(self._generator, RolloutEngine):
                self._generator.load_weights(policy.state_dict().items())
        answers = self._generator.generate(prompts, sampling)
        self.num_answers += sum(map(len, answers))
        self.num_finished += sum(completion.finished for row in answers for completion in row)
        return answers
