"""What the numbers of a study say, in sentences computed from them."""

from collections.abc import Iterable, Sequence

from evalhooks.report.facts import Link, PpoRun, RewardModel, Study, number, points, shorten
from evalhooks.rewardbench.domains import DOMAINS

MAX_NAMED = 4
"""How many runs a sentence names before it points at the table."""


def result(study: Study) -> str:
    """One paragraph: the spread of the RMs, r with its interval, the two narrower r, best-of-N and PPO."""
    return " ".join([*_models(study), *_correlation(study), *_best_of_n(study), *_ppo(study.runs)])


def best_for_bon(study: Study) -> RewardModel | None:
    """The RM whose best-of-N average is highest, controls aside."""
    scored = [rm for rm in study.models if rm.bon_average is not None and not rm.control]
    return max(scored, key=lambda rm: rm.bon_average or 0.0, default=None)


def best_run(runs: Sequence[PpoRun]) -> PpoRun | None:
    """The PPO run with the largest gain at its best checkpoint."""
    return max((run for run in runs if run.gain is not None), key=lambda run: run.gain or 0.0, default=None)


def spread(study: Study) -> tuple[float, float] | None:
    """Lowest and highest score on RewardBench 2."""
    values = [rm.overall for rm in study.models if rm.overall is not None]
    return (min(values), max(values)) if values else None


def interval(link: Link) -> str:
    """The interval and the number of RMs of a correlation."""
    bounds = "no interval" if link.low is None or link.high is None else f"95% interval {number(link.low)} to {number(link.high)}"
    return bounds if link.n is None else f"{bounds}, n = {link.n}"


def lineage_note(run: PpoRun) -> str:
    """How a sentence names the RM of a run: "tulu-3e-5 (same lineage)"."""
    return f"{run.rm} ({run.lineage})" if run.lineage else run.rm


def _models(study: Study) -> list[str]:
    if not study.models:
        return ["The study has no reward models yet."]
    count = "1 reward model" if len(study.models) == 1 else f"{len(study.models)} reward models"
    ends = spread(study)
    if ends is None:
        return [f"{count}, none with a RewardBench 2 score."]
    if ends[0] == ends[1]:
        return [f"{count} at {points(ends[0])} on RewardBench 2 {study.score_name}."]
    return [
        f"{count} span RewardBench 2 {study.score_name} from {points(ends[0])} to {points(ends[1])}, "
        f"{points(ends[1] - ends[0])} points apart."
    ]


def _correlation(study: Study) -> list[str]:
    main = study.links.get(study.main_link)
    if main is None or main.pearson is None:
        return [f"No correlation of RewardBench 2 {study.score_name} with {study.bon_name} could be computed."] if study.models else []
    rank = "" if main.spearman is None else f"; Spearman {number(main.spearman)}"
    sentences = [
        f"RewardBench 2 {study.score_name} and the {study.bon_name} average correlate at Pearson r = {number(main.pearson)} "
        f"({interval(main)}{rank})."
    ]
    narrower = []
    for suffix, words in (("upper half", "over the upper half of the reward models"), ("without controls", "without the controls")):
        link = study.links.get(f"{study.main_link} ({suffix})")
        if link is not None and link.pearson is not None:
            narrower.append(f"{words} r = {number(link.pearson)} ({interval(link)})")
    if narrower:
        text = "; ".join(narrower)
        sentences.append(f"{text[0].upper()}{text[1:]}.")
    return sentences


def _best_of_n(study: Study) -> list[str]:
    rm, start = best_for_bon(study), study.start.get("average")
    if rm is None or rm.bon_average is None:
        return []
    name = study.bon_name
    alike = [other.name for other in study.models if other.bon_average == rm.bon_average and not other.control]
    chosen = f"any of {names(alike)}" if len(alike) > 1 else rm.name
    if start is None:
        return [f"Reranking with {chosen} gives the highest {name} accuracy, {points(rm.bon_average)}."]
    oracle = study.oracle.get("average")
    limit = "" if oracle is None else f"; an oracle that always picks a right answer where there is one reaches {points(oracle)}"
    gain = points(rm.bon_average - start, sign=True)
    return [f"Reranking with {chosen} takes the policy from {points(start)} to {points(rm.bon_average)} ({name}, {gain} points{limit})."]


def _ppo(runs: Sequence[PpoRun]) -> list[str]:
    if not runs:
        return ["The study has no PPO runs."]
    sentences = [_outcome(run) for run in runs[:MAX_NAMED]]
    if len(runs) > MAX_NAMED:
        sentences.append(f"{len(runs) - MAX_NAMED} more PPO runs are in the table.")
    return sentences


def _outcome(run: PpoRun) -> str:
    who = f"PPO with {lineage_note(run)}"
    if run.gain is None:
        return f"{who} has no downstream average to compare."
    last = "" if run.last is None else f" and ended at {points(run.last)}"
    if run.gain <= 0:
        return f"{who} never rose above its start of {points(run.start)}{last}."
    step = "" if run.best_step is None else f" at step {run.best_step}"
    return f"{who} rose from {points(run.start)} to {points(run.best)}{step} ({points(run.gain, sign=True)} points){last}."


def cautions(run: PpoRun) -> list[str]:
    """What speaks against a PPO run, known before training or seen in it, one sentence each."""
    said = [f"{run.name}: {warning}" for warning in run.warnings]
    if run.stopped_because:
        said.append(f"{run.name} was stopped for over-optimisation: {run.stopped_because}.")
    if run.status != "finished":
        said.append(f"{run.name} is not finished ({run.status}); its figures are those of its checkpoints so far.")
    return said


def missing(study: Study) -> list[str]:
    """What a reader would look for and not find, one sentence each."""
    gaps = [*_missing_scores(study), *_missing_downstream(study)] if study.models else ["There are no reward models."]
    if study.main_link not in study.links or study.links[study.main_link].pearson is None:
        scored = sum(rm.overall is not None and rm.bon_average is not None for rm in study.models)
        have = "1 reward model has" if scored == 1 else f"{scored} reward models have"
        gaps.append(f"There is no correlation: {have} both scores, and it takes at least 3 that differ.")
    if not study.runs:
        gaps.append("There are no PPO runs.")
    if empty := [run.name for run in study.runs if not run.checkpoints]:
        gaps.append(f"No checkpoints were recorded for PPO: {names(empty)}.")
    return gaps


def _missing_scores(study: Study) -> Iterable[str]:
    """RMs grouped by what they lack of RewardBench 2 and why."""
    groups: dict[tuple[str, str], list[str]] = {}
    for rm in study.models:
        lacking = [label for key, label in {study.score_key: study.score_name, **DOMAINS}.items() if rm.benchmark.get(key) is None]
        if lacking:
            what = "any score" if len(lacking) == len(DOMAINS) + 1 else ", ".join(lacking)
            groups.setdefault((what, rm.benchmark_reason), []).append(rm.name)
    for (what, reason), lacking in groups.items():
        yield f"RewardBench 2 lacks {what} for {names(lacking)}{f': {reason}' if reason else '.'}"


def _missing_downstream(study: Study) -> Iterable[str]:
    if all(rm.bon_average is None for rm in study.models):
        yield "Best-of-N was not measured: reward models rank the pools that hooks.pools names."
    else:
        lacking = [rm.name for rm in study.models if rm.bon_average is None or any(rm.bon.get(task) is None for task in study.tasks)]
        if lacking:
            yield f"Best-of-N is incomplete for {names(lacking)}."
        # Without PPO nothing asks for the policy: a run of best of n may have read completions of others.
        if study.runs and study.start.get("average") is None:
            yield "The start policy has no downstream average."
    if unwatched := [rm.name for rm in study.models if not rm.checkpoints]:
        yield f"No checkpoints were recorded for {names(unwatched)}."


def names(items: Sequence[str]) -> str:
    """A list for a sentence, cut where it would be longer than the sentence."""
    shown = ", ".join(shorten(item, 40) for item in items[:MAX_NAMED])
    return shown if len(items) <= MAX_NAMED else f"{shown} and {len(items) - MAX_NAMED} more"
