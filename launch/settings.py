"""The settings that jobs share: those of every run, those of every trainer, and mappings whose keys are the user's."""

from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from core.config import Hashed, Unhashed, require_not_negative
from evalhooks.config import HooksConfig, TaskConfig

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")


class Resume(StrEnum):
    """What happens to an unfinished run of the same identity."""

    auto = "auto"
    """It continues from its last complete checkpoint; `true` means the same."""
    never = "never"
    """It is moved aside and started over; `false` means the same."""

    @classmethod
    def _missing_(cls, value: object) -> "Resume":
        words = {"auto": cls.auto, "true": cls.auto, "never": cls.never, "false": cls.never}  # YAML reads true and false as booleans
        if not isinstance(value, str) or value.lower() not in words:
            raise ValueError(f"resume is {value!r}; choose auto or never.")
        return words[value.lower()]


class TrackerMode(StrEnum):
    """How metrics get to Weights & Biases."""

    auto = "auto"
    """Online with an API key, else offline."""
    online = "online"
    offline = "offline"
    disabled = "disabled"
    """Plain files alone."""


@dataclass(kw_only=True)
class TrackerConfig:
    """What takes metrics beside the plain files, which are always written; tracker=[wandb,tensorboard] chooses several."""

    mode: TrackerMode = TrackerMode.disabled
    """How metrics get to Weights & Biases; tracker=wandb chooses auto."""
    tensorboard: bool = False
    """Write event files for TensorBoard into the run's folder."""
    mlflow: bool = False
    """Write to MLflow: to MLFLOW_TRACKING_URI, or else to mlflow.db in the folder of all runs."""
    trackio: bool = False
    """Write to trackio: to TRACKIO_DIR, or else to trackio in the folder of all runs."""
    project: str = "rewardloop"
    """Project of Weights & Biases and trackio, and the first part of the name of MLflow's experiment."""

    @property
    def packages(self) -> dict[str, tuple[str, ...]]:
        """By extra of this package, the modules that the chosen trackers import; Weights & Biases is always there."""
        needed = {"tensorboard": ("tensorboard",), "mlflow": ("mlflow", "sqlalchemy", "alembic"), "trackio": ("trackio",)}
        chosen = {"tensorboard": self.tensorboard, "mlflow": self.mlflow, "trackio": self.trackio}
        return {name: needed[name] for name, is_chosen in chosen.items() if is_chosen}


@dataclass(kw_only=True)
class RunSettings:
    """What every job with a run has: a name, where the run lies, whether a torn one goes on, where its metrics go."""

    name: Unhashed[str] = ""
    """Name of the run in its folder; empty: made of model, data and learning rate."""
    study: Unhashed[str] = "default"
    """Folder below `runs_dir` that holds the runs which belong together."""
    runs_dir: Unhashed[str] = "runs"
    """Folder of all runs."""
    resume: Unhashed[str] = Resume.auto.value
    """auto or never, see `Resume`. Text, so that true and false are accepted too."""
    tracker: Unhashed[TrackerConfig] = field(default_factory=TrackerConfig)
    parallel: Unhashed[int] = 1
    """Jobs of a sweep (-m) at a time; 0: one per GPU, or per CPU core where there is none."""
    dry_run: Unhashed[bool] = False
    """List the job, or every job of a sweep, with its settings, look at its inputs, and run none."""

    def __post_init__(self) -> None:
        require_not_negative("parallel", self.parallel)

    @property
    def unread(self) -> frozenset[str]:
        """Keys, with all under them, that the job shares with others and does not read itself: they do not identify its run."""
        return frozenset()

    @property
    def resumes(self) -> bool:
        """Whether an unfinished run continues. Raises `ValueError` for an unknown choice."""
        return Resume(self.resume) == Resume.auto


@dataclass(kw_only=True)
class Launch(RunSettings):
    """What every trainer has besides: what is measured at its checkpoints."""

    world: Unhashed[str] = "runs/demo/world-0"
    """Folder of the microworld that the default data, models and tasks lie in."""
    embedded_model: Unhashed[str] = ""
    """Set by the files of the microworld's models: the model that their small sizes are meant for. Leave it alone."""
    hooks: Hashed[HooksConfig] = field(default_factory=HooksConfig)
    tasks: Hashed[dict[str, Any]] = field(default_factory=dict, metadata={"item_type": TaskConfig})
    """Downstream tasks by the user's names, as in tasks.gsm8k.path=FILE."""

    def __post_init__(self) -> None:
        RunSettings.__post_init__(self)
        for name, value in self.tasks.items():
            self.tasks[name] = typed(f"tasks.{name}", value, TaskConfig, what="task", example="path=FILE.jsonl")


def typed(key: str, value: object, schema: type[T], *, what: str, example: str) -> T:
    """The dataclass `schema` out of plain settings under `key`; `what` is what it configures, `example` one of its settings.

    Raises `ValueError` that names the key which is wrong.
    """
    if isinstance(value, schema):
        return value
    if not isinstance(value, dict):
        raise ValueError(f"{key}={value} is no {what}; give its settings, as in {key}.{example}.")
    names = [item.name for item in fields(schema)]
    if unknown := [name for name in value if name not in names]:
        raise ValueError(f"{key}.{unknown[0]} is no setting of a {what}; choose among {', '.join(names)}.")
    try:
        found = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), value))
    except OmegaConfBaseException as error:
        raise ValueError(f"{key}.{error.full_key or ''}: {str(error).splitlines()[0]}.") from error
    except ValueError as error:  # a judge's, which knows only the key `reward`, or a task's, which does not know its name
        raise ValueError(str(error).replace("reward.judge.", f"{key}.judge.").replace("tasks.<name>", key)) from error
    assert isinstance(found, schema)
    return found
