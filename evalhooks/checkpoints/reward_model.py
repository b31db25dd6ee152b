"""Benchmarks and best-of-N at the checkpoints of a reward model."""

from collections.abc import Callable, Mapping, Sequence
from itertools import chain

from bon.picks import accuracies, picks, write_picks
from bon.pools import flat_scores
from bon.rows import Pools
from core.hooks.hook import RunParts, SharedHook, rows_file
from core.records import BenchmarkRow, CheckpointSaved, Scorer
from core.runs.samples import write_samples
from evalhooks.checkpoints.scorer import checkpoint_scorer
from evalhooks.rewardbench import v1, v2
from evalhooks.rewardbench.finite import remark
from evalhooks.rewardbench.rows import ScoredBenchmark, score_rows, write_rows
from evalhooks.samples import worst_rows
from evalhooks.selection.biases import PoolFeatures, paid_for

TRUNCATED = "hooks/truncated"
"""The share of the texts of benchmarks and pools that were cut to the length limit of a reward model."""


class RewardModelHook(SharedHook):
    """RewardBench 2 and 1 and best-of-N on stored pools, at every checkpoint of a reward model.

    Pools also say what the model pays for beside correctness: `bias/<feature>` and its standard error (`evalhooks.selection.biases`).
    """

    def __init__(
        self,
        *,
        rewardbench2: Sequence[BenchmarkRow] = (),
        rewardbench1: Sequence[BenchmarkRow] = (),
        pools: Pools | None = None,
        best_of: Sequence[int] = (16,),
        batch_tokens: int = 16384,
        max_length: int = 2048,
        say: Callable[[str], None] = print,
    ) -> None:
        self.rows2, self.rows1, self.pools, self.best_of = rewardbench2, rewardbench1, pools or {}, best_of
        self.batch_tokens, self.max_length, self.say = batch_tokens, max_length, say
        self._said: set[str] = set()
        self._features = PoolFeatures(self.pools)
        size = min((len(row.completions) for rows in self.pools.values() for row in rows), default=None)
        if size is not None and max(best_of) > size:
            raise ValueError(
                f"hooks.best_of={list(best_of)} exceeds the {size} completions per prompt in the pools; lower it, or make larger pools."
            )

    def measure(self, event: CheckpointSaved, parts: RunParts) -> Mapping[str, float]:
        say = parts.told(self.say)
        scorer = checkpoint_scorer(
            event,
            parts,
            batch_tokens=self.batch_tokens,
            max_length=self.max_length,
            progress=self.progress,
            label=f"hooks of step {event.step}",
            say=self._say_once,
        )
        metrics: dict[str, float] = {}
        if self.rows2:
            scored = self._scored(self.rows2, scorer, "rewardbench2", parts)
            result = v2.scores(scored.rows)
            metrics |= v2.metrics(result, v2.standard_errors(scored.rows))
            if result.reason:
                parts.told(self._say_once)(f"no rewardbench2/overall: {result.reason}")
            _say_not_finite(remark(result.not_finite, len(scored.rows)), event.step, say)
            parts.world.from_main(lambda: _write(event, "rewardbench2", self.rows2, scored, result.row_results))
        if self.rows1:
            scored1 = self._scored(self.rows1, scorer, "rewardbench1", parts)
            result1 = v1.scores(scored1.rows)
            metrics |= v1.metrics(result1)
            for refusal in result1.refusals:
                say(f"rewardbench1 at step {event.step}: {refusal}")
            _say_not_finite(remark(result1.not_finite, len(scored1.rows)), event.step, say)
            parts.world.from_main(lambda: _write(event, "rewardbench1", self.rows1, scored1, result1.row_results))
        if self.pools:
            scores = flat_scores(self.pools, scorer)
            found = picks(self.pools, scores, self.best_of, say=say)
            metrics |= accuracies(found) | paid_for(self._features, scores)
            parts.world.from_main(lambda: write_picks(rows_file(event.run_dir, event.step, "bon"), found))
        num_texts = sum(len(row.completions) for row in chain(self.rows2, self.rows1, *self.pools.values()))
        metrics |= {TRUNCATED: scorer.num_truncated / num_texts} if num_texts else {}
        if scorer.num_truncated:
            parts.told(self._say_once)(
                f"{scorer.num_truncated} texts of the benchmarks and pools were cut to hooks.max_length={scorer.max_length} tokens, at the "
                "end of the answer; raise it"
            )
        return metrics

    def _scored(self, rows: Sequence[BenchmarkRow], scorer: Scorer, name: str, parts: RunParts) -> ScoredBenchmark:
        scored = score_rows(rows, scorer)
        if scored.num_equal:
            parts.told(self._say_once)(f"{scored.num_equal} of {len(rows)} rows of {name} hold completions that are equal after tokenising")
        return scored

    def _say_once(self, line: str) -> None:
        """Says a line once per run: remarks about the model hold at every checkpoint."""
        if line not in self._said:
            self._said.add(line)
            self.say(line)


def _say_not_finite(line: str, step: int, say: Callable[[str], None]) -> None:
    if line:
        say(f"step {step}: {line}")


def _write(
    event: CheckpointSaved, benchmark: str, rows: Sequence[BenchmarkRow], scored: ScoredBenchmark, credits: Sequence[float | None]
) -> None:
    """Writes the scores of all rows beside the metrics of the step, and the rows that are most wrong as samples."""
    write_rows(rows_file(event.run_dir, event.step, benchmark), scored, credits)
    write_samples(event.run_dir, event.step, benchmark, worst_rows(rows, scored.rows))
