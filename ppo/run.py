"""A run of PPO: saving, the hooks at each checkpoint, resuming."""

import time
from dataclasses import dataclass, field
from pathlib import Path

from core.engines.resume import STATE, forget_states, newest_step
from core.engines.saving import Saver, Weights
from core.hooks.hook import RunParts, eval_file, read_evaluation, rewind, run_hooks
from core.hooks.run_context import RunContext
from core.models.export import export_model
from core.process.precision import autocast
from core.process.signals import Preempted, Preemption
from core.records import CheckpointSaved
from core.runs.checkpoints import SaveTimer, step_folder
from core.runs.retention import Keep, prune
from ppo.guards import guarded
from ppo.metrics import BatchWatch, rollout_metrics
from ppo.session import PPOSession
from ppo.shaping import ScoreStatistics
from ppo.state import PPOState, checkpoint_batches, read_state, take_evaluation, tell_if_untrained_is_best, write_state


@dataclass(frozen=True, kw_only=True, slots=True)
class PPOResult:
    """The steps of the last and the best checkpoint (0 is the policy before training), and the best value of `best_metric`.

    `stopped_because` is empty for a run that completed all its batches.
    """

    last_step: int
    best_step: int
    best_value: float | None
    num_dropped_prompts: int
    stopped_because: str = ""
    train_s: float = field(default=0.0, compare=False)
    hooks_s: float = field(default=0.0, compare=False)
    """Seconds of this process, and those of them that the hooks took."""


class PPORun:
    """What happens to a session's policy between updates: it is saved, evaluated by the hooks, and restored."""

    def __init__(self, session: PPOSession, context: RunContext, preemption: Preemption) -> None:
        self.session, self.context, self.preemption, self.config = session, context, preemption, session.config
        self.started, self.hooks_s = time.monotonic(), 0.0
        context.show_hooks()
        self.planned = checkpoint_batches(self.config)
        """The steps whose checkpoints the hooks run on; a step is a batch."""
        self.saved_step = 0
        self.timer = SaveTimer(self.config.save_minutes)
        self.saver = Saver(context.world, session.engine, context.dir, planned=self.planned, prefix="actor.")

    def begin(self) -> PPOState:
        """The state of the newest checkpoint that can be resumed from, otherwise of step 0; runs its hooks if they have not finished."""
        context, last = self.context, self.config.num_batches
        ended = context.world.from_main(eval_file(context.dir, last).exists)
        step = newest_step(context.world, context.dir, context.say, ended_at=last if ended else 0)
        context.world.from_main(lambda: rewind(context.dir, step))
        state = self._restored(step) if step else self._untrained()
        if not step or (step in self.planned and not self.context.world.from_main(eval_file(self.context.dir, step).exists)):
            self._evaluate(state)
        elif step in self.planned:
            take_evaluation(state, self.context.world.from_main(lambda: read_evaluation(self.context.dir, step)), self.config, self.context)
        self.saved_step = state.step
        self.timer.restart()
        return state

    def is_over(self, state: PPOState) -> bool:
        """Whether all batches are done, or the evaluations gave a reason to stop early."""
        return state.step >= self.config.num_batches or bool(state.stopped_because)

    def stop_if_asked(self, state: PPOState) -> None:
        """Raises `Preempted` if a process was told to stop during the rollout; the weights are still those of `state`, which is saved."""
        if any(self.context.world.all_sum([self.preemption.requested])):
            if self.saved_step < state.step:
                self._save(state)
            self.saver.wait()
            raise self._preempted(state)

    def checkpoint(self, state: PPOState) -> None:
        """Saves and runs the hooks if they are due after this batch; raises `Preempted`, after saving, if the run was told to stop."""
        planned = state.step in self.planned
        # Summed, so that all processes act alike.
        stop, overdue = self.context.world.all_sum([self.preemption.requested, self.timer.overdue])
        if planned or stop or overdue:
            self._save(state)
        if planned or stop:  # others read it now, or nobody is there any more
            self.saver.wait()
        if stop:
            raise self._preempted(state)
        if planned:
            with self.preemption.interruptible():
                self._evaluate(state)

    def finish(self, state: PPOState) -> PPOResult:
        """The result of the run; tells the hooks that it has ended."""
        reason = state.stopped_because
        self.saver.wait()
        if reason:
            self.context.say(f"stopped after batch {state.step} of {self.config.num_batches}: {reason}")
        tell_if_untrained_is_best(state, self.config, self.context)
        if self.context.world.is_main:
            # The last state is kept until the run is recorded as finished: if started again before, it must find its last step.
            forget_states(self.context.dir, keep=[state.step], planned=self.planned)
            prune(self.context.dir, Keep.of(self.config.keep), measured=self.planned, best=state.best_step)
        self.context.end(state.step)
        return PPOResult(
            last_step=state.step,
            best_step=state.best_step,
            best_value=state.best_value,
            num_dropped_prompts=self.session.num_dropped_prompts,
            stopped_because=reason,
            train_s=time.monotonic() - self.started,
            hooks_s=self.hooks_s,
        )

    def _untrained(self) -> PPOState:
        """Step 0: the policy before training, whose scores are what shaping centres on and scales by."""
        session = self.session
        with guarded(self.context.dir, self.config.algo, 0):
            episodes = session.episodes(0)
        statistics = ScoreStatistics.of_reference(episodes.scores_B)
        state = PPOState(
            step=0,
            statistics=statistics,
            kl_coef=self.config.kl.beta,
            metrics=rollout_metrics(episodes),
            moments=session.scorer.moments,
            value_scale=session.first_value_scale(episodes, statistics),
        )
        session.networks.value_scale = state.value_scale
        BatchWatch(self.config, self.context, kl=0.0).see(state.metrics, 0)
        return state

    def _restored(self, step: int) -> PPOState:
        folder = step_folder(self.context.dir, step)
        if (folder / STATE).is_dir():  # the last one has none if a finished run lost its record
            self.session.engine.load(folder / STATE)
        state = read_state(folder)
        self.session.scorer.moments, self.session.networks.value_scale = state.moments, state.value_scale
        self.context.warn(*state.warnings)
        return state

    def _save(self, state: PPOState) -> None:
        """Writes a checkpoint: a policy that any tool loads, and what resuming needs."""
        session = self.session
        state.warnings = self.context.told

        def write(folder: Path, weights: Weights) -> None:
            export_model(session.networks.actor, session.tokenizer, folder, weights=weights)
            write_state(folder, state)

        self.saver.save(state.step, write)
        self.saved_step = state.step
        self.timer.restart()

    def _evaluate(self, state: PPOState) -> None:
        """Runs the hooks on the policy in memory."""
        session, context = self.session, self.context
        event = CheckpointSaved(
            step=state.step,
            num_steps=self.config.num_batches,
            path=step_folder(context.dir, state.step) if state.step else Path(self.config.model.path),
            run_dir=context.dir,
            model=session.policy_to_evaluate(),
            tokenizer=session.tokenizer,
            metrics=state.metrics,
        )
        started = time.monotonic()
        parts = RunParts(world=context.world, generator=session.generator)
        with autocast(context.world.device, self.config.model.dtype):
            metrics = run_hooks(context.hooks, event, context.tracker, parts=parts)
        self.hooks_s += time.monotonic() - started
        take_evaluation(state, metrics, self.config, self.context)

    def _preempted(self, state: PPOState) -> Preempted:
        return Preempted.saved_at(f"batch {state.step} of {self.config.num_batches}", self.preemption.code)
