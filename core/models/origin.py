"""Where models come from: the families of their base models, and the data that they were trained on.

Facts only; `evalhooks.lineage` decides from them whether a reward model fits a policy. What cannot be found out is unknown.
"""

import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import metadata_load, try_to_load_from_cache
from yaml import YAMLError

from core.config import ModelConfig
from core.data.fingerprint import fingerprint
from core.data.hub import HubId, require_hub
from core.data.rows import dataset_name
from core.disk import BrokenFileError, read_json
from core.models.locate import ADAPTER_CONFIG, CONFIG, ModelLocation, find_file
from core.runs.record import RECORD, read_record, value_at

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
"""Repository names of the families in conf/model/."""
_PRETRAINED = {
    "tulu-3-8b": "llama-3.1-8b",
    "tulu-3-70b": "llama-3.1-70b",
    "llama-3.1-8b-instruct": "llama-3.1-8b",
    "llama-3.1-70b-instruct": "llama-3.1-70b",
    "qwen-2.5-7b-instruct": "qwen-2.5-7b",
    "smollm2": "smollm2-135m",
}
"""The pretrained models behind these families. Sharing only these does not help: Tulu and Llama Instruct do (table 8)."""
_STAGE = re.compile(r"[-_](sft|dpo|kto|ppo|grpo|rlvr|rlhf|rl|rm|rm-rb2)$")
"""A training stage at the end of a name; all stages belong to one family."""
_SPLITS = {"train", "training", "test", "validation", "data", "prompts", "preferences", "pairs"}
"""File names that say nothing about the content."""
_HASH = "sha256:"


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """The models that a model was derived from, and the prompts that it was trained on.

    `base` is a family as named by `family`, or the absolute path of a folder about which nothing is known; `ancestors` are
    the families behind the base, nearest first. `evidence` names the source of this knowledge, and is empty if `base` is just
    the model's own name. `sources` are dataset names and file hashes (`prompt_sources`); empty: unknown.

    >>> Origin(base="tulu-3-8b", evidence="model.lineage", sources=frozenset({"tulu"})).families
    ('tulu-3-8b',)
    """

    base: str
    ancestors: tuple[str, ...] = ()
    evidence: str = ""
    sources: frozenset[str] = frozenset()

    @property
    def families(self) -> tuple[str, ...]:
        """The base and its ancestors."""
        return (self.base, *self.ancestors)

    @property
    def is_unnamed(self) -> bool:
        """Whether the base is a folder rather than a family."""
        return self.base.startswith("/")

    @property
    def name(self) -> str:
        """The base as it is called in messages."""
        return Path(self.base).name


def origin_of(config: ModelConfig) -> Origin:
    """A model's origin, from `config.lineage` and from the files beside its weights or in the local hub cache.

    Consulted in this order: a lineage.json, the record of the run that trained it, an adapter's base, the model card
    (`base_model`, `datasets`), `_name_or_path` in the configuration. Links are followed as far as they lead on this machine;
    only the model's own card is downloaded, if the hub is reachable. A reward model's own name is not informative, so its base
    is the model that it was trained from.
    """
    place, revision = _locate(config.path, config.revision)
    _fetch_card(place, revision)
    line, evidence = _families(place, revision, ())
    if config.lineage:
        line, evidence = _with_pretrained(family(config.lineage)), "model.lineage"
    return Origin(base=line[0], ancestors=line[1:], evidence=evidence, sources=_trained_on(place, revision))


def lineage_of(model: ModelConfig) -> str:
    """A model's base for a run's record: as configured, as recorded beside it or in its own run, otherwise its path."""
    if model.lineage:
        return model.lineage
    folder = Path(model.path).expanduser()
    if (folder / LINEAGE).is_file():
        return _noted(folder / LINEAGE)
    run = _run_of(folder.absolute().as_posix())
    return model.path if run is None else str(_recorded_base(run) or model.path)


def run_id_of(path: str) -> str:
    """The id of the run that `path` is a checkpoint of, otherwise the path."""
    run = _run_of(Path(path).absolute().as_posix())
    return path if run is None else read_record(run)["id"]


def run_name_of(path: str) -> str:
    """The name of the run that `path` is a checkpoint of; empty if it is none's."""
    run = _run_of(Path(path).absolute().as_posix())
    return "" if run is None else str(read_record(run).get("name") or "")


def trained_from(model: ModelConfig) -> dict[str, str]:
    """What a report says of a reward model: the `run` that trained it (its id, otherwise the model's path), and by name its `base` and
    its `data`, empty where they are not known."""
    run = _run_of(Path(model.path).absolute().as_posix())
    own = {} if run is None else read_record(run)["lineage"]
    origin = origin_of(model)
    data = own.get("data") or ", ".join(sorted(named_sources(origin.sources)))
    base = family(str(own["base"])) if own.get("base") else origin.name
    return {"run": run_id_of(model.path), "path": model.path, "base": base, "data": data}


def family(name: str) -> str:
    """The family behind a model's name: lower case, without owner, revision and training stages.

    >>> family("allenai/Llama-3.1-Tulu-3-8B-SFT@main"), family("tulu-3-8b"), family("org/My_Model-DPO")
    ('tulu-3-8b', 'tulu-3-8b', 'my_model')
    """
    own = name.strip().partition("@")[0].rstrip("/").rpartition("/")[2].lower()  # a revision may hold a slash
    while (shorter := _STAGE.sub("", own)) != own:
        own = shorter
    return _ALIASES.get(own, own)


def prompt_sources(paths: Iterable[str]) -> frozenset[str]:
    """Labels of files, folders or hub datasets: their names, and content hashes for local ones.

    A file named after its split (train, prompts) has no name of its own. Raises `FileNotFoundError` for a missing file.
    """
    return frozenset(label for path in paths for label in (*_names([dataset_name(path)]), *_hashes([fingerprint(path)])))


def _families(place: str, revision: str | None, below: tuple[str, ...]) -> tuple[tuple[str, ...], str]:
    """The families of the model at `place` and its ancestors, nearest first, and the evidence. `below` are places already visited."""
    if (note := _file(place, revision, LINEAGE)) is not None:
        return _with_pretrained(family(_noted(note))), LINEAGE
    if (run := _run_of(place)) is not None and place not in below:
        if base := _recorded_base(run):
            line, _ = _families(*_locate(str(base), None), (*below, place))
            return line, "" if line[0].startswith("/") else f"the record of {run.name}"
        print(f"{run / RECORD} lacks lineage.base, so that the files beside the weights alone tell where {place} is from", file=sys.stderr)
    own = _own_family(place)
    parents, evidence = _parents(place, revision)
    above = [name for parent in parents if parent not in below for name in _families(*_locate(parent, None), (*below, place))[0]]
    if own in _PRETRAINED:
        return tuple(dict.fromkeys((own, *above, *_with_pretrained(own)))), "its name"
    if above and (_is_reward_model(place, revision) or evidence == ADAPTER_CONFIG):
        return tuple(dict.fromkeys(above)), evidence
    return tuple(dict.fromkeys((own, *above))), evidence if above else ""


def _with_pretrained(own: str) -> tuple[str, ...]:
    """A family, and its pretrained model if it is in the table."""
    return (own, _PRETRAINED[own]) if own in _PRETRAINED else (own,)


def _own_family(place: str) -> str:
    """The family of a hub id; for a folder only if its name is a known family, otherwise the folder itself."""
    own = family(place)
    return place if place.startswith("/") and own not in _PRETRAINED else own


def _parents(place: str, revision: str | None) -> tuple[list[str], str]:
    """The models that the one at `place` was derived from, and the file that says so."""
    if (file := _file(place, revision, ADAPTER_CONFIG)) is not None and (base := _read_json(file).get("base_model_name_or_path")):
        return [base], ADAPTER_CONFIG
    if bases := _names_in(_card(place, revision).get("base_model")):
        return bases, "its model card"
    if (file := _file(place, revision, CONFIG)) is not None:
        base = _read_json(file).get("_name_or_path") or ""
        # Usually a path on the machine where the model was saved, which means nothing here.
        if base != place and (HubId.parse(base) or Path(base).is_dir()) and base:
            return [base], CONFIG
    return [], ""


def _trained_on(place: str, revision: str | None) -> frozenset[str]:
    """The sources that a reward model was trained on: from its run's record, otherwise the datasets of its card."""
    if (run := _run_of(place)) is not None:
        record = read_record(run)
        inputs = {key: value for key, value in (value_at(record, "identity.inputs") or {}).items() if key.startswith("data.")}
        names = [*(value_at(record, "data.sources") or {}), *(key.split(".", 2)[2] for key in inputs if key.count(".") > 1)]
        names += [dataset_name(value) for value in inputs.values() if "/" in value]  # a dataset on the hub is its own fingerprint
        return frozenset({*_names(names), *_hashes(inputs.values())})
    return frozenset(_names(dataset_name(name) for name in _names_in(_card(place, revision).get("datasets"))))


def _is_reward_model(place: str, revision: str | None) -> bool:
    file = _file(place, revision, CONFIG)
    kinds = [] if file is None else _read_json(file).get("architectures") or []
    return any(kind.endswith("ForSequenceClassification") for kind in kinds)


def _card(place: str, revision: str | None) -> dict[str, Any]:
    """The metadata of a model card; empty if it is missing or, since cards are written by hand, malformed."""
    file = _file(place, revision, CARD)
    if file is None:
        return {}
    try:
        return metadata_load(file) or {}
    except (YAMLError, ValueError):
        return {}


def _fetch_card(place: str, revision: str | None) -> None:
    """Downloads the card of a model on the hub into the cache, which loading its weights does not do."""
    if HubId.parse(place) is None or _file(place, revision, CARD) is not None:
        return
    try:
        require_hub(place)
    except ValueError:
        return  # offline, it stays unknown
    find_file(ModelLocation(path=place, revision=revision), CARD)


def _locate(path: str, revision: str | None) -> tuple[str, str | None]:
    """The absolute path of a folder, or a hub id with its revision; a path that does not exist here stays a path."""
    folder = Path(path).expanduser()
    hub = None if folder.is_dir() else HubId.parse(path)
    if hub is not None:
        return hub.name, hub.revision or revision
    return (folder.absolute().as_posix(), None) if folder.is_dir() or "/" in path or path.startswith(".") else (path, revision)


def _file(place: str, revision: str | None, name: str) -> Path | None:
    """A model's file in its folder or in the local hub cache."""
    if place.startswith("/"):
        return Path(place, name) if Path(place, name).is_file() else None
    if HubId.parse(place) is None:
        return None
    cached = try_to_load_from_cache(place, name, revision=revision)
    return Path(cached) if isinstance(cached, str) else None


def _run_of(place: str) -> Path | None:
    """The folder of the run that `place` is, or is a checkpoint of; None too if its record cannot be read, which is said."""
    folder = Path(place)
    run = next((p for p in (folder, *folder.parents[:2]) if (p / RECORD).is_file()), None) if folder.is_absolute() else None
    try:
        return run if run is None or read_record(run) else None
    except BrokenFileError as error:
        print(f"the lineage of {place} is not known: {error}", file=sys.stderr)
        return None


def _recorded_base(run: Path) -> object:
    """The base of a run as its record has it; None or empty where that says nothing."""
    return value_at(read_record(run), "lineage.base")


def _read_json(file: Path) -> dict[str, Any]:
    return read_json(file, remedy="mend the file, or save the model again")


def _noted(file: Path) -> str:
    """The lineage in a lineage.json."""
    found = _read_json(file).get("lineage")
    if not isinstance(found, str):
        raise BrokenFileError(f'{file} names no lineage; write {{"lineage": "tulu-3-8b"}}, or remove it.')
    return found


def _names_in(value: object) -> list[str]:
    """The names in a card's entry, which may be one name or a list."""
    return [str(item) for item in value] if isinstance(value, list) else [str(value)] if value else []


def _names(names: Iterable[str]) -> list[str]:
    return [name.lower() for name in names if name.lower() not in _SPLITS]


def _hashes(fingerprints: Iterable[str]) -> list[str]:
    return [_HASH + value for value in fingerprints if re.fullmatch("[0-9a-f]{64}", value)]


def named_sources(sources: frozenset[str]) -> set[str]:
    """The names among `prompt_sources`, without the file hashes."""
    return {source for source in sources if not source.startswith(_HASH)}
