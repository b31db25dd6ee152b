"""The files of every revision, in a folder to look at and to upload: weights are links to those of the run."""

import json
import shutil
from pathlib import Path

from core.data.hub import HubId
from core.disk import MARKER, jsonable, read_json, remove
from core.models.locate import ADAPTER_CONFIG, CONFIG
from core.models.origin import CARD
from core.runs.checkpoints import STATE
from launch.publish.card import card, record_of, results
from launch.publish.plan import MAIN, Publication, Revision

RESULTS = ".eval_results/rewardbench2.yaml"
FACTS = "rewardloop.json"
"""The run behind a revision. Not called like a run's record: those who load the revision would take its folder for a run."""
_NAMED_BY = ("_name_or_path", "base_model_name_or_path")
"""Keys of configurations that say where a model was read from, which may be a folder of this machine."""


def write_folders(publication: Publication, folder: Path) -> dict[str, Path]:
    """Writes the folder of every branch, anew; returns them by branch, in the order in which they are to be uploaded: `main` last."""
    if folder.exists():
        remove(folder)
    branches = {revision.name: revision for revision in reversed(publication.revisions)} | {MAIN: publication.best}
    return {branch: _write(publication, revision, folder / branch) for branch, revision in branches.items()}


def _write(publication: Publication, revision: Revision, folder: Path) -> Path:
    folder.mkdir(parents=True)
    for file in sorted(revision.weights.iterdir()):
        if file.name in (MARKER, STATE, CARD) or not file.is_file():
            continue
        if file.name in (CONFIG, ADAPTER_CONFIG):
            _write_config(file, folder / file.name, publication.base_models[revision.name])
        else:
            (folder / file.name).symlink_to(file.resolve())
    (folder / CARD).write_text(card(publication), encoding="utf-8")
    (folder / FACTS).write_text(json.dumps(jsonable(record_of(publication, revision)), indent=2) + "\n", encoding="utf-8")
    if found := results(publication, revision):
        (folder / RESULTS).parent.mkdir()
        (folder / RESULTS).write_text(found, encoding="utf-8")
    return folder


def _write_config(file: Path, target: Path, base: str) -> None:
    """A configuration, in which a place on this machine gives way to the base model on the hub."""
    found = read_json(file, remedy="restore it from a copy")
    local = [key for key in _NAMED_BY if isinstance(found.get(key), str) and (Path(found[key]).exists() or not HubId.parse(found[key]))]
    if local:
        target.write_text(json.dumps(found | dict.fromkeys(local, base), indent=2) + "\n", encoding="utf-8")
    else:
        shutil.copyfile(file, target)
