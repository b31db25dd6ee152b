"""`rewardloop bench compare A B`: two reward models on the rows that both scored, with the noise of the choice of prompts."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from core.data.rows import read_rows
from core.disk import write_json
from core.records import ScoredRow
from core.runs.checkpoints import STEP_FOLDER
from core.runs.record import RECORD, RunStatus, read_record
from core.text import printable
from evalhooks.rewardbench import v1
from evalhooks.rewardbench.compare import Comparison, Flip, Line, compare, compare1
from evalhooks.rewardbench.saved_scores import read_credits, read_scores1, read_scores2
from launch.entry import refuse
from launch.history.find import one_run

HELP = """usage: rewardloop bench compare A B [out=FILE.json] [flips=20]

Compares the scores of two reward models row by row. A and B each are one of
  FILE.parquet   rows that `rewardloop bench` or a run wrote
  FILE.json      a result whose rows lie beside it as FILE.parquet
  FOLDER         a folder with rows.parquet, a run of `rewardloop rm` (its best checkpoint), or a checkpoint of one
  RUN            the id or name of a run under runs
  FILE.jsonl     scores: {"id", "subset", "num_correct", "scores"} or {"subset", "chosen", "rejected"} a line; also packed
                 (.gz, .zst), or as one JSON array

out=FILE.json    writes the comparison with all flipped rows
flips=N          how many flipped rows to print, 20 unless told otherwise"""

SEED_NOISE = (
    "An interval covers the choice of prompts alone. It does not include the noise of training: reward models that differ in "
    "nothing but the seed differ by about 2 points, so a smaller difference says little about a recipe even where it is more than noise."
)

_STEP = re.compile(r"step-(\d+)\.rewardbench[12]\.parquet")


@dataclass(frozen=True, kw_only=True, slots=True)
class Side:
    """One of the two models: the file its rows come from; `generative` says that a judge's draws earn half (RewardBench 1)."""

    file: Path
    rows: Sequence[ScoredRow]
    generative: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What the command line asks for."""

    a: str
    b: str
    out: Path | None
    num_flips: int


def main(argv: Sequence[str]) -> None:
    """Prints the comparison that `argv` (without the command's name) asks for; exits with 2 and a message for bad input."""
    if {"-h", "--help"} & set(argv):
        print(HELP)
        return
    try:
        request = parse(argv)
        a, b = read_side(request.a), read_side(request.b)
        if request.out is not None and request.out.resolve() in {
            Path(p).expanduser().resolve() for p in (request.a, request.b, a.file, b.file)
        }:
            raise ValueError(f"out={request.out} would overwrite one of the two results; choose another name.")
        result = compared(a, b)
        if request.out is not None:
            write_json(request.out, {"a": str(a.file), "b": str(b.file), **asdict(result)})
    except (ValueError, OSError) as error:
        refuse(f"bench compare: {error}")
    show(result, a, b, request.num_flips)


def parse(argv: Sequence[str]) -> Request:
    """Reads the command line; raises `ValueError` with the usage."""
    out, num_flips = None, 20
    places: list[str] = []
    for argument in argv:
        key, equals, value = argument.partition("=")
        if equals and key == "out":
            out = Path(value).expanduser()
            if out.suffix != ".json" or out.is_dir():
                raise ValueError(f"{argument} names no JSON file; give out=FILE.json.")
        elif equals and key == "flips":
            if not value.isdecimal():
                raise ValueError(f"{argument} is no number of rows; give flips=20, or flips=0 for none.")
            num_flips = int(value)
        elif argument.startswith("-") or (equals and not Path(argument).exists()):
            raise ValueError(f"the option {argument} is unknown.\n\n{HELP}")
        else:
            places.append(argument)
    if len(places) != 2:
        raise ValueError(f"two score files are needed, got {len(places)}.\n\n{HELP}")
    return Request(a=places[0], b=places[1], out=out, num_flips=num_flips)


def read_side(place: str) -> Side:
    """The scored rows behind one argument; raises `ValueError` that says what is wrong with the place or the row."""
    file = rows_file(place)
    first = next((row for _, row in read_rows(file)), None)
    pairs = isinstance(first, dict) and "chosen" in first and "scores" not in first
    # Of a pair only the draw of a judge earns half, and only for draws does it matter who judged.
    generative = file.suffix == ".parquet" and 0.5 in read_credits(file)
    return Side(file=file, rows=read_scores1(file) if pairs else read_scores2(file), generative=generative)


def rows_file(place: str) -> Path:
    """The file with the rows of one argument; of a run that of its best checkpoint, RewardBench 2 before 1."""
    path = Path(place).expanduser()
    if not path.exists() and (step := STEP_FOLDER.fullmatch(path.name)) and path.parent.name == "checkpoints":
        return _of_step(path.parent.parent, int(step[1]), place)  # its weights may be gone, and its rows are not
    if not path.exists():
        path = _folder_of(place)
    if path.is_dir():
        if (path / "rows.parquet").is_file():
            return path / "rows.parquet"
        if (step := STEP_FOLDER.fullmatch(path.resolve().name)) and path.resolve().parent.name == "checkpoints":
            return _of_step(path.resolve().parent.parent, int(step[1]), place)
        for steps in _rows_by_step(path):
            if steps:
                return _chosen(steps, path, place)
        raise ValueError(f"{place} holds neither rows.parquet nor evals/step-*.rewardbench2.parquet; name a folder of results or a run.")
    if path.suffix != ".json":
        return path
    rows = path.with_suffix(".parquet")
    if not rows.is_file():
        if _holds_scores(path):
            return path
        raise ValueError(f"{place} has no rows beside it; {rows} must be there, or name the file with the rows.")
    return rows


def _folder_of(place: str) -> Path:
    """The folder of the run under `runs` that has this id or name. Raises `ValueError` if there is none."""
    try:
        return Path(one_run(place, Path("runs"))["dir"])
    except ValueError as error:
        raise ValueError(f"{place} does not exist; give a file of scores, a result, or a run by folder, id or name ({error})") from None


def _rows_by_step(run_dir: Path) -> list[dict[int, Path]]:
    """A run's files of rows by step, of RewardBench 2 and then of 1."""
    return [
        {int(m[1]): file for file in run_dir.glob(f"evals/*.{name}.parquet") if (m := _STEP.fullmatch(file.name))}
        for name in ("rewardbench2", "rewardbench1")
    ]


def _of_step(run_dir: Path, step: int, place: str) -> Path:
    """The rows of one checkpoint of a run."""
    for steps in _rows_by_step(run_dir):
        if step in steps:
            return steps[step]
    raise ValueError(f"{place} was measured on no benchmark in its run; score it with `rewardloop bench reward.path={place}`.")


def _chosen(steps: Mapping[int, Path], run_dir: Path, place: str) -> Path:
    """The rows of a finished run's best checkpoint, of another run's newest; raises `ValueError` if they are lost."""
    record = read_record(run_dir) if (run_dir / RECORD).is_file() else {}
    newest = max(steps)
    finished = record.get("status") == RunStatus.finished
    best = record.get("best_step", record.get("step", newest)) if finished else newest
    if best not in steps:
        known = ", ".join(str(file) for _, file in sorted(steps.items()))
        raise ValueError(f"{place} has step {best} as its best, whose rows are missing; name the file of another step: {known}.")
    what = f"its best checkpoint{', by ' + record['best_metric'] if record.get('best_metric') else ''}" if finished else "its newest"
    print(f"{place} is a run: step {best} is compared, {what}; others are {run_dir}/checkpoints/step-*")
    return steps[best]


def _holds_scores(file: Path) -> bool:
    """Whether a JSON file holds rows of scores rather than one result."""
    try:
        first = next((row for _, row in read_rows(file)), None)
    except ValueError:
        return False
    return isinstance(first, dict) and ("scores" in first or "chosen" in first)


def compared(a: Side, b: Side) -> Comparison:
    """The comparison on the benchmark that the subsets of `a` belong to."""
    known = {*v1.PRIOR_SETS, *(subset for section in v1.COUNTS.values() for subset in section)}
    if any(v1.canonical(row.subset) in known for row in a.rows):
        return compare1(a.rows, b.rows, generative_a=a.generative, generative_b=b.generative)
    return compare(a.rows, b.rows)


def show(result: Comparison, a: Side, b: Side, num_flips: int) -> None:
    """Prints the table of domains, what it leaves out and cannot say, and the first `num_flips` flipped rows."""
    console = Console(highlight=False)
    console.print(f"A  {escape(str(a.file))}\nB  {escape(str(b.file))}\n", soft_wrap=True)
    console.print(_domains(result))
    console.print(
        f"\nScores and differences in points of 100, on the {result.num_shared} rows that both models scored; "
        f"left out: {result.num_only_a} rows that only A has, {result.num_only_b} that only B has."
    )
    if {(row.subset, row.id): row.scores for row in a.rows} == {(row.subset, row.id): row.scores for row in b.rows}:
        console.print("A and B have the same scores on every row: one model twice, or two that score alike.")
    for line in (*result.refusals, *result.remarks):
        console.print(escape(printable(line)), soft_wrap=True)
    if result.reason:
        console.print(escape(printable(f"No overall. {result.reason}")))
    console.print(SEED_NOISE)
    if shown := result.flips[:num_flips]:
        console.print(f"\nFlipped rows, the largest differences first ({len(shown)} of {len(result.flips)}):\n")
        console.print(_flipped(shown))


def _domains(result: Comparison) -> Table:
    # Narrow enough for a terminal of 80 columns.
    table = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    table.add_column("domain", overflow="fold", min_width=10)
    for column in ("rows", "A", "B", "A - B", "95% interval", "p", "won/lost"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for line in result.lines:
        _add(table, line, "")
    if (whole := result.overall or result.mean) is not None:
        table.add_section()
        _add(table, whole, "bold")
    return table


def _add(table: Table, line: Line, style: str) -> None:
    interval = "n/a" if line.ci95 is None else f"{100 * line.ci95[0]:+.1f}, {100 * line.ci95[1]:+.1f}"
    table.add_row(
        escape(printable(line.name)),
        str(line.num_rows),
        f"{100 * line.score_a:.1f}",
        f"{100 * line.score_b:.1f}",
        f"{100 * line.difference:+.1f}",
        interval,
        "n/a" if line.p_value is None else f"{line.p_value:.4f}",
        f"{line.num_won}/{line.num_lost}",
        line.verdict,
        style=style,
    )


def _flipped(flips: Sequence[Flip]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("domain")
    table.add_column("row", overflow="fold")
    table.add_column("credit A", justify="right")
    table.add_column("credit B", justify="right")
    for flip in flips:
        table.add_row(escape(printable(flip.subset)), escape(printable(flip.id)), f"{flip.credit_a:.2g}", f"{flip.credit_b:.2g}")
    return table
