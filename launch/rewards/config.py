"""A reward as it is configured, and what each kind of reward needs.

A new kind takes a member of `RewardKind` with its entry in `KINDS` here, and a case in `launch.rewards.build.build_reward`.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from core.config import ContentHashed, Dtype, Hashed, Quantize, Unhashed, require_not_negative, require_positive
from core.scorers.ensemble import Combine
from evalhooks.judges.config import JudgeConfig, Mode
from evalhooks.judges.config import require_complete as require_complete_judge
from launch.rewards.choice import By
from launch.settings import typed


class RewardKind(StrEnum):
    """What gives the rewards; the groups of `reward=` are named after them (`model` is `custom`)."""

    model = "model"
    dpo = "dpo"
    judge = "judge"
    ensemble = "ensemble"
    function = "function"
    vllm = "vllm"
    verifier = "verifier"


@dataclass(kw_only=True)
class RewardConfig:
    """A reward: a reward model by default; `kind` says what else."""

    kind: Hashed[RewardKind] = RewardKind.model
    path: ContentHashed[str] = ""
    """Reward model by folder, hub id (org/name or org/name@revision), adapter, run folder or run id; for dpo the policy, for
    vllm the model whose tokenizer and template the server's model has."""
    among: Unhashed[list[str]] = field(default_factory=list)
    """Instead of `path`, finished reward models to choose from, by run folder, id, name, study or pattern as in `rewardloop runs`."""
    by: Unhashed[By | None] = None
    """among: what chooses one of them; empty: rewardbench2."""
    seed: Unhashed[int] = 0
    """by=random: of the draw."""
    revision: ContentHashed[str | None] = None
    """Branch, tag or commit of a hub id."""
    dtype: Hashed[Dtype] = Dtype.fp32
    quantize: Hashed[Quantize] = Quantize.none
    reference: ContentHashed[str] = ""
    """dpo: the model that the policy was trained from."""
    beta: Hashed[float] = 0.1
    """dpo: the temperature of its training, which scales the rewards."""
    members: ContentHashed[list[str]] = field(default_factory=list)
    """ensemble: reward models, each as in `path`."""
    combine: Hashed[Combine] = Combine.mean
    weight: Hashed[float] = 1.0
    """ensemble: of the members' variance, under combine=uncertainty."""
    scales: Hashed[list[list[float]]] = field(default_factory=list)
    """ensemble: mean and standard deviation of every member's scores, for members of different scale."""
    function: Hashed[str] = ""
    """function: `module:function` of (prompts, completions), see core.scorers.function."""
    verifier: Hashed[str] = ""
    """verifier: `module:function` of (completion, reference), as a task has it; the references stand in the rows of the prompts."""
    url: Unhashed[str] = ""
    """vllm: address of the server."""
    served: Hashed[str] = ""
    """vllm: name under which it serves the model; empty: `path`."""
    judge: Hashed[JudgeConfig] = field(default_factory=JudgeConfig)
    coefficient: Hashed[float] = 1.0
    """ppo: of this reward in the sum of all; below 0 it is a penalty."""
    standardize: Hashed[bool] = False
    """ppo: less the mean and divided by the standard deviation of the untrained policy's answers, before the coefficient."""

    def require_complete(self, key: str = "reward") -> None:
        """Raises `ValueError` where the kind lacks a setting that it needs; `key` is where this configuration stands."""
        self._require_choice(key)
        for own, hint in KINDS[self.kind].needs.items():
            if not getattr(self, own) and not (own == "path" and self.among):
                raise ValueError(f"{key}.{own} is empty; {hint.format(key=key)}")
        for kind in KINDS.values():
            if kind.program and (name := getattr(self, kind.program)) and name.count(":") != 1:
                raise ValueError(f"{key}.{kind.program}={name} must read module:function; {kind.needs[kind.program].format(key=key)}")
        if self.kind == RewardKind.vllm and not self.url.startswith(("http://", "https://")):
            raise ValueError(f"{key}.url is {self.url}; it must begin with http:// or https://, as in {key}.url=http://localhost:8000.")
        if self.kind == RewardKind.ensemble and len(self.members) < 2:
            raise ValueError(f"{key}.members={self.members} has one member; name at least two, or take it alone ({key}.kind=model).")
        if any(len(scale) != 2 for scale in self.scales):
            raise ValueError(f"{key}.scales is {self.scales}; give [mean, std] for every member, as in [[0.3,1.2],[-4.0,2.5]].")
        require_positive(f"{key}.beta", self.beta)
        require_not_negative(f"{key}.weight", self.weight)
        if self.scales and len(self.scales) != len(self.members):
            raise ValueError(f"{key}.scales has {len(self.scales)} entries for {len(self.members)} members; give [mean, std] for each.")
        if any(not math.isfinite(mean) or not 0 < std < math.inf for mean, std in self.scales):
            raise ValueError(f"{key}.scales is {self.scales}; a mean must be finite, and a standard deviation finite and above 0.")
        if not math.isfinite(self.coefficient) or self.coefficient == 0:
            raise ValueError(f"{key}.coefficient is {self.coefficient}; give a number other than 0, or leave this reward out.")
        if self.members and self.kind != RewardKind.ensemble:
            raise ValueError(f"{key}.members={self.members} does nothing with {key}.kind={self.kind}; give {key}.kind=ensemble too.")

    def _require_choice(self, key: str) -> None:
        """Raises `ValueError` for a choice among reward models that cannot be made."""
        if not self.among:
            if self.by is not None:
                raise ValueError(f"{key}.by={self.by} chooses among finished runs; name them, as in {key}.among=[demo].")
            return
        if self.path or self.revision:
            other = f"{key}.path={self.path}" if self.path else f"{key}.revision={self.revision}"
            raise ValueError(f"{key}.among chooses the reward model, so {other} names another one; leave one of them out.")
        if self.kind != RewardKind.model:
            raise ValueError(f"{key}.among chooses among reward models, and {key}.kind={self.kind}; leave one of them out.")
        if self.seed and self.by != By.random:
            raise ValueError(f"{key}.seed={self.seed} is of a draw; give {key}.by=random too, or leave it out.")

    def require_scores_alone(self, key: str) -> None:
        """Raises `ValueError` for a judge that is incomplete, or that can only rank several answers to a prompt."""
        if self.kind != RewardKind.judge:
            return
        try:
            require_complete_judge(self.judge)
        except ValueError as error:
            raise ValueError(str(error).replace("reward.judge.", f"{key}.judge.")) from error
        if self.judge.mode == Mode.rankings:
            raise ValueError(
                f"{key}.judge.mode=rankings compares several answers to a prompt, and here each is scored alone; choose ratings."
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """What one kind of reward needs and reads.

    `needs` are the settings that it cannot do without, each with a hint for whoever left it empty. `models` gives the models that
    it loads, by the setting that names them; `program` is the setting that names a Python function. `label` is what the reward is
    called, empty where it goes by the path of its model. `varies` says that equal settings may give other scores another day.

    >>> KINDS[RewardKind.ensemble].models(RewardConfig(members=["a", "b"]))
    {'members[0]': 'a', 'members[1]': 'b'}
    """

    needs: Mapping[str, str]
    models: Callable[[RewardConfig], dict[str, str]] = lambda reward: {}
    program: str = ""
    label: Callable[[RewardConfig], str] = lambda reward: ""
    varies: bool = False


_PATH = "give the folder of a reward model, of its run, a run id or a hub id: {key}.path=runs/demo/rm-..."

KINDS: dict[RewardKind, Kind] = {
    RewardKind.model: Kind(needs={"path": _PATH}, models=lambda reward: {"path": reward.path}),
    RewardKind.dpo: Kind(
        needs={"path": _PATH, "reference": "name the model that the policy was trained from: {key}.reference=org/name."},
        models=lambda reward: {"path": reward.path, "reference": reward.reference},
    ),
    RewardKind.judge: Kind(
        needs={},
        models=lambda reward: {"judge.path": reward.judge.path} if reward.judge.path else {},
        label=lambda reward: reward.judge.model or reward.judge.path,
        varies=True,
    ),
    RewardKind.ensemble: Kind(
        needs={"members": "name at least two reward models: '{key}.members=[A,B]'."},
        models=lambda reward: {f"members[{i}]": path for i, path in enumerate(reward.members)},
        label=lambda reward: f"{reward.combine} of {len(reward.members)}",
    ),
    RewardKind.function: Kind(
        needs={"function": "name a Python function: {key}.function=my_rewards:brevity."},
        program="function",
        label=lambda reward: reward.function,
        varies=True,
    ),
    RewardKind.vllm: Kind(
        needs={"url": "give the address of the server: {key}.url=http://localhost:8000.", "path": _PATH},
        models=lambda reward: {"path": reward.path},
        label=lambda reward: reward.served or reward.path,
        varies=True,
    ),
    RewardKind.verifier: Kind(
        needs={"verifier": "name a Python function: {key}.verifier=evalhooks.tasks.verifiers:gsm8k."},
        program="verifier",
        label=lambda reward: reward.verifier,
    ),
}


def typed_reward(name: str, value: object, group: str = "rewards") -> RewardConfig:
    """The reward `rewards.NAME`, or of another `group`, out of plain settings; raises `ValueError` that names the key which is wrong."""
    return typed(f"{group}.{name}", value, RewardConfig, what="reward", example="path=FOLDER")
