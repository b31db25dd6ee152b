"""A run of PPO: its checkpoints, the hooks at each of them, the best one, and how it resumes."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from core.engines.resume import STATE, newest_step, save_step
from core.hooks.hook import eval_file, read_evaluation, run_hooks
from core.hooks.run_context import RunContext
from core.models.export import export_model
from core.process.precision import autocast
from core.process.signals import Preempted, Preemption
from core.records import CheckpointSaved
from core.runs.checkpoints import SaveTimer, step_folder
from ppo.guards import guarded
from ppo.metrics import rollout_metrics
from ppo.session import PPOSession
from ppo.shaping import ScoreStatistics
from ppo.state import PPOState, read_state, write_state
from ppo.stopping import checkpoint_batches, take_evaluation


@dataclass(frozen=True, kw_only=True, slots=True)
class PPOResult:
    """The last and the best checkpoint's steps (0 is the policy before training), and the best value of the metric that counts.

    `stopped_because` is empty for a run that did all its batches.
    """

    last_step: int
    best_step: int
    best_value: float | None
    num_dropped_prompts: int
    stopped_because: str = ""


class PPORun:
    """What happens to a session's policy outside its updates: it is saved, handed to the hooks, compared, restored."""

    def __init__(self, session: PPOSession, context: RunContext, preemption: Preemption) -> None:
        self.session, self.context, self.preemption, self.config = session, context, preemption, session.config
        self.planned = checkpoint_batches(self.config)
        """The steps whose checkpoints the hooks run on; a step is a batch."""
        self.saved_step = 0
        self.timer = SaveTimer(self.config.save_minutes)

    def begin(self) -> PPOState:
        """The state of the newest checkpoint that can be resumed from, else of step 0; with the hooks that are missing run."""
        step = newest_step(self.context.world, self.context.dir, self.context.say)
        state = self._restored(step) if step else self._untrained()
        if not step or (step in self.planned and not self.context.world.from_main(eval_file(self.context.dir, step).exists)):
            self._evaluate(state)
        elif step in self.planned:
            self._compare(state, self.context.world.from_main(lambda: read_evaluation(self.context.dir, step)))
        self.saved_step = state.step
        self.timer.restart()
        return state

    def is_over(self, state: PPOState) -> bool:
        """Whether all batches are done, or the hooks have shown that more would do harm."""
        return state.step >= self.config.num_batches or bool(state.stopped_because)

    def stop_if_asked(self, state: PPOState) -> None:
        """Raises `Preempted` if a process was told to stop while it drew: the weights are still those of `state`, which is saved."""
        if any(self.context.world.all_sum([self.preemption.requested])):
            if self.saved_step < state.step:
                self._save(state)
            raise self._preempted(state)

    def checkpoint(self, state: PPOState) -> None:
        """Saves and calls the hooks where they are due after a batch; raises `Preempted`, saved, if the run was told to stop."""
        planned = state.step in self.planned
        # Summed, so that all processes act alike.
        stop, overdue = self.context.world.all_sum([self.preemption.requested, self.timer.overdue])
        if planned or stop or overdue:
            self._save(state)
        if stop:
            raise self._preempted(state)
        if planned:
            with self.preemption.interruptible():
                self._evaluate(state)

    def finish(self, state: PPOState) -> PPOResult:
        """What the run has come to; tells the hooks that it has ended."""
        reason = state.stopped_because
        if reason:
            self.context.say(f"stopped after batch {state.step} of {self.config.num_batches}: {reason}")
        self.context.end(state.step)
        return PPOResult(
            last_step=state.step,
            best_step=state.best_step,
            best_value=state.best_value,
            num_dropped_prompts=self.session.num_dropped_prompts,
            stopped_because=reason,
        )

    def _untrained(self) -> PPOState:
        """Step 0: the policy before training, whose scores are what shaping centres on and scales by."""
        session = self.session
        with guarded(self.context.dir, 0):
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
        return state

    def _restored(self, step: int) -> PPOState:
        folder = step_folder(self.context.dir, step)
        self.session.engine.load(folder / STATE)
        state = read_state(folder)
        self.session.scorer.moments, self.session.networks.value_scale = state.moments, state.value_scale
        return state

    def _save(self, state: PPOState) -> None:
        """Writes a checkpoint: a policy that any tool loads, and beside it what resuming needs."""
        session = self.session
        weights = session.engine.weights("actor.") if session.engine.sharded else None

        def write(folder: Path) -> None:
            export_model(session.networks.actor, session.tokenizer, folder, weights=weights)
            write_state(folder, state)

        save_step(self.context.world, session.engine, self.context.dir, state.step, planned=self.planned, write=write)
        self.saved_step = state.step
        self.timer.restart()

    def _evaluate(self, state: PPOState) -> None:
        """Calls the hooks on the policy in memory, while the other processes wait."""
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
        with autocast(context.world.device, self.config.model.dtype):
            metrics = context.world.from_main(lambda: run_hooks(context.hooks, event, context.tracker))
        self._compare(state, metrics)

    def _compare(self, state: PPOState, metrics: Mapping[str, float]) -> None:
        take_evaluation(state, metrics, self.config, run_dir=self.context.dir, hooks=self.context.hooks, world=self.context.world)

    def _preempted(self, state: PPOState) -> Preempted:
        return Preempted.saved_at(f"batch {state.step} of {self.config.num_batches}")
