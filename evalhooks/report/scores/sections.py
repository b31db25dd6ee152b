"""What a table of scores says, as sections of a page, as Markdown and as lines for the terminal: one set of tables for all three."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from evalhooks.analysis.table import error_column

Findings = Mapping[str, Any]

MAX_ANSWERS = 8
"""Head-to-heads that a terminal shows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """A part of the report: sentences, a table of cells, and the name of a picture, each of which may be missing."""

    title: str
    sentences: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    pale: tuple[bool, ...] = ()
    """Which rows are within seed noise of the best; empty where that does not apply."""
    picture: str = ""


def sections(found: Findings) -> Iterator[Section]:
    """The parts that the findings have something for."""
    yield from _relations(found)
    yield from _head_to_head(found)
    yield from _pick(found)
    yield from _diagnostics(found)
    yield from _noise(found)
    if found.get("self_preference"):
        yield _self_preference(found["self_preference"])
    if found.get("reference"):
        yield _reference(found)
    if found["models"]:
        yield _models(found)
    yield from _tables(found)
    if found.get("overlap"):
        yield _overlap(found["overlap"])
    if len(found["protocols"]) > 1 or any(found["protocols"]):
        yield _protocols(found)
    if found["left_out"]:
        yield Section(title="Left out", sentences=tuple(found["left_out"]))


def _relations(found: Findings) -> Iterator[Section]:
    heads = ("Benchmark ~ downstream", "Pearson r", "95% interval", "n", "Spearman", "95% interval", "Kendall", "r squared", "Note")
    if found["downstream"]:
        # The parts of all pairs would be hundreds of rows, which correlation.csv and summary.json have.
        first = tuple(f"{found['benchmarks'][0]}~{column}" for column in found["downstream"][:2])
        rows = tuple(_link_row(key, link) for key, link in found["correlation"].items() if " (" not in key or key.startswith(first))
        said = "Intervals of r are Fisher's, which cover the truth 93 to 97 times in 100 from n = 6 on (docs/analysis.md)."
        yield Section(
            title="Does the benchmark predict downstream use?",
            sentences=(said,),
            heads=heads,
            rows=rows,
            picture="benchmark_vs_downstream.png",
        )
    if len(found["benchmarks"]) * len(found["downstream"]) > 1:
        yield Section(title="Benchmarks by downstream results", picture="correlation_grid.png")
    if found["between_benchmarks"]:
        rows = tuple(_link_row(key, link) for key, link in found["between_benchmarks"].items())
        drawn = "benchmarks.png" if len(found["compared"]) > 1 else ""
        said = tuple(_drops(found))
        yield Section(title="Between benchmarks", sentences=said, heads=("Benchmarks", *heads[1:]), rows=rows, picture=drawn)
    if found["between_downstream"]:
        rows = tuple(_link_row(key, link) for key, link in found["between_downstream"].items())
        between = ("Downstream results", *heads[1:])
        yield Section(title="Between downstream results", heads=between, rows=rows, picture="downstream_grid.png")


def _drops(found: Findings) -> Iterator[str]:
    """How much lower reward models score on one benchmark than on another (figure 2 of the paper)."""
    for place, a in enumerate(found["compared"]):
        for b in found["compared"][place + 1 :]:
            gaps = [m["scores"][a] - m["scores"][b] for m in found["models"] if a in m["scores"] and b in m["scores"]]
            if gaps:
                yield f"{a} minus {b}: {sum(gaps) / len(gaps):+.3g} on average over the {len(gaps)} reward models that have both."
    if any(column.startswith("rewardbench2/overall") for column in found["compared"]):
        yield "RewardBench 2 is the plain mean of its domains, RewardBench 1 that of its sections and, at half weight, prior sets."


def _link_row(key: str, link: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        key,
        number(link["pearson"]),
        interval(link["ci95"]),
        str(link["n"]),
        number(link["spearman"]),
        interval(link["spearman_ci95"]),
        number(link["kendall"]),
        number(link["r2"]),
        link["note"],
    )


def _head_to_head(found: Findings) -> Iterator[Section]:
    if not found["head_to_head"]:
        return
    heads = (
        "A",
        "B",
        "Downstream",
        "r of A",
        "r of B",
        "Difference",
        "95% interval",
        "n",
        "A ~ B (tau)",
        "Pairs right A, B",
        "Regret A, B, chance",
    )
    rows = tuple(
        (
            entry["a"],
            entry["b"],
            entry["downstream"],
            number(entry.get("r_a")),
            number(entry.get("r_b")),
            number(entry.get("difference"), sign=True),
            interval(entry.get("ci95")),
            str(entry["n"]),
            number(entry.get("ranking")),
            f"{number(entry.get('right_a'))}, {number(entry.get('right_b'))}",
            _regrets(entry),
        )
        for entry in found["head_to_head"]
    )
    count = len(rows)
    said = [entry["answer"] for entry in found["head_to_head"]]
    if count > 1:
        said.append(f"{count} comparisons: of intervals that are right 95 times in 100, {0.05 * count:.2g} would exclude 0 by chance.")
    yield Section(title="Which benchmark predicts better?", sentences=tuple(said), heads=heads, rows=rows)


def _regrets(entry: Mapping[str, Any]) -> str:
    if not (lost := entry.get("regret")):
        return "n/a"
    return f"{lost[entry['a']]['points']:.3g}, {lost[entry['b']]['points']:.3g}, {lost[entry['a']]['chance']:.3g}"


def _pick(found: Findings) -> Iterator[Section]:
    if found["pick"]:
        answers = tuple(f"By {key.replace('~', ' for ')}: {entry['answer']}" for key, entry in found["pick"].items())
        drawn = any(entry.get("candidates") for entry in found["pick"].values())
        yield Section(title="Which reward model to take", sentences=answers, picture="pick.png" if drawn else "")


def _diagnostics(found: Findings) -> Iterator[Section]:
    rows = tuple(
        (
            downstream,
            entry["name"],
            str(entry["n"]),
            number(entry["error"], digits=3),
            number(entry["error_of_mean"], digits=3),
            "n/a" if entry["gain"] is None else f"{100 * entry['gain']:.0f}%",
            entry["note"],
        )
        for downstream, entries in found["diagnostics"].items()
        for entry in entries
    )
    heads = ("Downstream", "Input", "n", "Error left out", "Error of the mean", "Taken away", "Note")
    said = "Each input alone, on reward models that the fit did not see; below 0% it predicts worse than the mean of the others."
    if rows:
        yield Section(title="What predicts it, one input at a time", sentences=(said,), heads=heads, rows=rows)


def _noise(found: Findings) -> Iterator[Section]:
    if not found["models"]:
        return
    known = {column: value for column, value in found["seed_noise"].items() if value}
    if not known:
        said = "No two reward models are equal but for their seed, so nothing is known of what the seed alone does."
        yield Section(title="Seed noise", sentences=(said,))
        return
    heads = ("Column", "Standard deviation", "Band", "Groups", "Degrees of freedom")
    rows = tuple(
        (column, number(value["sd"], digits=3), number(value["band"], digits=3), str(value["num_groups"]), str(value["df"]))
        for column, value in known.items()
    )
    said = "Of two reward models that differ in the seed alone, 95 in 100 are closer than the band: a difference below it is noise."
    yield Section(title="Seed noise", sentences=(said,), heads=heads, rows=rows)


def _tables(found: Findings) -> Iterator[Section]:
    """The paper's tables; a star marks the highest number of a column of scores."""
    for title, rows in found["tables"].items():
        heads = tuple(rows[0])
        numbers = {head: [row[head] for row in rows if isinstance(row[head], float)] for head in heads}
        cells = tuple(tuple(_starred(row[head], max(numbers[head], default=None)) for head in heads) for row in rows)
        said = "tries: of how many the row is the best; it was chosen by the scores shown." if "tries" in heads else ""
        if "PPO tries" in heads:
            said = "PPO tries: among how many checkpoints, over all settings, the PPO result was chosen."
        yield Section(title=title, sentences=(said,) if said else (), heads=heads, rows=cells)


def _starred(value: Any, best: float | None) -> str:
    if isinstance(value, float):
        return f"{value:.4g}{' *' if value == best else ''}"
    return "n/a" if value is None else str(value)


def _overlap(found: Sequence[Mapping[str, Any]]) -> Section:
    rows = tuple(
        (
            entry["benchmark"],
            entry["task"],
            f"{entry['shared']} of {entry['of']}",
            str(entry["equal"]),
            str(entry["num_task_prompts"]),
            _examples(entry),
        )
        for entry in found
    )
    heads = ("Benchmark", "Task", "Shared prompts", "Equal", "Prompts of the task", "Examples")
    said = (
        "A benchmark prompt is shared if more than half of its words lie in 8-grams that a task's prompt has too, as where both are made "
        "by one template; it is equal if a task's prompt is the same up to case and spaces."
    )
    return Section(title="Prompts that benchmark and tasks share", sentences=(said,), heads=heads, rows=rows)


def _examples(entry: Mapping[str, Any]) -> str:
    return "; ".join(f"{example['benchmark'][:70]!r} in {example['task'][:70]!r}" for example in entry["examples"])


def _self_preference(found: Findings) -> Section:
    heads = (
        "Base of the reward model",
        "Preference data",
        "Completions of",
        "Mean inverse rank",
        "Deviation",
        "Mean rank",
        "Reward models",
    )
    rows = tuple(
        (
            cell["base"],
            cell["data"] or "all",
            cell["model"],
            number(cell["inverse_rank"]),
            number(cell["sd"]),
            number(cell["mean_rank"], digits=2),
            str(cell["num_rms"]),
        )
        for cell in found["cells"]
    )
    said = [entry["answer"] for entry in found["preferences"]]
    said.append(f"{found['num_prompts']} prompts; whiskers are the standard deviation over the reward models of a base.")
    if found["left_out"]:
        said.append(f"{found['left_out']} prompts are left out, which some reward model did not score for every completion model.")
    title = "Do reward models prefer their base's own completions?"
    return Section(title=title, sentences=tuple(said), heads=heads, rows=rows, picture="self_preference.png")


def _reference(found: Findings) -> Section:
    heads = ("Published in", "What", "Published", "Ours")
    rows: list[tuple[str, ...]] = []
    for source in found["reference"]:
        for key, r in source["pearson"].items():
            rows.append((source["source"], f"r of {key}", number(r), headline(found["correlation"].get(key) or {})))
        for column, standing in source["standing"].items():
            if standing["rank"] is not None and standing["of"]:
                where = f"best {standing['best']:.4g}, place {standing['rank']} among them"
                rows.append((source["source"], column, f"{standing['of']} reward models, best {standing['highest']:.4g}", where))
    said = ["As published, by their authors' protocol: beside one's own numbers, never in one correlation with them."]
    said += [source["note"] for source in found["reference"] if source["note"]]
    return Section(title="Published numbers", sentences=tuple(said), heads=heads, rows=tuple(rows))


def _models(found: Findings) -> Section:
    columns = [*found["benchmarks"], *found["downstream"]]
    facts = [key for key in ("base", "data", "lr", "epochs", "seed", "group") if any(key in m["facts"] for m in found["models"])]
    best = {
        column: max((m["scores"][column] for m in found["models"] if column in m["scores"] and not m["control"]), default=None)
        for column in columns
    }
    rows, pale = [], []
    for model in found["models"]:
        rows.append((model["name"], *(model["facts"].get(key, "") for key in facts), *(_cell(found, model, c, best[c]) for c in columns)))
        main, top = model["scores"].get(columns[0]), best[columns[0]]
        band = (found["seed_noise"].get(columns[0]) or {}).get("band")
        pale.append(band is not None and main is not None and top is not None and top - band <= main < top)
    said = ("Grey: within seed noise of the best; ~ marks such a score in its column.",) if any(found["seed_noise"].values()) else ()
    return Section(title="Reward models", sentences=said, heads=("Reward model", *facts, *columns), rows=tuple(rows), pale=tuple(pale))


def _cell(found: Findings, model: Mapping[str, Any], column: str, best: float | None) -> str:
    value = model["scores"].get(column)
    if value is None:
        return "n/a"
    band = (found["seed_noise"].get(column) or {}).get("band")
    near = band is not None and best is not None and best - band <= value < best
    named = error_column(column, model["scores"])
    error = f" ± {model['scores'][named]:.2g}" if named else ""
    return f"{value:.4g}{error}{' ~' if near else ''}"


def _protocols(found: Findings) -> Section:
    rows = []
    for protocol in found["protocols"]:
        own = [model for model in found["models"] if model["protocol"] == protocol]
        cut = sorted({model["facts"]["truncated"] for model in own if model["facts"].get("truncated")})
        rows.append((protocol or "not known", str(len(own)), ", ".join(cut) or "n/a"))
    said = "Scores of different protocols are never put into one correlation or picture."
    return Section(title="How it was measured", sentences=(said,), heads=("Protocol", "Reward models", "Truncated share"), rows=tuple(rows))


def number(value: float | None, *, digits: int = 3, sign: bool = False) -> str:
    """A number for a table; a missing one is "n/a"."""
    return "n/a" if value is None else f"{value:+.{digits}f}" if sign else f"{value:.{digits}f}"


def headline(link: Mapping[str, Any]) -> str:
    """A correlation in a few words: r, its interval and n."""
    if link.get("pearson") is None:
        return f"r not available, n = {link.get('n', 0)}"
    bounds = "no interval" if link["ci95"] is None else f"{link['ci95'][0]:.2f} to {link['ci95'][1]:.2f}"
    return f"r = {link['pearson']:.2f} ({bounds}), n = {link['n']}"


def interval(bounds: Sequence[float] | None) -> str:
    """An interval for a table; a missing one is "n/a"."""
    return "n/a" if bounds is None else f"{bounds[0]:.3f} to {bounds[1]:.3f}"


MOST_ROWS = 20
"""Rows of a table that is seen at once; a longer one opens when it is asked for."""


def html(found: Findings, figures: Mapping[str, str], *, without: Sequence[str] = ()) -> str:
    """The sections for the page but those `without`, by title; `figures` are what the page shows for a picture, if anything."""
    parts: list[str] = []
    for section in (section for section in sections(found) if section.title not in without):
        if not (section.sentences or section.rows or section.picture in figures):
            continue
        parts.append(f"<section><h2>{escape(section.title)}</h2>")
        parts += [f'<p class="caption">{escape(text)}</p>' for text in section.sentences]
        parts.append(figures.get(section.picture, ""))
        if section.rows:
            parts.append(_html_table(section))
        parts.append("</section>")
    return "".join(parts)


def _html_table(section: Section) -> str:
    head = "".join(f'<th scope="col"><button type="button">{escape(text)}</button></th>' for text in section.heads)
    flags = [' class="control"' if pale else "" for pale in section.pale] or [""] * len(section.rows)
    body = "".join(
        f"<tr{flag}>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row, flag in zip(section.rows, flags, strict=True)
    )
    table = f'<div class="scroll"><table class="sorts"><thead><tr class="sort">{head}</tr></thead><tbody>{body}</tbody></table></div>'
    return f"<details><summary>All {len(section.rows)} rows</summary>{table}</details>" if len(section.rows) > MOST_ROWS else table


def answers(found: Findings, *, downstream: Sequence[str] | None = None) -> list[str]:
    """The sentences that a terminal shows: head-to-heads (of `downstream` alone if given), picks, and what was left out."""
    said = [entry["answer"] for entry in found["head_to_head"] if downstream is None or entry["downstream"] in downstream]
    if len(said) > MAX_ANSWERS:
        said[MAX_ANSWERS:] = [f"{len(said) - MAX_ANSWERS} more head-to-heads are in the report."]
    said += [f"Pick by {key.replace('~', ' for ')}: {entry['answer']}" for key, entry in found["pick"].items()]
    said += [entry["answer"] for entry in (found.get("self_preference") or {}).get("preferences", [])]
    for entry in found.get("overlap") or []:
        said.append(f"{entry['benchmark']} shares {entry['shared']} of its {entry['of']} prompts with {entry['task']}.")
    return [*said, *found["left_out"], *(source["note"] for source in found.get("reference", []) if source["note"])]


def markdown(found: Findings, cell: Callable[[str], str], *, without: Sequence[str] = ()) -> list[str]:
    """The sections but those `without` as parts of a Markdown page; `cell` makes text that stays text."""
    parts: list[str] = []
    for section in (section for section in sections(found) if section.title not in without):
        parts.append(f"## {section.title}")
        parts += [cell(text) for text in section.sentences]
        if section.picture:
            parts.append(f"![{section.title}]({section.picture})")
        if section.rows:
            lines = [section.heads, ["---"] * len(section.heads), *section.rows]
            parts.append("\n".join("| " + " | ".join(cell(text) for text in line) + " |" for line in lines))
    return parts
