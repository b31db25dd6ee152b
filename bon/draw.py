"""Pools are drawn in batches, each stored as soon as it is there, and verified apart from that: nothing is drawn twice."""

import hashlib
import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import date
from itertools import chain, count
from pathlib import Path
from typing import Any

from bon.config import MANIFEST
from bon.pools import NUM_ROWS, load_pools, require_unchanged
from bon.rows import Pools
from bon.store import (
    DRAWING,
    DRAWN,
    FORMAT,
    PART,
    SKIPPED,
    VERIFIED,
    DrawnRow,
    part,
    parts_of,
    read_drawn,
    read_manifest,
    remedy_of,
    verified_with,
    write_drawn,
    write_verdicts,
)
from core.data.dates import pin_date, pinned_date
from core.data.dialogues import messages_of
from core.disk import MARKER, BrokenFileError, atomic_folder, damage, is_complete, jsonable, mark_complete, write_json
from core.functions import SkippedError, Verifier
from core.generators.shared import draw_batches
from core.process.world import World, alone
from core.progress import NoProgress, Progress
from core.records import Generator as TextGenerator
from core.records import Prompt, Sampling
from core.runs.lock import BusyError, locked
from core.scorers.verifier import correctness

MAX_REASONS = 3
"""Reasons for skipping completions that a message gives."""
_POLL_S = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolTask:
    """The prompts of a task, its verifier, and what identifies that one: a verifier with another identity judges the pool anew."""

    prompts: Sequence[Prompt]
    verifier: Verifier
    identity: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolPlan:
    """The pools that are wanted: the tasks by name, how completions are drawn, and what identifies the policy that writes them.

    `limit` is the number of each task's prompts that was asked for, for messages. `origin` is how earlier versions knew pools.
    """

    tasks: Mapping[str, PoolTask]
    sampling: Sampling
    policy: Mapping[str, Any]
    limit: int | None = None
    origin: Mapping[str, Any] | None = None

    def key(self) -> dict[str, Any]:
        """Everything that determines the completions, as it stands in the manifest."""
        tasks = {
            name: {"num_prompts": len(task.prompts), "prompts": _hash([[row.id, messages_of(row.dialogue)] for row in task.prompts])}
            for name, task in self.tasks.items()
        }
        sampling = {name: value for name, value in asdict(self.sampling).items() if name != "first"}
        return {"policy": jsonable(self.policy), "sampling": jsonable(sampling), "limit": self.limit, "tasks": tasks}

    def verification(self, task: str) -> str:
        """What determines the verdicts on a task's completions."""
        own = self.tasks[task]
        return _hash({"verifier": jsonable(own.identity), "references": [dict(row.reference) for row in own.prompts]})


def is_made(folder: Path, plan: PoolPlan) -> bool:
    """Whether `folder` holds the pools of the plan, drawn and verified.

    Raises `ValueError` if it holds others, or something else, or if they were altered.
    """
    if not is_complete(folder):
        _require_ours(folder, plan)
        return False
    manifest = read_manifest(folder)
    require_unchanged(folder, manifest.get(NUM_ROWS, {}))
    if manifest.get("format") != FORMAT:
        _require_same_jsonl(folder, manifest, plan)
        return True
    _require_same(folder, manifest, plan)
    return all(not _unverified(folder, task, plan.verification(task)) for task in plan.tasks)


def make_pools(
    folder: Path,
    plan: PoolPlan,
    open_generator: Callable[[], TextGenerator | None],
    *,
    batch_size: int = 32,
    world: World | None = None,
    progress: Progress | None = None,
    say: Callable[[str], None] = print,
) -> Pools:
    """Samples the completions of every prompt and verifies them, as far as `folder` does not hold them already; returns the pools.

    `open_generator` is called once something is to be drawn. With `world`, all its processes call this, each to draw and judge its
    share; only the main one needs a generator that draws for all. Each batch is stored when it is drawn (of `batch_size` prompts a
    process, unless the generator has batches of its own), so that whoever goes on after a kill draws what is missing. Raises
    `ValueError` if `folder` holds pools of another key, naming what differs.
    """
    world, progress = world or alone(), progress or NoProgress()
    if not world.from_main(lambda: is_made(folder, plan)):
        with ExitStack() as held:
            world.from_main(lambda: _begin(folder, plan, held, say))
            missing = world.from_main(lambda: {task: _missing(folder, task, plan, say) for task in plan.tasks})
            total = sum(len(task.prompts) for task in plan.tasks.values())
            progress.start("sampling pools", total, unit="prompt", done=total - sum(map(len, missing.values())))
            if any(missing.values()):
                _draw(folder, plan, missing, open_generator, batch_size, world, progress)
            progress.finish()
            world.from_main(lambda: [_settle(folder, task) for task in plan.tasks])
            left = world.from_main(lambda: {task: _unverified(folder, task, plan.verification(task)) for task in plan.tasks})
            progress.start("verifying pools", sum(map(len, left.values())), unit="part")
            for task, files in left.items():
                _verify(folder, task, plan, files, world, progress, say)
            progress.finish()
            world.from_main(lambda: mark_complete(folder))
    return world.from_main(lambda: load_pools(folder))


def _begin(folder: Path, plan: PoolPlan, held: ExitStack, say: Callable[[str], None]) -> None:
    """Locks the folder for this process until `held` ends, and writes the manifest."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    held.enter_context(_alone(folder, say))
    _require_ours(folder, plan)
    (folder / MARKER).unlink(missing_ok=True)
    if not (folder / MANIFEST).is_file():
        write_json(folder / MANIFEST, {"format": FORMAT, **plan.key(), "date": (pinned_date() or date.today()).isoformat()})


@contextmanager
def _alone(folder: Path, say: Callable[[str], None]) -> Generator[None]:
    """Context in which no other process draws these pools; waits for one that does."""
    told = False
    while True:
        try:
            with locked(folder.with_name(f".{folder.name}.lock")):
                yield
            return
        except BusyError as error:
            if not told:
                say(f"waiting for the pools in {folder}, which {error.holder} is making")
                told = True
            time.sleep(_POLL_S)


def _require_ours(folder: Path, plan: PoolPlan) -> None:
    """Raises `ValueError` for a folder that holds other pools, or files that are no pools."""
    if (folder / MANIFEST).is_file():
        _require_same(folder, read_manifest(folder), plan)
    elif folder.is_dir() and (others := sorted(file.name for file in folder.iterdir() if not file.name.startswith("."))):
        raise ValueError(
            f"{folder} holds {others[0]} and no {MANIFEST}, so it is no folder of pools that could be gone on with; delete it "
            f"({folder.absolute()}), or name another folder: pools=OTHER."
        )


def _require_same(folder: Path, manifest: Mapping[str, Any], plan: PoolPlan) -> None:
    """Raises `ValueError` that names what differs where a manifest is that of other pools."""
    found = list(_differences({key: manifest.get(key) for key in plan.key()}, plan.key()))
    if found:
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        raise ValueError(
            f"{folder} holds pools of another policy, other tasks or other sampling: {'; '.join(found[:3])}{more}. Delete that folder "
            f"({folder.absolute()}) to draw them again, name another folder (pools=OTHER), or take them as they are (tasks=none)."
        )


def _require_same_jsonl(folder: Path, manifest: Mapping[str, Any], plan: PoolPlan) -> None:
    before = {key: value for key, value in manifest.items() if key != NUM_ROWS}
    if before != {"tasks": sorted(plan.tasks), "sampling": jsonable(asdict(plan.sampling)), "origin": jsonable(plan.origin)}:
        raise ValueError(
            f"{folder} holds pools of another policy, other tasks or other sampling, or pools of an earlier version; take them as they are "
            f"(tasks=none), delete that folder ({folder.absolute()}) to draw them again, or name another folder: pools=OTHER."
        )


def _differences(there: object, asked: object, key: str = "") -> Generator[str]:
    if isinstance(there, Mapping) and isinstance(asked, Mapping):
        for name in dict.fromkeys([*there, *asked]):
            yield from _differences(there.get(name), asked.get(name), f"{key}.{name}" if key else str(name))
    elif there != asked:
        yield f"{key} is {_short(there)} there and {_short(asked)} here"


def _short(value: object) -> str:
    text = "nothing" if value is None else str(value)
    return f"{text[:12]}..." if len(text) > 40 else text


def _missing(folder: Path, task: str, plan: PoolPlan, say: Callable[[str], None]) -> list[int]:
    """The places of a task's prompts that are still to be drawn."""
    done = folder / DRAWN / task
    if is_complete(done):
        if found := damage(done):
            raise BrokenFileError(f"the pools in {folder} have changed since they were drawn: {found}; {remedy_of(folder)}.")
        return []
    known: set[int] = set()
    for file in parts_of(folder / DRAWING / task):
        try:
            known |= {row.place for row in read_drawn(file, "its prompts are drawn again")}
        except BrokenFileError as error:
            say(str(error))
            file.unlink()
    return [place for place in range(len(plan.tasks[task].prompts)) if place not in known]


def _draw(
    folder: Path,
    plan: PoolPlan,
    missing: Mapping[str, Sequence[int]],
    open_generator: Callable[[], TextGenerator | None],
    batch_size: int,
    world: World,
    progress: Progress,
) -> None:
    """Draws what is missing and stores each batch; templates write the day on which the drawing began."""
    today = pinned_date()
    pin_date(date.fromisoformat(str(world.from_main(lambda: read_manifest(folder)["date"]))))
    generator = open_generator()
    for task, places in missing.items():
        prompts = plan.tasks[task].prompts
        dialogues = [prompt.dialogue for prompt in prompts]
        for batch, answers in draw_batches(generator, dialogues, places, plan.sampling, world, batch_size=batch_size):
            rows = [
                DrawnRow(
                    place=place,
                    id=prompts[place].id,
                    prompt=dialogues[place],
                    completions=tuple(completion.text for completion in own),
                    finished=tuple(completion.finished for completion in own),
                )
                for place, own in zip(batch, answers, strict=True)
            ]
            world.from_main(lambda task=task, rows=rows: write_drawn(_next_part(folder / DRAWING / task), rows))
            progress.advance(len(rows))
    if today is not None:
        pin_date(today)


def _next_part(folder: Path) -> Path:
    return next(path for number in count() if not (path := part(folder, number)).exists())


def _settle(folder: Path, task: str) -> None:
    """Puts the batches of a task that is wholly drawn into the order of its prompts."""
    if not is_complete(folder / DRAWN / task):
        parts = [read_drawn(file, remedy_of(folder)) for file in parts_of(folder / DRAWING / task)]
        rows = sorted(chain.from_iterable(parts), key=lambda row: row.place)
        with atomic_folder(folder / DRAWN / task) as temporary:
            for number, start in enumerate(range(0, len(rows), PART)):
                write_drawn(part(temporary, number), rows[start : start + PART])
    shutil.rmtree(folder / DRAWING / task, ignore_errors=True)
    if (folder / DRAWING).is_dir() and not any((folder / DRAWING).iterdir()):
        (folder / DRAWING).rmdir()


def _unverified(folder: Path, task: str, key: str) -> list[Path]:
    """The files of completions without verdicts of this verifier."""
    return [file for file in parts_of(folder / DRAWN / task) if verified_with(folder / VERIFIED / task / file.name) != key]


def _verify(
    folder: Path, task: str, plan: PoolPlan, left: Sequence[Path], world: World, progress: Progress, say: Callable[[str], None]
) -> None:
    """Judges the completions of a task in the files `left`; all processes call it, each to judge its share."""
    own, key = plan.tasks[task], plan.verification(task)
    before = world.from_main(lambda: [verified_with(folder / VERIFIED / task / file.name) for file in left])
    if set(before) - {None, SKIPPED}:
        say(f"the verifier of {task}, or its references, changed: its completions are verified again, and none is drawn")
    reasons: Counter[str] = Counter()
    for file in left:
        rows = world.from_main(lambda file=file: read_drawn(file, remedy_of(folder)))
        shares = world.all_gather(lambda rows=rows: _judged(own, rows[world.shard(len(rows))]))
        correct = [row for share in shares for row in share[0]]
        for _, skipped in shares:
            reasons.update(skipped)
        world.from_main(
            lambda file=file, rows=rows, correct=correct: write_verdicts(folder / VERIFIED / task / file.name, rows, correct, key=key)
        )
        progress.advance()
    if reasons:
        why = "; ".join(f"{reason} ({count})" for reason, count in reasons.most_common(MAX_REASONS))
        say(f"{task}: {reasons.total()} completions were skipped, and accuracy leaves their prompts out: {why}")


def _judged(task: PoolTask, rows: Sequence[DrawnRow]) -> tuple[list[list[float | None]], Mapping[str, int]]:
    """The correctness of each completion, None where it was skipped, and how often for which reason."""
    reasons: Counter[str] = Counter()

    def one(text: str, prompt: Prompt) -> float | None:
        try:
            return correctness(task.verifier, text, prompt)
        except SkippedError as error:
            reasons[str(error)] += 1
            return None

    return [[one(text, task.prompts[row.place]) for text in row.completions] for row in rows], dict(reasons)


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
