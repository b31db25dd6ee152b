"""The model card of a published sweep, and its results in the hub's format."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml
from huggingface_hub import EvalResultEntry, ModelCardData, eval_result_entries_to_yaml

from evalhooks.measured_rows import rows_text
from evalhooks.rewardbench.domains import DOMAINS, OVERALL, PREFIX, label_of
from launch.identity import unhashed_keys
from launch.publish.plan import HELD_OUT, MAIN, Publication, Revision, value_of
from launch.schema import RMJob
from launch.sweep import common, differences, text_of

NOT_MEASURED = "not measured"
_SHOWN = ("optim.lr", "epochs", "data.name", "data.paths", "data.sources", "model.path", "model.lineage", "model.revision")
"""Settings that have columns of their own."""
_LOCAL = re.compile(r"(?<![\w.:/])(?:~|\.{1,2})?/(?:[^/,\]\s'\"]+/)*([^/,\]\s'\"]+)")
"""A path on this machine, which nobody else has and which may name its user; its last part is kept."""


def card(publication: Publication) -> str:
    """The model card: metadata, what the repository is, a table with a line for each revision, and how they were made."""
    return f"---\n{_metadata(publication)}\n---\n\n" + "\n".join(_text(publication)) + "\n"


def table(publication: Publication) -> list[list[str]]:
    """The table of the card: a heading, `main`, and a line for each revision, the best first; scores in points of 100."""
    revisions = publication.revisions
    differing = _differing(revisions)
    several_bases = len(publication.bases) > 1
    score = publication.score.removeprefix(PREFIX)
    measured = [PREFIX + key for key in DOMAINS if any(key in revision.scores for revision in revisions)]
    scored = ([publication.score] if publication.score.startswith(PREFIX) else []) + measured
    scored += [HELD_OUT] if any(value_of(revision, HELD_OUT) is not None for revision in revisions) else []
    headings = ["Revision", *(["Base Model"] if several_bases else []), "Training Data", "Learning Rate", "Num Epochs", *differing]
    names = {publication.score: "RewardBench 2 Score" if score == OVERALL else f"RewardBench 2 Score ({label_of(score)})"}
    names |= {PREFIX + key: name for key, name in DOMAINS.items()} | {HELD_OUT: "Held-out Accuracy"}
    rows = [[*headings, *(names[metric] for metric in scored)]]
    for name, revision in [(MAIN, publication.best), *((revision.name, revision) for revision in revisions)]:
        base = [publication.base_models[revision.name]] if several_bases else []
        settings = [revision.job.data.name, text_of(revision.job.optim.lr), str(revision.job.epochs)]
        values = [value_of(revision, metric) for metric in scored]
        shown = [NOT_MEASURED if value is None else f"{100 * value:.1f}" for value in values]
        rows.append([name, *base, *settings, *differing_values(revisions, revision, differing), *shown])
    return rows


def differing_values(revisions: Sequence[Revision], revision: Revision, keys: Sequence[str]) -> list[str]:
    """The values of some settings of a revision."""
    values = differences([found.job for found in revisions]).rows[list(revisions).index(revision)]
    return [without_local_paths(values.get(key, "")) or "none" for key in keys]


def results(publication: Publication, revision: Revision) -> str:
    """The scores of a revision on RewardBench 2 for `.eval_results/`, as YAML; empty if the benchmark is no dataset of the hub."""
    if not publication.benchmark or not revision.scores:
        return ""
    rows = _rows_of(revision)
    notes = f"checkpoint at step {revision.step}, {rows}, in points of 100; measured by rewardloop {version_of(revision)}"
    entries = [
        EvalResultEntry(
            dataset_id=publication.benchmark,
            task_id=key,
            value=round(100 * value, 2),
            date=str(revision.record.get("finished", "")) or None,
            notes=notes,
        )
        for key, value in revision.scores.items()
        if key == OVERALL or key in DOMAINS
    ]
    return yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False, allow_unicode=True)


def command_of(job: RMJob) -> str:
    """The command that trains a run like this one, with the names of local files instead of their places."""
    ignored = unhashed_keys(job) - {"model.lineage"}
    settings = {
        key: value
        for key, value in common([job]).items()
        if not any(key == other or key.startswith(f"{other}.") for other in ignored)
        and key not in ("model.path", "data.paths", "data.name")
        and not key.startswith("data.sources.")
    }
    fixed = {"model.path": job.model.path, "data.name": job.data.name, "data.paths": f"[{','.join(job.data.paths)}]"}
    if job.data.sources:
        parts = (f"{name}:{{path:{found.path},split:{found.split},weight:{found.weight!r}}}" for name, found in job.data.sources.items())
        fixed["+data.sources"] = f"{{{','.join(parts)}}}"
    words = [f"{key}={without_local_paths(value)}" for key, value in (fixed | settings).items()]
    return " \\\n    ".join(
        ["rewardloop rm model=custom data=custom", *(f"'{word}'" if re.search(r"[\[\] ,'{}]", word) else word for word in words)]
    )


def without_local_paths(text: str) -> str:
    """A text in which paths on this machine are file names.

    >>> without_local_paths("[/home/ada/pairs.jsonl,org/name]")
    '[pairs.jsonl,org/name]'
    """
    return _LOCAL.sub(r"\1", text)


def version_of(revision: Revision) -> str:
    """The version of rewardloop that trained a revision."""
    return str(revision.record.get("versions", {}).get("rewardloop", "of an unknown version"))


def _metadata(publication: Publication) -> str:
    terms, bases = publication.terms, publication.bases
    is_adapter = bool(publication.best.job.lora.rank)
    data = ModelCardData(
        base_model=bases[0] if len(bases) == 1 else bases,
        datasets=[*publication.datasets] or None,
        language=[*terms.language],
        library_name="peft" if is_adapter else "transformers",
        license=terms.license,
        license_name=terms.license_name or None,
        license_link=terms.license_link or None,
        model_name=publication.repo.partition("/")[2],
        pipeline_tag="text-classification",
        tags=["reward-model", "rewardloop"],
        base_model_relation="adapter" if is_adapter else "finetune",
    )
    return data.to_yaml()


def _text(publication: Publication) -> Iterator[str]:
    best, repo = publication.best, publication.repo
    name, num = repo.partition("/")[2], len(publication.revisions)
    several = f"one of {num} reward models of one sweep" if num > 1 else "a reward model"
    yield f"# {name}\n"
    yield f"{name} is {several}, trained on preference pairs with the Bradley-Terry loss by rewardloop {version_of(best)}."
    yield f"Its `main` revision is the best by {_chosen_by(publication)}; " + (
        "the others are revisions of their own." if num > 1 else "it is the only one."
    )
    yield "\n## Use\n"
    yield from _usage(publication)
    yield "\n## Revisions\n"
    rows = table(publication)
    yield from (f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in [rows[0], ["---"] * len(rows[0]), *rows[1:]])
    yield f"\n{_legend(publication)}"
    yield "\n## Training\n"
    yield f"- Base model: {', '.join(publication.bases)}"
    yield f"- Training data: {'; '.join(dict.fromkeys(map(_data_of, publication.revisions)))}"
    seeds = sorted({revision.job.seed for revision in publication.revisions})
    yield f"- Seed{'s' if len(seeds) > 1 else ''}: {', '.join(map(str, seeds))}"
    yield f"- Software: {', '.join(f'{key} {value}' for key, value in best.record.get('versions', {}).items())}"
    yield f"- Language: {', '.join(publication.terms.language)}"
    license = publication.terms.license_name or publication.terms.license
    yield f"- License: {license}" + (f" ({publication.terms.license_link})" if publication.terms.license_link else "")
    yield "\nThe command of `main`; `rewardloop.json` of every revision has its own:\n"
    yield f"```\n{command_of(best.job)}\n```"


def _chosen_by(publication: Publication) -> str:
    if not publication.score:
        return "choice"
    if value_of(publication.best, publication.score) != max(
        value for revision in publication.revisions if (value := value_of(revision, publication.score)) is not None
    ):
        return "choice, not by its score"
    metric = publication.score.removeprefix(PREFIX)
    return "held-out accuracy" if metric == HELD_OUT else f"its score on RewardBench 2 ({label_of(metric)})"


def _usage(publication: Publication) -> Iterator[str]:
    revision = f', revision="{publication.revisions[-1].name}"' if len(publication.revisions) > 1 else ""
    kind = "AutoModelForSequenceClassification"
    yield "```python"
    if publication.best.job.lora.rank:
        yield f"from peft import AutoPeftModelForSequenceClassification\n\nmodel = AutoPeft{kind.removeprefix('Auto')}.from_pretrained("
        yield f'    "{publication.repo}"{revision}, num_labels=1\n)'
    else:
        yield f'from transformers import {kind}\n\nmodel = {kind}.from_pretrained("{publication.repo}"{revision})'
    yield "```\n"
    yield "The reward of a dialogue, rendered by the tokenizer's chat template, is the model's only logit; higher is better."


def _rows_of(revision: Revision) -> str:
    """How much of RewardBench 2 was measured."""
    limit, budget = revision.job.hooks.limit, rows_text(revision.record, "rewardbench2")
    rows = "all rows" if limit == 1 else f"{limit:.0%} of the rows of every domain"
    return f"{budget}, drawn from every domain," if budget else rows


def _legend(publication: Publication) -> str:
    if not any(revision.scores for revision in publication.revisions):
        return "Scores are points of 100, at the best checkpoint of each run."
    share = " or ".join(dict.fromkeys(_rows_of(revision) for revision in publication.revisions if revision.scores))
    rows = (
        publication.benchmark
        or "rows in the schema of RewardBench 2 from a file of the author's, so that they compare with no published score"
    )
    return (
        f"Scores are points of 100, at the best checkpoint of each run, on {share} of {rows}. Ties is a score of its own; the others are "
        "the share of prompts whose right completion scores highest."
    )


def _data_of(revision: Revision) -> str:
    """The training data of a revision in words."""
    job, record = revision.job, revision.record
    places = [*job.data.paths, *(source.path for source in job.data.sources.values())]
    flipped = f", labels of {job.data.flip:.0%} flipped" if job.data.flip else ""
    return f"{job.data.name}: {', '.join(map(without_local_paths, places))} ({record.get('num_pairs', 'unknown number of')} pairs{flipped})"


def _differing(revisions: Sequence[Revision]) -> list[str]:
    """The keys, without columns of their own, in which the revisions differ in what identifies a run."""
    jobs = [revision.job for revision in revisions]
    ignored = {*_SHOWN, *(key for job in jobs for key in unhashed_keys(job))}
    keys = differences(jobs).keys if len(jobs) > 1 else ()
    return [key for key in keys if not any(key == other or key.startswith(f"{other}.") for other in ignored)]


def record_of(publication: Publication, revision: Revision) -> Mapping[str, Any]:
    """What a revision says of its own run, for machines: settings, command, metrics, counts."""
    record = revision.record
    counts = {key: value for key, value in record.items() if key.startswith("num_")}
    return {
        "revision": revision.name,
        "id": record["id"],
        "base_model": publication.base_models[revision.name],
        "step": revision.step,
        "seed": revision.job.seed,
        "settings": {
            key: without_local_paths(value) for key, value in common([revision.job]).items() if key not in unhashed_keys(revision.job)
        },
        "command": command_of(revision.job),
        "metrics": dict(revision.metrics),
        "warnings": [warning["text"] for warning in record.get("warnings", [])],
        "versions": record.get("versions", {}),
        "finished": record.get("finished"),
        **counts,
    }
