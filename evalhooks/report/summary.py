"""Gathers a study's runs on disk into the one summary that its report is drawn from."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from numpy.typing import ArrayLike

from bon.pools import bounds
from bon.rows import Pools
from core.disk import read_json
from core.hooks.hook import best_step, measured_steps, read_evaluations
from core.runs.identity import identity_hash
from core.runs.record import RunStatus, read_records, value_at
from evalhooks.analysis.correlation import correlation, undefined, upper_half
from evalhooks.analysis.paper_tables import PUBLISHED
from evalhooks.analysis.table import PROTOCOL
from evalhooks.measured_rows import SIZES, rows_texts
from evalhooks.metric_names import metric_name
from evalhooks.report.common_rows import on_common_rows
from evalhooks.report.gathered import details
from evalhooks.report.joined import chosen_only, reranked, with_rewards
from evalhooks.rewardbench.domains import DOMAINS, OVERALL, score_key, scores_of

Scores = list[float]


def summarize(
    *, study: str, wall_s: float, records: Sequence[Mapping[str, Any]], pools: Pools | None, policy_lineage: str, notes: Sequence[str]
) -> dict[str, Any]:
    """The summary of a study's finished `records` (with their folder as `dir`): every figure comes from a run's files.

    Correlations are between RewardBench 2 and the best-of-N average over reward models, each at its last checkpoint. `score` is the
    key of what they are compared by: `overall`, or a mean of the domains that were scored (`rewardbench.domains`). Without `pools`,
    as for runs of several studies, each model has its own largest N, and nothing is known of the policy that answered. Reward models that
    were measured on different rows are compared on those in common (`report.common_rows`). `given_notes` are those of `notes` that came
    with the study and not from its runs, for a report that is drawn anew.
    """
    n = min(len(row.completions) for rows in pools.values() for row in rows) if pools else None
    records, on_common = on_common_rows(with_rewards(records))
    models = [reward_model_entry(record, _largest_n(record["final"]) if n is None else n) for record in records if record["job"] == "rm"]
    again = _add_benchmarks(models, [record for record in records if record["job"] == "bench"])
    models += chosen_only(records, {model["id"] for model in models})
    _add_reranked(models, reranked(records), n)
    key = score_key([model["rewardbench2"] for model in models])
    models.sort(key=lambda model: (-(model["rewardbench2"].get(key) or 0.0), model["dir"]))
    policies = [ppo_entry(record) for record in sorted(records, key=lambda record: record["dir"]) if record["job"] == "ppo"]
    if not pools:
        _tell_apart([*models, *policies])
    limits = bounds(pools, n) if pools and n is not None else {}
    return {
        "study": study,
        "wall_s": round(wall_s, 1),
        "policy": {"lineage": policy_lineage, "start": limits.get("random", {}), **limits},
        "score": key,
        "reward_models": models,
        "correlation": correlations(models, key),
        "ppo": policies,
        "notes": [*notes, *again, *on_common],
        "given_notes": [*notes],
    }


def _trained_here(record: Mapping[str, Any], models: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The reward model of this report that a benchmark measured; None if it measured something else."""
    run, folders = record.get("lineage", {}).get("run"), Path(str(record.get("reward", ""))).parts
    return next((model for model in models if model["id"] == run or Path(model["dir"]).name in folders), None)


def _where_they_went(record: Mapping[str, Any], model: Mapping[str, Any], *, by_hooks: bool, used: bool) -> str:
    """What became of the scores of a benchmark of a reward model that stands in the report already."""
    known = ("rewardbench2/overall", "rewardbench2/mean_of_", "rewardbench1/overall")
    scores = {metric: value for metric, value in _finite(record["final"]).items() if metric.startswith(known)}
    said = ", ".join(f"{metric_name(metric)} {100 * value:.1f}" for metric, value in scores.items())
    which = f"{record['dir']} is a benchmark of {model['name']}{f' ({said})' if said else ''} and no further reward model"
    if used:
        return f"{which}; its scores stand there, which the run's own hooks did not measure."
    if not said:
        return f"{which}; no score of it is one that this report compares."
    return f"{which}; the scores there are those of {'its own hooks' if by_hooks else 'the benchmark before it'}."


def reward_model_entry(record: Mapping[str, Any], n: int | None) -> dict[str, Any]:
    """One reward model: its settings, its scores at the last checkpoint, and their course over the checkpoints. What a record that was
    edited, or written by something else, does not say is None."""
    identity, final = record["identity"], _finite(record["final"])
    folder, flip = Path(record["dir"]), value_at(record, "identity.data.flip")
    scores = {key: final.get(f"rewardbench2/{key}") for key in ("overall", *DOMAINS)} | scores_of(final)
    missing = [key for key in DOMAINS if scores[key] is None]
    entry = {
        "id": record["id"],
        "name": short_name(folder),
        "dir": str(folder),
        "base": value_at(record, "lineage.base"),
        "data": value_at(record, "lineage.data"),
        "lr": value_at(record, "identity.optim.lr"),
        "epochs": identity.get("epochs"),
        "seed": identity.get("seed"),
        "flip": flip,
        "control": flip is not None and flip > 0,
        "rewardbench2": scores,
        "bon_n": n,
        "bon": _bon(final, n),
        "checkpoints": [{"step": step, **metrics} for step, metrics in _evaluations(folder, measured_steps(folder)).items()],
        "details": details(record),
        "protocol": protocol(record),
        "recipe": identity_hash({key: value for key, value in identity.items() if key != "seed"}),
    }
    if missing:
        entry["rewardbench2_reason"] = f"no overall score without {', '.join(DOMAINS[key] for key in missing)}"
    ones = {key.removeprefix("rewardbench1/"): value for key, value in final.items() if key.startswith("rewardbench1/")}
    return entry | ({"rewardbench1": ones} if ones else {})


def protocol(record: Mapping[str, Any]) -> dict[str, str]:
    """How a run's scores were measured: what must agree for scores to be comparable, and the share of texts that were cut.

    Each run has held-out pairs of its own, so that these need not agree.
    """
    identity, versions = record["identity"], record.get("versions", {})
    hooks, inputs = identity.get("hooks", {}), identity.get("inputs", {})
    rows = {name: str(inputs[f"hooks.{name}"])[:8] for name in ("rewardbench2", "rewardbench1", "pools") if inputs.get(f"hooks.{name}")}
    parts = rows_texts({SIZES: {name: size for name, size in (record.get(SIZES) or {}).items() if name != "held_out"}})
    cut = [float(value) for name, value in record["final"].items() if name.endswith("/truncated")]
    return {
        "template": str(identity.get("model", {}).get("chat_template") or "the model's own"),
        "max_length": str(hooks.get("max_length", "")),
        "dtype": str(identity.get("model", {}).get("dtype", "")),
        "versions": " ".join(f"{name} {versions[name]}" for name in ("torch", "transformers") if name in versions),
        "protocol": " ".join([*(f"{name} {mark}" for name, mark in rows.items()), f"limit {hooks.get('limit', 1.0)}", *parts]),
        "truncated": f"{max(cut):.3g}" if cut else "",
    }


def _tell_apart(entries: Sequence[dict[str, Any]]) -> None:
    """Adds the id to names that several runs bear, as those of several studies may."""
    uses = Counter(entry["name"] for entry in entries)
    for entry in entries:
        if uses[entry["name"]] > 1:
            entry["name"] = f"{entry['name']} {entry['id']}"


def _add_benchmarks(models: list[dict[str, Any]], records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Adds what `rewardloop bench` scored: to a reward model that was trained here what its own hooks did not measure, of which a sentence
    each is returned, and as a reward model of its own whatever was trained elsewhere, its first benchmark of a kind alone."""
    here, known = list(models), {model["id"]: model for model in models}
    again, filled = list[str](), set[str]()
    for record in records:
        entry = bench_entry(record)
        trained = _trained_here(record, here)
        if (model := trained or known.get(entry["id"])) is None:
            known[entry["id"]] = entry
            models.append(entry)
            continue
        used = [group for group in ("rewardbench2", "rewardbench1") if _lacks(model, group) and not _lacks(entry, group)]
        for group in used:
            model[group] = entry[group]
        if "rewardbench2" in used:
            model["details"] |= {"errors": entry["details"]["errors"]}
            model.pop("rewardbench2_reason", None)
        if trained is not None or not used:
            again.append(_where_they_went(record, model, by_hooks=trained is not None and model["id"] not in filled, used=bool(used)))
        filled |= {model["id"]} if used else set()
    return again


def _lacks(model: Mapping[str, Any], benchmark: str) -> bool:
    return all(value is None for value in model.get(benchmark, {}).values())


def _add_reranked(models: Sequence[dict[str, Any]], found: Mapping[str, Mapping[str, float]], n: int | None) -> None:
    """Adds what runs of best-of-N say of reward models whose own hooks reranked no pools."""
    for model in models:
        chosen = found.get(model["id"], {})
        if not model["bon"] and chosen:
            size = _largest_n(chosen) if n is None else n
            model |= {"bon": _bon(chosen, size), "bon_n": size}


def bench_entry(record: Mapping[str, Any]) -> dict[str, Any]:
    """A reward that `rewardloop bench` scored, beside reward models that were trained here; its id is that of the run that trained it,
    or its path, by which runs of PPO and best-of-N know it."""
    final, lineage = _finite(record["final"]), record.get("lineage", {})
    ones = {key.removeprefix("rewardbench1/"): value for key, value in final.items() if key.startswith("rewardbench1/")}
    entry = {
        "id": lineage.get("run", record["id"]),
        "name": short_name(Path(record["dir"])),
        "dir": record["dir"],
        "base": str(lineage.get("base") or record.get("reward", "")),
        "data": PUBLISHED,
        "rewardbench2": {key: final.get(f"rewardbench2/{key}") for key in ("overall", *DOMAINS)} | scores_of(final),
        "bon": {},
        "details": details(record),
        "checkpoints": [],
        "control": False,
        "protocol": {"truncated": f"{record['truncated']:.3g}"} if "truncated" in record else {},
    }
    reward = record["identity"].get("reward") or {}
    if isinstance(reward, Mapping) and reward.get("kind") == "judge":
        entry |= {"mode": str(value_at(reward, "judge.mode") or ""), "recipe": str(record.get("reward", entry["name"]))}
    return entry | ({"rewardbench1": ones} if ones else {})


def best_of_n(record: Mapping[str, Any]) -> tuple[int | None, float | None]:
    """The largest number of completions that a reward model chose from, and its average accuracy."""
    n = _largest_n(record["final"])
    return n, _bon(_finite(record["final"]), n).get("average")


def _largest_n(metrics: Mapping[str, Any]) -> int | None:
    """The largest number of completions that a reward model chose from; None if it chose from none."""
    sizes = [key.partition("@")[2] for key in metrics if key.startswith("bon/")]
    return max((int(size) for size in sizes if size.isdigit()), default=None)


def short_name(folder: Path) -> str:
    """The name of a run without its job and hash."""
    return folder.name.partition("-")[2].rpartition("-")[0]


def ppo_entry(record: Mapping[str, Any]) -> dict[str, Any]:
    """One PPO run: the downstream average before, at its best and at its last checkpoint, and the course in between."""
    folder, lineage = Path(record["dir"]), record.get("lineage", {})
    course = _evaluations(folder, measured_steps(folder))
    averages = {step: metrics["downstream/average"] for step, metrics in course.items() if "downstream/average" in metrics}
    best = best_step(course, "downstream/average")
    return {
        "id": record["id"],
        "name": short_name(folder),
        "dir": str(folder),
        "rm": lineage.get("reward_run"),
        "rm_base": lineage.get("reward_base"),
        "policy_base": lineage.get("base"),
        "status": record["status"],
        "stopped_because": record.get("stopped_because", ""),
        "same_lineage": lineage.get("same_lineage", ""),
        "in_distribution": lineage.get("in_distribution", ""),
        "warnings": lineage.get("warnings", []),
        "start_average": averages.get(0),
        "best_average": None if best is None else averages[best],
        "best_step": best,
        "last_average": averages[max(averages)] if averages else None,
        "checkpoints": [
            {"step": step, "downstream_average": averages.get(step), "kl": metrics.get("kl"), "rm_score": metrics.get("rm_score")}
            | {
                key: value
                for key, value in metrics.items()
                if key.startswith(("downstream/", "on_policy/", "halves/", "bias/", "bias_se/"))
            }
            for step, metrics in course.items()
        ],
        "details": details(record),
    }


def _finite(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of a record, which holds numbers that are not finite as text, without these."""
    return {name: number for name, value in metrics.items() if math.isfinite(number := float(value))}


def _bon(metrics: Mapping[str, float], n: int | None) -> dict[str, float]:
    """Best-of-n accuracies by task, and `average`."""
    suffix = f"@{n}"
    return {k.removeprefix("bon/").removesuffix(suffix): v for k, v in metrics.items() if k.startswith("bon/") and k.endswith(suffix)}


def _evaluations(folder: Path, steps: Sequence[int]) -> dict[int, dict[str, float]]:
    """The hooks' metrics by step; a file that cannot be read is left out, with a line."""
    return read_evaluations(folder, steps, skip=print)


def correlations(models: Sequence[Mapping[str, Any]], score: str = OVERALL) -> dict[str, Any]:
    """Pearson and Spearman of each domain and of `score` with the best-of-N average; of `score` also over parts of the models."""
    found = {f"rewardbench2/{key}~bon/average": _related(models, key) for key in (score, *DOMAINS)}
    name = f"rewardbench2/{score}~bon/average"
    if len(_measured(models, score)) > 1:
        found[f"{name} (upper half)"] = _related(models, score, part=upper_half)
    found[f"{name} (without controls)"] = _related([model for model in models if not model["control"]], score)
    return found


def _measured(models: Sequence[Mapping[str, Any]], key: str) -> list[Mapping[str, Any]]:
    return [model for model in models if model["rewardbench2"].get(key) is not None and model["bon"].get("average") is not None]


def _related(
    models: Sequence[Mapping[str, Any]], key: str, part: Callable[[Scores, Scores], tuple[ArrayLike, ArrayLike]] = lambda x, y: (x, y)
) -> dict[str, Any]:
    """A correlation as JSON holds it; none of models that were measured by different protocols, as `evalhooks.analysis` has it."""
    own = _measured(models, key)
    if (count := len({tuple((model.get("protocol") or {}).get(name, "") for name in PROTOCOL) for model in own})) > 1:
        result = undefined(len(own), f"{count} protocols, which are not comparable; see each.")
    else:
        x, y = [model["rewardbench2"][key] for model in own], [model["bon"]["average"] for model in own]
        result = correlation(*part(x, y))
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(result).items()}


def finished_records(folder: Path) -> list[dict[str, Any]]:
    """The records of a study's finished runs, each with its folder as `dir`, by name; a broken one is left out, with a line."""
    found = read_records(folder, "*", print)
    return [record for record in found if record["status"] == RunStatus.finished and ".old-" not in Path(record["dir"]).name]


def read_summary(report: Path) -> dict[str, Any]:
    """The summary from which a report was drawn."""
    return read_json(report / "summary.json", remedy="`rewardloop study` writes it anew")
