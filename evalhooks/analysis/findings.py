"""Everything that a table of scores says, as one object fit for JSON, from which reports are drawn."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from evalhooks.analysis.columns import Columns
from evalhooks.analysis.correlation import correlation
from evalhooks.analysis.diagnostics import diagnostic
from evalhooks.analysis.head_to_head import Difference, Regret, compare_all, difference, regret, sentence
from evalhooks.analysis.noise import SeedNoise, seed_noise
from evalhooks.analysis.paper_tables import paper_tables
from evalhooks.analysis.pick import Candidate, Pick, pick
from evalhooks.analysis.relations import between, pairs, plain, relation
from evalhooks.analysis.table import ScoredModel, ScoreTable, error_column


def findings(
    table: ScoreTable,
    *,
    benchmarks: Sequence[str],
    downstream: Sequence[str],
    diagnostics: Sequence[str] = (),
    compared: Sequence[str] | None = None,
    picked_for: Sequence[str] | None = None,
) -> dict[str, Any]:
    """What the table says of its benchmarks against its downstream results.

    Head to head stand `compared`, by default all benchmarks. The pick goes by the first one, for each of `picked_for`, by default all
    downstream results. `diagnostics` are
    columns or facts that may predict a downstream result beside the benchmarks. Keys: `correlation` (see `relations`),
    `between_benchmarks`, `between_downstream`, `seed_noise`, `head_to_head`, `pick`, `diagnostics`, `protocols`, `models`, `left_out`.
    """
    noise = {column: seed_noise(table.models, column) for column in (*benchmarks, *downstream)}
    relations = {key: value for x in benchmarks for y in downstream for key, value in relation(table, x, y).items()}
    chosen, rivals = benchmarks[0], compare_all(benchmarks if compared is None else compared)
    grouped = ["group"] if any(model.facts.get("group") for model in table.models) else list[str]()
    inputs = list(dict.fromkeys([*benchmarks, *diagnostics, *grouped]))
    return {
        "benchmarks": list(benchmarks),
        "downstream": list(downstream),
        "compared": list(benchmarks if compared is None else compared),
        "names": dict(table.columns.names),
        "shares": sorted(table.columns.shares),
        "correlation": plain(relations),
        "between_benchmarks": plain(between(table, benchmarks)),
        "between_downstream": plain(between(table, downstream)),
        "seed_noise": {column: found and asdict(found) for column, found in noise.items()},
        "head_to_head": [_compared(table, a, b, y) for y in downstream for a, b in rivals],
        "pick": {f"{chosen}~{y}": _picked(table, chosen, y, noise) for y in (downstream if picked_for is None else picked_for)},
        "diagnostics": {
            y: [asdict(diagnostic(table.models, name, y, called=table.columns.name(y))) for name in inputs] for y in downstream
        },
        "protocols": table.protocols([]),
        "models": [
            {
                "name": model.name,
                "control": model.control,
                "protocol": model.protocol,
                "facts": dict(model.facts),
                "scores": dict(model.scores),
            }
            for model in sorted(table.models, key=lambda model: -model.scores.get(chosen, float("-inf")))
        ],
        "policies": [{"name": policy.name, "scores": dict(policy.scores)} for policy in table.policies],
        "tables": paper_tables(table, benchmarks=benchmarks, downstream=downstream),
        "left_out": list(table.notes),
    }


def apart(protocols: Sequence[str]) -> str:
    """In what protocols differ: of each the parts that not all of them have.

    >>> apart(["rows 1, dtype bf16", "rows 1, dtype fp32"])
    'dtype bf16; dtype fp32'
    """
    parts = [protocol.split(", ") for protocol in protocols]
    return "; ".join(", ".join(part for part in own if not all(part in other for other in parts)) or "the rest" for own in parts)


def _compared(table: ScoreTable, a: str, b: str, y: str) -> dict[str, Any]:
    """One head-to-head; scores of several protocols are not compared."""
    both = pairs(table.models, a, b, y)
    head: dict[str, Any] = {"a": a, "b": b, "downstream": y}
    names = table.columns.name(a), table.columns.name(b), table.columns.name(y)
    if len(protocols := table.protocols([a, b, y])) > 1:
        why = f"the scores are of {len(protocols)} protocols ({apart(protocols)}), which are not comparable."
        nothing = Difference(a=None, b=None, difference=None, ci95=None, ranking=None, right_a=None, right_b=None, n=len(both), note=why)
        return head | {"n": len(both), "better": "", "answer": sentence(nothing, *names)}
    scores = {column: [model.scores[column] for model in both] for column in (a, b, y)}
    found = difference(scores[a], scores[b], scores[y], names=names)
    better = {"a": a, "b": b}.get(found.better, "")
    entry: dict[str, Any] = (
        head
        | {"better": better, "answer": sentence(found, *names)}
        | _listed({name: value for name, value in asdict(found).items() if name not in ("a", "b")})
        | {"r_a": found.a, "r_b": found.b}
    )
    if len(both) > 2:
        lost = {column: regret(scores[column], scores[y]) for column in (a, b)}
        entry["regret"] = {column: asdict(value) | {"picked": [both[k].name for k in value.picked]} for column, value in lost.items()}
        entry["answer"] += f" {_regret_text(table.columns, a, b, y, lost)}"
    return entry


def _regret_text(columns: Columns, a: str, b: str, y: str, lost: Mapping[str, Regret]) -> str:
    """What taking the first of each benchmark would have cost."""
    of_a, of_b, chance = (columns.value(y, value) for value in (lost[a].points, lost[b].points, lost[a].chance))
    unit, tail = (" points", "") if columns.unit(y) else ("", f" in {columns.name(y)}")
    by = f"{of_a}{unit} by either" if of_a == of_b else f"{of_a}{unit} by {columns.name(a)}, {of_b} by {columns.name(b)}"
    return f"Taking the reward model that a benchmark puts first loses {by}, a random one {chance}{tail}."


def _listed(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in entry.items()}


def _picked(table: ScoreTable, x: str, y: str, noise: Mapping[str, SeedNoise | None]) -> dict[str, Any]:
    """The pick for one downstream result among the reward models that are no controls."""
    able = [model for model in table.models if x in model.scores and not model.control]
    name = table.columns.name(x)
    if not able:
        return {"answer": f"none, as no reward model that could be taken has a score in {name}; controls are not taken.", "model": None}
    unknown = [model for model in able if not model.protocol]
    if 0 < len(unknown) < len(able):
        able = [model for model in able if model.protocol]
    else:
        unknown = []
    if len(protocols := sorted({model.protocol for model in able})) > 1:
        why = f"the scores in {name} are of {len(protocols)} protocols ({apart(protocols)}), which are not comparable"
        return {"answer": f"none, as {why}.", "model": None}
    columns = {column for model in able for column in model.scores}
    errors = {column: error_column(column, columns) for column in (x, y)}
    spread = {column: found.sd if found else 0.0 for column, found in noise.items()}

    def error(model: ScoredModel, column: str) -> float:
        return float((model.scores.get(errors[column] or "", 0.0) ** 2 + spread[column] ** 2) ** 0.5)

    candidates = [
        Candidate(
            score=model.scores[x],
            error=error(model, x),
            group=model.facts.get("lineage", "") or model.facts.get("group", ""),
            measured=model.scores.get(y),
            measured_error=error(model, y),
        )
        for model in able
    ]
    found = pick(candidates)
    known = {column: [*([f"{errors[column]}"] if errors[column] else []), *(["seed noise"] if spread[column] else [])] for column in (x, y)}
    return {
        "model": able[found.index].name,
        "probability": found.probability,
        "regret": found.regret,
        "highest_score": able[found.highest].name,
        "highest_score_regret": found.highest_regret,
        "slope": found.slope,
        "num_measured": found.num_measured,
        "n": len(able),
        "noise": known,
        "candidates": [
            {"name": model.name, "probability": p, "expected": e, "regret": r, "measured": y in model.scores}
            for model, p, e, r in zip(able, found.probabilities, found.expected, found.regrets, strict=True)
        ],
        "answer": _answer(found, able, x, y, known, table.columns) + _warning(able, x, y, table.columns) + _without(unknown),
    }


def _answer(found: Pick, able: Sequence[ScoredModel], x: str, y: str, known: Mapping[str, Sequence[str]], columns: Columns) -> str:
    """The pick in words, with what it rests on."""
    if len(able) == 1:
        return f"{able[0].name}, the only candidate."
    unit = y if found.slope is not None else x
    text = f"{able[found.index].name}, the best of {len(able)} with probability {found.probability:.2f}; "
    text += f"it is expected to lose {columns.lost(unit, found.regret)}"
    if found.highest != found.index:
        text += f", {able[found.highest].name}, which scores highest, {columns.lost(unit, found.highest_regret)}"
    if found.slope is None:
        text += f" in {columns.name(x)}" if columns.unit(x) else ""
        few = ("None of them has", "Only one of them has", "Only 2 of them have")[found.num_measured]
        text += f". {few} a result, too few for a relation, so this goes by {columns.name(x)} alone"
    else:
        text += f". It rests on the {found.num_measured} of them that have a result"
    if bare := [columns.name(column) for column in ((x, y) if found.slope is not None else (x,)) if not known[column]]:
        text += f". Taken as exact, without standard errors or seeds: {' and '.join(bare)}"
    return text + "."


def _without(unknown: Sequence[ScoredModel]) -> str:
    """Which reward models are no candidates since nobody knows how they were measured, where it is known of the others."""
    return f" Not among them, of unknown protocol: {', '.join(model.name for model in unknown)}." if unknown else ""


def _warning(able: Sequence[ScoredModel], x: str, y: str, columns: Columns) -> str:
    """What to beware of: the fitted relation never falls, and where results do it cannot follow them."""
    both = pairs(able, x, y)
    found = correlation([model.scores[x] for model in both], [model.scores[y] for model in both])
    if found.pearson is None or found.ci95 is None or found.ci95[1] >= 0:
        return ""
    names = f"{columns.name(x)} and {columns.name(y)}"
    return f" Beware: over the {found.n} that are no controls {names} run against each other, r = {found.pearson:.2f}."
