"""The configuration of every job, as Hydra sees it: the trainers' own dataclasses plus what a launch adds."""

from dataclasses import dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from bon.config import MANIFEST, SUFFIXES, PoolConfig
from core.config import (
    ContentHashed,
    Hashed,
    ModelConfig,
    RolloutConfig,
    Unhashed,
    require_fraction,
    require_not_negative,
    require_positive,
)
from core.disk import is_complete
from evalhooks.rewardbench.rows import HUB1, HUB2
from launch.rewards.config import RewardConfig, RewardKind, typed_reward
from launch.settings import Launch, RunSettings, typed
from launch.studies.config import Part, UsePlan
from microworld.config import PolicyConfig, WorldConfig
from ppo.config import PPOConfig
from rmtrain.config import RewardModelConfig


@dataclass(kw_only=True)
class RMJob(Launch, RewardModelConfig):
    """`rewardloop rm`: fit a Bradley-Terry reward model, with RewardBench 2 and best-of-N at every checkpoint."""

    def __post_init__(self) -> None:
        Launch.__post_init__(self)
        RewardModelConfig.__post_init__(self)

    @property
    def unread(self) -> frozenset[str]:
        return frozenset({"tasks", "hooks.downstream", *(() if self.hooks.budget else ("hooks.budget",))})  # without one, as before it


@dataclass(kw_only=True)
class PPOJob(Launch, PPOConfig):
    """`rewardloop ppo`: train a policy against a reward by PPO, RLOO or GRPO, with downstream tasks at every checkpoint."""

    reward: Hashed[RewardConfig] = field(default_factory=RewardConfig)
    rewards: Hashed[dict[str, Any]] = field(default_factory=dict, metadata={"item_type": RewardConfig})
    """Further rewards by names of the user's, each a RewardConfig; with them, `reward` may stay empty. See `terms`."""

    def __post_init__(self) -> None:
        Launch.__post_init__(self)
        PPOConfig.__post_init__(self)
        if not self.terms:
            raise ValueError(
                "reward.path is empty and there are no other rewards; name a reward model (reward.path=FOLDER or reward.path=org/name), "
                "another reward (reward=judge, reward=dpo, ...), or several (rewards.NAME.path=FOLDER, rewards.OTHER.kind=verifier, ...)."
            )
        for name, reward in self.terms.items():
            key = reward_key(name)
            reward.require_complete(key)
            reward.require_scores_alone(key)

    @property
    def unread(self) -> frozenset[str]:
        return frozenset({"hooks.rewardbench1", "hooks.pools", "hooks.best_of"})

    @property
    def terms(self) -> dict[str, RewardConfig]:
        """The rewards by name; their weighted sum is trained on. `reward` comes first, unless it is left empty beside others."""
        if MAIN_REWARD in self.rewards:
            raise ValueError(f"rewards.{MAIN_REWARD} clashes with `{MAIN_REWARD}`, which has this name already; choose another one.")
        main = {} if self.reward == RewardConfig() else {MAIN_REWARD: self.reward}
        return main | {name: typed_reward(name, value) for name, value in self.rewards.items()}


MAIN_REWARD = "reward"
"""What the reward of `reward=` is called among several."""


def reward_key(name: str) -> str:
    """The key of a PPO job under which the reward of this name stands."""
    return MAIN_REWARD if name == MAIN_REWARD else f"rewards.{name}"


@dataclass(kw_only=True)
class BoNJob(Launch):
    """`rewardloop bon`: pools, drawn or given, and what rewards pick. `identity_of` is that of drawn pools; `launch.bon` adds rewards."""

    model: Hashed[ModelConfig]
    pool: Hashed[PoolConfig] = field(default_factory=PoolConfig)
    rollout: Hashed[RolloutConfig] = field(default_factory=RolloutConfig)
    """What draws the pools."""
    pools: Unhashed[str] = ""
    """Folder of the pools, drawn there if absent; empty: beside the run. Or a file or folder of others' completions, taken as they are:
    JSONL or parquet of prompts and completions, which need neither tasks nor a model."""
    rewards: Hashed[list[str]] = field(default_factory=list)
    """Reward models by folder, run folder, run id or hub id."""
    scorers: Hashed[dict[str, Any]] = field(default_factory=dict, metadata={"item_type": RewardConfig})
    """Rewards of any kind by names of the user's, each a RewardConfig, as in scorers.NAME.kind=judge."""
    best_of: Hashed[list[int] | None] = None
    """Completions to choose among; empty: 1, 2, 4, 8 and 16, as far as the pools go. bon.csv has every number."""
    vote: Hashed[str] = ""
    """`module:function` that reads the answer to vote with out of a completion; empty: its final number, or without one its text."""

    def __post_init__(self) -> None:
        Launch.__post_init__(self)
        self.scorers = {name: typed_reward(name, value, "scorers") for name, value in self.scorers.items()}
        if self.best_of is not None and (
            not self.best_of or min(self.best_of) < 1 or (max(self.best_of) > self.pool.n and not self.takes_pools)
        ):
            raise ValueError(f"best_of={self.best_of} must lie between 1 and pool.n={self.pool.n}.")

    @property
    def unread(self) -> frozenset[str]:
        return frozenset({"hooks", "rewards", "scorers", "best_of", "rollout", "vote"})

    @property
    def sizes(self) -> list[int]:
        """From how many completions each reward chooses, where pools of `pool.n` are drawn."""
        return self.sizes_of(self.pool.n)

    def sizes_of(self, size: int) -> list[int]:
        """From how many completions each reward chooses in pools of this size. Raises `ValueError` if they are too small."""
        if self.best_of is not None:
            if max(self.best_of) > size:
                raise ValueError(f"best_of={self.best_of} exceeds the {size} completions per prompt in {self.pools}; lower it.")
            return self.best_of
        return sorted({min(n, size) for n in (1, 2, 4, 8, 16)})

    @property
    def takes_pools(self) -> bool:
        """Whether `pools` names completions that are taken as they are: a file, a folder of parquet files, or pools that are complete
        where no task is chosen, or only those of an embedded world that does not exist."""
        place = Path(self.pools).expanduser()
        if not self.pools or place.is_file() or self.pools.endswith(SUFFIXES):
            return bool(self.pools)
        if not is_complete(place):
            return place.is_dir() and not (place / MANIFEST).exists() and any(place.glob("*.parquet"))
        elsewhere = not Path(self.world).is_dir() and all(task.path.startswith(f"{self.world}/") for task in self.tasks.values())
        return not self.tasks or elsewhere


class Benchmark(StrEnum):
    """Which benchmark is scored."""

    rewardbench2 = "rewardbench2"
    rewardbench1 = "rewardbench1"
    pairs = "pairs"
    """Preference pairs of any file: `prompt`, `chosen`, `rejected`."""


@dataclass(kw_only=True)
class BenchJob(RunSettings):
    """`rewardloop bench`: RewardBench 2 or 1, or accuracy on pairs, of one reward or of scores that are there already."""

    reward: Hashed[RewardConfig] = field(default_factory=RewardConfig)
    benchmark: Hashed[Benchmark] = Benchmark.rewardbench2
    rows: ContentHashed[str] = ""
    """File, folder of parquet files, saved dataset or hub id; empty: the official data on the hub."""
    limit: Hashed[float] = 1.0
    """Share of every domain's rows, stratified and seeded."""
    seed: Hashed[int] = 0
    """Of the draw of rows by `limit`."""
    batch_tokens: Unhashed[int] = 16384
    """Tokens per forward pass."""
    max_length: Hashed[int] = 2048
    """Tokens of prompt and completion; longer texts are cut at their end, and counted."""
    from_scores: ContentHashed[str] = ""
    """JSONL of scores to evaluate instead of a model."""
    generative: Hashed[bool] = False
    """rewardbench1 from_scores: the scores are a judge's, so a draw earns half. Rows that a run of a judge wrote say so themselves."""
    prior_sets: ContentHashed[str] = ""
    """rewardbench1: JSON with accuracies on the prior sets, as {"shp": 0.61}."""
    out: Unhashed[str] = ""
    """JSON file for the result; its rows go beside it as parquet."""

    def __post_init__(self) -> None:
        RunSettings.__post_init__(self)
        require_fraction("limit", self.limit, positive=True)
        if self.reward.kind == RewardKind.verifier or self.reward.coefficient != 1 or self.reward.standardize:
            raise ValueError("reward.kind=verifier, reward.coefficient and reward.standardize are for `rewardloop ppo`; leave them out.")
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
        if self.benchmark == Benchmark.pairs and not (self.rows or self.from_scores):
            raise ValueError("benchmark=pairs needs a file of pairs; give rows=FILE.jsonl.")
        if self.prior_sets and self.benchmark != Benchmark.rewardbench1:
            raise ValueError("prior_sets belong to RewardBench 1; add benchmark=rewardbench1.")
        if self.out.endswith(".parquet"):
            raise ValueError(f"out={self.out} is for the result, which is JSON; its rows are written beside it as .parquet.")

    @property
    def source(self) -> str:
        """Where the rows lie."""
        return self.rows or (HUB1 if self.benchmark == Benchmark.rewardbench1 else HUB2)


@dataclass(kw_only=True)
class StudyJob:
    """`rewardloop study`: a sweep of reward models, best-of-N, PPO runs, and the report that puts them side by side."""

    study: Unhashed[str] = "study"
    """Folder below `runs_dir` for all runs of the study."""
    runs_dir: Unhashed[str] = "runs"
    """Folder of all studies."""
    seed: Unhashed[int] = 0
    """Of the world, the policies and every run."""
    seeds: Unhashed[list[int]] = field(default_factory=list)
    """Instead of `seed`: the whole study at each of these, and its first use of reward models compared with the others over them."""
    parallel: Unhashed[int] = 0
    """Jobs at a time; 0: as many as there are GPUs for, or CPU cores where there are none."""
    processes: Unhashed[int] = 1
    """Processes of every job that trains, or draws and reranks pools, each with a GPU of its own: what torchrun calls --nproc-per-node."""
    parts: Unhashed[list[Part]] = field(default_factory=lambda: list(Part))
    """What is done. Without rm, the finished reward models in the study's folder are taken."""
    embedded: Unhashed[bool] = False
    """Make a microworld and its policies first, from `world` and `policy`."""
    world: Unhashed[WorldConfig] = field(default_factory=WorldConfig)
    policy: Unhashed[PolicyConfig] = field(default_factory=PolicyConfig)
    preferences: Unhashed[str] = ""
    """Preference pairs of an experiment on real data, by path."""
    benchmark: Unhashed[str] = ""
    """Rows in RewardBench 2's schema of an experiment on real data, by path."""
    prompts: Unhashed[str] = ""
    """Inputs of an experiment on real data, by path."""
    needs: Unhashed[list[str]] = field(default_factory=list)
    """Which of these three an experiment cannot do without."""
    common: Unhashed[list[str]] = field(default_factory=list)
    """Overrides of every job."""
    pools: Unhashed[list[str]] = field(default_factory=list)
    """Overrides of the best-of-N job that makes the pools."""
    reward_models: Unhashed[list[str]] = field(default_factory=list)
    """Each a line of overrides of `rewardloop rm`, as under -m: commas sweep, and so do experiments that sweep themselves. Reward models
    whose hooks have no pools are given the study's when they are trained."""
    ppo: Unhashed[dict[str, Any]] = field(default_factory=dict, metadata={"item_type": UsePlan})
    """PPO runs by the user's names, each against a reward model of the study's own, as in ppo.mine.reward.by=held_out."""
    bon: Unhashed[dict[str, Any]] = field(default_factory=dict, metadata={"item_type": UsePlan})
    """Runs of best-of-N on the study's pools, likewise. Every reward model also reranks them at its checkpoints (hooks.pools)."""
    policies: Unhashed[list[str]] = field(default_factory=list)
    """Further PPO runs, each a line of overrides of `rewardloop ppo` that names its reward, or by reward.path=rm-01 a reward model of the
    study; they sweep like `reward_models`. Reward models of others are scored on RewardBench 2 and given the pools too."""
    bench: Unhashed[list[str]] = field(default_factory=list)
    """Overrides of the jobs that score them."""
    notes: Unhashed[list[str]] = field(default_factory=list)
    """Sentences that the report prints under its result."""
    dry_run: Unhashed[bool] = False
    """List the jobs, look at their inputs, and run none."""

    def __post_init__(self) -> None:
        require_not_negative("parallel", self.parallel)
        for key, uses in {"ppo": self.ppo, "bon": self.bon}.items():
            for name, value in uses.items():
                uses[name] = typed(f"{key}.{name}", value, UsePlan, what="use of a reward model", example="reward.by=held_out")
        inputs = {"preferences": self.preferences, "benchmark": self.benchmark, "prompts": self.prompts}
        if unknown := [key for key in self.needs if key not in inputs]:
            raise ValueError(f"needs holds {unknown[0]}, which is no input of a study; choose among {', '.join(inputs)}.")
        missing = [key for key in self.needs if not inputs[key]]
        if missing:
            raise ValueError(f"{' and '.join(missing)} must be given by path, for instance {missing[0]}=FILE.jsonl.")
        require_positive("processes", self.processes)
        if not self.parts or len(set(self.parts)) < len(self.parts):
            raise ValueError(f"parts={[str(part) for part in self.parts]} must name each part once: some of {', '.join(Part)}.")
        if not self.reward_models and Part.rm in self.parts:
            raise ValueError("reward_models is empty; choose a study with experiment=demo or experiment=smollm2.")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds={self.seeds} has one twice, which would count as two; leave it out.")
        counts = [len(own) for part, own in ((Part.ppo, self.ppo), (Part.bon, self.bon)) if part in self.parts]
        if self.seeds and max(counts, default=0) < 2:
            one = f"study={self.study}-seed{self.seeds[0]} seed={self.seeds[0]} seeds=[]"
            raise ValueError(
                "seeds compares what reward models are used for over seeds; give two entries or more in ppo, or in bon, and leave that one "
                f"among the parts (parts={[str(part) for part in self.parts]}). A part of one seed is done by {one}."
            )
        if self.parts == [Part.ppo] and not self.ppo and not self.policies:
            raise ValueError("parts=[ppo] leaves nothing to do: ppo and policies are empty; give one of them, or other parts.")


@dataclass(kw_only=True)
class ReportJob:
    """`rewardloop report`: the report of a study's finished runs, of any others, or of a table of scores."""

    study: Unhashed[str] = "demo"
    """The study to report."""
    runs_dir: Unhashed[str] = "runs"
    """Folder of all studies."""
    runs: Unhashed[list[str]] = field(default_factory=list)
    """Runs of any studies instead of one: folders, ids, names, studies or patterns, as `rewardloop runs` takes them."""
    out: Unhashed[str] = ""
    """Folder of the report; empty: `report` in the study's folder, or with `runs` or `scores` one in runs_dir that is named after them."""
    scores: Unhashed[list[str]] = field(default_factory=list)
    """Instead of runs, tables with a line per reward model (CSV, JSONL, JSON or parquet), joined by its name."""
    names: Unhashed[str] = ""
    """scores: the column that names the reward model; empty: model, rm, reward_model, name or id."""
    shares: Unhashed[list[str]] = field(default_factory=list)
    """scores: columns of shares of 1, which are shown in points of 100; those that bear the key of such a metric are known to be."""
    benchmarks: Unhashed[list[str]] = field(default_factory=list)
    """Columns with benchmark scores, the first the one to pick by; empty, with runs: RewardBench 2, its domains, and RewardBench 1."""
    downstream: Unhashed[list[str]] = field(default_factory=list)
    """Columns with downstream results; empty, with runs: best-of-N on each task and on average, and PPO."""
    diagnostics: Unhashed[list[str]] = field(default_factory=list)
    """Further columns of which each alone may predict a downstream result; lineage, group, base and data may be among them."""
    reference: Unhashed[list[str]] = field(default_factory=list)
    """Files of published scores or correlations to lay behind one's own."""
    self_preference: Unhashed[str] = ""
    """A file with a score of each reward model for each model's completion of each prompt: prompt, model, rm, base, score, and data."""
    benchmark_prompts: Unhashed[list[str]] = field(default_factory=list)
    """Files with the benchmark's prompts, to tell how many of them the tasks share."""
    task_prompts: Unhashed[list[str]] = field(default_factory=list)
    """Files with the tasks' prompts, for the same."""

    serve: Unhashed[bool] = False
    """Show the report of the study on this machine's own address, and follow its running jobs, instead of writing it."""
    port: Unhashed[int] = 8765
    """serve: the port; 0 is any that is free."""

    wandb: Unhashed[str] = ""
    """Instead of a report: workspace saves the study's panels as a workspace of Weights & Biases, FILE.json writes its specification."""
    wandb_entity: Unhashed[str] = ""
    """wandb: the user or team that owns the project; empty: WANDB_ENTITY, or else the login's own."""
    wandb_project: Unhashed[str] = ""
    """wandb: the project that the runs went to, as in tracker.project; empty: WANDB_PROJECT, or else rewardloop."""

    def __post_init__(self) -> None:
        if self.wandb and (self.serve or self.runs or self.scores or self.out):
            raise ValueError("wandb=... makes the panels of one study; leave serve, runs, scores and out, and name it by study=NAME.")
        if self.wandb and self.wandb != "workspace" and not self.wandb.endswith(".json"):
            raise ValueError(f"wandb={self.wandb} is neither workspace nor a file that ends in .json, which gets the specification.")
        if (self.wandb_entity or self.wandb_project) and not self.wandb:
            raise ValueError("wandb_entity and wandb_project belong to wandb=workspace; give it too, or leave them.")
        if self.serve and (self.runs or self.scores or self.out):
            raise ValueError("serve=true follows one study and writes nothing; leave runs, scores and out, and name it by study=NAME.")
        if not 0 <= self.port < 65536:
            raise ValueError(f"port={self.port} is no port; choose one from 1024 to 65535, or 0 for any that is free.")
        if self.scores and self.runs:
            raise ValueError("scores names tables and runs names runs; a report is of one of them, so leave one out.")
        if self.scores and not self.benchmarks:
            raise ValueError("scores needs the columns to compare: benchmarks=[COLUMN,...], with downstream=[COLUMN,...].")
        if self.scores and not self.downstream and len(self.benchmarks) < 2:
            raise ValueError("downstream is empty; name the columns that the benchmark is to predict, or a second benchmark.")
        if bool(self.benchmark_prompts) != bool(self.task_prompts):
            raise ValueError("benchmark_prompts and task_prompts belong together: their overlap is reported; give both or neither.")
        if self.names and not self.scores:
            raise ValueError(f"names={self.names} is for tables; give scores=FILE too.")
        if self.shares and not self.scores:
            raise ValueError(f"shares={self.shares[0]} is for tables; give scores=FILE too. What runs measured is known to be shares.")
        columns = [*self.benchmarks, *self.downstream]
        if twice := next((column for column in columns if columns.count(column) > 1), None):
            raise ValueError(f"{twice} stands twice among benchmarks and downstream; a column cannot be compared with itself.")


AnyJob = RMJob | PPOJob | BoNJob | BenchJob | StudyJob | ReportJob

SCHEMAS: dict[str, type[AnyJob]] = {"rm": RMJob, "ppo": PPOJob, "bon": BoNJob, "bench": BenchJob, "study": StudyJob, "report": ReportJob}


def command_of(schema: type[AnyJob]) -> str:
    """The command whose job this is, as in `rewardloop rm`; also the name of its file in conf/."""
    return next(name for name, known in SCHEMAS.items() if known is schema)


def register() -> None:
    """Registers every schema as `schema/<job>`, which the `defaults` of conf/<job>.yaml name."""
    store = ConfigStore.instance()
    for name, schema in SCHEMAS.items():
        node = OmegaConf.structured(schema)
        # Open, so that `rewards.NAME.kind=...` needs no plus. OmegaConf cannot add keys to a mapping of dataclasses, hence Any.
        for item in fields(schema):
            if "item_type" in item.metadata:
                OmegaConf.set_struct(node[item.name], False)
        store.store(group="schema", name=name, node=node, package="_global_")
