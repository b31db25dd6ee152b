"""What is to be published: the runs as revisions, the best first, and what the repository says of itself. Imports no torch."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from core.data.hub import HubId
from core.runs.record import RunStatus
from evalhooks.rewardbench.domains import PREFIX, score_key
from launch.history.find import Record
from launch.publish.bases import Base, bases_of
from launch.publish.places import BENCHMARK, hub_id
from launch.publish.revisions import HELD_OUT, REWARDBENCH1, Revision, revision_of, settings_of_run, value_of
from launch.schema import RMJob

MAIN = "main"
_OTHER = "other"
"""The license that needs a name and a link of its own."""
_LANGUAGE = re.compile(r"[a-z]{2,3}(?:-[A-Za-z0-9]+)*|multilingual|code")


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
class Publication:
    """A repository: its revisions, the best first, which is `main` too, and its metadata.

    `score` is the metric that orders them, empty for a single run that nothing measured. `license_files` are texts of the license that
    lie beside the base models here.
    """

    repo: str
    revisions: tuple[Revision, ...]
    score: str
    datasets: tuple[str, ...]
    terms: Terms
    local_bases: tuple[Base, ...] = ()
    """The base models that were read from folders, each once."""
    license_files: tuple[Path, ...] = ()

    @property
    def name(self) -> str:
        """The repository's name without its owner."""
        return self.repo.partition("/")[2]

    @property
    def best(self) -> Revision:
        """What `main` holds."""
        return self.revisions[0]

    @property
    def branches(self) -> dict[str, Revision]:
        """The revision on every branch, in the order of their upload: `main`, the best, comes last."""
        return {revision.name: revision for revision in reversed(self.revisions)} | {MAIN: self.best}

    @property
    def bases(self) -> list[str]:
        """The base models, each once."""
        return list(dict.fromkeys(revision.base_model for revision in self.revisions))

    @property
    def scored(self) -> list[Revision]:
        """The revisions that RewardBench 2 was measured of."""
        return [revision for revision in self.revisions if revision.scores]

    @property
    def benchmarks(self) -> list[str]:
        """The datasets on the hub that the revisions were scored on, each once; a file of the user's is an empty text."""
        return list(dict.fromkeys(revision.benchmark for revision in self.scored))

    @property
    def has_one_benchmark(self) -> bool:
        """Whether all revisions were scored on the same rows."""
        return len({revision.rows for revision in self.scored}) <= 1


def planned(
    records: Sequence[Record], *, repo: str, terms: Mapping[str, str], best: Record | None = None, base_model: str = "", benchmark: str = ""
) -> Publication:
    """The publication of finished reward models. `terms` are settings of the user's; `best` overrides the choice of `main`.

    Raises `ValueError` for whatever would leave the card incomplete or its weights missing, with what to give.
    """
    _require_repository(repo)
    if not records:
        raise ValueError(
            "there is no finished reward model among these runs; `rewardloop runs job=rm status=finished` lists those there are. Policies "
            "are not published: a checkpoint of theirs is a plain folder, for `hf upload` or `push_to_hub`."
        )
    if benchmark and ((hub := HubId.parse(benchmark)) is None or hub.revision):
        raise ValueError(f"benchmark={benchmark} is nothing on the hub; give its id, such as benchmark=org/name.")
    runs = [(record, settings_of_run(record)) for record in records]
    bases = bases_of(runs, base_model)
    found = [revision_of(record, job, base=base.name, benchmark=benchmark) for (record, job), base in zip(runs, bases, strict=True)]
    _require_one_file(runs, found, benchmark)
    score, ordered = _ordered(found, best)
    named = [name for name in terms.get("datasets", "").split(",") if name]
    if wrong := [name for name in named if (hub := HubId.parse(name)) is None or hub.revision]:
        raise ValueError(f"datasets={wrong[0]} is no dataset of the hub; give ids, such as datasets=org/one,org/two.")
    return Publication(
        repo=repo,
        revisions=tuple(ordered),
        score=score,
        datasets=tuple(dict.fromkeys([*(name for revision in ordered for name in revision.datasets), *named])),
        terms=_terms(terms, bases),
        local_bases=tuple({base.name: base for base in bases if base.folder is not None}.values()),
        license_files=tuple({file.name: file for base in bases for file in base.license_files}.values()),
    )


def is_publishable(record: Record) -> bool:
    """Whether a run is a finished reward model."""
    return record["job"] == "rm" and record["status"] == RunStatus.finished


def _require_repository(repo: str) -> None:
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise ValueError(f"repo={repo} is no repository ({error}); give one as repo=OWNER/NAME.") from error
    if "/" not in repo:
        raise ValueError(f"repo={repo} is no repository; give one as repo=OWNER/NAME.")


def _require_one_file(runs: Sequence[tuple[Record, RMJob]], revisions: Sequence[Revision], benchmark: str) -> None:
    """Raises `ValueError` if one dataset is to stand for several files of benchmark rows, or for none."""
    places = [job.hooks.rewardbench2 for _, job in runs]
    files = {
        revision.rows: place
        for (record, _), revision, place in zip(runs, revisions, places, strict=True)
        if revision.rows and hub_id(record, BENCHMARK, place) is None
    }
    if benchmark and not files:
        raise ValueError(f"benchmark={benchmark} is for scores on rows from a file, and there are none; leave it out.")
    if benchmark and len(files) > 1:
        raise ValueError(f"benchmark={benchmark} cannot be all of the {len(files)} files that these runs were scored on.")


def _ordered(revisions: Sequence[Revision], best: Record | None) -> tuple[str, list[Revision]]:
    """The metric that all are compared by, and the revisions from the best on; a chosen best comes first."""
    chosen = next((revision for revision in revisions if best is not None and revision.record["id"] == best["id"]), None)
    if best is not None and chosen is None:
        raise ValueError(f"best={best['dir']} is not among the runs that are published; name it among them.")
    rows = {revision.rows: revision for revision in revisions if revision.rows}
    if len(rows) > 1 and chosen is None:
        some = "; ".join(f"{revision.name}: {revision.benchmark or 'a file'}" for revision in rows.values())
        raise ValueError(
            f"these runs were scored on {len(rows)} benchmarks ({some}), so that their scores do not compare; publish those of one, or say "
            "which run main is: best=RUN."
        )
    key = PREFIX + score_key([revision.scores for revision in revisions])
    metrics = (key, HELD_OUT, REWARDBENCH1)
    metric = next((name for name in metrics if any(value_of(revision, name) is not None for revision in revisions)), "")
    if not metric and len(revisions) > 1 and chosen is None:
        raise ValueError("nothing was measured that these runs can be compared by; say which one main is: best=RUN.")

    def rank(revision: Revision) -> tuple[float, ...]:
        found = (value_of(revision, name) for name in (metric, HELD_OUT))  # the second where two score the same
        return tuple(-math.inf if value is None else value for value in found)

    ordered = sorted(revisions, key=rank, reverse=True)
    if chosen is not None:
        ordered = [chosen, *(revision for revision in ordered if revision is not chosen)]
    return metric, ordered


def _terms(given: Mapping[str, str], bases: Sequence[Base]) -> Terms:
    """The terms as given, the license otherwise as the base models' folders state it. Raises `ValueError` if nobody says."""
    cards = {str(card.get("license") or ""): card for card in (base.card for base in bases)}
    if "license" not in given and len(cards) > 1:
        said = ", ".join(sorted(license or "nothing" for license in cards))
        raise ValueError(f"the base models' folders state different licenses ({said}); say which one the models come under: license=NAME.")
    license = given.get("license") or next(iter(cards))
    if not license:
        raise ValueError("no license is known; give the base model's, or your own if it allows that, such as license=apache-2.0.")
    if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", license):
        raise ValueError(
            f"license={license} is no name of the hub's; give one such as apache-2.0 or llama3.1, or license=other with license_name."
        )
    card = cards.get(license, {}) if "license" not in given else {}
    name, link = (given.get(key) or str(card.get(key) or "") for key in ("license_name", "license_link"))
    if license == _OTHER and not (name and link.startswith(("https://", "http://"))):
        raise ValueError("license=other needs license_name=NAME and license_link=URL.")
    languages = tuple(part for part in given.get("language", "en").split(",") if part)
    if not languages or not all(map(_LANGUAGE.fullmatch, languages)):
        raise ValueError(f"language={given.get('language')} holds no codes of languages; give such as language=en or language=en,de.")
    own = license == _OTHER or "license_name" in given
    return Terms(license=license, license_name=name if own else "", license_link=link if own else "", language=languages)
