"""The table of a model card: a line for `main` and for each revision, with what sets the runs apart and what was measured of them."""

from collections.abc import Sequence

from evalhooks.rewardbench.domains import DOMAINS, OVERALL, PREFIX, label_of
from launch.identity import unhashed_keys
from launch.overrides.differences import differences, text_of
from launch.publish.plan import MAIN, Publication
from launch.publish.results import measured_rows
from launch.publish.revisions import HELD_OUT, REWARDBENCH1, Revision, value_of

NOT_MEASURED = "not measured"
_SHOWN = {"optim.lr", "epochs", "data.name", "model.lineage"}
"""Settings that the columns show whatever their values."""
_LONGEST = 80
"""Characters of a setting in a cell."""


def table(publication: Publication) -> list[list[str]]:
    """The headings, `main`, and a line for each revision, the best first; scores in points of 100."""
    revisions = publication.revisions
    keys = _differing(revisions)
    differing = _rows(revisions, keys)
    metrics = _metrics(publication)
    several_bases, several_benchmarks, several_shares = (
        len(publication.bases) > 1,
        not publication.has_one_benchmark,
        has_shares(publication),
    )
    headings = ["Revision", *(["Base Model"] if several_bases else []), "Training Data", "Learning Rate", "Num Epochs", *keys]
    measured = [*(["Benchmark"] if several_benchmarks else []), *(["Rows"] if several_shares else [])]
    rows = [[*headings, *measured, *metrics.values()]]
    for name, revision in [(MAIN, publication.best), *((revision.name, revision) for revision in revisions)]:
        base = [revision.base_model] if several_bases else []
        settings = [training_data(revision), text_of(revision.job.optim.lr), str(revision.job.epochs), *differing[revision.name]]
        benchmark = [benchmark_of(revision)] if several_benchmarks else []
        values = [value_of(revision, metric) for metric in metrics]
        shown = [NOT_MEASURED if value is None else f"{100 * value:.1f}" for value in values]
        share = [(measured_rows(revision) if revision.rows else "none").partition(",")[0]] if several_shares else []
        rows.append([name, *base, *settings, *benchmark, *share, *shown])
    return rows


def has_shares(publication: Publication) -> bool:
    """Whether some revisions were scored on other parts of the benchmark than others."""
    return len({measured_rows(revision) for revision in publication.scored}) > 1


def training_data(revision: Revision) -> str:
    """What a mix is called: by its name, or without one by those of its files and datasets."""
    data = revision.job.data
    places = [*data.paths, *(source.path for source in data.sources.values())]
    return data.name if data.name != "custom" else ", ".join(places)


def benchmark_of(revision: Revision) -> str:
    """What a revision was scored on: the dataset, or the name of the file."""
    return revision.benchmark or (revision.job.hooks.rewardbench2 if revision.rows else "none")


def _metrics(publication: Publication) -> dict[str, str]:
    """The columns with scores: their metrics, and what they are called."""
    revisions, score = publication.revisions, publication.score.removeprefix(PREFIX)
    found: dict[str, str] = {}
    if publication.score.startswith(PREFIX):
        found[publication.score] = "RewardBench 2 Score" if score == OVERALL else f"RewardBench 2 Score ({label_of(score)})"
    found |= {PREFIX + key: name for key, name in DOMAINS.items() if any(key in revision.scores for revision in revisions)}
    others = {HELD_OUT: "Held-out Accuracy"} | ({} if publication.scored else {REWARDBENCH1: "RewardBench 1 Score"})
    return found | {key: name for key, name in others.items() if any(value_of(revision, key) is not None for revision in revisions)}


def _differing(revisions: Sequence[Revision]) -> list[str]:
    """The keys, without columns of their own, in which the revisions differ in what identifies a run."""
    jobs = [revision.job for revision in revisions]
    if len(jobs) < 2:
        return []
    found = differences(jobs)
    ignored = {*_SHOWN, *(key for job in jobs for key in unhashed_keys(job))}
    told = [(revision.base_model, training_data(revision)) for revision in revisions]
    columns = {
        "model.path": [base for base, _ in told],
        "data.paths": [data for _, data in told],
        "data.sources": [data for _, data in told],
    }
    for key, cells in columns.items():
        values = [tuple(value for own, value in row.items() if _is_under(own, {key})) for row in found.rows]
        if len({*zip(cells, values, strict=True)}) == len(set(cells)):  # whoever reads the column knows the setting
            ignored.add(key)
    return [key for key in found.keys if not _is_under(key, ignored)]


def _rows(revisions: Sequence[Revision], keys: Sequence[str]) -> dict[str, list[str]]:
    """The values of some settings by revision."""
    rows = differences([revision.job for revision in revisions]).rows
    return {
        revision.name: [_short(" ".join(row.get(key, "").split())) or "none" for key in keys]
        for revision, row in zip(revisions, rows, strict=True)
    }


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def _is_under(key: str, keys: set[str]) -> bool:
    return any(key == other or key.startswith(f"{other}.") for other in keys)
