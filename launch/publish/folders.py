"""The files of every revision, in a folder to look at and to upload: weights are links to those of the run."""

import json
import shutil
from pathlib import Path
from typing import Any

from core.data.hub import HubId
from core.disk import jsonable, read_json, remove
from core.models.origin import CARD
from launch.publish.card import card
from launch.publish.facts import record_of
from launch.publish.licenses import LICENSES
from launch.publish.plan import Publication
from launch.publish.results import results
from launch.publish.revisions import Revision

RESULTS = ".eval_results/rewardbench2.yaml"
FACTS = "rewardloop.json"
"""The run behind a revision. Not called like a run's record: those who load the revision would take its folder for a run."""
NOTICE = "NOTICE"
_OWN = ".rewardloop-publish"
"""Marks a folder as one that may be written anew."""
_MAY_NAME_PLACES = ("config.json", "adapter_config.json", "tokenizer_config.json", "special_tokens_map.json", "packed_base.json")
"""Files in which libraries note where a model was read from, which may be a folder of this machine."""


def write_folders(publication: Publication, folder: Path) -> dict[str, Path]:
    """Writes the folder of every branch, anew; returns them by branch, in the order in which they are to be uploaded: `main` last.

    Raises `ValueError` if `folder` holds anything that no publication wrote.
    """
    if folder.exists() and not (folder / _OWN).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"out={folder} holds something else, which would be removed; name another folder.")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _OWN).touch()
    for old in list(folder.iterdir()):
        if old.name != _OWN:  # kept, for a process that is killed in between
            remove(old)
    return {branch: _write(publication, revision, folder / branch) for branch, revision in publication.branches.items()}


def _write(publication: Publication, revision: Revision, folder: Path) -> Path:
    folder.mkdir(parents=True)
    for file in publication.license_files:
        shutil.copyfile(file, folder / file.name)
    known = LICENSES.get(publication.terms.license)
    if known and not any(file.stem.upper() == NOTICE for file in publication.license_files):
        (folder / NOTICE).write_text(f"{known.notice}\n", encoding="utf-8")
    (folder / CARD).write_text(card(publication, revision), encoding="utf-8")
    facts = json.dumps(jsonable(record_of(revision)), indent=2, allow_nan=False, ensure_ascii=False)
    (folder / FACTS).write_text(f"{facts}\n", encoding="utf-8")
    if found := results(revision):
        (folder / RESULTS).parent.mkdir()
        (folder / RESULTS).write_text(found, encoding="utf-8")
    for file in revision.files:
        target = folder / file.name
        if target.exists():
            continue  # a card or license of the checkpoint's own; through a link to it ours would replace it there
        if file.name in _MAY_NAME_PLACES:
            _write_config(file, target, revision.base_model)
        else:
            target.symlink_to(file.resolve())
    return folder


def _write_config(file: Path, target: Path, base: str) -> None:
    """A configuration, in which a place on this machine gives way to the base model on the hub."""
    found = read_json(file, remedy="restore it from a copy")
    public = _public(found, base)
    if public == found:
        shutil.copyfile(file, target)
    else:
        target.write_text(json.dumps(public, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _public(value: Any, base: str) -> Any:
    """A value of a configuration, in which `base` stands for a model's place, and files have their names alone."""
    if isinstance(value, list):
        return [_public(item, base) for item in value]
    if not isinstance(value, dict):
        return value
    found = {key: _public(item, base) for key, item in value.items()}
    for key, place in found.items():
        if not isinstance(place, str) or not place:
            continue
        if key.endswith("name_or_path") and (Path(place).expanduser().exists() or not HubId.parse(place)):
            found[key] = base
        elif key.endswith("_file") and "/" in place:
            found[key] = Path(place).name
    return found
