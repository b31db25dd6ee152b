"""Whether reward models prefer the completions of their own base (appendix D, figures 5 and 6 of the RewardBench 2 paper).

Rewards of different models share no scale, so the completions to a prompt are ranked by each reward model, and the ranks are compared.

Shapes: P prompts, M completion models.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np

from core.models.origin import family
from evalhooks.analysis.table import read_cells

_KEYS = ("prompt", "model", "rm", "base", "score")
PERMUTATIONS = 9999
SIGNIFICANT = 0.05
"""A preference with a p-value below this is one that can be told."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """The score that a reward model gave to a model's completion of a prompt.

    >>> Judgement(prompt="17", model="tulu", rm="a", base="tulu", data="skywork", score=1.5).base
    'tulu'
    """

    prompt: str
    model: str
    rm: str
    base: str
    data: str
    score: float


def read_judgements(path: str) -> list[Judgement]:
    """The rows `prompt, model, rm, base, score` and optionally `data` (the reward model's preferences) of a CSV or JSONL file.

    Raises `ValueError` that names the file, row and column for what is missing, no finite number, or there twice.
    """
    found: list[Judgement] = []
    seen: set[tuple[str, str, str]] = set()
    for number, row in enumerate(read_cells(Path(path), key="self_preference"), 1):
        where = f"{path}, row {number}"
        for key in _KEYS:
            if row.get(key) is None or str(row[key]).strip() == "":
                raise ValueError(f"{where} has no {key}; a row takes {', '.join(_KEYS)}, and data where it is known.")
        judgement = Judgement(
            prompt=str(row["prompt"]),
            model=str(row["model"]),
            rm=str(row["rm"]),
            base=str(row["base"]),
            data=str(row.get("data") or ""),
            score=_finite(row["score"], where),
        )
        key = (judgement.rm, judgement.prompt, judgement.model)
        if key in seen:
            raise ValueError(f"{where} is {judgement.rm} on {judgement.model}'s completion of prompt {judgement.prompt} again; keep one.")
        seen.add(key)
        found.append(judgement)
    return found


def _finite(value: Any, where: str) -> float:
    try:
        score = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{where}: score is {value!r}, which is no number.") from None
    if isinstance(value, bool) or not math.isfinite(score):
        raise ValueError(f"{where}: score is {value!r}; it must be a finite number. Leave the prompt out for all reward models.")
    return score


def self_preference(judgements: Sequence[Judgement], *, seed: int = 0) -> dict[str, Any]:
    """The mean inverse rank (1 for the first, 1/2 for the second; equal scores share their mean rank) by base and completion model.

    Only prompts that every reward model scored for every completion model count; `left_out` says how many do not. `cells` has the mean and
    the standard deviation over the reward models of a base (figure 5), and of a base and preference data (figure 6), with the mean
    rank beside it. `preferences` has for each base whose own completions are there how much higher its reward models put these than
    the other reward models do, with the p-value of 9,999 permutations of the bases over reward models, which the completions'
    quality does not enter. Raises `ValueError` for a reward model with two bases, and where nothing can be ranked.
    """
    bases: dict[str, tuple[str, str]] = {}
    for one in judgements:
        if bases.setdefault(one.rm, (one.base, one.data)) != (one.base, one.data):
            raise ValueError(f"{one.rm} has the bases or data {bases[one.rm]} and {(one.base, one.data)}; a reward model has one of each.")
    models = list(dict.fromkeys(one.model for one in judgements))
    scores = {(one.rm, one.prompt, one.model): one.score for one in judgements}
    prompts = list(dict.fromkeys(one.prompt for one in judgements))
    whole = [prompt for prompt in prompts if all((rm, prompt, model) in scores for rm in bases for model in models)]
    if len(models) < 2 or not whole:
        raise ValueError(
            f"there is nothing to rank: {len(models)} completion models, and {len(whole)} of {len(prompts)} prompts have a score of "
            "each of them by every reward model."
        )
    ranks = {rm: _ranks([[scores[rm, prompt, model] for model in models] for prompt in whole]) for rm in bases}
    inverse = {rm: dict(zip(models, (1 / rank_PM).mean(axis=0).tolist(), strict=True)) for rm, rank_PM in ranks.items()}
    mean_rank = {rm: dict(zip(models, rank_PM.mean(axis=0).tolist(), strict=True)) for rm, rank_PM in ranks.items()}
    by_base = {base: [rm for rm in bases if bases[rm][0] == base] for base in dict.fromkeys(base for base, _ in bases.values())}
    by_data = {pair: [rm for rm in bases if bases[rm] == pair] for pair in dict.fromkeys(bases.values()) if pair[1]}
    cells = [_cell(inverse, mean_rank, rms, model, base, "") for base, rms in by_base.items() for model in models]
    cells += [_cell(inverse, mean_rank, rms, model, *pair) for pair, rms in by_data.items() for model in models]
    rng = np.random.default_rng(seed)
    return {
        "models": models,
        "bases": list(by_base),
        "data": list(dict.fromkeys(data for _, data in by_data)),
        "num_prompts": len(whole),
        "left_out": len(prompts) - len(whole),
        "cells": cells,
        "preferences": [
            _preference(inverse, by_base, base, own, rng) for base in by_base if (own := _own(models, base)) and len(by_base) > 1
        ],
    }


def _ranks(scores: Sequence[Sequence[float]]) -> Any:
    from scipy import stats

    return stats.rankdata(-np.array(scores), axis=1)


def _cell(
    inverse: Mapping[str, Mapping[str, float]],
    mean_rank: Mapping[str, Mapping[str, float]],
    rms: Sequence[str],
    model: str,
    base: str,
    data: str,
) -> dict[str, Any]:
    values = [inverse[rm][model] for rm in rms]
    return {
        "base": base,
        "data": data,
        "model": model,
        "inverse_rank": fmean(values),
        "sd": stdev(values) if len(values) > 1 else None,
        "mean_rank": fmean(mean_rank[rm][model] for rm in rms),
        "num_rms": len(rms),
    }


def _own(models: Sequence[str], base: str) -> list[str]:
    """The completion models of a base's family: by their names on the hub too, in any stage of training."""
    return [model for model in models if base in (model, family(model)) or family(model) == family(base)]


def _preference(
    inverse: Mapping[str, Mapping[str, float]],
    by_base: Mapping[str, Sequence[str]],
    base: str,
    models: Sequence[str],
    rng: np.random.Generator,
) -> dict[str, Any]:
    """How reward models of a base rank the completions of its `models`, against how all others do."""
    values = np.array([fmean(inverse[rm][model] for model in models) for rms in by_base.values() for rm in rms])
    own = np.array([name == base for name, rms in by_base.items() for _ in rms])
    difference = float(values[own].mean() - values[~own].mean())
    draws = np.array(
        [values[shuffled].mean() - values[~shuffled].mean() for shuffled in (rng.permutation(own) for _ in range(PERMUTATIONS))]
    )
    p_value = (1 + int(np.sum(np.abs(draws) >= abs(difference) - 1e-12))) / (PERMUTATIONS + 1)
    told = "cannot be told to prefer" if p_value >= SIGNIFICANT else "prefer" if difference > 0 else "avoid"
    # Of equally many reward models the mirror image of the outermost permutation is as far out.
    smallest = (2 if 2 * own.sum() == len(own) else 1) / math.comb(len(own), int(own.sum()))
    answer = (
        f"Reward models from {base} {told} its completions: mean inverse rank {values[own].mean():.3f} (n = {int(own.sum())}) against "
        f"{values[~own].mean():.3f} by the others (n = {int((~own).sum())}), difference {difference:+.3f}, p = {p_value:.3g}."
        f"{' With so few reward models no difference could be told from chance.' if smallest >= SIGNIFICANT else ''}"
    )
    return {
        "base": base,
        "difference": difference,
        "p_value": p_value,
        "num_own": int(own.sum()),
        "num_others": int((~own).sum()),
        "answer": answer,
    }
