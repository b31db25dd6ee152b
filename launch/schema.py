"""The configuration of every job, as Hydra sees it: the trainers' own dataclasses plus what a launch adds."""

from dataclasses import dataclass, field
from enum import StrEnum

from hydra.core.config_store import ConfigStore

from bon.config import PoolConfig
from core.config import ModelConfig, require_positive
from evalhooks.config import HooksConfig, TaskConfig
from microworld.config import PolicyConfig, WorldConfig
from ppo.config import PPOConfig
from rmtrain.config import RewardModelConfig


@dataclass(kw_only=True)
class TrackerConfig:
    """Weights & Biases beside the plain files, which are always written."""

    mode: str = "auto"
    """auto (online with an API key, else offline), online, offline or disabled."""
    project: str = "rewardloop"

    def __post_init__(self) -> None:
        if self.mode not in ("auto", "online", "offline", "disabled"):
            raise ValueError(f"tracker.mode is {self.mode!r}; choose auto, online, offline or disabled.")


@dataclass(kw_only=True)
class Launch:
    """What every job has: a name, where its run lies, and whether a torn run goes on."""

    name: str = ""
    study: str = "default"
    runs_dir: str = "runs"
    resume: bool = True
    """Continue a torn run from its last complete checkpoint; false moves it aside and starts anew."""
    world: str = "runs/demo/world-0"
    """Folder of the microworld that the default data, models and tasks lie in."""
    tracker: TrackerConfig = field(default_factory=TrackerConfig)
    hooks: HooksConfig = field(default_factory=HooksConfig)
    tasks: dict[str, TaskConfig] = field(default_factory=dict)
    lr: float | None = None
    """Short for optim.lr."""


@dataclass(kw_only=True)
class RewardConfig:
    """A reward: a reward model by folder, hub id, run folder or run id."""

    path: str = ""
    revision: str | None = None

    def __post_init__(self) -> None:
        if not self.path:
            raise ValueError(
                "reward.path is empty; give the folder of a reward model, of its run, or a run id: reward.path=runs/demo/rm-..."
            )


@dataclass(kw_only=True)
class RMJob(Launch, RewardModelConfig):
    """`rewardloop rm`."""


@dataclass(kw_only=True)
class PPOJob(Launch, PPOConfig):
    """`rewardloop ppo`."""

    reward: RewardConfig


@dataclass(kw_only=True)
class BoNJob(Launch):
    """`rewardloop bon`: pools of completions, made once, and what each reward picks from them."""

    model: ModelConfig
    pool: PoolConfig = field(default_factory=PoolConfig)
    pools: str = ""
    """Folder of the pools; made there if absent. Empty: beside the run."""
    rewards: list[str] = field(default_factory=list)
    """Reward models by folder, run folder or run id."""
    best_of: list[int] = field(default_factory=lambda: [1, 2, 4, 8, 16])


@dataclass(kw_only=True)
class BenchJob(Launch):
    """`rewardloop bench`: RewardBench 2 and 1 of one reward model."""

    reward: RewardConfig
    out: str = ""
    """JSON file for the result; empty: print only."""


class Lineage(StrEnum):
    """Which lineage a PPO run's reward model comes from, seen from its policy."""

    any = "any"
    same = "same"
    other = "other"


class Pick(StrEnum):
    """Which of the reward models that fit is taken, by rewardbench2/overall."""

    best = "best"
    worst = "worst"


@dataclass(kw_only=True)
class RewardChoice:
    """How a study picks the reward model of a PPO run among those it has trained."""

    lineage: Lineage = Lineage.any
    control: bool = False
    """Among the controls (reward models on flipped labels) instead of the others."""
    pick: Pick = Pick.best


@dataclass(kw_only=True)
class PPOPlan:
    """One PPO run of a study."""

    reward: RewardChoice = field(default_factory=RewardChoice)
    overrides: list[str] = field(default_factory=list)


@dataclass(kw_only=True)
class StudyJob:
    """`rewardloop study`: a sweep of reward models, best-of-N, PPO runs, and the report that puts them side by side."""

    study: str = "study"
    runs_dir: str = "runs"
    seed: int = 0
    parallel: int = 0
    """Jobs at a time; 0: one per GPU, or per CPU core where there is none."""
    embedded: bool = False
    """Make a microworld and its policies first, from `world` and `policy`."""
    world: WorldConfig = field(default_factory=WorldConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    preferences: str = ""
    benchmark: str = ""
    prompts: str = ""
    """Inputs of an experiment on real data, by path."""
    needs: list[str] = field(default_factory=list)
    """Which of these three an experiment cannot do without."""
    common: list[str] = field(default_factory=list)
    """Overrides of every job."""
    pools: list[str] = field(default_factory=list)
    """Overrides of the best-of-N job that makes the pools."""
    reward_models: list[str] = field(default_factory=list)
    """Each a line of overrides of `rewardloop rm`; commas sweep."""
    ppo: dict[str, PPOPlan] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    """Sentences that the report prints under its result."""

    def __post_init__(self) -> None:
        require_positive("parallel + 1", self.parallel + 1)
        missing = [key for key in self.needs if not getattr(self, key)]
        if missing:
            raise ValueError(f"{' and '.join(missing)} must be given by path, for instance {missing[0]}=FILE.jsonl.")
        if not self.reward_models:
            raise ValueError("reward_models is empty; choose a study with experiment=demo or experiment=smollm2.")


@dataclass(kw_only=True)
class ReportJob:
    """`rewardloop report`: the report of a study's finished runs, drawn anew."""

    study: str = "demo"
    runs_dir: str = "runs"


SCHEMAS: dict[str, type] = {"rm": RMJob, "ppo": PPOJob, "bon": BoNJob, "bench": BenchJob, "study": StudyJob, "report": ReportJob}


def register() -> None:
    """Puts the schemas where the `defaults` of conf/<job>.yaml find them: as `schema/<job>`."""
    store = ConfigStore.instance()
    for name, schema in SCHEMAS.items():
        store.store(group="schema", name=name, node=schema, package="_global_")
