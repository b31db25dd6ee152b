"""The reward that a configuration names, as a Scorer."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from core.adapters import content_of
from core.checkpoint import latest_complete
from core.config import ModelConfig
from core.progress import Progress
from core.records import Scorer
from core.runs import RECORD, read_record
from core.sources import resolve
from launch.schema import RewardConfig, RewardKind

_PLACES = {"path", "revision", "reference", "members"}
"""Settings that say where models lie; what they are stands in the identity."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What a forward pass may hold: tokens in all, and tokens of one text."""

    batch_tokens: int
    max_length: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Sources:
    """The models behind a reward by the key that names them, and what to call the reward."""

    models: dict[str, ModelConfig]
    name: str

    def identity(self, reward: RewardConfig) -> dict[str, Any]:
        """What determines the scores: the models' contents; a service or a program of the user's may change at any time."""
        found: dict[str, Any] = {key: content_of(model, key) for key, model in self.models.items()}
        found["settings"] = {key: value for key, value in asdict(reward).items() if key not in _PLACES}
        if reward.kind in (RewardKind.judge, RewardKind.function, RewardKind.vllm):
            found["asked"] = datetime.now(UTC).isoformat()
        return found


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


def sources_of(reward: RewardConfig, runs_dir: str) -> Sources:
    """Finds the models of a reward; raises `ValueError` naming the key of one that is not there. Loads none."""
    named: dict[str, str] = {}
    if reward.kind in (RewardKind.model, RewardKind.dpo, RewardKind.vllm):
        named["reward.path"] = reward.path
    if reward.kind == RewardKind.dpo:
        named["reward.reference"] = reward.reference
    if reward.kind == RewardKind.ensemble:
        named = {f"reward.members[{i}]": path for i, path in enumerate(reward.members)}
    if reward.kind == RewardKind.judge and reward.judge.path:
        named["reward.judge.path"] = reward.judge.path
    models = {
        key: ModelConfig(
            path=str(reward_path(path, runs_dir, key)),
            revision=reward.revision if key == "reward.path" else None,
            dtype=reward.dtype,
            quantize=reward.quantize,
        )
        for key, path in named.items()
    }
    for key, model in models.items():
        resolve(model, key)
    names = {
        RewardKind.judge: reward.judge.model or reward.judge.path,
        RewardKind.ensemble: f"{reward.combine} of {len(reward.members)}",
        RewardKind.function: reward.function,
        RewardKind.vllm: reward.served or reward.path,
    }
    return Sources(models=models, name=names.get(reward.kind) or models["reward.path"].path)


def build(reward: RewardConfig, sources: Sources, limits: Limits, *, progress: Progress, say: Callable[[str], None] = print) -> Scorer:
    """Loads the models of a reward that is no judge (see `evalhooks.judges.config.build`) and returns it as a Scorer."""
    from core.models import load_policy, load_reward_model, load_tokenizer
    from core.reward import RewardModelScorer
    from core.scorers.ensemble import EnsembleScorer
    from core.scorers.function import FunctionScorer
    from core.scorers.implicit import ImplicitRewardScorer
    from core.scorers.vllm import VLLMScorer

    assert reward.kind != RewardKind.judge
    if reward.kind == RewardKind.function:
        return FunctionScorer(reward.function)
    if reward.kind == RewardKind.vllm:
        tokenizer = load_tokenizer(sources.models["reward.path"])
        return VLLMScorer(reward.url, reward.served or reward.path, tokenizer, max_length=limits.max_length, say=say)
    options: dict[str, Any] = {"batch_tokens": limits.batch_tokens, "max_length": limits.max_length, "progress": progress, "say": say}
    if reward.kind == RewardKind.dpo:
        policy, tokenizer = load_policy(sources.models["reward.path"])
        reference, other = load_policy(sources.models["reward.reference"])
        return ImplicitRewardScorer(policy, reference, tokenizer, other, beta=reward.beta, **options)
    members = [RewardModelScorer(*load_reward_model(model), **options) for model in sources.models.values()]
    if reward.kind == RewardKind.model:
        return members[0]
    return EnsembleScorer(members, reward.combine, reward.weight, scales=[(mean, std) for mean, std in reward.scales])
