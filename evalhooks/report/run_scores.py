"""The scores of a study's runs as a table with a line per reward model, as `evalhooks.analysis` reads it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from evalhooks.analysis.columns import columns_of_metrics
from evalhooks.analysis.findings import findings
from evalhooks.analysis.table import POLICIES, Group, ScoredModel, ScoreTable, with_group
from evalhooks.halves import CHOSEN_ON, REPORTED_ON
from evalhooks.metric_names import PPO, metric_name
from evalhooks.report.facts import best_of
from evalhooks.report.scores.section import listed
from evalhooks.rewardbench.domains import DOMAINS

AVERAGE = "bon/average"

_DIAGNOSTICS = ("on_policy/rm_accuracy", "on_policy/reward_std")
"""What the untrained policy's own answers say of a reward model, as PPO runs measure it at step 0."""


def run_findings(
    summary: Mapping[str, Any], *, benchmarks: Sequence[str] = (), downstream: Sequence[str] = (), diagnostics: Sequence[str] = ()
) -> dict[str, Any] | None:
    """The findings of a summary's reward models; None where none has a score on a benchmark.

    Without `benchmarks` these are RewardBench 2 (by the study's score), its domains and RewardBench 1, without `downstream` best-of-N on
    average and by task, and PPO. Raises `ValueError` for a column that no reward model has.
    """
    table = table_of(summary)
    there = list(dict.fromkeys(column for model in table.models for column in model.scores if not column.endswith("_se")))
    for column in (*benchmarks, *downstream, *diagnostics):
        if column not in there and column not in {key for model in table.models for key in model.facts}:
            raise ValueError(f"no reward model has {column}; they have {', '.join(there) or 'no scores'}.")
    usual = [f"rewardbench2/{key}" for key in dict.fromkeys((str(summary["score"]), *DOMAINS))]
    x = [*benchmarks] or [column for column in (*usual, "rewardbench1/overall") if column in there]
    y = [*downstream] or [column for column in (AVERAGE, PPO) if column in there] + [
        column for column in there if column.startswith("bon/") and column != AVERAGE
    ]
    if not x:
        return None
    inputs = [*diagnostics] or [
        name for name in (*_DIAGNOSTICS, "lineage") if name in there or any(name in model.facts for model in table.models)
    ]
    return findings(
        table,
        benchmarks=x,
        downstream=y,
        diagnostics=inputs,
        compared=[column for column in (x[0], "rewardbench1/overall") if column in x] if not benchmarks else x,
        picked_for=y if downstream else [column for column in (AVERAGE, PPO) if column in y],
    )


def without_scores(notes: Sequence[str] = ()) -> dict[str, Any]:
    """Findings that say nothing of scores, to hold what else runs tell."""
    lists = ("benchmarks", "downstream", "compared", "head_to_head", "protocols", "models", "policies", "shares")
    mappings = ("correlation", "between_benchmarks", "between_downstream", "seed_noise", "pick", "diagnostics", "tables", "names")
    return {**{key: [] for key in lists}, **{key: {} for key in mappings}, "left_out": list(notes)}


def table_of(summary: Mapping[str, Any]) -> ScoreTable:
    """The table; what has no place in it is told in its notes."""
    trained: dict[str, list[Mapping[str, Any]]] = {}
    for run in summary["ppo"]:
        trained.setdefault(str(run["rm"] or "a reward model that its record does not name"), []).append(run)
    known = {str(model["id"]) for model in summary["reward_models"]}
    notes = [
        f"PPO run {run['name']} was trained by {rm}, which is no reward model of this report, so it is in none of the correlations."
        for rm, runs in trained.items()
        for run in runs
        if rm not in known
    ]
    models = [_scored(model, trained.get(str(model["id"]), [])) for model in summary["reward_models"]]
    notes += list(_choice(models, trained, {str(model["id"]): str(model["name"]) for model in summary["reward_models"]}))
    starts = [run["start_average"] for run in summary["ppo"] if run.get("start_average") is not None]
    start = {f"bon/{task}": value for task, value in ((summary.get("policy") or {}).get("start") or {}).items()} | dict.fromkeys(
        [PPO] if starts else [], sum(starts) / max(1, len(starts))
    )
    known_start = {key: float(value) for key, value in start.items() if isinstance(value, int | float)}
    policies = (ScoredModel(name="start policy", facts={"group": POLICIES}, scores=known_start),) if known_start else ()
    size = best_of(model.get("bon_n") for model in summary["reward_models"])
    columns = columns_of_metrics([column for model in models for column in model.scores], best_of=size, shares=[PPO])
    return ScoreTable(sources=(str(summary["study"]),), models=tuple(models), notes=tuple(notes), policies=policies, columns=columns)


def _choice(models: Sequence[ScoredModel], trained: Mapping[str, Sequence[Mapping[str, Any]]], names: Mapping[str, str]) -> Iterator[str]:
    """By which prompts PPO's results were chosen, and by which they are told."""
    tries = {model.name: model.facts["tries"] for model in models if "tries" in model.facts}
    if not tries:
        return
    counts = sorted({int(count) for count in tries.values()})
    chosen = f"of {counts[0]}" if len(counts) == 1 else f"of {counts[0]} to {counts[-1]}"
    yield (
        f"The {metric_name(PPO)} of a reward model is that of its best PPO checkpoint, {chosen} over all its runs (PPO tries), chosen "
        "on the even prompts of each task and reported on the odd ones."
    )
    if whole := [names[rm] for rm, runs in trained.items() if names.get(rm) in tries and not _tells_halves_apart(runs)]:
        yield f"PPO runs of {listed(whole)} do not tell these apart: there it is chosen and reported on all prompts, which flatters it."


def _scored(model: Mapping[str, Any], policies: Sequence[Mapping[str, Any]]) -> ScoredModel:
    errors = (model.get("details") or {}).get("errors") or {}
    scores = {f"rewardbench2/{key}": value for key, value in model["rewardbench2"].items()}
    scores |= {f"rewardbench2/{key}_se": value for key, value in errors.items()}
    scores |= {f"rewardbench1/{key}": value for key, value in (model.get("rewardbench1") or {}).items()}
    scores |= {f"bon/{key}": value for key, value in model["bon"].items()}
    facts = {
        key: str(model[key]) for key in ("base", "data", "lr", "epochs", "seed", "flip", "recipe", "mode") if model.get(key) is not None
    }
    facts |= {key: str(value) for key, value in (model.get("protocol") or {}).items() if value not in (None, "")}
    facts |= {"control": str(bool(model["control"]))}
    if policies:
        group = _group(policies[0])
        facts |= {"lineage": str(policies[0].get("same_lineage") or "unknown")} | ({"group": group} if group else {})
        best, tries = best_policy(policies)
        scores[PPO] = best
        facts["tries"] = str(tries)
        start = next((row for row in policies[0]["checkpoints"] if row.get("step") == 0), {})
        scores |= {key: start[key] for key in _DIAGNOSTICS if start.get(key) is not None}
    numbers = {key: float(value) for key, value in scores.items() if isinstance(value, int | float)}
    return ScoredModel(name=str(model["name"]), facts=with_group(facts, str(model["name"])), scores=numbers)


def _group(policy: Mapping[str, Any]) -> str:
    """Of table 8 of the paper, where lineage and prompts are known."""
    if policy.get("same_lineage") == "no":
        return Group.off_policy
    if policy.get("in_distribution") == "no":
        return Group.other_prompts
    return Group.on_policy if policy.get("same_lineage") == "yes" else ""


def best_policy(policies: Sequence[Mapping[str, Any]]) -> tuple[float | None, int]:
    """The downstream average of the best checkpoint of a reward model's runs, and among how many it was chosen.

    It is chosen on one half of the prompts and reported on the other where all runs tell them apart.
    """
    tried = [row for run in policies for row in run["checkpoints"] if row.get("downstream_average") is not None]
    if not tried:
        return None, 0
    chosen, reported = (CHOSEN_ON, REPORTED_ON) if _tells_halves_apart(policies) else ("downstream_average", "downstream_average")
    best = max(tried, key=lambda row: row[chosen])
    return float(best[reported]), len(tried)


def _tells_halves_apart(policies: Sequence[Mapping[str, Any]]) -> bool:
    """Whether every measured checkpoint has its results on even and on odd prompts."""
    rows = [row for run in policies for row in run["checkpoints"] if row.get("downstream_average") is not None]
    return all(row.get(key) is not None for row in rows for key in (CHOSEN_ON, REPORTED_ON))
