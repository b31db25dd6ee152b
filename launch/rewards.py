"""The rewards that a configuration names, as Scorers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.config import ModelConfig, Quantize
from core.functions import load_function, load_verifier
from core.models.adapters import model_fingerprint
from core.models.locate import resolve
from core.progress import NoProgress, Progress
from core.records import Prompt, Scorer
from core.runs.checkpoints import latest_complete
from core.runs.identity import fingerprint
from core.runs.record import RECORD, read_record
from core.scorers.verifier import VerifierScorer
from core.scorers.weighted import Term, WeightedScorer
from launch.schema import PPOJob, RewardConfig, RewardKind, reward_key

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_PLACES = {"path", "revision", "reference", "members", "url"}
"""Settings that say where models lie or are served; what they are stands in the identity."""
_TERMS = {"coefficient", "standardize"}
"""Settings that say what becomes of the scores."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What a forward pass may hold: tokens in all, and tokens of one text."""

    batch_tokens: int
    max_length: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Sources:
    """The models behind a reward by their own key in its settings (`path`, `members[0]`), and what to call the reward."""

    models: dict[str, ModelConfig]
    name: str

    def content(self, reward: RewardConfig) -> dict[str, Any]:
        """What determines the scores as far as it is known here: the contents of models and of a program's file, and the settings."""
        found: dict[str, Any] = {key: model_fingerprint(model, key) for key, model in self.models.items()}
        found["settings"] = {key: value for key, value in asdict(reward).items() if key not in _PLACES | _TERMS}
        found["settings"]["judge"].pop("base_url")
        if program := reward.function or reward.verifier:
            found["program"] = _program(program)
        return found

    def identity(self, reward: RewardConfig) -> dict[str, Any]:
        """As `content`, with the time for a reward that may change unseen: a service, or what a program of the user's calls."""
        found = self.content(reward)
        if reward.kind in (RewardKind.judge, RewardKind.function, RewardKind.vllm):
            found["asked"] = datetime.now(UTC).isoformat()
        return found


def _program(name: str) -> str:
    """The content of the file that holds `module:function`; empty where Python has none for it."""
    load_function(name, "the reward's program")  # also makes the current folder importable
    spec = util.find_spec(name.partition(":")[0])
    return fingerprint(spec.origin) if spec is not None and spec.has_location and spec.origin else ""


def reward_path(path: str, runs_dir: str, key: str = "reward.path") -> Path | str:
    """The folder of a reward model: itself, the last checkpoint of a run's folder, or of the run with this id; or a hub id."""
    folder = Path(path).expanduser()
    if not folder.exists() and "/" not in path and not path.startswith("pip:"):
        found = sorted(Path(runs_dir).glob(f"*/*{path}")) if path else []
        if len(found) != 1:
            raise ValueError(
                f"{key}={path} is no folder, and {len(found)} runs under {runs_dir} end with it; give a folder or a run's whole name."
            )
        folder = found[0]
    if (folder / RECORD).is_file():
        if read_record(folder)["status"] != "finished":
            raise ValueError(f"{key}={path} is not a finished run; let `rewardloop rm` finish it, or name a checkpoint of it.")
        last = latest_complete(folder, print)
        if last is None:
            raise ValueError(f"{key}={path} is a run without a complete checkpoint; let `rewardloop rm` finish it.")
        return last
    return folder if folder.is_dir() else path


def sources_of(reward: RewardConfig, runs_dir: str, key: str = "reward") -> Sources:
    """Finds the models of the reward whose settings stand under `key`, and its program; loads no model.

    Raises `ValueError` naming the key of what is not there.
    """
    named: dict[str, str] = {}
    if reward.kind in (RewardKind.model, RewardKind.dpo, RewardKind.vllm):
        named["path"] = reward.path
    if reward.kind == RewardKind.dpo:
        named["reference"] = reward.reference
    if reward.kind == RewardKind.ensemble:
        named = {f"members[{i}]": path for i, path in enumerate(reward.members)}
    if reward.kind == RewardKind.judge and reward.judge.path:
        named["judge.path"] = reward.judge.path
    models = {
        own: ModelConfig(
            path=str(reward_path(path, runs_dir, f"{key}.{own}")),
            revision=reward.revision if own == "path" else None,
            dtype=reward.dtype,
            quantize=reward.quantize,
        )
        for own, path in named.items()
    }
    for own, model in models.items():
        resolve(model, f"{key}.{own}")
    if reward.kind == RewardKind.function:
        load_function(reward.function, f"{key}.function:")
    if reward.kind == RewardKind.verifier:
        load_function(reward.verifier, f"{key}.verifier:")
    names = {
        RewardKind.judge: reward.judge.model or reward.judge.path,
        RewardKind.ensemble: f"{reward.combine} of {len(reward.members)}",
        RewardKind.function: reward.function,
        RewardKind.vllm: reward.served or reward.path,
        RewardKind.verifier: reward.verifier,
    }
    return Sources(models=models, name=names.get(reward.kind) or models["path"].path)


def build(
    reward: RewardConfig,
    sources: Sources,
    limits: Limits,
    *,
    progress: Progress,
    say: Callable[[str], None] = print,
    prompts: Sequence[Prompt] = (),
) -> Scorer:
    """Loads the models of a reward that is no judge (see `evalhooks.judges.config.build`) and returns it as a Scorer.

    A verifier judges by the references of `prompts`, which must be all that it will score; raises `ValueError` without any.
    """
    from core.models.load import load_policy, load_reward_model, load_tokenizer
    from core.scorers.ensemble import EnsembleScorer
    from core.scorers.function import FunctionScorer
    from core.scorers.implicit import ImplicitRewardScorer
    from core.scorers.reward_model import RewardModelScorer
    from core.scorers.vllm import VLLMScorer

    assert reward.kind != RewardKind.judge
    if reward.kind == RewardKind.function:
        return FunctionScorer(reward.function)
    if reward.kind == RewardKind.verifier:
        if not prompts:
            raise ValueError("reward.kind=verifier judges by the references of prompts, and there are none here; choose another reward.")
        return _verifier(reward, prompts)
    if reward.kind == RewardKind.vllm:
        tokenizer = load_tokenizer(sources.models["path"])
        return VLLMScorer(reward.url, reward.served or reward.path, tokenizer, max_length=limits.max_length, say=say)
    options: dict[str, Any] = {"batch_tokens": limits.batch_tokens, "max_length": limits.max_length, "progress": progress, "say": say}
    if reward.kind == RewardKind.dpo:
        policy, tokenizer = load_policy(sources.models["path"])
        reference, other = load_policy(sources.models["reference"])
        return ImplicitRewardScorer(policy, reference, tokenizer, other, beta=reward.beta, **options)
    members = [RewardModelScorer(*load_reward_model(model), **options) for model in sources.models.values()]
    if reward.kind == RewardKind.model:
        return members[0]
    return EnsembleScorer(members, reward.combine, reward.weight, scales=[(mean, std) for mean, std in reward.scales])


def term_sources(job: PPOJob, prompts: Sequence[Prompt]) -> dict[str, Sources]:
    """The sources of all rewards of a job by name, `reward` first. Loads no model.

    Each verifier is tried on an empty answer to the first prompt, so that one for rows of another kind is found out here.
    Raises `ValueError` as `sources_of` and as the verifier.
    """
    sources = {name: sources_of(reward, job.runs_dir, reward_key(name)) for name, reward in job.terms.items()}
    for name, reward in job.terms.items():
        if reward.kind == RewardKind.verifier:
            try:
                _verifier(reward, prompts[:1]).score([prompts[0].dialogue], [[""]])
            except ValueError as error:
                raise ValueError(f"{reward_key(name)}.verifier does not fit the prompts: {error}") from error
    return sources


def _verifier(reward: RewardConfig, prompts: Sequence[Prompt]) -> VerifierScorer:
    references = {prompt.dialogue: prompt.reference for prompt in prompts}
    return VerifierScorer(load_verifier(reward.verifier), references, name=reward.verifier)


def terms_identity(job: PPOJob, sources: Mapping[str, Sources]) -> dict[str, Any]:
    """What determines the reward of a job, for the identity of its run; without the time, so that a torn run goes on."""
    return {
        name: sources[name].content(reward) | {"coefficient": reward.coefficient, "standardize": reward.standardize}
        for name, reward in job.terms.items()
    }


def build_terms(
    job: PPOJob, sources: Mapping[str, Sources], prompts: Sequence[Prompt], *, say: Callable[[str], None] = print
) -> WeightedScorer:
    """Loads the rewards of a job as one weighted sum. Verifiers judge by the references of `prompts`, and score no others.

    Raises `ValueError` for a reward that cannot be loaded.
    """
    limits = Limits(batch_tokens=job.hooks.batch_tokens, max_length=job.hooks.max_length)
    quiet = NoProgress()  # training has a display of its own
    terms: list[Term] = []
    for name, reward in job.terms.items():
        if reward.kind == RewardKind.judge:
            from evalhooks.judges.config import build as build_judge

            scorer: Scorer = build_judge(reward.judge, progress=quiet).rows
        else:
            scorer = build(reward, sources[name], limits, progress=quiet, say=say, prompts=prompts)
        terms.append(Term(name=name, scorer=scorer, coefficient=reward.coefficient, standardize=reward.standardize))
    return WeightedScorer(terms)


def anywhere(scorer: WeightedScorer) -> WeightedScorer | None:
    """The sum without its verifiers, which know the training prompts alone: for the prompts of tasks. None where nothing is left."""
    return scorer.without([term.name for term in scorer.terms if isinstance(term.scorer, VerifierScorer)])


def critic_source(scorer: WeightedScorer, tokenizer: "PreTrainedTokenizerBase", job: PPOJob) -> "PreTrainedModel | None":
    """The reward model that a critic can start from: of those that read the policy's tokens the weightiest in the sum, if there is one.

    Not a packed one, whose weights cannot be trained, and none that the sum counts as a penalty. By weight and then by name,
    so that the order in which rewards are given decides nothing.
    """
    from core.scorers.reward_model import RewardModelScorer

    for term in sorted(scorer.terms, key=lambda term: (-term.coefficient, term.name)):
        model = term.scorer
        if not isinstance(model, RewardModelScorer) or job.terms[term.name].quantize != Quantize.none or term.coefficient < 0:
            continue
        if model.tokenizer.get_vocab() == tokenizer.get_vocab():
            return model.model
    return None
