"""`rewardloop publish RUN ... repo=OWNER/NAME`: reward models of a sweep as one repository of the hub."""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from core.process.quiet import quieten_libraries
from core.runs.identity import clean_name
from core.text import shown
from launch.history.arguments import Arguments, parse, said
from launch.history.find import Record, find_runs, one_run, status_of
from launch.publish.folders import FACTS, NOTICE, write_folders
from launch.publish.licenses import obligations
from launch.publish.plan import Publication, is_publishable, planned
from launch.publish.table import has_shares, table
from launch.publish.upload import upload

HELP = """usage: rewardloop publish RUN ... repo=OWNER/NAME [key=value ...]

Publishes finished reward models (by folder, id, name, study or pattern) as one repository of the Hugging Face hub: a revision for
each run with its best checkpoint, `main` the best of them, and one model card with the scores of all. The hub's token is that of
`hf auth login` or HF_TOKEN. The same command goes on where it was cut off, and sends nothing twice; with more runs it adds them.

dry_run=true          write the folders, with card and results, and upload nothing
license=apache-2.0    by the hub's name, unless the base model's folder says it; other needs license_name= and license_link=
base_model=org/name   where the models were trained from a folder that does not say; of several folders NAME:org/name,NAME:org/name
datasets=org/a,org/b  datasets of the hub that files of yours come from; those trained on by their ids are named anyway
benchmark=org/name    the dataset of the hub that the benchmark's rows are, if they were read from a file; for .eval_results/
best=RUN              which run main is; otherwise the highest on RewardBench 2, or on held-out pairs
language=en           languages, as en,de
private=true          make the repository private
leave=true            leave revisions of before on the hub that are none of these runs, without a line in the table
out=FOLDER            where the folders are written, by default publish-OWNER-NAME under runs_dir
runs_dir=runs         where the runs lie"""

_TERMS = ("license", "license_name", "license_link", "language", "datasets")
_KEYS = ("repo", *_TERMS, "base_model", "benchmark", "best", "private", "leave", "out", "runs_dir", "dry_run")


def main() -> None:
    """Entry point."""
    quieten_libraries()
    with said("publish", HELP):
        arguments = parse(sys.argv[1:], keys=_KEYS)
        settings = arguments.settings
        dry, private, leave = (_is_true(settings, key) for key in ("dry_run", "private", "leave"))
        publication = publication_of(arguments)
        runs_dir = Path(settings.get("runs_dir", "runs")).expanduser()
        out = Path(settings.get("out") or runs_dir / f"publish-{clean_name(publication.repo.replace('/', '-'))}").expanduser()
        folders = write_folders(publication, out)
        _print(publication)
        for line in remarks(publication):
            print(shown(line))
        if dry:
            print(f"{out}: {len(folders)} folders were written and nothing was uploaded (dry_run=true)")
            return
        url = upload(publication.repo, folders, private=private, leave=leave, say=lambda line: print(shown(line), flush=True))
        print(f"published: {url}")


def publication_of(arguments: Arguments) -> Publication:
    """What the arguments ask for; runs that are no finished reward models are left out, with a line. Raises `ValueError`."""
    settings = arguments.settings
    runs_dir = Path(settings.get("runs_dir", "runs")).expanduser()
    if not arguments.places or not settings.get("repo"):
        raise ValueError(f"name the runs, and the repository as repo=OWNER/NAME.\n\n{HELP}")
    records: dict[str, Record] = {}
    for record in find_runs(arguments.places, runs_dir):
        name = Path(record["dir"]).name
        if name in records and is_publishable(record):
            print(shown(f"{record['dir']} is left out: it is the same run as {records[name]['dir']}, of another study"))
        elif is_publishable(record):
            records[name] = record
        else:
            why = f"it is not finished ({status_of(record)})" if record["job"] == "rm" else f"it is a run of {record['job']}"
            print(shown(f"{record['dir']} is left out: {why}"))
    return planned(
        [*records.values()],
        repo=settings["repo"],
        terms={key: settings[key] for key in _TERMS if key in settings},
        best=one_run(settings["best"], runs_dir) if settings.get("best") else None,
        base_model=settings.get("base_model", ""),
        benchmark=settings.get("benchmark", ""),
    )


def remarks(publication: Publication) -> Iterator[str]:
    """What the user should know before others read the card."""
    if "" in publication.benchmarks:
        yield "no .eval_results: the rows of the benchmark are a file; if they are a dataset of the hub, name it: benchmark=org/name"
    if not publication.datasets:
        yield "the card's metadata names no datasets: the training data are files; if they are on the hub, name them: datasets=org/name"
    if has_shares(publication):
        yield "some runs were scored on a part of the benchmark (column Rows), so that part of the differences is which rows these are"
    for base in publication.local_bases:
        if base.is_from_card:
            yield (
                f"base model {base.name}: so says the model card in {base.folder}; if that folder is a model of the hub itself, name it: "
                "base_model=org/name"
            )
    bases, files = publication.bases, publication.license_files
    has_copy = any(file.stem != NOTICE for file in files)
    yield from obligations(publication.terms.license, name=publication.name, base_models=bases, has_copy=has_copy)
    for revision in publication.revisions:
        if revision.step != revision.best_step:
            own, best = revision.step, revision.best_step
            yield f"{revision.name}: the best checkpoint (step {best}) was not kept; the last one (step {own}) is published"
    for text in publication.best.warnings:
        yield f"warning: {publication.best.name}: {text}"
    if others := sum(len(revision.warnings) for revision in publication.revisions[1:]):
        yield f"{others} warning{'s' if others > 1 else ''} of the other runs: see their {FACTS}"


def _is_true(settings: Mapping[str, str], key: str) -> bool:
    value = settings.get(key, "false").lower()
    if value not in ("true", "false"):
        raise ValueError(f"{key}={settings[key]} is neither true nor false.")
    return value == "true"


def _print(publication: Publication) -> None:
    """Prints the table of the card."""
    headings, *rows = table(publication)
    found = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for heading in headings:
        found.add_column(Text(shown(heading)), overflow="fold")
    for row in rows:
        found.add_row(*(Text(shown(cell)) for cell in row))
    Console(width=None if sys.stdout.isatty() else 200, highlight=False).print(found)
