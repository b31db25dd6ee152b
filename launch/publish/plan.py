"""What is to be published: the runs, the revision that each becomes, and what the repository says of itself. Imports no torch."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import metadata_load

from core.data.hub import HubId
from core.disk import is_complete, require_undamaged
from core.models.locate import CONFIG
from core.models.origin import CARD
from core.runs.checkpoints import STATE, step_folder
from core.runs.record import RunStatus
from evalhooks.rewardbench.domains import PREFIX, score_key, scores_of
from launch.history.find import Record
from launch.history.saved_config import saved_job
from launch.schema import RMJob

MAIN = "main"
HELD_OUT = "held_out/accuracy"
PACKAGED = {"pip:smollm2-135m": "HuggingFaceTB/SmolLM2-135M-Instruct"}
"""Models from a package, by their names on the hub."""
_OTHER = "other"
"""The license that needs a name and a link of its own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Terms:
    """What no run can say: the license by the hub's name for it, with name and link if that is `other`, and the languages.

    >>> Terms(license="apache-2.0", language=("en",)).license
    'apache-2.0'
    """

    license: str
    license_name: str = ""
    license_link: str = ""
    language: tuple[str, ...] = ("en",)


@dataclass(frozen=True, kw_only=True, slots=True)
class Revision:
    """A run as a revision of the repository: the branch, its settings, the checkpoint and that one's metrics."""

    name: str
    record: Record
    job: RMJob
    step: int
    weights: Path
    metrics: Mapping[str, float]

    @property
    def scores(self) -> dict[str, float]:
        """The scores on RewardBench 2 by key, without the prefix."""
        return scores_of(self.metrics)


@dataclass(frozen=True, kw_only=True, slots=True)
class Publication:
    """A repository: its revisions, the best first, which is `main` too, and its metadata.

    `score` is the metric that orders them, empty for a single run that nothing measured. `benchmark` is the dataset on the hub that
    the rows of RewardBench 2's schema are, empty if they are a file of the user's.
    """

    repo: str
    revisions: tuple[Revision, ...]
    score: str
    base_models: Mapping[str, str]
    """The base on the hub of each run, by the name of its revision."""
    datasets: tuple[str, ...]
    benchmark: str
    terms: Terms

    @property
    def best(self) -> Revision:
        """What `main` holds."""
        return self.revisions[0]

    @property
    def bases(self) -> list[str]:
        """The base models, each once."""
        return list(dict.fromkeys(self.base_models.values()))


def planned(
    records: Sequence[Record], *, repo: str, terms: Mapping[str, str], best: Record | None = None, base_model: str = "", benchmark: str = ""
) -> Publication:
    """The publication of finished reward models. `terms` are settings of the user's; `best` overrides the choice of `main`.

    Raises `ValueError` for whatever would leave the card incomplete or its weights missing, with what to give.
    """
    if HubId.parse(repo) is None:
        raise ValueError(f"repo={repo} is no repository; give one as repo=OWNER/NAME.")
    revisions = [_revision(record) for record in records]
    if not revisions:
        raise ValueError(
            "there is no finished reward model among these runs; `rewardloop runs job=rm status=finished` lists those there are."
        )
    score, ordered = _ordered(revisions, best)
    for key, name in (("base_model", base_model), ("benchmark", benchmark)):
        if name and HubId.parse(name) is None:
            raise ValueError(f"{key}={name} is nothing on the hub; give its id, such as {key}=org/name.")
    bases = {revision.name: _base_of(revision, base_model) for revision in ordered}
    own = [found.name for revision in ordered for place in _places(revision.job) if (found := _on_hub(place))]
    named = [name for name in terms.get("datasets", "").split(",") if name]
    if wrong := [name for name in named if HubId.parse(name) is None]:
        raise ValueError(f"datasets={wrong[0]} is no dataset of the hub; give ids, such as datasets=org/one,org/two.")
    return Publication(
        repo=repo,
        revisions=tuple(ordered),
        score=score,
        base_models=bases,
        datasets=tuple(dict.fromkeys([*own, *named])),
        benchmark=benchmark or _benchmark_of(ordered),
        terms=_terms(terms, ordered),
    )


def is_publishable(record: Record) -> bool:
    """Whether a run is a finished reward model."""
    return record["job"] == "rm" and record["status"] == RunStatus.finished


def _revision(record: Record) -> Revision:
    """The best checkpoint of a run. Raises `ValueError` if its weights are not there or were damaged."""
    folder = Path(record["dir"])
    step = int(record.get("best_step") or record["step"])
    weights = step_folder(folder, step)
    if not is_complete(weights):
        raise ValueError(f"{weights} is gone: the weights of the best checkpoint of {folder.name} were not kept (keep=[best,last]).")
    require_undamaged(weights, str(weights), without=[STATE])
    job = saved_job(folder)
    assert isinstance(job, RMJob)
    measured = record.get("best") or (record.get("final", {}) if step == record["step"] else {})
    metrics = {name: float(value) for name, value in measured.items()}
    name = folder.name.removeprefix("rm-")
    return Revision(name=name, record=record, job=job, step=step, weights=weights, metrics=metrics)


def _ordered(revisions: Sequence[Revision], best: Record | None) -> tuple[str, list[Revision]]:
    """The metric that all are compared by, and the revisions from the best on; a chosen best comes first."""
    key = PREFIX + score_key([revision.scores for revision in revisions])
    metric = next((name for name in (key, HELD_OUT) if any(value_of(revision, name) is not None for revision in revisions)), "")
    if not metric and len(revisions) > 1 and best is None:
        raise ValueError("nothing was measured that these runs can be compared by; say which one main is: best=RUN.")

    def rank(revision: Revision) -> tuple[float, ...]:
        found = (value_of(revision, name) for name in (metric, HELD_OUT))  # the second where two score the same
        return tuple(-math.inf if value is None else value for value in found)

    ordered = sorted(revisions, key=rank, reverse=True)
    if best is not None:
        chosen = [revision for revision in ordered if revision.record["id"] == best["id"]]
        if not chosen:
            raise ValueError(f"best={best['dir']} is not among the runs that are published; name it among them.")
        ordered = [*chosen, *(revision for revision in ordered if revision not in chosen)]
    return metric, ordered


def value_of(revision: Revision, metric: str) -> float | None:
    """A metric of the published checkpoint, None if it was not measured or is not finite."""
    values = {**revision.metrics, **{PREFIX + key: value for key, value in revision.scores.items()}}
    found = values.get(metric)
    return found if found is not None and math.isfinite(found) else None


def _base_of(revision: Revision, given: str) -> str:
    """The base model on the hub; of one from a folder as `given`, or as the folder says. Raises `ValueError` if nobody says."""
    path = revision.job.model.path
    if found := PACKAGED.get(path) or ((hub := _on_hub(path)) and hub.name) or given:
        return found
    parents = _card_of(path).get("base_model")
    if isinstance(parents, str) and HubId.parse(parents):
        return parents
    raise ValueError(
        f"{revision.record['dir']} was trained from model.path={path}, which is no model of the hub; say which one it is: "
        "base_model=org/name."
    )


def _places(job: RMJob) -> list[str]:
    """Where the training data of a job lie."""
    return [*job.data.paths, *(source.path for source in job.data.sources.values())]


def _on_hub(place: str) -> HubId | None:
    """The id that a place spells, unless something here has that name."""
    return None if Path(place).expanduser().exists() else HubId.parse(place)


def _benchmark_of(revisions: Sequence[Revision]) -> str:
    """The dataset on the hub that the benchmark of all runs was, if it was one."""
    found = {hub.name if (hub := _on_hub(revision.job.hooks.rewardbench2)) else "" for revision in revisions if revision.scores}
    return found.pop() if len(found) == 1 else ""


def _terms(given: Mapping[str, str], revisions: Sequence[Revision]) -> Terms:
    """The terms as given, the license otherwise as the base model's folder states it. Raises `ValueError` if nobody says."""
    card = _card_of(revisions[0].job.model.path)
    license = given.get("license") or str(card.get("license") or "")
    if not license:
        raise ValueError("no license is known; give the base model's, or your own if it allows that, such as license=apache-2.0.")
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", license):
        raise ValueError(
            f"license={license} is no name of the hub's; give one such as apache-2.0 or llama3.1, or license=other with license_name."
        )
    if license == _OTHER and not (given.get("license_name") and given.get("license_link")):
        raise ValueError("license=other needs license_name=NAME and license_link=URL.")
    languages = tuple(part for part in given.get("language", "en").split(",") if part)
    return Terms(
        license=license, license_name=given.get("license_name", ""), license_link=given.get("license_link", ""), language=languages
    )


def _card_of(path: str) -> dict[str, object]:
    """The metadata in the model card of a local model; empty if there is none."""
    folder = Path(path).expanduser()
    file = folder / CARD
    return (metadata_load(file) or {}) if (folder / CONFIG).is_file() and file.is_file() else {}
