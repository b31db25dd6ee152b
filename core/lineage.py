"""Where models come from, and whether a reward model fits the policy that PPO trains against it.

The RewardBench 2 paper (Malik et al. 2025, section 5.2 and table 8) finds that the best reward models of the benchmark, and of
best-of-N, can be of little use in PPO: where they grew from another model than the policy, and where they were trained on other
prompts than PPO's. What is not known is called unknown here and warned of nowhere.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from huggingface_hub import metadata_load, try_to_load_from_cache
from yaml import YAMLError

from core.config import ModelConfig
from core.rows import dataset_name
from core.runs import RECORD, fingerprint, read_record
from core.sources import ADAPTER_CONFIG, CONFIG, Source, find_file, require_hub

LINEAGE, CARD = "lineage.json", "README.md"

_ALIASES = {
    "llama-3.1-tulu-3-8b": "tulu-3-8b",
    "llama-3.1-tulu-3-70b": "tulu-3-70b",
    "meta-llama-3.1-8b": "llama-3.1-8b",
    "meta-llama-3.1-70b": "llama-3.1-70b",
    "meta-llama-3.1-8b-instruct": "llama-3.1-8b-instruct",
    "meta-llama-3.1-70b-instruct": "llama-3.1-70b-instruct",
    "qwen2.5-7b": "qwen-2.5-7b",
    "qwen2.5-7b-instruct": "qwen-2.5-7b-instruct",
    "pip:smollm2-135m": "smollm2",
    "smollm2-135m-instruct": "smollm2",
}
"""The families in conf/model/ under the names that their repositories have."""
_PRETRAINED = {
    "tulu-3-8b": "llama-3.1-8b",
    "tulu-3-70b": "llama-3.1-70b",
    "llama-3.1-8b-instruct": "llama-3.1-8b",
    "llama-3.1-70b-instruct": "llama-3.1-70b",
    "qwen-2.5-7b-instruct": "qwen-2.5-7b",
    "smollm2": "smollm2-135m",
}
"""What these families grew from. To share no more than this does not help: Tulu and Llama Instruct do (table 8)."""
_STAGE = re.compile(r"[-_](sft|dpo|kto|ppo|grpo|rlvr|rlhf|rl|rm|rm-rb2)$")
"""A stage of training at the end of a name: all stages are one family."""
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_SPLITS = {"train", "training", "test", "validation", "data", "prompts", "preferences", "pairs"}
"""Names of files that say nothing of what is in them."""
_HASH = "sha256:"


class Answer(StrEnum):
    """An answer that may not be known."""

    yes = "yes"
    no = "no"
    unknown = "unknown"


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """What a model grew from and which prompts it was trained on.

    `base` is a family as `family` names it, or the absolute path of a folder of which nothing is known; `ancestors` are what the
    base itself grew from, nearest first. `told_by` names what told it, empty where nothing did and `base` is only the model's own
    name. `sources` are names of datasets and hashes of files (`prompt_sources`); empty: unknown.

    >>> Origin(base="tulu-3-8b", told_by="model.lineage", sources=frozenset({"tulu"})).line
    ('tulu-3-8b',)
    """

    base: str
    ancestors: tuple[str, ...] = ()
    told_by: str = ""
    sources: frozenset[str] = frozenset()

    @property
    def line(self) -> tuple[str, ...]:
        """The base and its ancestors."""
        return (self.base, *self.ancestors)

    @property
    def is_unnamed(self) -> bool:
        """Whether the base is a folder instead of a family."""
        return self.base.startswith("/")

    @property
    def name(self) -> str:
        """The base as a sentence names it."""
        return Path(self.base).name


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Means of one group of reward models in table 8 of the paper, in points of 100: benchmark, and the policy after each use.

    >>> OTHER_LINEAGE.ppo
    55.6
    """

    rewardbench2: float
    ppo: float
    best_of_n: float

    def __str__(self) -> str:
        return f"{self.rewardbench2} on RewardBench 2, {self.best_of_n} after best-of-16 and {self.ppo} after PPO"


START = 54.1
"""The policy of table 8 before PPO (section 5.2)."""
FITTING = Group(rewardbench2=60.6, ppo=60.1, best_of_n=51.9)
"""Nine reward models of the policy's lineage, trained on the prompts of PPO among others (numbers 1 to 9)."""
OTHER_LINEAGE = Group(rewardbench2=71.4, ppo=55.6, best_of_n=55.6)
"""Three reward models of another lineage (13 to 15)."""
OTHER_PROMPTS = Group(rewardbench2=66.2, ppo=57.8, best_of_n=49.6)
"""Two reward models of the policy's lineage on other prompts (16 and 17)."""


def origin_of(config: ModelConfig) -> Origin:
    """What is known of a model from `config.lineage`, and from the files beside its weights or in the hub's cache on this machine.

    In this order: a lineage.json, the record of the run that trained it, the base of an adapter, the model card (`base_model`,
    `datasets`), `_name_or_path` in the configuration. Links are followed as far as they lead on this machine; only the card of the
    model itself is fetched, where the hub answers. A reward model's own name says nothing, so its base is what it was trained from.
    """
    place, revision = _place(config.path, config.revision)
    _fetch_card(place, revision)
    line, told_by = _line(place, revision, ())
    if config.lineage:
        line, told_by = _known(family(config.lineage)), "model.lineage"
    return Origin(base=line[0], ancestors=line[1:], told_by=told_by, sources=_trained_on(place, revision))


def lineage_of(model: ModelConfig) -> str:
    """What a run's record says that a model grew from: as configured, as written beside it or in its run's record, else its path."""
    if model.lineage:
        return model.lineage
    folder = Path(model.path).expanduser()
    if (folder / LINEAGE).is_file():
        return _written(folder / LINEAGE)["lineage"]
    run = _run_of(folder.absolute().as_posix())
    return model.path if run is None else read_record(run)["lineage"]["base"]


def run_id_of(path: str) -> str:
    """The id of the run whose checkpoint `path` is, else the path."""
    run = Path(path).parent.parent
    return read_record(run)["id"] if (run / RECORD).is_file() else path


def family(name: str) -> str:
    """The family that a name stands for: lower case, without owner, revision and stages of training.

    >>> family("allenai/Llama-3.1-Tulu-3-8B-SFT@main"), family("tulu-3-8b"), family("org/My_Model-DPO")
    ('tulu-3-8b', 'tulu-3-8b', 'my_model')
    """
    own = name.strip().partition("@")[0].rstrip("/").rpartition("/")[2].lower()  # a revision may hold a slash
    while (shorter := _STAGE.sub("", own)) != own:
        own = shorter
    return _ALIASES.get(own, own)


def prompt_sources(paths: Iterable[str]) -> frozenset[str]:
    """What files, folders or hub datasets hold: their names, and of those on this machine a hash of the content.

    A file that is called after its split (train, prompts) has no name of its own. Raises `FileNotFoundError` for a missing file.
    """
    return frozenset(label for path in paths for label in (*_names([dataset_name(path)]), *_hashes([fingerprint(path)])))


def same_lineage(policy: Origin, reward: Origin) -> Answer:
    """Whether the reward model and the policy are of one line: the base of one is the other's, or among the other's ancestors.

    A common ancestor alone is not enough: it may be no more than the pretrained model that both grew from.
    """
    if policy.base in reward.line or reward.base in policy.line:
        return Answer.yes
    if not policy.told_by or not reward.told_by:
        return Answer.unknown
    # A folder without a name may hold a copy of any model that grew from its parent.
    if (policy.is_unnamed and {*policy.ancestors[:1]} & {*reward.line}) or (reward.is_unnamed and {*reward.ancestors[:1]} & {*policy.line}):
        return Answer.unknown
    return Answer.no


def in_distribution(reward: Origin, prompts: frozenset[str]) -> Answer:
    """Whether PPO's prompts share a source with the reward model's training; no only where both sides have names to compare."""
    if reward.sources & prompts:
        return Answer.yes
    return Answer.no if _named(reward.sources) and _named(prompts) else Answer.unknown


def warnings_of(policy: Origin, reward: Origin, prompts: frozenset[str], *, name: str = "the reward model") -> list[str]:
    """One sentence for each way in which the reward model is known not to fit PPO with this policy and these `prompt_sources`.

    `name` is what the sentences call the reward model. Empty where all fits, or is unknown.
    """
    warnings: list[str] = []
    if same_lineage(policy, reward) == Answer.no:
        warnings.append(
            f"{name} grew from {reward.name}, the policy from {policy.name}. In the RewardBench 2 paper (table 8, means) reward models of "
            f"another lineage than the policy's gave {OTHER_LINEAGE}, those of its lineage on its prompts {FITTING}; the policy had "
            f"{START} before. A better benchmark score did not help PPO: train one from the policy's own lineage by the same recipe."
        )
    if in_distribution(reward, prompts) == Answer.no:
        warnings.append(
            f"{name} was trained on {_shown(reward.sources)}, and PPO's prompts are none of these but {_shown(prompts)}. In the "
            f"RewardBench 2 paper (table 8, means) such reward models gave {OTHER_PROMPTS}, those trained on PPO's prompts too {FITTING}; "
            f"the policy had {START} before. Train one on preferences for these prompts, or take prompts from its training data."
        )
    return warnings


def lineage_summary(policy: Origin, rewards: Mapping[str, Origin], prompts: frozenset[str]) -> dict[str, Any]:
    """What a run's record says of how its reward models, by name, fit the policy and PPO's `prompt_sources`; plain data.

    `rewards` holds what each grew from, what told it, and the answers "yes", "no" or "unknown" to `same_lineage` and
    `in_distribution`; over all of them stand the same two answers, "no" where one says no. `warnings` are sentences. Verifiers and
    functions are trained on nothing: leave them out.
    """
    entries = {
        name: {
            **_entry(reward),
            "sources": sorted(_named(reward.sources)),
            "same_lineage": str(same_lineage(policy, reward)),
            "in_distribution": str(in_distribution(reward, prompts)),
        }
        for name, reward in rewards.items()
    }
    lone = len(rewards) == 1
    names = {name: "the reward model" if lone else f"the reward model {name}" for name in rewards}
    return {
        "policy": _entry(policy),
        "prompts": sorted(_named(prompts)),
        "rewards": entries,
        "same_lineage": _all([entry["same_lineage"] for entry in entries.values()]),
        "in_distribution": _all([entry["in_distribution"] for entry in entries.values()]),
        "warnings": [line for name, reward in rewards.items() for line in warnings_of(policy, reward, prompts, name=names[name])],
    }


def _entry(origin: Origin) -> dict[str, Any]:
    return {"base": origin.name, "told_by": origin.told_by or "nothing"}


def _all(answers: list[str]) -> str:
    """The worst of several answers; without any there is nothing to know."""
    return next((str(answer) for answer in (Answer.no, Answer.unknown, Answer.yes) if answer in answers), str(Answer.unknown))


def _line(place: str, revision: str | None, below: tuple[str, ...]) -> tuple[tuple[str, ...], str]:
    """The families from the model at `place` upward, nearest first, and what told them. `below` is where the way came from."""
    if (note := _file(place, revision, LINEAGE)) is not None:
        return _known(family(_written(note)["lineage"])), LINEAGE
    if (run := _run_of(place)) is not None and place not in below:
        base = read_record(run)["lineage"]["base"]
        line, _ = _line(*_place(base, None), (*below, place))
        return line, "" if line[0].startswith("/") else f"the record of {run.name}"
    own = _own_name(place)
    parents, told_by = _parents(place, revision)
    above = [name for parent in parents if parent not in below for name in _line(*_place(parent, None), (*below, place))[0]]
    if own in _PRETRAINED:
        return tuple(dict.fromkeys((own, *above, *_known(own)))), "its name"
    if above and (_is_reward_model(place, revision) or told_by == ADAPTER_CONFIG):
        return tuple(dict.fromkeys(above)), told_by
    return tuple(dict.fromkeys((own, *above))), told_by if above else ""


def _known(own: str) -> tuple[str, ...]:
    """A family and what it grew from, where that is in the table."""
    return (own, _PRETRAINED[own]) if own in _PRETRAINED else (own,)


def _own_name(place: str) -> str:
    """The family of a hub id; of a folder only where its name is that of a known one, else the folder itself."""
    own = family(place)
    return place if place.startswith("/") and own not in _PRETRAINED else own


def _parents(place: str, revision: str | None) -> tuple[list[str], str]:
    """The models that the one at `place` was made from, and the file that says so."""
    if (file := _file(place, revision, ADAPTER_CONFIG)) is not None and (base := _written(file).get("base_model_name_or_path")):
        return [base], ADAPTER_CONFIG
    if bases := _listed(_card(place, revision).get("base_model")):
        return bases, "its model card"
    if (file := _file(place, revision, CONFIG)) is not None:
        base = _written(file).get("_name_or_path") or ""
        # Most often it is a place on the machine of whoever saved the model, and says nothing here.
        if base != place and (_HUB_ID.fullmatch(base) or Path(base).is_dir()) and base:
            return [base], CONFIG
    return [], ""


def _trained_on(place: str, revision: str | None) -> frozenset[str]:
    """The sources of a reward model's training: those of its run's record, else the datasets of its card."""
    if (run := _run_of(place)) is not None:
        record = read_record(run)
        inputs = {key: value for key, value in record["identity"].get("inputs", {}).items() if key.startswith("data.")}
        names = [*record.get("data", {}).get("sources", {}), *(key.split(".", 2)[2] for key in inputs if key.count(".") > 1)]
        names += [dataset_name(value) for value in inputs.values() if "/" in value]  # a dataset on the hub is its own fingerprint
        return frozenset({*_names(names), *_hashes(inputs.values())})
    return frozenset(_names(dataset_name(name) for name in _listed(_card(place, revision).get("datasets"))))


def _is_reward_model(place: str, revision: str | None) -> bool:
    file = _file(place, revision, CONFIG)
    kinds = [] if file is None else _written(file).get("architectures") or []
    return any(kind.endswith("ForSequenceClassification") for kind in kinds)


def _card(place: str, revision: str | None) -> dict[str, Any]:
    """The metadata of a model card; empty where there is none, or none that can be read: a card is written by hand."""
    file = _file(place, revision, CARD)
    if file is None:
        return {}
    try:
        return metadata_load(file) or {}
    except (YAMLError, ValueError):
        return {}


def _fetch_card(place: str, revision: str | None) -> None:
    """Brings the card of a model on the hub into the cache: loading weights does not."""
    if not _HUB_ID.fullmatch(place) or _file(place, revision, CARD) is not None:
        return
    try:
        require_hub(place)
    except ValueError:
        return  # what cannot be asked stays unknown
    find_file(Source(path=place, revision=revision), CARD)


def _place(path: str, revision: str | None) -> tuple[str, str | None]:
    """The absolute path of a folder, or a hub id with its revision; a path that leads nowhere here stays a path."""
    folder = Path(path).expanduser()
    if folder.is_dir() or folder.is_absolute() or path.startswith(".") or path.count("/") > 1 + path.partition("@")[2].count("/"):
        return folder.absolute().as_posix(), None
    name, _, at = path.partition("@")
    return name, at or revision


def _file(place: str, revision: str | None, name: str) -> Path | None:
    """A file of a model in its folder or in the hub's cache on this machine."""
    if place.startswith("/"):
        return Path(place, name) if Path(place, name).is_file() else None
    if not _HUB_ID.fullmatch(place):
        return None
    cached = try_to_load_from_cache(place, name, revision=revision)
    return Path(cached) if isinstance(cached, str) else None


def _run_of(place: str) -> Path | None:
    """The folder of the run that the folder `place` is, or is a checkpoint of."""
    folder = Path(place)
    return next((p for p in (folder, *folder.parents[:2]) if (p / RECORD).is_file()), None) if folder.is_absolute() else None


def _written(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8"))


def _listed(value: Any) -> list[str]:
    """A card's entry, which may be one name or several."""
    return [str(item) for item in value] if isinstance(value, list) else [str(value)] if value else []


def _names(names: Iterable[str]) -> list[str]:
    return [name.lower() for name in names if name.lower() not in _SPLITS]


def _hashes(fingerprints: Iterable[str]) -> list[str]:
    return [_HASH + value for value in fingerprints if re.fullmatch("[0-9a-f]{64}", value)]


def _named(sources: frozenset[str]) -> set[str]:
    return {source for source in sources if not source.startswith(_HASH)}


def _shown(sources: frozenset[str]) -> str:
    return ", ".join(sorted(_named(sources)))
