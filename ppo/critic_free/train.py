"""RLOO (Ahmadian et al. 2024) and GRPO (Shao et al. 2024) by TRL's trainers, with our rewards, hooks, checkpoints and metrics.

Neither has a critic: the completions of a prompt are each other's baseline. TRL samples and updates; the rest is as in a PPO
run: the same prompts in the same order, shaped scores, metric names, steps that count rollout batches, folders. Import this
module only for such a run: its imports take seconds.

Shapes: B completions of all groups.
"""

import shutil
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback

from core.config import Dtype, RolloutKind
from core.data.turn_ends import turn_ends
from core.engines.resume import forget_states, newest_step
from core.generators.local import TransformersGenerator
from core.generators.open import open_generator
from core.generators.shared import draw_share
from core.hooks.hook import RunParts, eval_file, read_evaluation, rewind, run_hooks
from core.hooks.run_context import RunContext
from core.hooks.trainer_callback import HookCallback
from core.models.adapters import merged_weights
from core.models.load import load_policy
from core.process.precision import autocast
from core.process.signals import Preemption
from core.records import CheckpointSaved, Completion, Dialogue, RolloutEngine, Sampling, Scorer
from core.runs.checkpoints import step_folder
from core.runs.retention import Keep, prune
from core.scorers.weighted import WeightedScorer
from ppo.config import PPOConfig
from ppo.critic_free.arguments import ignored_settings, require_supported
from ppo.critic_free.callback import InterruptibleHook, RunCallback, StopCallback
from ppo.critic_free.checkpoints import as_saved
from ppo.critic_free.reward import BatchReward, score_groups
from ppo.critic_free.served import Draw
from ppo.critic_free.trainer import group_prompts, load_trainable, old_names, open_trainer, own_forward, usable_prompts
from ppo.guards import guarded
from ppo.metrics import BatchWatch, Metric, completion_metrics
from ppo.run import PPOResult
from ppo.shaping import ScoreStatistics
from ppo.state import PPOState, checkpoint_batches, read_state, take_evaluation, tell_dropped, tell_if_untrained_is_best

SCRATCH = "trl"
"""Where in a run's folder TRL writes a checkpoint before it is moved into place; removed at the end."""


def train_critic_free(config: PPOConfig, run: RunContext, *, prompts: Sequence[Dialogue], scorer: Scorer) -> PPOResult:
    """Trains a policy against `scorer` by `config.algo`, rloo or grpo; continues from the newest complete checkpoint in `run.dir`.

    The hooks run on the untrained policy as step 0 and at every checkpoint. Raises `ValueError` before any work if TRL
    does not support what `config` asks for (`require_supported`), `DivergenceError` if scores or gradients are not finite or
    the KL is above `config.kl.stop`, and `Preempted`, with everything saved, after a SIGTERM or Ctrl-C.
    """
    require_supported(config)
    started = time.monotonic()
    if ignored := ignored_settings(config):
        run.say(ignored)
    with Preemption().listening() as preemption:
        run.show_hooks()
        hooks = [InterruptibleHook(hook, preemption, config.model.dtype) for hook in run.hooks]
        run = replace(run, hooks=hooks)
        with preemption.interruptible():
            policy, tokenizer = load_trainable(config)
            fitting = usable_prompts(prompts, policy, tokenizer, config, run)
            tell_dropped(run, len(prompts) - len(fitting), len(prompts), config.max_prompt_length)
            weighted, last = WeightedScorer.of(scorer), config.num_batches
            ended = run.world.from_main(eval_file(run.dir, last).exists)
            step = newest_step(run.world, run.dir, run.say, ended_at=last if ended else 0)
            run.world.from_main(lambda: rewind(run.dir, step))
            resumed = step_folder(run.dir, step) if step else None
            if resumed is None:
                state = _untrained(config, run, policy, tokenizer, fitting, weighted)
            else:
                state = _resumed(config, run, resumed, tokenizer, weighted)
        run.progress.start(str(config.algo).upper(), config.num_batches, unit="batch", done=state.step)
        if state.step < config.num_batches and not state.stopped_because:
            reward = BatchReward(config, run, state, weighted, tokenizer=tokenizer, ends=turn_ends(policy, tokenizer))
            callback = RunCallback(config, run, state, reward, preemption, generation=policy.generation_config)
            _train(callback, policy, tokenizer, fitting, resumed)
        else:
            run.end(state.step)
        run.progress.finish()
    if state.stopped_because:
        run.say(f"stopped after batch {state.step} of {config.num_batches}: {state.stopped_because}")
    tell_if_untrained_is_best(state, config, run)
    if run.world.is_main:
        # The last state is kept until the run is recorded as finished: if started again before, it must find its last step.
        forget_states(run.dir, keep=[state.step], planned=checkpoint_batches(config))
        prune(run.dir, Keep.of(config.keep), measured=checkpoint_batches(config), best=state.best_step)
    return PPOResult(
        last_step=state.step,
        best_step=state.best_step,
        best_value=state.best_value,
        num_dropped_prompts=len(prompts) - len(fitting),
        stopped_because=state.stopped_because,
        train_s=time.monotonic() - started,
        hooks_s=sum(hook.seconds for hook in hooks),
    )


def _untrained(
    config: PPOConfig,
    run: RunContext,
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Dialogue],
    scorer: WeightedScorer,
) -> PPOState:
    """Step 0: the policy before training, on a batch whose scores are the statistics of the reference."""
    asked = group_prompts(prompts, 0, config)
    sampling = Sampling(
        n=config.group_size, temperature=config.temperature, max_new_tokens=config.max_new_tokens, seed=config.batch_seed(0)
    )
    with autocast(run.world.device, config.model.dtype):
        shares = run.world.all_gather(lambda: draw_share(TransformersGenerator(policy, tokenizer), asked, sampling, run.world))
        groups = [group for share in shares for group in share]
        with guarded(run.dir, config.algo, 0):
            scores_B = score_groups(scorer, asked, [[completion.text for completion in group] for group in groups], run.world)
    completions = [completion for group in groups for completion in group]
    lengths_B = torch.tensor([len(completion.token_ids) for completion in completions])
    finished_B = torch.tensor([completion.finished for completion in completions])
    state = PPOState(
        step=0,
        statistics=ScoreStatistics.of_reference(scores_B),
        kl_coef=config.kl.beta,
        metrics={Metric.KL: 0.0, **completion_metrics(scores_B, finished_B, lengths_B)},
        moments=scorer.moments,
    )
    BatchWatch(config, run, kl=0.0).see(state.metrics, 0)
    _evaluate(config, run, state, policy, tokenizer, Path(config.model.path))
    return state


def _resumed(config: PPOConfig, run: RunContext, checkpoint: Path, tokenizer: PreTrainedTokenizerBase, scorer: WeightedScorer) -> PPOState:
    """The state of a checkpoint; its hooks run now if they were due and have not finished."""
    state = read_state(checkpoint)
    scorer.moments = state.moments
    run.warn(*state.warnings)
    if state.step not in checkpoint_batches(config):  # saved only for resuming
        return state
    if run.world.from_main(eval_file(run.dir, state.step).exists):
        metrics = run.world.from_main(lambda: read_evaluation(run.dir, state.step))
        take_evaluation(state, metrics, config, run)
    else:
        model, _ = load_policy(replace(config.model, path=str(checkpoint), revision=None, dtype=Dtype.fp32))
        _evaluate(config, run, state, model, tokenizer, checkpoint)
    return state


def _evaluate(
    config: PPOConfig, run: RunContext, state: PPOState, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, path: Path
) -> None:
    """Runs the hooks outside TRL's loop."""
    event = CheckpointSaved(
        step=state.step, num_steps=config.num_batches, path=path, run_dir=run.dir, model=model, tokenizer=tokenizer, metrics=state.metrics
    )
    metrics = run_hooks(run.hooks, event, run.tracker, parts=_parts(run, event))
    take_evaluation(state, metrics, config, run)


def _parts(run: RunContext, event: CheckpointSaved) -> RunParts:
    """What hooks are given: every process holds the whole policy, and samples from it."""
    with own_forward(event.model):
        return RunParts(world=run.world, generator=TransformersGenerator(event.model, event.tokenizer))


def _train(
    callback: RunCallback, policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Dialogue], resumed: Path | None
) -> None:
    """Trains with TRL on the remaining batches."""
    run, config = callback.run, callback.config
    scratch = run.dir / SCRATCH
    run.world.from_main(lambda: shutil.rmtree(scratch, ignore_errors=True))  # left behind by a killed process
    draw = _drawing(callback, policy, tokenizer, prompts) if config.rollout.kind == RolloutKind.vllm else None
    trainer = open_trainer(config, policy, tokenizer, prompts, reward=callback.reward.reward, scratch=scratch, draw=draw)
    trainer.remove_callback(PrinterCallback)
    hooks = HookCallback(
        run.hooks, run.tracker, tokenizer, place=callback.place, then=callback.evaluated, parts=lambda event: _parts(run, event)
    )
    for each in (callback, hooks, StopCallback(callback.state)):
        trainer.add_callback(each)
    try:
        with as_saved(resumed) if resumed else nullcontext() as folder, old_names():
            trainer.train(resume_from_checkpoint=folder)
    finally:
        if run.world.is_main:
            shutil.rmtree(scratch, ignore_errors=True)


def _drawing(callback: RunCallback, policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Dialogue]) -> Draw:
    """Draws each batch from the server, which gets the policy's weights before it; the main process talks to it."""
    run, config = callback.run, callback.config
    generator = open_generator(config.rollout, policy, tokenizer) if run.world.is_main else None

    def drawn() -> list[Completion]:
        assert isinstance(generator, RolloutEngine)
        step = callback.state.step + 1
        generator.load_weights(merged_weights(policy.state_dict().items(), policy))
        sampling = Sampling(
            n=config.group_size, temperature=config.temperature, max_new_tokens=config.max_new_tokens, seed=config.batch_seed(step)
        )
        groups = generator.generate(group_prompts(prompts, step, config), sampling)
        return [completion for group in groups for completion in group]

    def draw() -> list[Completion]:
        return run.world.from_main(drawn)[run.world.shard(config.batch_size)]

    return draw
