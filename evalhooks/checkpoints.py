"""The checkpoint hooks: benchmarks and best-of-N for a reward model, downstream tasks for a policy."""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import compress
from types import MappingProxyType
from typing import Any

from bon.estimators import mean
from bon.pools import Pools, rerank
from core.generators.local import TransformersGenerator
from core.hooks.hook import Hook, eval_file, read_evaluation
from core.process.precision import without_autocast
from core.records import BenchmarkRow, CheckpointSaved, Completion, Preference, Prompt, Sampling, Scorer, num_truncated
from core.runs.checkpoints import step_folder
from core.runs.samples import write_samples
from core.scorers.ensemble import EnsembleScorer
from core.scorers.implicit import ImplicitRewardScorer
from core.scorers.reward_model import RewardModelScorer
from core.scorers.verifier import try_verifier
from core.scorers.vllm import VLLMScorer
from core.scorers.weighted import Term, WeightedScorer
from evalhooks.on_policy import gap, lengths, on_policy, ranking_credit
from evalhooks.rewardbench import v1, v2
from evalhooks.rewardbench.finite import REMEDY, remark
from evalhooks.rewardbench.rows import ScoredBenchmark, score_rows, write_rows
from evalhooks.samples import NUM_PROMPTS, answered, worst_pairs, worst_rows
from evalhooks.tasks.task import Task, answer

MODELS = (RewardModelScorer, EnsembleScorer, ImplicitRewardScorer, VLLMScorer)
"""Scorers that are reward models, and so worth benchmarking; programs and judges are not."""


class RewardModelHook(Hook):
    """RewardBench 2 and 1 and best-of-N on stored pools, at every checkpoint of a reward model."""

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
        size = min((len(row.completions) for rows in self.pools.values() for row in rows), default=None)
        if size is not None and max(best_of) > size:
            raise ValueError(
                f"hooks.best_of={list(best_of)} exceeds the {size} completions per prompt in the pools; lower it, or make larger pools."
            )

    def on_checkpoint(self, event: CheckpointSaved) -> Mapping[str, float]:
        scorer = RewardModelScorer(
            event.model, event.tokenizer, batch_tokens=self.batch_tokens, max_length=self.max_length, say=self._say_once
        )
        name = step_folder(event.run_dir, event.step).name
        metrics: dict[str, float] = {}
        if self.rows2:
            scored = self._scored(self.rows2, scorer, "rewardbench2")
            result = v2.scores(scored.rows)
            metrics |= v2.metrics(result, v2.standard_errors(scored.rows))
            if result.reason:
                self.say(f"no rewardbench2/overall at step {event.step}: {result.reason}")
            self._say_not_finite(remark(result.not_finite, len(scored.rows)), event.step)
            write_rows(event.run_dir / "evals" / f"{name}.rewardbench2.parquet", scored, result.row_results)
            write_samples(event.run_dir, event.step, "rewardbench2", worst_rows(self.rows2, scored.rows))
        if self.rows1:
            scored = self._scored(self.rows1, scorer, "rewardbench1")
            result1 = v1.scores(scored.rows)
            metrics |= v1.metrics(result1)
            for refusal in result1.refusals:
                self.say(f"rewardbench1 at step {event.step}: {refusal}")
            self._say_not_finite(remark(result1.not_finite, len(scored.rows)), event.step)
            write_rows(event.run_dir / "evals" / f"{name}.rewardbench1.parquet", scored, result1.row_results)
            write_samples(event.run_dir, event.step, "rewardbench1", worst_rows(self.rows1, scored.rows))
        if self.pools:
            metrics |= rerank(self.pools, scorer, self.best_of, say=self.say)
        if scorer.num_truncated:
            self.say(f"{scorer.num_truncated} scored texts were truncated to {scorer.max_length} tokens")
        return metrics

    def _scored(self, rows: Sequence[BenchmarkRow], scorer: Scorer, name: str) -> ScoredBenchmark:
        scored = score_rows(rows, scorer)
        if scored.num_equal:
            self._say_once(f"{scored.num_equal} of {len(rows)} rows of {name} hold completions that are equal after tokenising")
        return scored

    def _say_not_finite(self, line: str, step: int) -> None:
        if line:
            self.say(f"step {step}: {line}")

    def _say_once(self, line: str) -> None:
        """Says a line once per run: remarks about the model hold at every checkpoint."""
        if line not in self._said:
            self._said.add(line)
            self.say(line)


MAX_SOURCES = 20
"""Sources of held-out pairs with a metric of their own."""
OTHERS = "others"
"""All other sources together."""


class HeldOutHook(Hook):
    """Accuracy on preference pairs held out from training, overall and by source; equal rewards count half, a NaN counts as wrong.

    Beyond `MAX_SOURCES`, as where every row has a source of its own, sources share the metric `OTHERS`.

    Pairs longer than `max_length` tokens are left out, as in training; `say` reports once how many, and at every checkpoint how many
    have rewards that are not finite. A source in which all have such rewards has no accuracy.
    """

    def __init__(
        self, pairs: Sequence[Preference], *, max_length: int = 2048, batch_tokens: int = 16384, say: Callable[[str], None] = print
    ) -> None:
        self.pairs, self.max_length, self.batch_tokens, self.say = pairs, max_length, batch_tokens, say
        self._said = False

    def on_checkpoint(self, event: CheckpointSaved) -> Mapping[str, float]:
        # The trainer already reports once that the model pads.
        scorer = RewardModelScorer(
            event.model, event.tokenizer, batch_tokens=self.batch_tokens, max_length=self.max_length, say=lambda _: None
        )
        rows = scorer.score_detailed([pair.prompt for pair in self.pairs], [(pair.chosen, pair.rejected) for pair in self.pairs])
        by_source: dict[str, list[float]] = defaultdict(list)
        named = self._sources()
        finite: set[str] = set()
        broken: list[int] = []
        for place, (pair, (chosen, rejected)) in enumerate(zip(self.pairs, rows, strict=True), 1):
            if not chosen.truncated and not rejected.truncated:
                source = (pair.source if pair.source in named else OTHERS) if pair.source else "unnamed"
                by_source[source].append(ranking_credit(chosen.reward, rejected.reward))
                if math.isfinite(chosen.reward) and math.isfinite(rejected.reward):
                    finite.add(source)
                else:
                    broken.append(place)
        if broken:
            self.say(
                f"step {event.step}: {len(broken)} of {len(self.pairs)} held-out pairs have rewards that are NaN or infinite, the first is "
                f"pair {broken[0]}; {REMEDY}"
            )
        whole = [place for place, row in enumerate(rows) if not any(score.truncated for score in row)]
        rewards = [(rows[place][0].reward, rows[place][1].reward) for place in whole]
        write_samples(event.run_dir, event.step, "held_out", worst_pairs([self.pairs[place] for place in whole], rewards))
        by_source = {source: credits for source, credits in by_source.items() if source in finite}
        credits = [credit for source in by_source.values() for credit in source]
        num_long = sum(chosen.truncated or rejected.truncated for chosen, rejected in rows)
        if num_long and not self._said:
            self.say(f"left out {num_long} of {len(self.pairs)} held-out pairs longer than {self.max_length} tokens")
            self._said = True
        if not credits:
            return {}
        return {"held_out/accuracy": mean(credits), **{f"held_out/{source}/accuracy": mean(own) for source, own in by_source.items()}}

    def _sources(self) -> set[str]:
        """The sources with a metric of their own: those of the most pairs, and of as many pairs the first by name."""
        counts = Counter(pair.source for pair in self.pairs if pair.source)
        return set(sorted(counts, key=lambda source: (-counts[source], source))[:MAX_SOURCES])


class PolicyHook(Hook):
    """Downstream tasks of a policy, and how well its reward still separates right from wrong on the policy's own outputs.

    `scorer` must be able to score the tasks' prompts, which a verifier of training prompts cannot. `static` holds metrics that
    do not change, such as those of `static_scores`; they are logged at every checkpoint with the others. Answers are kept as samples: to
    the tasks' first prompts, or without tasks to the first of `prompts`, scored by `prompt_scorer`. `on_policy/truncated` is
    the share of answers that reward models cut to their length limit, logged if any could. Raises `ValueError` for a
    verifier that does not work on the first prompt of its task.
    """

    def __init__(
        self,
        *,
        tasks: Mapping[str, Task],
        sampling: Sampling,
        scorer: Scorer | None = None,
        static: Mapping[str, float] = MappingProxyType({}),
        prompts: Sequence[Prompt] = (),
        prompt_scorer: Scorer | None = None,
        say: Callable[[str], None] = print,
    ) -> None:
        self.tasks, self.sampling, self.scorer, self.static, self.say = tasks, sampling, scorer, static, say
        self.prompts, self.prompt_scorer = prompts, prompt_scorer
        for task in tasks.values():
            try_verifier(task.verifier, task.prompts[0])

    def on_checkpoint(self, event: CheckpointSaved) -> Mapping[str, float]:
        if not self.tasks:
            self._sample_prompts(event)
            return dict(self.static)
        generator = TransformersGenerator(event.model, event.tokenizer)
        before = num_truncated(self.scorer) if self.scorer else None
        metrics: dict[str, float] = {}
        answers: list[list[Completion]] = []
        scores: list[list[float]] = []
        labels: list[list[float]] = []
        samples: list[dict[str, Any]] = []
        for name, task in self.tasks.items():
            completions, correct = answer(task, generator, self.sampling)
            metrics[f"downstream/{name}"] = mean([mean(row) for row in correct])
            answers += completions
            if self.scorer is not None:
                texts = [[completion.text for completion in row] for row in completions]
                with without_autocast():
                    scores += self.scorer.score([prompt.dialogue for prompt in task.prompts], texts)
                labels += correct
            scored = scores[-len(completions) :] if self.scorer is not None else []
            samples += answered(name, task.prompts, completions, scores=scored, correct=correct)
        write_samples(event.run_dir, event.step, "answers", samples)
        metrics["downstream/average"] = mean(list(metrics.values()))
        measured = lengths(answers) | on_policy(*self._finite(scores, labels, event.step))
        if self.scorer and before is not None:
            measured["on_policy/truncated"] = ((num_truncated(self.scorer) or 0) - before) / sum(map(len, answers))
        return {**self.static, **metrics, **measured, **gap(measured, self._start(event, measured))}

    def _sample_prompts(self, event: CheckpointSaved) -> None:
        """Keeps answers to the first of `prompts`, where there is no task whose answers could be kept."""
        if not (chosen := self.prompts[:NUM_PROMPTS]):
            return
        dialogues = [prompt.dialogue for prompt in chosen]
        completions = TransformersGenerator(event.model, event.tokenizer).generate(dialogues, self.sampling)
        scores: list[list[float]] = []
        if self.prompt_scorer is not None:
            with without_autocast():
                scores = self.prompt_scorer.score(dialogues, [[completion.text for completion in row] for row in completions])
        write_samples(event.run_dir, event.step, "answers", answered("", chosen, completions, scores=scores))

    def _finite(self, scores: list[list[float]], labels: list[list[float]], step: int) -> tuple[list[list[float]], list[list[float]]]:
        """The scores and labels of the prompts all of whose answers have finite scores; `say` reports the others."""
        prompts = [prompt for task in self.tasks.values() for prompt in task.prompts] if scores else []
        finite = [all(map(math.isfinite, row)) for row in scores]
        if broken := [f"{prompt.task}/{prompt.id}" for prompt, is_finite in zip(prompts, finite, strict=True) if not is_finite]:
            self.say(
                f"step {step}: the reward of answers to {len(broken)} of {len(prompts)} prompts is NaN or infinite, so on_policy/* leaves "
                f"them out; the first is {broken[0]}; {REMEDY}"
            )
        return [*compress(scores, finite)], [*compress(labels, finite)]

    def _start(self, event: CheckpointSaved, measured: Mapping[str, float]) -> Mapping[str, float]:
        """This hook's metrics for the untrained policy, read from disk so that a resumed run has them too."""
        if event.step == 0:
            return measured
        return read_evaluation(event.run_dir, 0) if eval_file(event.run_dir, 0).exists() else {}


def static_scores(scorer: Scorer, rows: Sequence[BenchmarkRow], say: Callable[[str], None] = print) -> dict[str, float]:
    """RewardBench 2 scores of the reward that PPO maximises: `reward/rewardbench2/{overall,factuality,...}`.

    In a sum of several rewards, each reward model has its own scores, `reward/<name>/rewardbench2/...`; programs and judges
    have none. Empty without rows or reward models. Scores all rows on every call, so keep the result.
    """
    terms = scorer.terms if isinstance(scorer, WeightedScorer) else (Term(name="reward", scorer=scorer),)
    models = [term for term in terms if isinstance(term.scorer, MODELS)] if rows else []
    metrics: dict[str, float] = {}
    for term in models:
        place = "reward" if len(terms) == 1 else f"reward/{term.name}"
        before = num_truncated(term.scorer) or 0
        result = v2.scores(score_rows(rows, term.scorer).rows)
        for line in (result.reason, remark(result.not_finite, len(rows))):
            if line:
                say(f"RewardBench 2 of the reward {term.name}: {line}")
        if cut := (num_truncated(term.scorer) or 0) - before:
            say(f"{cut} benchmark texts were cut to the length limit of the reward {term.name}, at the end of the answer")
        metrics |= {f"{place}/{key}": value for key, value in v2.metrics(result).items()}
    return metrics
