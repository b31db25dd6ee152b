"""The checkpoint hooks: benchmarks and best-of-N for a reward model, downstream tasks for a policy."""

import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import chain, compress
from types import MappingProxyType

from bon.estimators import mean
from bon.pools import rerank
from bon.rows import Pools
from core.generators.local import TransformersGenerator
from core.generators.shared import draw_share
from core.hooks.hook import RunParts, SharedHook, eval_file, read_evaluation
from core.process.precision import without_autocast
from core.process.world import World, alone
from core.progress import Labelled, NoProgress, Progress
from core.records import BenchmarkRow, CheckpointSaved, Generator, Preference, Prompt, Sampling, Scorer, num_truncated
from core.runs.checkpoints import step_folder
from core.runs.samples import write_samples
from core.scorers.ensemble import EnsembleScorer
from core.scorers.implicit import ImplicitRewardScorer
from core.scorers.reward_model import RewardModelScorer
from core.scorers.shared import SharedScorer
from core.scorers.verifier import try_verifier
from core.scorers.vllm import VLLMScorer
from core.scorers.weighted import Term, WeightedScorer
from evalhooks.budget import Budget, Probe, within_budget
from evalhooks.choices import choice_metrics
from evalhooks.on_policy import gap, lengths, on_policy, ranking_credit
from evalhooks.pair_accuracy import pair_metrics
from evalhooks.rewardbench import v1, v2
from evalhooks.rewardbench.finite import REMEDY, remark
from evalhooks.rewardbench.rows import ScoredBenchmark, score_rows, write_rows
from evalhooks.samples import NUM_PROMPTS, answered, worst_pairs, worst_rows
from evalhooks.selection.biases import style_of
from evalhooks.tasks.results import Answered, at_equal_lengths, downstream, in_turn
from evalhooks.tasks.task import Task, judged

MODELS = (RewardModelScorer, EnsembleScorer, ImplicitRewardScorer, VLLMScorer)
"""Scorers that are reward models, and so worth benchmarking; programs and judges are not."""
TRUNCATED = "hooks/truncated"
"""The share of the texts of benchmarks and pools that were cut to the length limit of a reward model."""
SECONDS = "hooks/tasks_seconds"
"""What the tasks of a policy took at a checkpoint, logged with a budget."""


class RewardModelHook(SharedHook):
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

    def measure(self, event: CheckpointSaved, parts: RunParts) -> Mapping[str, float]:
        say = parts.told(self.say)
        scorer = RewardModelScorer(
            event.model,
            event.tokenizer,
            batch_tokens=self.batch_tokens,
            max_length=self.max_length,
            progress=Labelled(self.progress, f"hooks of step {event.step}"),
            say=parts.told(self._say_once),
            world=parts.world,
            reward_pass=parts.reward_pass,
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
            metrics |= rerank(self.pools, scorer, self.best_of, say=say)
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
    file = event.run_dir / "evals" / f"{step_folder(event.run_dir, event.step).name}.{benchmark}.parquet"
    write_rows(file, scored, credits)
    write_samples(event.run_dir, event.step, benchmark, worst_rows(rows, scored.rows))


MAX_SOURCES = 20
"""Sources of held-out pairs with a metric of their own."""
OTHERS = "others"
"""All other sources together."""


class HeldOutHook(SharedHook):
    """Accuracy on preference pairs held out from training, overall and by source; equal rewards count half, a NaN counts as wrong.

    Where all rewards are finite, with its 95% interval, the calibration error and the mean margin (see `pair_metrics`).

    Beyond `MAX_SOURCES`, as where every row has a source of its own, sources share the metric `OTHERS`.

    Pairs longer than `max_length` tokens are left out, as in training; `held_out/num_pairs` counts those that are measured and
    `held_out/num_too_long` the others. `say` reports once how many, and at every checkpoint how many
    have rewards that are not finite. A source in which all have such rewards has no accuracy of its own.
    """

    def __init__(
        self, pairs: Sequence[Preference], *, max_length: int = 2048, batch_tokens: int = 16384, say: Callable[[str], None] = print
    ) -> None:
        self.pairs, self.max_length, self.batch_tokens, self.say = pairs, max_length, batch_tokens, say
        self._said = False

    def measure(self, event: CheckpointSaved, parts: RunParts) -> Mapping[str, float]:
        say = parts.told(self.say)
        scorer = RewardModelScorer(
            event.model,
            event.tokenizer,
            batch_tokens=self.batch_tokens,
            max_length=self.max_length,
            progress=Labelled(self.progress, f"held-out pairs, step {event.step}"),
            say=lambda _: None,  # the trainer already reports once that the model pads
            world=parts.world,
            reward_pass=parts.reward_pass,
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
            say(
                f"step {event.step}: {len(broken)} of {len(self.pairs)} held-out pairs have rewards that are NaN or infinite, the first is "
                f"pair {broken[0]}; {REMEDY}"
            )
        whole = [place for place, row in enumerate(rows) if not any(score.truncated for score in row)]
        rewards = [(rows[place][0].reward, rows[place][1].reward) for place in whole]
        worst = worst_pairs([self.pairs[place] for place in whole], rewards)
        parts.world.from_main(lambda: write_samples(event.run_dir, event.step, "held_out", worst))
        credits = [credit for source in by_source.values() for credit in source] if finite else []
        num_long = sum(chosen.truncated or rejected.truncated for chosen, rejected in rows)
        if num_long and not self._said:
            say(f"left out {num_long} of {len(self.pairs)} held-out pairs longer than {self.max_length} tokens")
            self._said = True
        counted = {"held_out/num_pairs": float(len(self.pairs) - num_long), "held_out/num_too_long": float(num_long)}
        if not credits:
            return counted
        finite_rewards = [pair for pair in rewards if all(map(math.isfinite, pair))]
        found = {"accuracy": mean(credits)}
        if len(finite_rewards) == len(credits):  # what counts a NaN as wrong has neither interval nor calibration
            found = pair_metrics(finite_rewards)
        by_name = {f"{source}/accuracy": mean(own) for source, own in by_source.items() if source in finite}
        return {f"held_out/{name}": value for name, value in {**found, **by_name}.items()} | counted

    def _sources(self) -> set[str]:
        """The sources with a metric of their own: those of the most pairs, and of as many pairs the first by name."""
        counts = Counter(pair.source for pair in self.pairs if pair.source)
        return set(sorted(counts, key=lambda source: (-counts[source], source))[:MAX_SOURCES])


class PolicyHook(SharedHook):
    """Downstream tasks of a policy, and how well its reward still separates right from wrong on the policy's own outputs.

    Answers are drawn by the run's generator, or by transformers in a loop that has none; every process draws, judges and scores those to
    its share of the prompts. `scorer` must be able to score the tasks' prompts, which a verifier of training prompts cannot. With a
    `budget`, a part of the prompts is measured (`evalhooks.budget`). Of multiple choice every process measures its share too
    (`evalhooks.choices`). `static` holds metrics that do not change, such as those of `static_scores`; they are logged at every
    checkpoint with the others. Answers are kept as samples: to the tasks' first prompts, or without tasks to the first of `prompts`,
    scored by `prompt_scorer`. `style/*` and `bias/*` say how the answers look and what the reward pays for in them
    (`evalhooks.selection.biases`). `on_policy/truncated` is the share of answers that reward models cut to their length limit, logged if
    any could.
    Raises `ValueError` for a verifier that does not work on the first prompt of its task.
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
        budget: Budget | None = None,
        say: Callable[[str], None] = print,
    ) -> None:
        self.tasks = {name: task for name, task in tasks.items() if task.choices is None}
        self.choices = {name: task for name, task in tasks.items() if task.choices is not None}
        self.sampling, self.scorer, self.static, self.say = sampling, scorer, static, say
        self.prompts, self.prompt_scorer, self.budget = prompts, prompt_scorer, budget
        self._said: set[str] = set()
        self._is_fitted = False
        for task in self.tasks.values():
            try_verifier(task.verifier, task.prompts[0])

    def measure(self, event: CheckpointSaved, parts: RunParts) -> Mapping[str, float]:
        if not self.tasks and not self.choices and not self.prompts:
            return dict(self.static)
        generator, world = parts.generator, parts.world
        if generator is None and world.size == 1 and (self.tasks or self.prompts):
            generator = TransformersGenerator(event.model, event.tokenizer)
        if not self.tasks:
            self._sample_prompts(event, generator, world)
        if not self.tasks and not self.choices:
            return dict(self.static)
        self._fit_into_budget(event, generator, parts)
        began = time.monotonic()
        measured: dict[str, Answered] = {}
        total = sum(len(task.prompts) for task in (*self.tasks.values(), *self.choices.values()))
        self.progress.start(f"tasks, step {event.step}", total, unit="prompt")
        for name, task in self.tasks.items():
            measured[name] = self._shared_out(task, generator, world)
            self.progress.advance(len(task.prompts))
        chosen = self._chosen(event, self.choices, self.progress, parts)
        self.progress.finish()
        cost = {SECONDS: time.monotonic() - began} if self.budget is not None else {}
        return world.from_main(lambda: self._metrics(event, measured, chosen) | cost)

    def _fit_into_budget(self, event: CheckpointSaved, generator: Generator | None, parts: RunParts) -> None:
        """Leaves out the prompts that the budget does not pay for, at the first checkpoint of a session."""
        if self.budget is None or self._is_fitted:
            return

        def measure(task: Task) -> object:
            if task.choices is None:
                return self._shared_out(task, generator, parts.world)
            return self._chosen(event, {task.name: task}, NoProgress(), parts)

        probe = Probe(generator=generator, measure=measure, world=parts.world, say=parts.told(self.say))
        found = within_budget(self.budget, {**self.tasks, **self.choices}, probe, event.run_dir)
        self.tasks = {name: found[name] for name in self.tasks}
        self.choices = {name: found[name] for name in self.choices}
        self._is_fitted = True

    def _chosen(self, event: CheckpointSaved, tasks: Mapping[str, Task], progress: Progress, parts: RunParts) -> dict[str, float]:
        say = self._say_once if parts.world.is_main else lambda line, about: None
        return choice_metrics(event, tasks, parts.world, progress, say)

    def _shared_out(self, task: Task, generator: Generator | None, world: World) -> Answered:
        return in_turn(world.all_gather(lambda: self._own_share(task, generator, world)))

    def _own_share(self, task: Task, generator: Generator | None, world: World) -> Answered:
        prompts = task.prompts[world.shard(len(task.prompts))]
        answers = draw_share(generator, [prompt.dialogue for prompt in task.prompts], self.sampling, world)
        before, scores = num_truncated(self.scorer) if self.scorer else None, list[list[float]]()
        if self.scorer is not None:
            texts = [[completion.text for completion in row] for row in answers]
            with without_autocast():
                scores = self.scorer.score([prompt.dialogue for prompt in prompts], texts)
        cut = 0 if self.scorer is None or before is None else (num_truncated(self.scorer) or 0) - before
        return Answered(answers=answers, judged=judged(task.verifier, prompts, answers), scores=scores, num_truncated=cut)

    def _metrics(self, event: CheckpointSaved, tasks: Mapping[str, Answered], chosen: Mapping[str, float]) -> dict[str, float]:
        drawn = {name: found.judged for name, found in tasks.items()}
        metrics = downstream(drawn, chosen, [*self.tasks, *self.choices], self._say_once) | at_equal_lengths(self.tasks, tasks)
        if not tasks:
            return {**self.static, **metrics}
        samples = [
            sample
            for name, found in tasks.items()
            for sample in answered(name, self.tasks[name].prompts, found.answers, scores=found.scores, correct=found.judged.correct)
        ]
        write_samples(event.run_dir, event.step, "answers", samples)
        whole = in_turn(list(tasks.values()))
        measured = lengths(whole.answers) | on_policy(*self._finite(whole.scores, whole.judged.correct, event.step))
        prompts = [prompt.dialogue for name in tasks for prompt in self.tasks[name].prompts]
        texts = [[completion.text for completion in row] for row in whole.answers]
        measured |= style_of(prompts, texts, whole.scores, whole.judged.correct)
        if self.scorer and num_truncated(self.scorer) is not None:
            measured["on_policy/truncated"] = whole.num_truncated / sum(map(len, whole.answers))
        return {**self.static, **metrics, **measured, **gap(measured, self._start(event, measured))}

    def _say_once(self, line: str, about: str) -> None:
        if about not in self._said:
            self._said.add(about)
            self.say(line)

    def _sample_prompts(self, event: CheckpointSaved, generator: Generator | None, world: World) -> None:
        """Keeps answers to the first of `prompts`, where there is no task whose answers could be kept."""
        if not (chosen := self.prompts[:NUM_PROMPTS]):
            return
        dialogues = [prompt.dialogue for prompt in chosen]
        shares = world.all_gather(lambda: draw_share(generator, dialogues, self.sampling, world))
        completions = [row for share in shares for row in share]

        def keep() -> None:
            scores: list[list[float]] = []
            if self.prompt_scorer is not None:
                with without_autocast():
                    scores = self.prompt_scorer.score(dialogues, [[completion.text for completion in row] for row in completions])
            write_samples(event.run_dir, event.step, "answers", answered("", chosen, completions, scores=scores))

        world.from_main(keep)

    def _finite(
        self, scores: list[list[float]], labels: list[list[float | None]], step: int
    ) -> tuple[list[list[float]], list[list[float]]]:
        """The scores and labels of the prompts all of whose answers have a label and finite scores; `say` reports those that are not."""
        if not scores:
            return [], []
        known = [[label for label in row if label is not None] for row in labels]
        prompts = [prompt for task in self.tasks.values() for prompt in task.prompts]
        finite = [all(map(math.isfinite, row)) for row in scores]
        if broken := [f"{prompt.task}/{prompt.id}" for prompt, is_finite in zip(prompts, finite, strict=True) if not is_finite]:
            self.say(
                f"step {step}: the reward of answers to {len(broken)} of {len(prompts)} prompts is NaN or infinite, so on_policy/* leaves "
                f"them out; the first is {broken[0]}; {REMEDY}"
            )
        kept = [is_finite and len(row) == len(own) for is_finite, row, own in zip(finite, known, labels, strict=True)]
        return [*compress(scores, kept)], [*compress(known, kept)]

    def _start(self, event: CheckpointSaved, measured: Mapping[str, float]) -> Mapping[str, float]:
        """This hook's metrics for the untrained policy, read from disk so that a resumed run has them too."""
        if event.step == 0:
            return measured
        return read_evaluation(event.run_dir, 0) if eval_file(event.run_dir, 0).exists() else {}


def static_scores(
    scorer: Scorer, rows: Sequence[BenchmarkRow], say: Callable[[str], None] = print, *, world: World | None = None
) -> dict[str, float]:
    """RewardBench 2 scores of the reward that PPO maximises: `reward/rewardbench2/{overall,factuality,...}`.

    In a sum of several rewards, each reward model has its own scores, `reward/<name>/rewardbench2/...`; programs and judges
    have none. Empty without rows or reward models. Scores all rows on every call, so keep the result. With `world`, all its processes
    call it, each to score its share.
    """
    world = world or alone()
    terms = scorer.terms if isinstance(scorer, WeightedScorer) else (Term(name="reward", scorer=scorer),)
    models = [term for term in terms if isinstance(term.scorer, MODELS)] if rows else []
    metrics: dict[str, float] = {}
    for term in models:
        place = "reward" if len(terms) == 1 else f"reward/{term.name}"
        before = num_truncated(term.scorer) or 0
        result = v2.scores(score_rows(rows, SharedScorer(term.scorer, world)).rows)
        for line in (result.reason, remark(result.not_finite, len(rows))):
            if line:
                say(f"RewardBench 2 of the reward {term.name}: {line}")
        if cut := int(sum(world.all_sum([(num_truncated(term.scorer) or 0) - before]))):
            say(f"{cut} benchmark texts were cut to the length limit of the reward {term.name}, at the end of the answer")
        metrics |= {f"{place}/{key}": value for key, value in v2.metrics(result).items()}
    return metrics
