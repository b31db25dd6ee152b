"""What a command says at its end: what came out, why this checkpoint is the best, what was left out, where the time went, what is next.

Everything is read from the record of the run. Imports no torch.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from core.shares import in_points, is_share, with_error
from core.text import duration
from evalhooks.measured_rows import rows_text
from evalhooks.rewardbench.domains import DOMAINS, label_of, score_key, scores_of

Record = Mapping[str, Any]
EQUAL = 1e-9
"""Accuracies that differ by less are equal but for rounding."""


def rm_lines(record: Record) -> list[str]:
    """Of `rewardloop rm`."""
    final = _numbers(record.get("final", {}))
    folder = record["dir"]
    return [
        f"reward model: {folder}",
        *_benchmark(final, rows_text(record, "rewardbench2")),
        *_pairwise(final, rows_text(record, "rewardbench1")),
        *_best_of_n(final, rows_text(record, "bon/average")),
        *_held_out(final, rows_text(record, "held_out")),
        _best(record, f"step {record.get('best_step')} of {record.get('step')}", record.get("best_metric", ""), final),
        _pairs(record),
        _time(record, "train_s"),
        *_warned(record),
        f"next: rewardloop bench reward.path={folder}; rewardloop ppo reward.path={folder} ...",
    ]


def ppo_lines(record: Record, *, best_metric: str) -> list[str]:
    """Of `rewardloop ppo`."""
    folder = record["dir"]
    start, best, last = (_numbers(record.get(key, {})) for key in ("start", "at_best", "final"))
    lines = [f"policy: {folder}"]
    for name in (key for key in last if key.startswith(("downstream/", "length_controlled/"))):
        values = [
            f"{where} {with_error(found[name], found.get(name.replace('/', '_se/', 1)))}"
            for where, found in (("start", start), ("best", best), ("last", last))
            if name in found
        ]
        rows, unit = rows_text(record, name), " (points of 100 +- standard error)" if any(" +- " in value for value in values) else ""
        lines.append(f"{name}{rows and f', on {rows}'}: {', '.join(values)}{unit}")
    if "rm_score" in last:
        kept = [f"{name} {start[name]:.3g} to {last[name]:.3g}" for name in ("rm_score", "kl", "length", "eos_rate") if name in start]
        lines.append(f"from start to end: {', '.join(kept)}")
    step = record.get("best_step")
    where = "the untrained policy (step 0)" if step == 0 else f"step {step} of {record.get('last_step')}"
    lines.append(_best(record, where, best_metric, last))
    if reason := record.get("stopped_because"):
        lines.append(f"stopped early: {reason}")
    lines.append(f"prompts: {record.get('num_dropped_prompts', 0)} dropped as too long")
    lines += [_time(record, "train_s"), *_warned(record)]
    if not step:  # there is no better policy to go on with
        return [*lines, f"next: rewardloop show {folder}, and rewardloop rerun {folder} KEY=VALUE with other settings"]
    return [
        *lines,
        f"next: rewardloop bon model=custom model.path={folder}/best tasks=... (answers of the policy, ranked by reward models)",
    ]


def bench_lines(record: Record) -> list[str]:
    """Of `rewardloop bench`."""
    return [
        f"time: {duration(record.get('wall_s'))}",
        *_warned(record),
        f"next: rewardloop bench compare {record['dir']} OTHER, where OTHER is another result or the folder of a run",
    ]


def bench_scores(record: Record) -> list[str]:
    """What a run of `rewardloop bench` has measured, as one line."""
    final = _numbers(record.get("final", {}))
    shares = sorted((name for name in final if is_share(name) and "_se/" not in name), key=lambda name: not name.endswith("/overall"))
    if not shares:
        return []
    parts = [f"{name.partition('/')[2]} {with_error(final[name], final.get(name.replace('/', '_se/', 1)))}" for name in shares]
    return [f"{shares[0].partition('/')[0]}: {'; '.join(parts)} (points of 100 +- standard error)"]


def bon_findings(record: Record) -> list[str]:
    """What a run of `rewardloop bon` has found: the headroom, the best reward, and what rewards pay for beside correctness."""
    final, rewards = _numbers(record.get("final", {})), record.get("lineage", {}).get("rewards", [])
    size, lines = _largest(final), list[str]()
    if size:
        random, oracle = final[f"bon/random/average@{size}"], final[f"bon/oracle/average@{size}"]
        headroom = 100 * (oracle - random)
        lines.append(f"pass@1 {100 * random:.1f}, pass@{size} {100 * oracle:.1f}: a headroom of {headroom:.1f} points for a reward")
    elif rewards:
        lines.append("no correctness is known, so there is no accuracy; picks.jsonl has what each reward chose")
    if rewards and size:
        by_name = {name: final[f"bon/{name}/average@{size}"] for name in rewards if f"bon/{name}/average@{size}" in final}
        if by_name:
            most = max(by_name.values())
            best = [name for name, value in by_name.items() if value > most - EQUAL]
            points = with_error(most, final.get(f"bon_se/{best[0]}/average@{size}"))
            lines.append(f"best reward at {size}: {' and '.join(best)}, {points} on average")
    lines += [
        f"{name} {_pays(name, features, final)} beside correctness" for name, features in record.get("biases", {}).items() if features
    ]
    return lines


def _largest(final: Mapping[str, float]) -> int:
    """Of how many completions the accuracies go up to; 0 where no correctness is known."""
    return max((int(key.rpartition("@")[2]) for key in final if key.startswith("bon/random/average@")), default=0)


def bon_lines(record: Record) -> list[str]:
    """Of `rewardloop bon`."""
    rewards, pools, folder = record.get("lineage", {}).get("rewards", []), record.get("pools", ""), record["dir"]
    final = _numbers(record.get("final", {}))
    size = _largest(final)
    lines = [f"best of n: {folder}", f"pools: {pools}", *bon_findings(record)]
    lines += [f"time: {duration(record.get('wall_s'))}", *_warned(record)]
    biases = any(name.startswith("bias/") for name in final)
    files = {
        "bon.csv (every n)": True,
        "bon.png": size > 0,
        "picks.jsonl (the chosen answers)": bool(rewards),
        "bias.csv and bias.png (what a reward pays for)": biases,
    }
    lines.append(f"files: {', '.join(name for name, there in files.items() if there)} in {folder}")
    if rewards and not size:
        return [
            *lines,
            f"next: rewardloop report 'runs=[{folder}]', which says whose completions they prefer where several models wrote them",
        ]
    if rewards:
        return [*lines, "next: rewardloop ppo reward.path=REWARD ..., with the reward model that chose best"]
    if "model" not in record.get("lineage", {}):  # completions of others, which the hooks do not read
        return [*lines, f"next: rewardloop bon pools={pools} 'rewards=[FOLDER]' to rank them"]
    again = f"rewardloop bon pools={pools} tasks=none 'rewards=[FOLDER]'"
    return [*lines, f"next: {again} to rank them, or rewardloop rm hooks.pools={pools} ..."]


def _pays(reward: str, features: Sequence[str], final: Mapping[str, float]) -> str:
    """What a reward was found to score up and down."""
    down = [feature for feature in features if final.get(f"bias/{reward}/{feature}", 0.0) < 0]
    up = [feature for feature in features if feature not in down]
    return " and ".join(f"{verb} {', '.join(named)}" for verb, named in (("pays for", up), ("penalises", down)) if named)


def _benchmark(final: Mapping[str, float], rows: str) -> Iterator[str]:
    found = scores_of(final)
    if not found:
        return
    key = score_key([found])
    named = [key, *DOMAINS] if key in found else list(DOMAINS)
    scores = {name: with_error(found[name], final.get(f"rewardbench2_se/{name}")) for name in named if name in found}
    # A label such as "mean of 5: no Math" reads on into a number behind it.
    parts = [f"{points} ({label_of(name)})" if ":" in label_of(name) else f"{label_of(name)} {points}" for name, points in scores.items()]
    where = f"at the last checkpoint{rows and f', on {rows}'}"
    yield f"RewardBench 2 {where}: {'; '.join(parts)} (points of 100 +- standard error)"


def _pairwise(final: Mapping[str, float], rows: str) -> Iterator[str]:
    found = {name.removeprefix("rewardbench1/"): value for name, value in final.items() if name.startswith("rewardbench1/")}
    if found:
        parts = [f"{name} {100 * value:.1f}" for name, value in sorted(found.items(), key=lambda item: item[0] != "overall")]
        yield f"RewardBench 1{rows and f', on {rows}'}: {'; '.join(parts)}"


def _best_of_n(final: Mapping[str, float], rows: str) -> Iterator[str]:
    found = {name.removeprefix("bon/"): value for name, value in final.items() if name.startswith("bon/")}
    if found:
        parts = [f"{name} {100 * value:.1f}" for name, value in sorted(found.items(), key=lambda item: not item[0].startswith("average"))]
        yield f"best of N, accuracy of the choice{rows and f', on {rows}'}: {'; '.join(parts)}"


def _held_out(final: Mapping[str, float], rows: str) -> Iterator[str]:
    if "held_out/accuracy" in final:
        count = final.get("held_out/num_pairs")
        pairs = "" if count is None else f" on {count:.0f} pair{'' if count == 1 else 's'}"
        bounds = [final[key] for key in ("held_out/accuracy_low", "held_out/accuracy_high") if key in final]
        interval = f", 95% interval {100 * bounds[0]:.1f} to {100 * bounds[1]:.1f}" if len(bounds) == 2 else ""
        yield f"held-out accuracy: {100 * final['held_out/accuracy']:.1f}{pairs}{rows and f', {rows}'}{interval}"


def _best(record: Record, where: str, metric: str, final: Mapping[str, float]) -> str:
    """Which checkpoint is the best, and why."""
    value = _numbers(record.get("best", {})).get(metric)
    if not metric or value is None:
        return f"best checkpoint: {where}, the last one: nothing was measured to choose by (held-out pairs: data.held_out=0.05)"
    beside = ""
    best = in_points(metric, value)
    if metric in final and final[metric] != value:
        last, gap = in_points(metric, final[metric]), value - final[metric]
        behind = f"{100 * gap:.1g} points" if is_share(metric) else f"{gap:.1g}"
        beside = f"; the last one has {last}" if last != best else f"; the last one is behind by {behind}"
    return f"best checkpoint: {where}, by the highest {metric}, {best}{beside}"


def _pairs(record: Record) -> str:
    counts = {"too long": "num_dropped_pairs", "equal after tokenising": "num_equal_pairs", "unreadable": "num_broken_pairs"}
    dropped = [f"{record[key]} {why}" for why, key in counts.items() if record.get(key)]
    cut = f", {record['num_cut_pairs']} with their prompt cut" if record.get("num_cut_pairs") else ""
    return f"pairs: {record.get('num_pairs')} trained on{cut}; dropped: {', '.join(dropped) or 'none'}"


def _time(record: Record, key: str) -> str:
    seconds, hooks = record.get(key), record.get("hooks_s")
    if seconds is None or hooks is None:
        return f"time: {duration(record.get('wall_s'))}"
    share = f" ({hooks / seconds:.0%})" if seconds else ""
    return f"time: {duration(seconds)}: training {duration(seconds - hooks)}, hooks {duration(hooks)}{share}"


def _warned(record: Record) -> Iterator[str]:
    if told := record.get("warnings"):
        keys = ", ".join(dict.fromkeys(str(entry["key"]) for entry in told))
        yield f"warnings: {len(told)}, above and in {record['dir']}/record.json; they concern {keys}"


def _numbers(found: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers among metrics of a record, where the others are text."""
    numbers = {name: float(value) for name, value in found.items() if value is not None}
    return {name: value for name, value in numbers.items() if math.isfinite(value)}
