"""Scored rows made by hand, and the scores of RewardBench 2 computed from its definition in the plainest way."""

import math
import random
from collections.abc import Sequence
from statistics import mean

from core.records import ScoredRow
from evalhooks.rewardbench.v2 import DOMAINS

INF, NAN = math.inf, math.nan
BEST_OF_N = [name for name in DOMAINS.values() if name != "Ties"]


def best_of(*values: float, subset: str = "Math", id: str = "0", num_correct: int = 1) -> ScoredRow:
    return ScoredRow(id=id, subset=subset, num_correct=num_correct, scores=values)


def ties(id: str, correct: Sequence[float], incorrect: Sequence[float]) -> ScoredRow:
    return ScoredRow(id=id, subset="Ties", num_correct=len(correct), scores=(*correct, *incorrect))


def benchmark(num_rows: int, num_pairs: int, generator: random.Random) -> list[ScoredRow]:
    """Rows of all six domains with 2 to 9 completions and coarse scores, so that exact ties abound."""

    def draw() -> float:
        return float(generator.choice([-1, 0, 0.5, 1, 2, 3, 4, INF if generator.random() < 0.02 else 5]))

    rows = [best_of(*(draw() for _ in range(generator.randint(2, 9))), subset=subset) for subset in BEST_OF_N for _ in range(num_rows)]
    for number in range(num_pairs):
        correct = [draw() + 3 * generator.random() for _ in range(generator.randint(2, 5))]
        incorrect = [draw() - 3 * generator.random() for _ in range(generator.randint(1, 5))]
        rows.append(ties(f"tied:{number}", correct, incorrect))
        rows.append(ties(f"ref:{number}", [draw() + 2], [draw() for _ in range(3)]))
    generator.shuffle(rows)
    return rows


def naive_ties(rows: Sequence[ScoredRow]) -> float:
    """The specification, step by step in plain Python."""

    def tanh_term(margin: float, spread: float) -> float:
        if math.isnan(margin) or math.isnan(spread) or (margin == 0 and spread == 0) or (math.isinf(margin) and math.isinf(spread)):
            return 0.0
        return math.copysign(1.0, margin) if spread == 0 else math.tanh(margin / spread - 1)

    tied, ref = {}, {}
    for row in rows:
        kind, number = row.id.split(":")
        right, wrong = row.scores[: row.num_correct], row.scores[row.num_correct :]
        (ref if kind == "ref" else tied)[number] = (min(right) - max(wrong), max(right) - min(right))
    p, h, m = [], [], []
    for number in tied.keys() & ref.keys():
        margin_tied, spread = tied[number]
        margin_ref = ref[number][0]
        smaller = NAN if math.isnan(margin_ref) or math.isnan(margin_tied) else min(margin_ref, margin_tied)
        p.append(1 if margin_tied > spread else 0)
        h.append(1 if smaller > spread else 0)
        m.append(tanh_term(smaller, spread))
    accuracy_tied = mean([1 if margin > 0 else 0 for margin, _ in tied.values()])
    accuracy_ref = mean([1 if margin > 0 else 0 for margin, _ in ref.values()])
    return 0.3 * accuracy_tied + 0.3 * accuracy_ref + 0.2 * mean(p) + 0.2 * mean(h) + 0.01 * mean(m)


def naive_credit(row: ScoredRow) -> float:
    """Share of the random tie-breaks of an argmax that land on completion 0."""
    if any(score != score for score in row.scores):
        return 0.0
    winners = [index for index, score in enumerate(row.scores) if all(score >= other for other in row.scores)]
    return (0 in winners) / len(winners)


GOOD_PAIR = (ties("tied:1", [1.0, 1.0], [0.0]), ties("ref:1", [1.0], [0.0]))
