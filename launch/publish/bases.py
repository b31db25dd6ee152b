"""The base model of every published run on the hub, and what its folder says of it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from huggingface_hub import metadata_load, try_to_load_from_cache
from yaml import YAMLError

from core.data.hub import HubId
from core.models.locate import CONFIG
from core.models.origin import CARD
from core.runs.identity import INPUTS
from launch.history.find import Record
from launch.publish.places import MODEL, hub_id
from launch.schema import RMJob

PACKAGED = {"pip:smollm2-135m": "HuggingFaceTB/SmolLM2-135M-Instruct"}
"""Models from a package, by their names on the hub."""
_SNAPSHOT = re.compile(r"models--([\w.-]+)--([\w.-]+)/snapshots/")
"""Where the hub's client keeps a model."""
_LICENSE_FILES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "USE_POLICY.md", "NOTICE", "NOTICE.txt", "Notice.txt")


@dataclass(frozen=True, kw_only=True, slots=True)
class Base:
    """The base model of a run: its id on the hub, its folder if it was read from one, and whether the folder's own card named it.

    >>> Base(name="org/name").is_from_card
    False
    """

    name: str
    folder: Path | None = None
    is_from_card: bool = False

    @property
    def card(self) -> dict[str, Any]:
        """The metadata of the model card in the folder; empty if there is none."""
        return {} if self.folder is None else _card_of(self.folder)

    @property
    def license_files(self) -> list[Path]:
        """The texts of the license that lie beside the base model here, in its folder or in the hub's cache."""
        if self.folder is not None:
            return [file for name in _LICENSE_FILES if (file := self.folder / name).is_file()]
        cached = (try_to_load_from_cache(self.name, name) for name in _LICENSE_FILES)
        return [Path(file) for file in cached if isinstance(file, str)]


def bases_of(runs: Sequence[tuple[Record, RMJob]], given: str) -> list[Base]:
    """The base model of each run. `given` is the id of those that were trained from a folder, or `NAME:ID,...` for several folders.

    Raises `ValueError` for a base that nobody names, for one id for several folders, and for an id that nothing uses.
    """
    known = [_known(record, job.model.path) for record, job in runs]
    folders = {job.model.path: _content(record, job) for (record, job), base in zip(runs, known, strict=True) if base is None}
    named = _named(given, folders)
    return [base or _from_folder(record, job.model.path, named) for (record, job), base in zip(runs, known, strict=True)]


def _known(record: Record, path: str) -> Base | None:
    """A base whose id is certain: from a package, from the hub, or from the hub's cache."""
    if path in PACKAGED:
        return Base(name=PACKAGED[path])
    if hub := hub_id(record, MODEL, path):
        return Base(name=hub.name)
    match = _SNAPSHOT.search(f"{Path(path).expanduser()}/")
    return Base(name=f"{match[1]}/{match[2]}", folder=Path(path).expanduser()) if match else None


def _named(given: str, folders: Mapping[str, str]) -> dict[str, str]:
    """The ids that the user gives, by the path of the folder."""
    if not given:
        return {}
    if not folders:
        raise ValueError(f"base_model={given} is for runs that were trained from a folder, and none of these was; leave it out.")
    pairs = [part.rpartition(":") for part in given.split(",") if part]
    if wrong := [name for *_, name in pairs if (hub := HubId.parse(name)) is None or hub.revision]:
        raise ValueError(f"base_model={wrong[0]} is nothing on the hub; give its id, such as base_model=org/name.")
    if len(pairs) == 1 and not pairs[0][0]:
        if len(set(folders.values())) > 1:
            some = ",".join(f"{PurePath(path).name}:org/{PurePath(path).name}" for path in folders)
            raise ValueError(
                f"base_model={given} cannot be all of the {len(folders)} folders that these runs were trained from ({', '.join(folders)}); "
                f"name each, as in base_model={some}."
            )
        return dict.fromkeys(folders, pairs[0][2])
    found: dict[str, str] = {}
    for folder, _, name in pairs:
        fits = [path for path in folders if folder in (path, PurePath(path).name)]
        if len({folders[path] for path in fits}) != 1:
            why = f"{len(fits)} folders have that name; give the whole path" if fits else f"choose among {', '.join(folders)}"
            raise ValueError(f"base_model={folder}:{name} names no folder that one of these runs was trained from; {why}.")
        found |= dict.fromkeys(fits, name)
    return found


def _from_folder(record: Record, path: str, named: Mapping[str, str]) -> Base:
    folder = Path(path).expanduser()
    if path in named:
        return Base(name=named[path], folder=folder)
    parents = _card_of(folder).get("base_model")
    parent = parents[0] if isinstance(parents, list) and len(parents) == 1 else parents
    if isinstance(parent, str) and HubId.parse(parent):
        return Base(name=parent, folder=folder, is_from_card=True)
    raise ValueError(
        f"{record['dir']} was trained from model.path={path}, which is no model of the hub; say which one it is: base_model=org/name."
    )


def _content(record: Record, job: RMJob) -> str:
    """What tells one folder from another: its content when the run began, or its path."""
    return str((record["identity"].get(INPUTS) or {}).get(MODEL) or Path(job.model.path).expanduser().absolute())


def _card_of(folder: Path) -> dict[str, Any]:
    """The metadata in the model card of a local model; empty if there is none, or if it is malformed, since people write cards."""
    file = folder / CARD
    try:
        return (metadata_load(file) or {}) if (folder / CONFIG).is_file() and file.is_file() else {}
    except (YAMLError, ValueError):
        return {}
