"""What a dry run tells of a job before it runs: its data, steps, tokens, checkpoints and their disk, and the folder of its run.

Only files on this machine are read, nothing is asked of a network, and torch is not imported. What cannot be read is a note: the
command may be meant for another machine.
"""

import json
import math
import struct
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from bon.config import MANIFEST
from bon.store import read_manifest
from core.config import Dtype, ModelConfig
from core.data.dialogues import turn_of
from core.disk import is_complete, jsonable
from core.records import BenchmarkRow, Preference, Prompt
from core.runs.checkpoints import checkpoint_steps
from core.runs.record import RECORD, read_records, run_of
from core.runs.warnings import MAX_LOST, few_held_out, few_steps
from evalhooks.measured_rows import rows_texts
from evalhooks.tasks.task import Task, load_tasks
from launch.bench import plan_of as bench_plan
from launch.bench import plan_of_scores, saved_rows
from launch.bon import bon_inputs, pools_folder
from launch.bon import plan_of as bon_plan
from launch.compose import Composed
from launch.identity import hashed_settings, identity_of
from launch.inputs import bench_rows, benchmark_rows, preferences_of
from launch.ppo import plan_of as ppo_plan
from launch.rewards.config import KINDS
from launch.rewards.locate import at_best_checkpoint, chosen, locate_reward, locate_terms, reward_path, try_program
from launch.rm import plan_of
from launch.schema import BenchJob, BoNJob, PPOJob, RMJob, StudyJob, reward_key
from launch.settings import Launch, RunSettings
from launch.studies.plan import plan
from launch.studies.seeds import at_seeds, folder_of, plan_seeds
from launch.terminal.budgets import row_budget, task_budget, unknown_rows
from launch.terminal.found_here import CONVERTED, all_here, is_missing, is_packaged, readable, run_folder, usable_model
from ppo.prompts import read_prompts
from rmtrain.batches import num_steps, planned_steps

MAX_JOBS = 12
"""Jobs of a sweep that are looked at one by one: each reads its data."""
CHARACTERS_PER_TOKEN = 4.0
"""Of English text under the tokenizers of today's models, roughly; a dry run loads none."""


def of_jobs(jobs: Sequence[RunSettings], awaited: Sequence[str] = ()) -> list[str]:
    """The lines about the jobs of a command, each job's under its number if there are several. Those of a large sweep are cut short.

    `awaited` are the folders of pools that are drawn before these jobs start.
    """
    told: list[str] = []
    for number, job in enumerate(jobs[:MAX_JOBS], 1):
        told += [f"job {number}: {line}" if len(jobs) > 1 else line for line in preview(job, awaited)]
    # What is the same for all, such as a file that is missing, stands there once.
    shared = [line.partition(": ")[2] for line in told] if len(jobs) > 1 else []
    told = [line for line in told if not shared or shared.count(line.partition(": ")[2]) < 2 or line.startswith("job 1:")]
    return [*told, f"and {len(jobs) - MAX_JOBS} more jobs"] if jobs[MAX_JOBS:] else told


def of_study(composed: Composed[StudyJob]) -> list[str]:
    """The jobs of a study, at all of its seeds, and the lines about those whose inputs exist already."""
    study, folder = composed.job, folder_of(composed.job)
    try:
        studies = at_seeds(composed)
        plans = plan_seeds(studies, check=False).values() if studies else [plan(study, folder, check=False)]
    except (ValueError, OSError) as error:
        return [f"note: this would not start: {error}"]
    jobs = [job for own in plans for job in own.jobs]
    kinds = Counter(job.key.partition("@")[0].partition("-")[0] for job in jobs)
    told = [f"{len(jobs)} jobs: {', '.join(f'{num} {kind}' for kind, num in kinds.items())}; nothing was run or written (dry_run=true)"]
    if study.processes > 1:
        told.append(f"each job that trains, draws or reranks runs in {study.processes} processes, one for each GPU")
    for job in jobs:
        waits = f" (after {', '.join(job.waits_for)})" if job.waits_for else ""
        told.append(f"{job.key}{f': {job.what}' if job.what else ''}{waits}")
    if not study.embedded:  # whose inputs do not exist yet
        awaited = [job.settings.pools for job in jobs if isinstance(job.settings, BoNJob) and not is_complete(Path(job.settings.pools))]
        told += of_jobs([job.settings for job in jobs if isinstance(job.settings, RMJob)], awaited)
        own = {job.key for job in jobs}  # which a policy may name as its reward
        for kind in (BoNJob, PPOJob):
            found = [(job.key, job.settings) for job in jobs if isinstance(job.settings, kind)]
            lines = [f"{key}: {line}" for key, settings in found[:1] for line in preview(settings)]
            told += [line for line in lines if line.partition(" names ")[2].partition(",")[0] not in own]
    told += [f"seed {seed}: {folder_of(own)}" for seed, own in studies.items()]
    return [*told, f"folder: {folder}; report: {folder}/report/report.html"]


def preview(job: RunSettings, awaited: Sequence[str] = ()) -> list[str]:
    """The lines about one job, in the order in which one asks. `awaited` are folders of pools that will be drawn before it starts."""
    notes: list[str] = []
    lines: list[str] = []
    if isinstance(job, RMJob):
        lines += _reward_model(job, notes, awaited)
    elif isinstance(job, PPOJob):
        lines += _policy(job, notes)
    elif isinstance(job, BoNJob):
        lines += _pools(job, notes)
    elif isinstance(job, BenchJob):
        lines += _saved_scores(job, notes) if job.from_scores else _benchmark(job, notes)
    if isinstance(job, RMJob | PPOJob):
        lines += _former(job, "rm" if isinstance(job, RMJob) else "ppo")
    return lines + [f"note: {note}" for note in dict.fromkeys(notes)]


def _reward_model(job: RMJob, notes: list[str], awaited: Sequence[str]) -> Iterator[str]:
    paths = [*job.data.paths, *(source.path for source in job.data.sources.values())]
    benchmarks = [path for path in (job.hooks.rewardbench2, job.hooks.rewardbench1, job.data.validation) if path]
    usable_model(job.model, notes)
    if not all_here([*paths, *benchmarks], notes):
        yield from unknown_rows(job)
        return
    said: list[str] = []
    rows = readable(lambda: benchmark_rows(job.hooks), notes)
    data = None if rows is None else readable(lambda: preferences_of(job, rows, say=said.append), notes)
    if rows is None or data is None:
        return
    yield from (f"data: {line}" for line in said)
    training, held_out = data.training, data.held_out
    lengths = [_num_tokens(pair) for pair in training]
    yield f"pairs: {len(training)} to train on, {len(held_out)} held out, of {sum(s['read'] for s in data.counts['sources'].values())} rows"
    if (job.data.held_out or job.data.validation) and (
        few := few_held_out(len(held_out), len(held_out), max_length=job.max_length, validation=job.data.validation)
    ):
        yield few.line
    long = sum(length > job.max_length for length in lengths)
    if long and long == len(training) and job.overlong == "drop":
        yield (
            f"warning: all {long} pairs seem longer than max_length={job.max_length} tokens and would be dropped, so nothing would be left "
            f"to train on; raise max_length (the shortest pair has about {min(lengths):.0f}, the longest {max(lengths):.0f}), or cut their "
            "prompts (overlong=cut)."
        )
        return
    if long:
        told = f"about {long} of {len(training)} pairs are longer than max_length={job.max_length} tokens ({job.overlong})"
        yield f"warning: {told}; raise max_length." if long > MAX_LOST * len(training) else told
    kept = max(1, len(training) - (long if job.overlong == "drop" else 0))
    steps = num_steps(kept, batch_size=job.batch_size, epochs=job.epochs)
    tokens = job.epochs * sum(2 * min(length, job.max_length) for length in lengths if job.overlong == "cut" or length <= job.max_length)
    yield f"steps: about {steps} of {job.batch_size} pairs, about {_short(tokens)} tokens (at {CHARACTERS_PER_TOKEN:g} characters each)"
    if warning := few_steps(steps, num_pairs=kept, batch_size=job.batch_size):
        yield warning.line
    planned = planned_steps(job, steps)
    yield from _checkpoints(job, planned, saved_as=job.export_dtype or job.model.dtype)
    yield from row_budget(job, rows, data, lengths, epochs=job.epochs / len(planned), notes=notes)
    if job.hooks.pools not in awaited:  # the folder's name tells them apart by what they hold
        yield from _folder(job, notes)


def _policy(job: PPOJob, notes: list[str]) -> Iterator[str]:
    is_here = usable_model(job.model, notes)  # and so are the rewards
    paths = [*job.prompts, *([job.hooks.rewardbench2] if job.hooks.rewardbench2 else [])]
    prompts = readable(lambda: read_prompts(job.prompts), notes) if all_here(paths, notes) else None
    if prompts is not None:
        times = job.num_batches * job.batch_size / len(prompts)
        yield f"prompts: {len(prompts)}, each asked {times:{'.0f' if times >= 10 else '.2g'}} times"
        readable(lambda: benchmark_rows(job.hooks), notes)
    tasks = _tasks(job, notes)
    if tasks is not None:
        yield f"tasks: {', '.join(f'{name} ({len(task.prompts)} prompts)' for name, task in tasks.items()) or 'none'}"
    yield from task_budget(job, tasks)
    for name, term in job.terms.items():
        said: list[str] = []
        readable(partial(chosen, term, job.runs_dir, reward_key(name), said.append), notes)
        yield from said
        if term.path and is_missing(term.path) and not any(Path(job.runs_dir).glob(f"*/*{term.path}/{RECORD}")):
            notes.append(f"the reward {name} names {term.path}, which does not exist here")
            is_here = False
        if prompts is not None and KINDS[term.kind].program:
            readable(partial(try_program, term, prompts[0], reward_key(name)), notes)
    tokens = job.num_batches * job.batch_size * job.max_new_tokens
    yield f"batches: {job.num_batches} of {job.batch_size} answers, {job.num_updates} updates, up to {_short(tokens)} tokens to sample"
    steps = checkpoint_steps(job.num_batches, num_checkpoints=job.num_checkpoints, to_step=round)
    yield from _checkpoints(job, steps, saved_as=Dtype.fp32)
    if is_here and prompts is not None:  # what is not here has been noted, or is a study's own reward model to come
        on_hub = any(term.path.count("/") == 1 and not Path(term.path).expanduser().exists() for term in job.terms.values())
        refused = [] if on_hub or notes else notes  # what else is amiss has been told, and a hub is not asked
        planned = readable(lambda: ppo_plan(job, locate_terms(job, prompts, say=lambda line: None)), refused)
        yield from [run_folder(job, planned)] if planned is not None else []


def _pools(job: BoNJob, notes: list[str]) -> Iterator[str]:
    is_here = job.takes_pools or all_here([task.path for task in job.tasks.values() if task.path], notes)
    inputs = readable(lambda: bon_inputs(job), notes) if is_here else None
    if job.takes_pools:
        if inputs is not None:
            yield f"pools: {sum(map(len, inputs.given.values()))} prompts of {', '.join(inputs.given)}, taken as they are"
    else:
        usable_model(job.model, notes)
        tasks = _tasks(job, notes) if is_here else None
        if tasks:
            sizes = {name: len(task.prompts[: job.pool.limit]) for name, task in tasks.items()}
            answers = job.pool.n * sum(sizes.values())
            named = ", ".join(f"{name} ({size} prompts)" for name, size in sizes.items())
            yield f"pools: {answers} answers for {named}, up to {_short(answers * job.pool.max_new_tokens)} tokens to sample"
    if inputs is not None:
        folder = pools_folder(job, inputs)
        state = "complete" if is_complete(Path(folder)) else "to be gone on with" if (Path(folder) / MANIFEST).is_file() else "to be drawn"
        yield f"pools in: {folder}" + ("" if job.takes_pools else f" ({state})")
        notes += _other_sampling(job, Path(folder)) if state == "complete" and not job.takes_pools else []
        yield run_folder(job, bon_plan(job, inputs, folder))


def _other_sampling(job: BoNJob, folder: Path) -> list[str]:
    """That pools which are there were drawn otherwise, as a note; who draws looks closer, at policy and prompts too."""
    there = (readable(lambda: read_manifest(folder), []) or {}).get("sampling", {})
    asked = {key: getattr(job.pool, key) for key in ("n", "temperature", "max_new_tokens", "seed")}
    other = [f"pool.{key}={asked[key]} here and {there[key]} there" for key in asked if key in there and there[key] != asked[key]]
    remedy = "name another folder (pools=OTHER), or take them as they are (tasks=none)"
    return [f"this would not start: {folder} holds pools of other sampling ({', '.join(other)}); {remedy}"] if other else []


def _benchmark(job: BenchJob, notes: list[str]) -> Iterator[str]:
    said: list[str] = []
    rows = readable(lambda: bench_rows(job), notes) if all_here([job.source], notes) else None
    if rows is not None:
        yield from _texts(job, rows)
    reward = readable(lambda: at_best_checkpoint(chosen(job.reward, job.runs_dir, say=said.append), job.runs_dir, said.append), notes)
    yield from said
    if reward is None:
        return
    models = KINDS[reward.kind].models(reward)
    for own, path in models.items():
        place = readable(partial(reward_path, path, job.runs_dir, f"reward.{own}"), notes)
        if place is None or not usable_model(ModelConfig(path=str(place)), notes, key=f"reward.{own}"):
            rows = None
    if rows is None:
        return
    job = replace(job, reward=reward)
    located = readable(lambda: locate_reward(reward, job.runs_dir, say=lambda line: None), notes)
    if located is not None:
        first = Prompt(id=rows[0].id, dialogue=rows[0].dialogue)
        readable(lambda: try_program(reward, first, completions=rows[0].completions), notes)
        yield f"reward: {located.name}"
        yield run_folder(job, bench_plan(job, located))


def _texts(job: BenchJob, rows: Sequence[BenchmarkRow]) -> Iterator[str]:
    """The rows of a benchmark, and what scoring them takes."""
    lengths = [(len(row.prompt) + len(text)) / CHARACTERS_PER_TOKEN for row in rows for text in row.completions]
    sizes = ", ".join(f"{num} {subset}" for subset, num in Counter(row.subset for row in rows).most_common(MAX_JOBS))
    yield f"rows: {len(rows)} ({sizes}), {len(lengths)} texts to score, about {_short(sum(lengths))} tokens without sharing prompts"
    if long := sum(length > job.max_length for length in lengths):
        yield f"about {long} of {len(lengths)} texts are longer than max_length={job.max_length} tokens, and would be cut at their end"


def _saved_scores(job: BenchJob, notes: list[str]) -> Iterator[str]:
    rows = readable(lambda: saved_rows(job), notes) if all_here([job.from_scores, *filter(None, [job.prior_sets])], notes) else None
    if rows is not None:
        yield f"scores: {len(rows)} rows; no model is needed"
        yield run_folder(job, plan_of_scores(job))


def _tasks(job: Launch, notes: list[str]) -> Mapping[str, Task] | None:
    """The tasks of a job; None, with notes, where they cannot be read, or lie on a hub."""
    paths = [task.path for task in job.tasks.values() if task.path]
    return readable(lambda: load_tasks(job.tasks), notes) if all_here(paths, notes) else None


def _checkpoints(job: RMJob | PPOJob, steps: Sequence[int], *, saved_as: Dtype) -> Iterator[str]:
    """How many, when and how large; an adapter is too small to be worth a number."""
    weights = None if job.lora.rank else _num_weights(job.model.path)
    size = ""
    if weights is not None:
        num_bytes = 4 if saved_as == Dtype.fp32 else 2
        # Resuming takes the weights in fp32, where the checkpoint itself has others, and two moments of each.
        state = 8 if saved_as == Dtype.fp32 else 12
        size = f", {_short(num_bytes * weights)}B each; the newest two also hold {_short(state * weights)}B of optimiser state"
    yield f"checkpoints: {len(steps)}, at {', '.join(map(str, steps[:8]))}{', ...' if steps[8:] else ''}{size}"


def _folder(job: RMJob, notes: list[str]) -> Iterator[str]:
    path = job.model.path
    known = is_complete(CONVERTED) if is_packaged(path) else Path(path).expanduser().is_dir()
    planned = readable(lambda: plan_of(job), notes) if known else None
    if planned is not None:
        name = job.name or planned.name
        yield f"folder: {run_of(runs_dir=Path(job.runs_dir), study=job.study, job='rm', name=name, identity=identity_of(job)).dir}"


_TIMED = (
    *("model", "lora", "engine", "rollout", "algo", "data", "epochs", "num_batches", "batch_size", "minibatch_size", "group_size"),
    *("max_length", "max_prompt_length", "max_new_tokens", "num_checkpoints", "checkpoint_every", "hooks", "tasks", "reward", "rewards"),
)
"""Settings of a run that its time depends on."""


def _former(job: RMJob | PPOJob, kind: str) -> Iterator[str]:
    """What training took and the share of the hooks in it, by the newest finished run of the study with this model and such settings."""
    records = read_records(Path(job.runs_dir) / job.study, f"{kind}-*", lambda line: None)
    timed = [record for record in records if record.get("train_s") and record.get("hooks_s") is not None]
    settings = jsonable(hashed_settings(job))  # as the records hold theirs
    assert isinstance(settings, dict)
    alike = [
        record
        for record in timed
        if _model_folder(str(record.get("lineage", {}).get("model"))) == _model_folder(job.model.path)
        and all(_agree(record["identity"].get(key), settings.get(key)) for key in _TIMED)
    ]
    if alike:
        last = max(alike, key=lambda record: str(record.get("finished", "")))
        share = last["hooks_s"] / last["train_s"]
        part = ", ".join(rows_texts(last))
        measured = f", which measured {part}" if part else ""
        yield f"time: {Path(last['dir']).name} took {last['train_s']:.0f} s, {share:.0%} of them in hooks{measured}"
    elif timed:
        yield f"time: not known; no finished run of {Path(job.runs_dir) / job.study} has this model and settings that take as long"


def _agree(kept: object, asked: object) -> bool:
    """Whether settings agree where both have them: a run that an earlier version kept lacks keys that have come since."""
    if isinstance(kept, Mapping) and isinstance(asked, Mapping):
        return all(_agree(value, asked[key]) for key, value in kept.items() if key in asked)
    return kept is None or kept == asked


def _num_tokens(pair: Preference) -> float:
    """Tokens of the longer side of a pair, roughly."""
    prompt = sum(len(turn.content) for turn in pair.prompt)
    return (prompt + max(len(turn_of(answer).content) for answer in (pair.chosen, pair.rejected))) / CHARACTERS_PER_TOKEN


def _model_folder(path: str) -> Path:
    """Where a local model lies; of one on a hub a folder that is not there."""
    return CONVERTED if is_packaged(path) else Path(path).expanduser().absolute()


def _num_weights(path: str) -> int | None:
    """The weights of a local model in safetensors, from the headers of its files; None where they cannot be told."""
    try:
        return sum(math.prod(shape) for file in _model_folder(path).glob("*.safetensors") for shape in _shapes(file)) or None
    except (OSError, ValueError, struct.error):
        return None  # what is wrong with it is told when it is loaded


def _shapes(file: Path) -> list[list[int]]:
    """The shapes of the tensors in a file; its first 8 bytes are the size of the JSON that follows."""
    with file.open("rb") as stream:
        (size,) = struct.unpack("<Q", stream.read(8))
        header: Mapping[str, Any] = json.loads(stream.read(size))
    return [entry["shape"] for name, entry in header.items() if name != "__metadata__"]


def _short(number: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {letter}"
    return f"{number:.0f}"
