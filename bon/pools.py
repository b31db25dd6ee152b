"""Pools: n completions with their correctness for every prompt of a task, sampled once and stored."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bon.estimators import best_of_n, mean, oracle_of_n
from core.data.dialogues import messages_of, parse_dialogue
from core.data.rows import numbered_lines
from core.disk import MARKER, BrokenFileError, atomic_folder, damage, is_complete, jsonable, parse_json, read_json, write_json
from core.functions import Verifier
from core.generators.shared import draw_share
from core.process.world import World, alone
from core.records import Dialogue, Generator, Prompt, Sampling, Scorer
from core.scorers.verifier import correctness

MANIFEST = "pool.json"
NUM_ROWS = "num_rows"
"""The key of the manifest with the number of rows by task."""
MAX_NAMED = 10
"""Rows that a message names."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolRow:
    """One prompt with its completions and the task verifier's result for each (0 to 1)."""

    id: str
    prompt: Dialogue
    completions: tuple[str, ...]
    correct: tuple[float, ...]


Pools = Mapping[str, Sequence[PoolRow]]
"""Rows by task."""


def make_pools(
    folder: Path,
    prompts: Mapping[str, Sequence[Prompt]],
    verifiers: Mapping[str, Verifier],
    generator: Generator | None,
    sampling: Sampling,
    advance: Callable[[int], None],
    *,
    origin: Mapping[str, Any],
    world: World | None = None,
) -> Pools:
    """Samples `sampling.n` completions per prompt of every task and stores them in `folder`, unless they are already there.

    `advance` is called with the number of prompts answered; `origin` identifies the policy and the tasks. A pool is
    complete or absent: a partly drawn one is sampled again. With `world`, all its processes call it, each to draw and judge
    its share; only the main one needs a `generator` that draws for all. Raises `ValueError` if `folder` holds pools of another
    origin or sampling.
    """
    world = world or alone()
    manifest = {"tasks": sorted(prompts), "sampling": jsonable(asdict(sampling)), "origin": jsonable(origin)}
    if not world.from_main(lambda: _is_made(folder, manifest)):
        lines: dict[str, list[str]] = {}
        for task, rows in prompts.items():
            shares = world.all_gather(lambda task=task, rows=rows: _own_lines(rows, verifiers[task], generator, sampling, world))
            lines[task] = [line for share in shares for line in share]
            advance(len(rows))
        world.from_main(lambda: _store(folder, lines, manifest))
    return world.from_main(lambda: load_pools(folder))


def _is_made(folder: Path, manifest: Mapping[str, Any]) -> bool:
    """Whether `folder` holds the pools of the manifest. Raises `ValueError` if it holds others."""
    if not is_complete(folder):
        return False
    found = _manifest(folder)
    if {key: value for key, value in found.items() if key != NUM_ROWS} != manifest:
        raise ValueError(
            f"{folder} holds pools of another policy, other tasks or other sampling, or pools of an earlier version; delete that "
            f"folder ({folder.absolute()}) to draw them again, or name another folder: pools=OTHER."
        )
    return True


def _own_lines(rows: Sequence[Prompt], verifier: Verifier, generator: Generator | None, sampling: Sampling, world: World) -> list[str]:
    """The lines of this process's share of a task's pool."""
    answers = draw_share(generator, [row.dialogue for row in rows], sampling, world)
    lines = [
        {
            "id": row.id,
            "prompt": messages_of(row.dialogue),
            "completions": [completion.text for completion in completions],
            "correct": [correctness(verifier, completion.text, row) for completion in completions],
        }
        for row, completions in zip(rows[world.shard(len(rows))], answers, strict=True)
    ]
    return [json.dumps(line, ensure_ascii=False) + "\n" for line in lines]


def _store(folder: Path, lines: Mapping[str, Sequence[str]], manifest: Mapping[str, Any]) -> None:
    with atomic_folder(folder) as temporary:
        for task, own in lines.items():
            (temporary / f"{task}.jsonl").write_text("".join(own), encoding="utf-8")
        write_json(temporary / MANIFEST, {**manifest, NUM_ROWS: {task: len(own) for task, own in lines.items()}})


def load_pools(folder: Path) -> Pools:
    """The pools stored in `folder`; raises `ValueError` if there are none, or if they are not what was stored."""
    if not is_complete(folder):
        raise ValueError(f"{folder} holds no complete pools; make them with `rewardloop bon pools={folder} ...`.")
    manifest = _manifest(folder)
    _require_unchanged(folder, manifest.get(NUM_ROWS, {}))
    return {task: _rows(folder / f"{task}.jsonl", _redraw(folder)) for task in manifest["tasks"]}


def _manifest(folder: Path) -> dict[str, Any]:
    file, remedy = folder / MANIFEST, _redraw(folder)
    manifest = read_json(file, remedy=remedy)
    if not isinstance(manifest.get("tasks"), list):
        raise BrokenFileError(f"{file} names no tasks; {remedy}.")
    return manifest


def _require_unchanged(folder: Path, num_rows: Mapping[str, int]) -> None:
    """Raises `BrokenFileError` with the numbers of rows for pools that were cut, filled up or altered."""
    if (found := damage(folder)) is None:
        return
    for task, wanted in num_rows.items():
        file = folder / f"{task}.jsonl"
        rows = sum(1 for _ in numbered_lines(file)) if file.is_file() else 0
        if rows != wanted:
            found = f"{file.name} has {rows} rows instead of {wanted}"
            break
    raise BrokenFileError(f"the pools in {folder} have changed since they were drawn: {found}; {_redraw(folder)}.")


def _redraw(folder: Path) -> str:
    return (
        "restore the file, or delete the folder to draw the pools again with `rewardloop bon`; if the change is meant, empty "
        f"{folder / MARKER}"
    )


def _rows(file: Path, remedy: str) -> list[PoolRow]:
    if not file.is_file():
        raise BrokenFileError(f"{file} is missing; {remedy}.")
    rows = [_row(line, f"{file}, row {number}", remedy) for number, line in numbered_lines(file)]
    if not rows:
        raise BrokenFileError(f"{file} has no rows; {remedy}.")
    return rows


def _row(line: str, where: str, remedy: str) -> PoolRow:
    row = parse_json(line, where, remedy=remedy)
    try:
        prompt = parse_dialogue(row["prompt"], where)
        found = PoolRow(id=row["id"], prompt=prompt, completions=tuple(row["completions"]), correct=tuple(map(float, row["correct"])))
    except (KeyError, TypeError) as error:
        raise BrokenFileError(f"{where} is no row of a pool ({type(error).__name__}: {error}); {remedy}.") from error
    except ValueError as error:  # of `float`, or of the prompt
        raise BrokenFileError(f"{where} is no row of a pool ({error}); {remedy}.") from error
    if not isinstance(row["completions"], list) or not all(isinstance(text, str) for text in row["completions"]):
        raise BrokenFileError(f"{where} has completions that are not a list of texts; {remedy}.")
    if len(found.completions) != len(found.correct) or not found.completions:
        counts = f"{len(found.completions)} completions and {len(found.correct)} values of `correct`"
        raise BrokenFileError(f"{where} has {counts}; {remedy}.")
    if wrong := [value for value in row["correct"] if not isinstance(value, int | float) or not 0 <= value <= 1]:
        raise BrokenFileError(f"{where} has {wrong[0]!r} among its values of `correct`, which lie between 0 and 1; {remedy}.")
    return found


def rerank(pools: Pools, scorer: Scorer, best_of: Sequence[int], say: Callable[[str], None] = print) -> dict[str, float]:
    """`bon/<task>@<n>` for every task and n, and `bon/average@<n>`: how often the completion picked is correct, from 0 to 1.

    A row with a NaN counts as a wrong pick, and `say` is told of the rows with scores that are not finite. A task without a single row of
    finite scores is left out, and then so is the average.
    """
    tasks = list(pools)
    rows = [row for task in tasks for row in pools[task]]
    scores = iter(scorer.score([row.prompt for row in rows], [row.completions for row in rows]))
    scored = {task: [(next(scores), row.correct) for row in pools[task]] for task in tasks}
    _report_not_finite(pools, scored, say)
    measured = [task for task in tasks if any(all(map(math.isfinite, values)) for values, _ in scored[task])]
    metrics: dict[str, float] = {}
    for n in best_of:
        means = {task: mean([_picked(values, correct, n) for values, correct in scored[task]]) for task in measured}
        metrics |= {f"bon/{task}@{n}": value for task, value in means.items()}
        if measured == tasks:
            metrics[f"bon/average@{n}"] = mean(list(means.values()))
    return metrics


def _picked(scores: Sequence[float], correct: Sequence[float], n: int) -> float:
    """`best_of_n`, and 0 if a score is NaN: such a reward model picks nothing."""
    return 0.0 if any(map(math.isnan, scores)) else best_of_n(scores, correct, n)


def _report_not_finite(
    pools: Pools, scored: Mapping[str, Sequence[tuple[Sequence[float], Sequence[float]]]], say: Callable[[str], None]
) -> None:
    for task, rows in scored.items():
        ids = [row.id for row, (values, _) in zip(pools[task], rows, strict=True) if not all(map(math.isfinite, values))]
        if not ids:
            continue
        named = ", ".join(ids[:MAX_NAMED]) + (f" and {len(ids) - MAX_NAMED} more" if len(ids) > MAX_NAMED else "")
        verdict = (
            "which leaves no row to measure, so there is no bon/" if len(ids) == len(rows) else "and a NaN counts as a wrong pick in bon/"
        )
        say(f"best-of-n: {len(ids)} of {len(rows)} rows of {task} have scores that are NaN or infinite, {verdict}{task}: {named}")


def bounds(pools: Pools, n: int) -> dict[str, dict[str, float]]:
    """The accuracy of a random pick and of a perfect reward: `random` and `oracle`, by task and on average."""
    random = {task: mean([mean(row.correct) for row in rows]) for task, rows in pools.items()}
    oracle = {task: mean([oracle_of_n(row.correct, n) for row in rows]) for task, rows in pools.items()}
    return {name: {**by_task, "average": mean(list(by_task.values()))} for name, by_task in (("random", random), ("oracle", oracle))}
