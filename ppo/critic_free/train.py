"""RLOO (Ahmadian et al. 2024) and GRPO (Shao et al. 2024) by TRL's trainers, with our rewards, hooks, checkpoints and metrics.

Neither has a critic: the completions of a prompt are each other's baseline. TRL draws and updates; what a run of PPO
promises its reader is kept here: the same prompts in the same order, shaped scores, names of metrics, steps that count
rollout batches, folders. Import this module only for such a run: what it imports takes seconds.
"""

import math
import shutil
import tempfile
import time
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)

from core.config import Dtype
from core.data.chat import parse_dialogue
from core.disk import MARKER, atomic_folder
from core.generators.local import TransformersGenerator
from core.hooks.hook import Hook, eval_file, read_evaluation, run_hooks
from core.hooks.trainer_callback import HookCallback, Place
from core.models.load import load_policy
from core.process.precision import autocast, without_autocast
from core.process.signals import Preemption
from core.progress import Progress
from core.records import CheckpointSaved, Dialogue, RunEnded, Sampling, Scorer, Tracker
from core.runs.checkpoints import complete_steps, latest_complete, point_best, step_folder
from core.scorers.weighted import WeightedScorer
from ppo.config import PPOConfig
from ppo.critic_free.arguments import ignored_line, require_supported, updates
from ppo.critic_free.trainer import fitting_prompts, group_prompts, load_trainable, old_names, open_trainer
from ppo.guards import DivergenceError, ended, require_kl_below, require_measured, why_stop
from ppo.metrics import Metric, completion_metrics, shaped_metrics, training_row
from ppo.rollout import combined_scores
from ppo.shaping import Moments, ScoreStatistics, shaped_scores
from ppo.state import PPOState, read_state, write_state
from ppo.train import PPOResult

TRAINER = "trainer"
SCRATCH = "trl"
"""Where in a run TRL writes a checkpoint before it gets its place; nothing is left there."""
OWN = ("optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json")
"""What of a checkpoint of transformers only resuming needs."""
NAMES = {
    "entropy": Metric.ENTROPY,
    "clip_ratio/region_mean": Metric.CLIP_FRACTION,
    "grad_norm": Metric.GRAD_NORM,
    "learning_rate": Metric.LR,
}
"""Our names of what TRL logs."""
LATEST = ("learning_rate", "num_tokens")
"""Of which the last value of a batch is logged; of all else the mean."""
SAME = [
    "kl",
    "epoch",
    "reward",
    "reward_std",
    "rewards/reward/mean",
    "rewards/reward/std",
    "completions/mean_length",
    "completions/clipped_ratio",
]
"""What TRL logs and we log ourselves: from the scores, or per completion."""


def train_grouped(
    config: PPOConfig,
    run_dir: Path,
    *,
    prompts: Sequence[Dialogue],
    scorer: Scorer,
    hooks: Sequence[Hook],
    tracker: Tracker,
    progress: Progress,
    say: Callable[[str], None] = print,
) -> PPOResult:
    """Trains a policy against `scorer` by `config.algo`, rloo or grpo; continues from the last complete checkpoint in `run_dir`.

    The hooks run on the untrained policy as step 0 and at every checkpoint. Raises `ValueError` before any work where TRL
    cannot do what `config` asks for (`require_supported`), `DivergenceError` where scores or gradients are not finite or
    the KL is above `config.kl.stop`, and `Preempted`, all saved, after a SIGTERM.
    """
    require_supported(config)
    if line := ignored_line(config):
        say(line)
    with Preemption().listening() as preemption:
        with preemption.interruptible():
            policy, tokenizer = load_trainable(config)
            fitting = fitting_prompts(prompts, tokenizer, config)
            if len(fitting) < len(prompts):
                say(f"dropped {len(prompts) - len(fitting)} prompts longer than max_prompt_length={config.max_prompt_length} tokens")
            run = _Run(config, run_dir, scorer=scorer, tracker=tracker, progress=progress, preemption=preemption)
            own_hooks = run.hooks = [_Interruptible(hook, preemption) for hook in hooks]
            resumed = latest_complete(run_dir, say)
            _begin(run, policy, tokenizer, fitting, own_hooks, resumed, say)
        progress.start(str(config.algo).upper(), config.num_batches)
        progress.advance(run.state.step)
        if run.state.step < config.num_batches and not run.state.stopped_because:
            _train(run, policy, tokenizer, fitting, own_hooks, resumed)
        else:
            for hook in hooks:
                hook.on_end(RunEnded(run_dir=run_dir, step=run.state.step))
        progress.finish()
    state = run.state
    if state.stopped_because:
        say(f"stopped after batch {state.step} of {config.num_batches}: {state.stopped_because}")
    return PPOResult(
        last_step=state.step,
        best_step=state.best_step,
        best_value=state.best_value,
        num_dropped_prompts=len(prompts) - len(fitting),
        stopped_because=state.stopped_because,
    )


class _Run(TrainerCallback):
    """Where the run stands, and what becomes of TRL's events: seeds, guards, metrics, checkpoints."""

    def __init__(
        self, config: PPOConfig, run_dir: Path, *, scorer: Scorer, tracker: Tracker, progress: Progress, preemption: Preemption
    ) -> None:
        self.config, self.run_dir, self.scorer = config, run_dir, WeightedScorer.of(scorer)
        self.tracker, self.progress, self.preemption = tracker, progress, preemption
        self.updates, self.saved_at = updates(config), time.monotonic()
        self.save_at = {round(config.num_batches * (i + 1) / config.num_checkpoints) for i in range(config.num_checkpoints)}
        nothing = ScoreStatistics(reference=Moments(), running=Moments())
        self.state = PPOState(step=0, statistics=nothing, kl_coef=config.kl.beta, metrics={})
        self.ends: frozenset[int] = frozenset()
        """Ids that end a completion."""
        self.hooks: Sequence[Hook] = ()
        self.shaped: dict[str, float] = {}
        self.logs: list[Mapping[str, Any]] = []
        """What TRL has logged in this batch, one for each update."""

    def reward(self, prompts: list[Any], completions: list[Any], completion_ids: list[list[int]], **_: Any) -> list[float]:
        """The shaped scores of a rollout batch, for TRL: `group_size` completions of a prompt, then those of the next."""
        size = self.config.group_size
        dialogues = [parse_dialogue(prompt, "a prompt") for prompt in prompts[::size]]
        texts = [_text(completion) for completion in completions]
        groups = [texts[start : start + size] for start in range(0, len(texts), size)]
        with self._guarded(self.state.step + 1):
            scores_B = _scores(self.scorer, dialogues, groups)
        finished_B = torch.tensor([ids[-1:] != [] and ids[-1] in self.ends for ids in completion_ids])
        lengths_B = torch.tensor([len(ids) for ids in completion_ids])
        self.state.statistics = self.state.statistics.seen(scores_B)
        shaped_B = shaped_scores(
            scores_B,
            finished_B=finished_B,
            lengths_B=lengths_B,
            max_length=self.config.max_new_tokens,
            config=self.config.shaping,
            statistics=self.state.statistics,
        )
        self.state.metrics = completion_metrics(scores_B, finished_B, lengths_B)
        self.shaped = shaped_metrics(shaped_B)
        return shaped_B.tolist()

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        # All that a batch draws is then a function of seed and batch, so that a resumed run draws the same.
        if state.global_step % self.updates == 0:
            set_seed(self.config.seed * 100_003 + self.state.step + 1)

    def on_pre_optimizer_step(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        gradients = [parameter.grad for parameter in kwargs["model"].parameters() if parameter.grad is not None]
        # One transfer from the device; a sum is finite only where all of its terms are.
        if not torch.stack([gradient.float().abs().sum() for gradient in gradients]).sum().isfinite():
            with self._guarded(self.state.step + 1):
                raise DivergenceError("a gradient is not finite. Lower optim.lr or epochs, or train with model.dtype=fp32.")

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.global_step % self.updates:
            return  # a batch is either in the weights or not: in its middle nothing is saved
        self.state.step = state.global_step // self.updates
        self.progress.advance()
        overdue = time.monotonic() - self.saved_at > 60 * self.config.save_minutes
        control.should_save = self.state.step in self.save_at or overdue or self.preemption.requested

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if "loss" not in kwargs["logs"]:  # the trainer's farewell
            return
        self.logs.append(kwargs["logs"])
        if len(self.logs) == 1:
            # In the first update the policy is still the one that drew. TRL's is a mean over tokens, ours is per completion.
            self.state.metrics[Metric.KL] = float(kwargs["logs"].get("kl", math.nan)) * self.state.metrics[Metric.LENGTH]
            with self._guarded((state.global_step - 1) // self.updates + 1):
                require_kl_below(self.state.metrics[Metric.KL], self.config.kl)
        if len(self.logs) == self.updates:
            measured = {**self.state.metrics, **self.shaped, Metric.KL_COEF: self.config.kl.beta, **renamed(self.logs)}
            self.tracker.log(training_row(measured), axis="train/step", step=self.state.step)
            self.logs = []

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        assert args.output_dir is not None
        self.saved_at = time.monotonic()
        keep(Path(args.output_dir) / f"checkpoint-{state.global_step}", self.run_dir, self.state, planned=self.save_at)
        self.preemption.check()

    def place(self, args: TrainingArguments, state: TrainerState) -> Place:
        """Where the last checkpoint is, for the hooks."""
        step = self.state.step
        path = step_folder(self.run_dir, step)
        return Place(
            step=step,
            num_steps=self.config.num_batches,
            path=path,
            run_dir=self.run_dir,
            metrics=self.state.metrics,
            due=step in self.save_at,
        )

    def consider(self, step: int, metrics: Mapping[str, float]) -> None:
        """Takes the checkpoint as the best if it is, and decides whether it was the last."""
        require_measured(self.config.best_metric, metrics, self.hooks)
        if self.state.consider(step, metrics.get(self.config.best_metric)) and step:
            point_best(self.run_dir, step)
        self.state.stopped_because = why_stop(self.run_dir, step, self.config.best_metric, self.config.stop_after_falls)

    @contextmanager
    def _guarded(self, batch: int) -> Iterator[None]:
        """Adds to a `DivergenceError` where it happened and which checkpoint is left."""
        try:
            yield
        except DivergenceError as why:
            raise DivergenceError(ended(self.run_dir, batch, str(why))) from None


class _Stop(TrainerCallback):
    """Ends the training after the hooks, where they were enough."""

    def __init__(self, run: _Run) -> None:
        self.run = run

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        control.should_training_stop = control.should_training_stop or bool(self.run.state.stopped_because)


class _Interruptible(Hook):
    """A hook during which a signal ends the run at once: all is saved."""

    def __init__(self, hook: Hook, preemption: Preemption) -> None:
        self.hook, self.preemption = hook, preemption

    def on_checkpoint(self, event: CheckpointSaved) -> Mapping[str, float]:
        with self.preemption.interruptible():
            return self.hook.on_checkpoint(event)

    def on_end(self, event: RunEnded) -> None:
        self.hook.on_end(event)


def renamed(logs: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """What TRL logged over the updates of a batch, their means: under our names, and the rest as `trl/NAME`."""
    names = dict.fromkeys(name for row in logs for name in row if name not in SAME)
    measured: dict[str, float] = {}
    for name in names:
        # TRL gives None for what it has not measured.
        values = [float(row[name]) for row in logs if isinstance(row.get(name), int | float)]
        if values:
            measured[NAMES.get(name, f"trl/{name}")] = values[-1] if name in LATEST else sum(values) / len(values)
    return measured


def keep(saved: Path, run_dir: Path, state: PPOState, *, planned: Container[int]) -> None:
    """Moves what transformers saved to `checkpoints/step-NNNNNN/`: a plain model, and under `trainer/` what resuming needs.

    Of earlier checkpoints, those at `planned` steps lose their optimiser, and others, saved between them, go.
    """
    target = step_folder(run_dir, state.step)
    with atomic_folder(target) as folder:
        (folder / TRAINER).mkdir()
        for file in saved.iterdir():
            if file.name != "training_args.bin":  # a pickle that nobody reads
                shutil.move(file, folder / TRAINER / file.name if file.name in OWN else folder / file.name)
        write_state(folder, state)
    shutil.rmtree(saved)
    for earlier in complete_steps(run_dir):
        if earlier < state.step:  # only the newest is ever resumed from
            folder = step_folder(run_dir, earlier)
            (folder / TRAINER / "optimizer.pt").unlink(missing_ok=True)
            if earlier not in planned:
                (folder / MARKER).unlink()  # first: half of a checkpoint must not be taken for a whole one
                shutil.rmtree(folder)


@contextmanager
def as_saved(checkpoint: Path) -> Iterator[str]:
    """A folder in which transformers finds a checkpoint of ours as it would have saved it: links, no copies."""
    with tempfile.TemporaryDirectory() as folder:
        for file in (*checkpoint.iterdir(), *(checkpoint / TRAINER).iterdir()):
            if file.is_file():
                Path(folder, file.name).symlink_to(file.resolve())
        yield folder


def _begin(
    run: _Run,
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Dialogue],
    hooks: Sequence[Hook],
    resumed: Path | None,
    say: Callable[[str], None],
) -> None:
    """The state of the newest complete checkpoint, its hooks made up for if they had not run; else step 0, measured."""
    config, run_dir = run.config, run.run_dir
    model, path = policy, Path(config.model.path)
    if resumed is None:
        with _autocast(config):
            run.state = _untrained(run, policy, tokenizer, prompts)
    else:
        say(f"resuming {run_dir.name} from {resumed.name}")
        run.state, path = read_state(resumed), resumed
        run.scorer.moments = run.state.moments
        if run.state.step not in run.save_at:  # saved for a signal alone, so no hook is owed
            return
        if eval_file(run_dir, run.state.step).exists():
            run.consider(run.state.step, read_evaluation(run_dir, run.state.step))
            return
        model, _ = load_policy(replace(config.model, path=str(resumed), revision=None, dtype=Dtype.fp32))
    event = CheckpointSaved(
        step=run.state.step,
        num_steps=config.num_batches,
        path=path,
        run_dir=run_dir,
        model=model,
        tokenizer=tokenizer,
        metrics=run.state.metrics,
    )
    with _autocast(config):
        metrics = run_hooks(hooks, event, run.tracker)
    run.consider(run.state.step, metrics)


def _untrained(run: _Run, policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Dialogue]) -> PPOState:
    """Step 0: the policy before training on a batch of its own, whose scores are the statistics of the reference."""
    config = run.config
    asked = group_prompts(prompts, 0, config)
    sampling = Sampling(
        n=config.group_size, temperature=config.temperature, max_new_tokens=config.max_new_tokens, seed=config.seed * 100_003
    )
    groups = TransformersGenerator(policy, tokenizer).generate(asked, sampling)
    scores_B = _scores(run.scorer, asked, [[completion.text for completion in group] for group in groups])
    drawn = [completion for group in groups for completion in group]
    lengths_B = torch.tensor([len(completion.token_ids) for completion in drawn])
    metrics = {Metric.KL: 0.0, **completion_metrics(scores_B, torch.tensor([completion.finished for completion in drawn]), lengths_B)}
    statistics = ScoreStatistics.of_reference(scores_B)
    return PPOState(step=0, statistics=statistics, kl_coef=config.kl.beta, metrics=metrics, moments=run.scorer.moments)


def _train(
    run: _Run,
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Dialogue],
    hooks: Sequence[Hook],
    resumed: Path | None,
) -> None:
    """Has TRL do the batches that are left."""
    scratch = run.run_dir / SCRATCH
    shutil.rmtree(scratch, ignore_errors=True)  # what a killed process left
    trainer = open_trainer(run.config, policy, tokenizer, prompts, reward=run.reward, scratch=scratch)
    run.ends = frozenset(trainer.eos_token_ids)
    trainer.remove_callback(PrinterCallback)
    for callback in (run, HookCallback(hooks, run.tracker, tokenizer, place=run.place, then=run.consider), _Stop(run)):
        trainer.add_callback(callback)
    try:
        with as_saved(resumed) if resumed else nullcontext() as folder, old_names():
            trainer.train(resume_from_checkpoint=folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _text(completion: Any) -> str:
    # After a prompt of turns it is a list of one turn.
    return completion if isinstance(completion, str) else completion[0]["content"]


def _scores(scorer: WeightedScorer, prompts: Sequence[Dialogue], groups: Sequence[Sequence[str]]) -> Tensor:
    with without_autocast():
        parts = scorer.parts(prompts, groups)
    terms = {name: torch.tensor([score for row in rows for score in row]) for name, rows in parts.items()}
    return combined_scores(scorer, terms)


def _autocast(config: PPOConfig) -> AbstractContextManager[Any]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return autocast(device, config.model.dtype)
