"""Configured rewards as Scorers, with their models loaded."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from core.config import ModelConfig, Quantize
from core.data.pad_token import same_tokens
from core.models.load import declared_pad, load_policy, load_reward_model, load_tokenizer
from core.progress import NoProgress, Progress
from core.records import Prompt, Scorer
from core.scorers.ensemble import EnsembleScorer
from core.scorers.function import FunctionScorer
from core.scorers.implicit import ImplicitRewardScorer
from core.scorers.reward_model import RewardModelScorer
from core.scorers.verifier import VerifierScorer
from core.scorers.vllm import VLLMScorer
from core.scorers.weighted import Term, WeightedScorer
from evalhooks.judges.config import build as build_judge
from launch.rewards.config import RewardKind
from launch.rewards.lengths import longest_text
from launch.rewards.locate import LocatedReward, verifier_of
from launch.schema import PPOJob


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What a forward pass may hold: tokens in all, and tokens of one text, which may depend on whose tokens they are."""

    batch_tokens: int
    max_length: Callable[[PreTrainedTokenizerBase], int]


def build_reward(
    located: LocatedReward, limits: Limits, *, progress: Progress, say: Callable[[str], None] = print, prompts: Sequence[Prompt] = ()
) -> Scorer:
    """Loads the models of a reward and returns it as a Scorer; a judge as the one that rates answers one by one.

    A verifier judges by the references of `prompts`, which must be all that it will score; raises `ValueError` without any.
    """
    reward, models = located.config, located.models

    def reward_model(config: ModelConfig) -> RewardModelScorer:
        model, tokenizer = load_reward_model(config)
        max_length = limits.max_length(tokenizer)
        return RewardModelScorer(model, tokenizer, batch_tokens=limits.batch_tokens, max_length=max_length, progress=progress, say=say)

    match reward.kind:
        case RewardKind.model:
            return reward_model(models["path"])
        case RewardKind.ensemble:
            members = [reward_model(config) for config in models.values()]
            return EnsembleScorer(members, reward.combine, reward.weight, scales=[(mean, std) for mean, std in reward.scales])
        case RewardKind.dpo:
            policy, tokenizer = load_policy(models["path"])
            reference, reference_tokenizer = load_policy(models["reference"])
            return ImplicitRewardScorer(
                policy, reference, tokenizer, reference_tokenizer, beta=reward.beta,
                batch_tokens=limits.batch_tokens, max_length=limits.max_length(tokenizer), progress=progress, say=say,
            )  # fmt: skip
        case RewardKind.vllm:
            model = models["path"]
            tokenizer, served = load_tokenizer(model), reward.served or reward.path
            max_length = limits.max_length(tokenizer)
            return VLLMScorer(reward.url, served, tokenizer, max_length=max_length, pad=declared_pad(model), say=say)
        case RewardKind.function:
            return FunctionScorer(reward.function)
        case RewardKind.judge:
            return build_judge(reward.judge, progress=progress).rows
        case RewardKind.verifier:
            if not prompts:
                raise ValueError(
                    "reward.kind=verifier judges by the references of prompts, and there are none here; choose another reward."
                )
            return verifier_of(reward, prompts)


def build_terms(
    job: PPOJob,
    located: Mapping[str, LocatedReward],
    prompts: Sequence[Prompt],
    policy: PreTrainedTokenizerBase,
    *,
    say: Callable[[str], None] = print,
) -> WeightedScorer:
    """Loads the rewards of a job as one weighted sum. Verifiers judge by the references of `prompts`, and score no others.

    Reward models read whole texts: as many tokens as the job's prompts and answers can have, whatever `hooks.max_length` says.
    `policy` is the tokenizer in whose tokens the job counts them.

    Raises `ValueError` for a reward that cannot be loaded.
    """
    length = longest_text(job, policy, [prompt.dialogue for prompt in prompts])
    limits = Limits(batch_tokens=job.hooks.batch_tokens, max_length=length)
    quiet = NoProgress()  # training has a display of its own
    return WeightedScorer(
        [
            Term(
                name=name,
                scorer=build_reward(located[name], limits, progress=quiet, say=say, prompts=prompts),
                coefficient=reward.coefficient,
                standardize=reward.standardize,
            )
            for name, reward in job.terms.items()
        ]
    )


def without_verifiers(scorer: WeightedScorer) -> WeightedScorer | None:
    """The sum as far as it can score any prompt: verifiers know the training prompts alone. None where nothing is left."""
    return scorer.without([term.name for term in scorer.terms if isinstance(term.scorer, VerifierScorer)])


def critic_source(scorer: WeightedScorer, tokenizer: PreTrainedTokenizerBase, job: PPOJob) -> PreTrainedModel | None:
    """The reward model that the critic starts from: the one of the largest coefficient that reads the policy's tokens, if any.

    Not one with packed weights, which cannot be trained, and none that the sum counts as a penalty. Of equal coefficients the first
    by name, so that the order in which rewards are given decides nothing.
    """
    for term in sorted(scorer.terms, key=lambda term: (-term.coefficient, term.name)):
        model = term.scorer
        if not isinstance(model, RewardModelScorer) or job.terms[term.name].quantize != Quantize.none or term.coefficient < 0:
            continue
        if same_tokens(model.tokenizer, tokenizer):
            return model.model
    return None
