"""What others build on: hooks and their callback, trackers, benchmarks, scorers, losses and estimators.

The imports below are the only declaration. Type checkers read them directly; at run time they are parsed into a table of names
and home modules, and a home is imported when its name is first used. So `import rewardloop` imports neither torch nor
transformers. docs/python.md says what each name is for. Code inside the project imports from the home modules instead.
"""

from typing import TYPE_CHECKING

from rewardloop._forward import forward

if TYPE_CHECKING:
    import evalhooks.rewardbench.v1
    import evalhooks.rewardbench.v2
    from bon.estimators import best_of_n as best_of_n
    from bon.estimators import kl_of_best_of_n as kl_of_best_of_n
    from bon.pools import load_pools as load_pools
    from core.functions import SkippedError as SkippedError
    from core.functions import Verifier as Verifier
    from core.hooks.hook import Hook as Hook
    from core.hooks.hook import RunParts as RunParts
    from core.hooks.hook import SharedHook as SharedHook
    from core.hooks.hook import run_hooks as run_hooks
    from core.hooks.trainer_callback import HookCallback as HookCallback
    from core.records import BenchmarkRow as BenchmarkRow
    from core.records import CheckpointSaved as CheckpointSaved
    from core.records import Completion as Completion
    from core.records import Dialogue as Dialogue
    from core.records import Generator as Generator
    from core.records import Message as Message
    from core.records import Preference as Preference
    from core.records import Prompt as Prompt
    from core.records import RunEnded as RunEnded
    from core.records import Sampling as Sampling
    from core.records import ScoredRow as ScoredRow
    from core.records import Scorer as Scorer
    from core.records import Tracker as Tracker
    from core.runs.trackers.wandb_tracker import WandbTracker as WandbTracker
    from core.runs.tracking import JsonlTracker as JsonlTracker
    from core.runs.tracking import Trackers as Trackers
    from core.runs.tracking import read_metrics as read_metrics
    from core.scorers.ensemble import Combine as Combine
    from core.scorers.ensemble import EnsembleScorer as EnsembleScorer
    from core.scorers.function import FunctionScorer as FunctionScorer
    from core.scorers.implicit import ImplicitRewardScorer as ImplicitRewardScorer
    from core.scorers.reward_model import RewardModelScorer as RewardModelScorer
    from core.scorers.verifier import VerifierScorer as VerifierScorer
    from core.scorers.vllm import VLLMScorer as VLLMScorer
    from core.scorers.weighted import Term as Term
    from core.scorers.weighted import WeightedScorer as WeightedScorer
    from evalhooks.checkpoints.held_out import HeldOutHook as HeldOutHook
    from evalhooks.checkpoints.policy import PolicyHook as PolicyHook
    from evalhooks.checkpoints.reward_model import RewardModelHook as RewardModelHook
    from evalhooks.rewardbench.rows import load_rewardbench1 as load_rewardbench1
    from evalhooks.rewardbench.rows import load_rewardbench2 as load_rewardbench2
    from evalhooks.rewardbench.rows import score_rows as score_rows
    from evalhooks.tasks.task import Task as Task
    from ppo.advantages import gae as gae
    from ppo.kl import kl_estimate as kl_estimate
    from ppo.loss import ppo_loss as ppo_loss
    from ppo.loss import value_loss as value_loss
    from rmtrain.loss import bradley_terry_loss as bradley_terry_loss

    rewardbench1_scores = evalhooks.rewardbench.v1.scores  # assigned: checkers treat `scores as rewardbench1_scores` as private
    rewardbench2_scores = evalhooks.rewardbench.v2.scores
    __all__: list[str]
    __version__: str
else:
    __all__, __getattr__, __dir__ = forward(__name__)
