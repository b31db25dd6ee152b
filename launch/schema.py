"""The configuration of every job, as Hydra sees it: the trainers' own dataclasses plus what a launch adds."""

from dataclasses import dataclass, field
from enum import StrEnum

from hydra.core.config_store import ConfigStore

from bon.config import PoolConfig
from core.config import Dtype, ModelConfig, Quantize, require_fraction, require_positive
from core.scorers.ensemble import Combine
from evalhooks.config import HooksConfig, TaskConfig
from evalhooks.judges.config import JudgeConfig
from microworld.config import PolicyConfig, WorldConfig
from ppo.config import PPOConfig
from rmtrain.config import RewardModelConfig

NO_MATTER = frozenset(
    {"resume", "runs_dir", "study", "world", "tracker.mode", "tracker.project", "save_minutes", "hooks.where", "hooks.device"}
)
"""Settings that change no result, and so do not make a run another one."""


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
class RunSettings:
    """What every job with a run has: a name, where the run lies, whether a torn one goes on, where its metrics go."""

    name: str = ""
    study: str = "default"
    runs_dir: str = "runs"
    resume: str = "auto"
    """auto (or true): continue a torn run from its last complete checkpoint; never (or false): move it aside and start anew."""
    tracker: TrackerConfig = field(default_factory=TrackerConfig)

    @property
    def resumes(self) -> bool:
        """Whether a torn run goes on. Raises `ValueError` for a word that says neither."""
        words = {"auto": True, "true": True, "never": False, "false": False}
        if self.resume.lower() not in words:
            raise ValueError(f"resume is {self.resume!r}; choose auto or never.")
        return words[self.resume.lower()]


@dataclass(kw_only=True)
class Launch(RunSettings):
    """What every trainer has besides: what is measured at its checkpoints."""

    world: str = "runs/demo/world-0"
    """Folder of the microworld that the default data, models and tasks lie in."""
    hooks: HooksConfig = field(default_factory=HooksConfig)
    tasks: dict[str, TaskConfig] = field(default_factory=dict)
    lr: float | None = None
    """Short for optim.lr."""
    dry_run: bool = False
    """List the job, or every job of a sweep, with its settings, and run none."""


class RewardKind(StrEnum):
    """What gives the rewards; the groups of `reward=` are named after them (`model` is `custom`)."""

    model = "model"
    dpo = "dpo"
    judge = "judge"
    ensemble = "ensemble"
    function = "function"
    vllm = "vllm"


@dataclass(kw_only=True)
class RewardConfig:
    """A reward: a reward model by default; `kind` says what else."""

    kind: RewardKind = RewardKind.model
    path: str = ""
    """Reward model by folder, hub id (org/name or org/name@revision), adapter, run folder or run id; for dpo the policy, for
    vllm the model whose tokenizer and template the server's model has."""
    revision: str | None = None
    dtype: Dtype = Dtype.fp32
    quantize: Quantize = Quantize.none
    reference: str = ""
    """dpo: the model that the policy was trained from."""
    beta: float = 0.1
    """dpo: the temperature of its training, which scales the rewards."""
    members: list[str] = field(default_factory=list)
    """ensemble: reward models, each as in `path`."""
    combine: Combine = Combine.mean
    weight: float = 1.0
    """ensemble: of the members' variance, under combine=uncertainty."""
    scales: list[list[float]] = field(default_factory=list)
    """ensemble: mean and standard deviation of every member's scores, for members of different scale."""
    function: str = ""
    """function: `module:function` of (prompts, completions), see core.scorers.function."""
    url: str = ""
    """vllm: address of the server."""
    served: str = ""
    """vllm: name under which it serves the model; empty: `path`."""
    judge: JudgeConfig = field(default_factory=JudgeConfig)

    def require_complete(self) -> None:
        """Raises `ValueError` where the kind lacks a key that it needs."""
        needs = {"dpo": ("path", "reference"), "ensemble": ("members",), "function": ("function",), "vllm": ("url", "path"), "judge": ()}
        for key in needs.get(self.kind, ("path",)):
            if not getattr(self, key):
                raise ValueError(f"reward.{key} is empty; {_REWARD_HINTS[key]}")
        if self.kind == RewardKind.ensemble and len(self.members) < 2:
            raise ValueError(f"reward.members={self.members} has one member; name at least two, or take it alone (reward=custom).")
        if any(len(scale) != 2 for scale in self.scales):
            raise ValueError(f"reward.scales is {self.scales}; give [mean, std] for every member, as in [[0.3,1.2],[-4.0,2.5]].")


_REWARD_HINTS = {
    "path": "give the folder of a reward model, of its run, a run id or a hub id: reward.path=runs/demo/rm-...",
    "reference": "name the model that the policy was trained from: reward.reference=org/name.",
    "members": "name at least two reward models: 'reward.members=[A,B]'.",
    "function": "name a Python function: reward.function=my_rewards:brevity.",
    "url": "give the address of the server: reward.url=http://localhost:8000.",
}


@dataclass(kw_only=True)
class RMJob(Launch, RewardModelConfig):
    """`rewardloop rm`."""


@dataclass(kw_only=True)
class PPOJob(Launch, PPOConfig):
    """`rewardloop ppo`."""

    reward: RewardConfig = field(default_factory=RewardConfig)

    def __post_init__(self) -> None:
        PPOConfig.__post_init__(self)
        self.reward.require_complete()
        if self.reward.kind != RewardKind.model:
            raise ValueError(f"reward.kind={self.reward.kind}: PPO takes a reward model (reward=custom reward.path=...).")


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


class Benchmark(StrEnum):
    """Which benchmark is scored."""

    rewardbench2 = "rewardbench2"
    rewardbench1 = "rewardbench1"


@dataclass(kw_only=True)
class BenchJob(RunSettings):
    """`rewardloop bench`: RewardBench 2 or 1 of one reward, or of scores that are there already."""

    reward: RewardConfig = field(default_factory=RewardConfig)
    benchmark: Benchmark = Benchmark.rewardbench2
    rows: str = ""
    """File, folder of parquet files, saved dataset or hub id; empty: the official data on the hub."""
    limit: float = 1.0
    """Share of every domain's rows, stratified and seeded."""
    seed: int = 0
    batch_tokens: int = 16384
    """Tokens per forward pass."""
    max_length: int = 2048
    """Tokens of prompt and completion; longer texts are cut at their end, and counted."""
    from_scores: str = ""
    """JSONL of scores to evaluate instead of a model."""
    generative: bool = False
    """rewardbench1 from_scores: the scores are a judge's, so a draw earns half. Rows that a run of a judge wrote say so themselves."""
    prior_sets: str = ""
    """rewardbench1: JSON with accuracies on the prior sets, as {"shp": 0.61}."""
    out: str = ""
    """JSON file for the result; its rows go beside it as parquet."""

    def __post_init__(self) -> None:
        require_fraction("limit", self.limit, positive=True)
        for key in ("batch_tokens", "max_length"):
            require_positive(key, getattr(self, key))
        if not self.from_scores and self.reward == RewardConfig():
            raise ValueError(
                "there is nothing to score: name a reward model (reward.path=FOLDER or reward.path=org/name), another reward "
                "(reward=judge, reward=dpo, ...), or scores that are there already (from_scores=FILE.jsonl)."
            )
        if not self.from_scores:
            self.reward.require_complete()
        if self.from_scores and (self.rows or self.limit < 1 or self.reward != RewardConfig()):
            raise ValueError("from_scores evaluates a file as it is; leave out rows, limit and reward, or leave out from_scores to score.")
        if self.prior_sets and self.benchmark != Benchmark.rewardbench1:
            raise ValueError("prior_sets belong to RewardBench 1; add benchmark=rewardbench1.")
        if self.out.endswith(".parquet"):
            raise ValueError(f"out={self.out} is for the result, which is JSON; its rows are written beside it as .parquet.")


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
