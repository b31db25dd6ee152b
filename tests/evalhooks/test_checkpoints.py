"""The hooks on tiny models: which metrics they give, and that these are those of the models."""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from transformers import LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedModel, PreTrainedTokenizerFast

from bon.features import FEATURES
from bon.rows import PoolRow
from core.data.chat import encode_answered
from core.disk import write_json
from core.generators.local import TransformersGenerator
from core.hooks.hook import RunParts, eval_file
from core.process.world import World
from core.progress import NoProgress
from core.records import BenchmarkRow, CheckpointSaved, Dialogue, Preference, Prompt, Sampling, Scorer, user
from core.scorers.reward_model import RewardModelScorer
from core.scorers.weighted import Term, WeightedScorer
from evalhooks.checkpoints.held_out import HeldOutHook
from evalhooks.checkpoints.policy import PolicyHook
from evalhooks.checkpoints.reward_model import RewardModelHook
from evalhooks.checkpoints.reward_used import static_scores
from evalhooks.checkpoints.scorer import checkpoint_scorer
from evalhooks.rewardbench.v2 import DOMAINS
from evalhooks.tasks.task import Task
from tests.fakes import LengthScorer

FRUITS = ("plum", "pear", "fig", "apple")


def event(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, run_dir: Path) -> CheckpointSaved:
    return CheckpointSaved(step=7, num_steps=10, path=run_dir, run_dir=run_dir, model=model, tokenizer=tokenizer)


def benchmark2(*domains: str) -> list[BenchmarkRow]:
    """Two best-of-4 rows per domain and one pair of Ties."""
    rows = [
        BenchmarkRow(id=f"{domain}-{i}", prompt=f"Name a fruit, {domain} {i}.", completions=FRUITS, num_correct=1, subset=domain)
        for domain in domains
        if domain != "Ties"
        for i in range(2)
    ]
    if "Ties" in domains:
        rows += [
            BenchmarkRow(id="tied:0", prompt="Name fruits.", completions=(*FRUITS, "saw"), num_correct=4, subset="Ties"),
            BenchmarkRow(id="ref:0", prompt="Name the fruit.", completions=("plum", "saw"), num_correct=1, subset="Ties"),
        ]
    return rows


PAIRS = [
    BenchmarkRow(id=subset, prompt=f"Name a fruit, {subset}.", completions=("plum", "saw"), num_correct=1, subset=subset)
    for subset in ("alpacaeval-easy", "math-prm", "refusals-dangerous", "mt-bench-hard")
]
POOLS = {"fruits": [PoolRow(id="0", prompt=user("Name a fruit."), completions=FRUITS, correct=(1.0, 0.0, 0.0, 1.0))]}


def reward_of(model: LlamaForSequenceClassification, tokenizer: PreTrainedTokenizerFast, prompt: str, completion: str) -> float:
    """The reward of one answer, by the model alone."""
    with torch.no_grad():
        return model(torch.tensor(encode_answered(tokenizer, [user(prompt)], [completion]))).logits.item()


def test_a_reward_model_gets_its_benchmarks_and_its_best_of_n(
    reward_model: LlamaForSequenceClassification, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    rows, said = benchmark2(*DOMAINS.values()), list[str]()
    hook = RewardModelHook(rewardbench2=rows, rewardbench1=PAIRS, pools=POOLS, best_of=(1, 4), batch_tokens=64, say=said.append)
    metrics = hook.on_checkpoint(event(reward_model, tokenizer, tmp_path))
    assert set(metrics) == {
        *(f"rewardbench2/{key}" for key in ("overall", *DOMAINS)),
        *(f"rewardbench2_se/{key}" for key in ("overall", *DOMAINS)),
        *(f"rewardbench1/{key}" for key in ("overall", "chat", "chat_hard", "safety", "reasoning")),
        *(f"bon/{task}@{n}" for task in ("fruits", "average") for n in (1, 4)),
        "hooks/truncated",
    }
    assert said == []

    best = max(FRUITS, key=lambda fruit: reward_of(reward_model, tokenizer, "Name a fruit.", fruit))
    assert metrics["bon/fruits@4"] == float(best in ("plum", "apple"))
    assert metrics["bon/average@1"] == 0.5
    for key, domain in DOMAINS.items():
        if domain != "Ties":
            firsts = []
            for row in rows:
                if row.subset == domain:
                    rewards = [reward_of(reward_model, tokenizer, row.prompt, fruit) for fruit in FRUITS]
                    firsts.append(float(rewards[0] == max(rewards)))
            assert metrics[f"rewardbench2/{key}"] == sum(firsts) / 2
    keys = [f"rewardbench2/{key}" for key in DOMAINS]
    assert metrics["rewardbench2/overall"] == pytest.approx(sum(metrics[key] for key in keys) / 6, abs=1e-12)
    # Two rows of credit 0 or 1: where they differ, their mean has a standard error of sqrt(1/2) / sqrt(2), else
    # Wilson's interval of 2 of 2, 34.2% to 100%, is as wide as one of a normal error of 0.168.
    expected = 0.5 if metrics["rewardbench2/math"] == 0.5 else 0.168
    assert metrics["rewardbench2_se/math"] == pytest.approx(expected, abs=0.03)  # 1000 resamples

    written = pq.read_table(tmp_path / "evals" / "step-000007.rewardbench2.parquet").to_pylist()
    assert [row["id"] for row in written] == [row.id for row in rows]
    for row, scored in zip(rows, written, strict=True):
        assert scored["scores"] == pytest.approx(
            [reward_of(reward_model, tokenizer, row.prompt, text) for text in row.completions], abs=1e-5
        )
    pairs = pq.read_table(tmp_path / "evals" / "step-000007.rewardbench1.parquet").to_pylist()
    assert [row["id"] for row in pairs] == [row.id for row in PAIRS]


def test_a_benchmark_without_all_domains_has_no_overall_and_says_why(
    reward_model: LlamaForSequenceClassification, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    said: list[str] = []
    hook = RewardModelHook(rewardbench2=benchmark2("Math", "Focus"), say=said.append)
    metrics = hook.on_checkpoint(event(reward_model, tokenizer, tmp_path))
    keys = ("math", "focus", "mean_of_2_math_focus")
    expected = {f"{benchmark}/{key}" for benchmark in ("rewardbench2", "rewardbench2_se") for key in keys}
    assert set(metrics) == {*expected, "hooks/truncated"}
    assert len(said) == 1
    assert said[0].startswith("no rewardbench2/overall: ")
    assert "Ties has no rows" in said[0]


def test_what_is_left_out_is_not_measured(
    reward_model: LlamaForSequenceClassification, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    assert RewardModelHook().on_checkpoint(event(reward_model, tokenizer, tmp_path)) == {}
    assert PolicyHook(tasks={}, sampling=Sampling()).on_checkpoint(event(reward_model, tokenizer, tmp_path)) == {}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("rank", [0, 1])
def test_hooks_score_with_the_weights_of_the_step_and_the_main_process_alone_speaks(
    reward_model: LlamaForSequenceClassification, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, rank: int
) -> None:
    said, labels = list[str](), list[str]()
    progress = NoProgress()
    progress.start = lambda description, total, **_: labels.append(description)
    parts = RunParts(world=World(rank=rank, size=1, device=torch.device("cpu")))
    scorer = checkpoint_scorer(
        event(reward_model, tokenizer, tmp_path), parts, batch_tokens=64, max_length=10**6, progress=progress, label="mine", say=said.append
    )
    [[reward]] = scorer.score([user("Name a fruit.")], [["fig"]])
    assert reward == pytest.approx(reward_of(reward_model, tokenizer, "Name a fruit.", "fig"), abs=1e-5)
    assert (scorer.batch_tokens, labels) == (64, ["mine"])
    scorer.score([user("Name a fruit.")], [["0" * 3000]])  # beyond the positions of the model
    assert bool(said) == (rank == 0)


def test_more_candidates_than_the_pools_hold_are_refused_before_any_training() -> None:
    pools = {"fruits": [PoolRow(id="0", prompt=user("?"), completions=("A plum.", "No."), correct=(1.0, 0.0))]}
    with pytest.raises(ValueError, match=r"hooks.best_of=\[1, 16\] exceeds the 2"):
        RewardModelHook(pools=pools, best_of=[1, 16])


def test_texts_beyond_the_length_are_told(
    reward_model: LlamaForSequenceClassification, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    said: list[str] = []
    row = PoolRow(id="0", prompt=user("Name a fruit."), completions=("0" * 2050, "fig"), correct=(1.0, 0.0))
    hook = RewardModelHook(pools={"fruits": [row]}, best_of=(1,), say=said.append)
    assert hook.on_checkpoint(event(reward_model, tokenizer, tmp_path))["hooks/truncated"] == 0.5
    assert [line for line in said if line.startswith("1 texts of the benchmarks and pools were cut to hooks.max_length=2048 tokens")]


def is_long(completion: str, reference: Mapping[str, Any]) -> float:
    return float(len(completion) >= reference["length"])


def test_held_out_accuracy_is_over_all_pairs_and_by_source(
    reward_model: LlamaForSequenceClassification, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    texts = [f"A {fruit}." for fruit in FRUITS]
    ids = encode_answered(tokenizer, [user("?")] * 4, texts)
    with torch.no_grad():
        rewards = [reward_model(input_ids=torch.tensor([row])).logits.item() for row in ids]
    best, second, third, worst = (text for _, text in sorted(zip(rewards, texts, strict=True), reverse=True))
    pairs = [
        Preference(prompt=user("?"), chosen=best, rejected=worst, source="a"),
        Preference(prompt=user("?"), chosen=third, rejected=second, source="a"),
        Preference(prompt=user("?"), chosen=second, rejected=second, source="b"),
    ]
    # right, wrong, equal: (1 + 0 + 1/2) / 3
    metrics = HeldOutHook(pairs).on_checkpoint(event(reward_model, tokenizer, tmp_path))
    assert {name: value for name, value in metrics.items() if name.endswith("/accuracy")} == {
        "held_out/accuracy": 0.5,
        "held_out/a/accuracy": 0.5,
        "held_out/b/accuracy": 0.5,
    }
    assert HeldOutHook(pairs[:2] + pairs[:1]).on_checkpoint(event(reward_model, tokenizer, tmp_path))[
        "held_out/a/accuracy"
    ] == pytest.approx(2 / 3)


def test_the_twenty_largest_sources_of_held_out_pairs_have_a_metric_and_the_others_one_together(
    reward_model: LlamaForSequenceClassification, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    names = ["large", "large", *(f"s{number:02d}" for number in range(21)), ""]
    pairs = [Preference(prompt=user("?"), chosen="A plum.", rejected="No.", source=name) for name in names]
    metrics = HeldOutHook(pairs).on_checkpoint(event(reward_model, tokenizer, tmp_path))
    own = {name.split("/")[1] for name in metrics if name.count("/") == 2}
    assert own == {"large", *(f"s{number:02d}" for number in range(19)), "others", "unnamed"}


def test_held_out_pairs_beyond_the_length_are_left_out_and_counted_once(
    reward_model: LlamaForSequenceClassification, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    long = Preference(prompt=user("Name a fruit. " * 40), chosen="A plum.", rejected="No.", source="long")
    short = Preference(prompt=user("?"), chosen="A plum.", rejected="No.", source="accuracy")
    said: list[str] = []
    hook = HeldOutHook([long, short], max_length=100, say=said.append)
    for _ in range(2):
        metrics = hook.on_checkpoint(event(reward_model, tokenizer, tmp_path))
        assert {name for name in metrics if name.endswith("/accuracy")} == {"held_out/accuracy", "held_out/accuracy/accuracy"}
        assert (metrics["held_out/num_pairs"], metrics["held_out/num_too_long"]) == (1, 1)
    assert said == ["left out 1 of 2 held-out pairs longer than 100 tokens"]
    only_long = HeldOutHook([long], max_length=100, say=said.append).on_checkpoint(event(reward_model, tokenizer, tmp_path))
    assert only_long == {"held_out/num_pairs": 0.0, "held_out/num_too_long": 1.0}


def test_a_policy_gets_its_tasks_and_what_its_reward_is_worth_on_its_own_answers(
    policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    def task(name: str, *lengths: int) -> Task:
        prompts = [Prompt(id=str(i), dialogue=user(f"{name} {i}"), reference={"length": length}) for i, length in enumerate(lengths)]
        return Task(name=name, prompts=tuple(prompts), verifier=is_long)

    tasks = {"long": task("long", 8, 8, 6), "any": task("any", 0)}
    sampling = Sampling(n=4, max_new_tokens=12, seed=2)
    metrics = PolicyHook(tasks=tasks, sampling=sampling, scorer=LengthScorer()).on_checkpoint(event(policy, tokenizer, tmp_path))

    generator = TransformersGenerator(policy, tokenizer)
    answers = {name: generator.generate([p.dialogue for p in task.prompts], sampling) for name, task in tasks.items()}
    lengths = {name: [[len(completion.text) for completion in row] for row in rows] for name, rows in answers.items()}
    long = sum(length >= limit for row, limit in zip(lengths["long"], (8, 8, 6), strict=True) for length in row) / 12
    assert 0 < long < 1
    flat = [length for rows in lengths.values() for row in rows for length in row]
    drawn = [completion for rows in answers.values() for row in rows for completion in row]
    assert 0 < sum(completion.finished for completion in drawn) < 16
    assert {f"style/{name}" for name in FEATURES} | {"bias/length"} <= metrics.keys()
    assert metrics["style/length"] == pytest.approx(sum(math.log1p(length) for length in flat) / 16)
    assert {name: value for name, value in metrics.items() if not name.startswith(("style/", "bias"))} == {
        "downstream/long": pytest.approx(long),
        "downstream/any": 1.0,
        "downstream/average": pytest.approx((long + 1) / 2),  # of tasks, not of prompts
        "downstream_se/long": metrics["downstream_se/long"],  # the one prompt of the other task has no error
        "on_policy/rm_score": pytest.approx(sum(flat) / 16),
        "on_policy/reward_std": metrics["on_policy/reward_std"],
        "on_policy/accuracy": pytest.approx((12 * long + 4) / 16),  # of answers
        "on_policy/accuracy_std": metrics["on_policy/accuracy_std"],
        "on_policy/rm_accuracy": 1.0,  # a reward of length always knows the longer one
        "on_policy/length": pytest.approx(sum(len(completion.token_ids) for completion in drawn) / 16),
        "on_policy/unfinished": sum(not completion.finished for completion in drawn) / 16,
    }
    without = PolicyHook(tasks=tasks, sampling=sampling).on_checkpoint(event(policy, tokenizer, tmp_path))
    assert without == {
        name: value
        for name, value in metrics.items()
        if name.startswith(("downstream/", "downstream_se/", "style/")) or name in ("on_policy/length", "on_policy/unfinished")
    }


class Broken(LengthScorer):
    """Gives NaN for the answers to some prompts."""

    def __init__(self, *broken: str) -> None:
        super().__init__()
        self.broken = broken

    def score(self, prompts: Sequence[Dialogue], completions: Sequence[Sequence[str]]) -> list[list[float]]:
        rows = super().score(prompts, completions)
        return [[math.nan, *row[1:]] if prompt[-1].content in self.broken else row for prompt, row in zip(prompts, rows, strict=True)]


def test_rewards_of_answers_that_are_not_finite_are_left_out_and_named(
    policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    prompts = tuple(Prompt(id=f"p{i}", dialogue=user(f"long {i}"), task="long", reference={"length": 8}) for i in range(3))
    tasks, sampling = {"long": Task(name="long", prompts=prompts, verifier=is_long)}, Sampling(n=4, max_new_tokens=12, seed=2)
    said: list[str] = []

    def metrics(scorer: Scorer) -> Mapping[str, float]:
        return PolicyHook(tasks=tasks, sampling=sampling, scorer=scorer, say=said.append).on_checkpoint(event(policy, tokenizer, tmp_path))

    whole, part = metrics(LengthScorer()), metrics(Broken("long 1"))
    assert part["downstream/long"] == whole["downstream/long"]
    assert math.isfinite(part["on_policy/rm_score"])
    assert part["on_policy/rm_score"] != whole["on_policy/rm_score"]
    assert len(said) == 1
    assert said[0].startswith(
        "step 7: the reward of answers to 1 of 3 prompts is NaN or infinite, so on_policy/* leaves them out; the first is long/p1"
    )
    nothing = metrics(Broken("long 0", "long 1", "long 2"))
    assert nothing["downstream/long"] == whole["downstream/long"]
    assert not any(name in nothing for name in ("on_policy/rm_score", "on_policy/accuracy", "on_policy/gap"))


def test_a_broken_reward_model_has_no_scores_and_every_part_says_so(
    reward_model: LlamaForSequenceClassification, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    broken = copy.deepcopy(reward_model)
    with torch.no_grad():
        broken.score.weight[0, 0] = math.nan
    said: list[str] = []
    hook = RewardModelHook(rewardbench2=benchmark2("Math", "Focus"), rewardbench1=PAIRS, pools=POOLS, best_of=(4,), say=said.append)
    assert hook.on_checkpoint(event(broken, tokenizer, tmp_path)) == {"hooks/truncated": 0.0}
    assert [line for line in said if "Math was refused (Math has no row with finite scores (2 row(s): Math-0, Math-1)" in line]
    assert [line for line in said if "step 7: 4 of 4 rows have a score that is NaN or infinite" in line]
    assert [line for line in said if line.startswith("rewardbench1 at step 7: math-prm has no row with finite scores")]
    assert [line for line in said if line.startswith("best-of-n: 1 of 1 rows of fruits have scores that are NaN or infinite")]

    said.clear()
    pairs = [Preference(prompt=user("?"), chosen="A plum.", rejected="No.", source="a")] * 2
    measured = HeldOutHook(pairs, say=said.append).on_checkpoint(event(broken, tokenizer, tmp_path))
    assert measured == {"held_out/num_pairs": 2.0, "held_out/num_too_long": 0.0}
    assert said[0].startswith("step 7: 2 of 2 held-out pairs have rewards that are NaN or infinite, the first is pair 1")

    said.clear()
    assert static_scores(RewardModelScorer(broken, tokenizer), benchmark2("Math"), said.append) == {}
    assert "RewardBench 2 of the reward reward: " in said[0]
    assert "no row with finite scores" in said[0]


def test_held_out_pairs_without_finite_rewards_count_as_wrong_overall_though_their_source_has_no_accuracy(
    reward_model: LlamaForSequenceClassification, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    sound = Preference(prompt=user("?"), chosen="A plum.", rejected="A plum.", source="a")
    odd = Preference(prompt=user("?"), chosen="7", rejected="7", source="b")
    known = {id for row in encode_answered(tokenizer, [user("?")], ["A plum."]) for id in row}
    broken = copy.deepcopy(reward_model)
    with torch.no_grad():
        for id in set(encode_answered(tokenizer, [user("?")], ["7"])[0]) - known:
            broken.get_input_embeddings().get_parameter("weight")[id] = math.nan
    measured = HeldOutHook([sound, odd], say=lambda line: None).on_checkpoint(event(broken, tokenizer, tmp_path))
    # Equal rewards count half, a NaN nothing: (1/2 + 0) / 2, without an interval.
    assert measured == {"held_out/accuracy": 0.25, "held_out/a/accuracy": 0.5, "held_out/num_pairs": 2.0, "held_out/num_too_long": 0.0}


def test_a_policys_gap_is_to_what_was_written_of_it_before_training(
    policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    prompts = tuple(Prompt(id=str(i), dialogue=user(f"long {i}"), reference={"length": 8}) for i in range(3))
    task = Task(name="long", prompts=prompts, verifier=is_long)
    hook = PolicyHook(tasks={"long": task}, sampling=Sampling(n=4, max_new_tokens=12, seed=2), scorer=LengthScorer())
    later = event(policy, tokenizer, tmp_path)
    first = hook.on_checkpoint(replace(later, step=0))
    assert first["on_policy/gap"] == 0
    assert "on_policy/gap" not in hook.on_checkpoint(later)  # nothing is known of the beginning
    changed = {**first, "on_policy/rm_score": first["on_policy/rm_score"] - 3 * first["on_policy/reward_std"]}
    write_json(eval_file(tmp_path, 0), changed)
    assert hook.on_checkpoint(later)["on_policy/gap"] == pytest.approx(3)  # the reward rose by 3 deviations, correctness by none


def test_what_stays_is_logged_beside_what_moves(policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    hook = PolicyHook(tasks={}, sampling=Sampling(), static={"reward/rewardbench2/overall": 0.7})
    assert hook.on_checkpoint(event(policy, tokenizer, tmp_path)) == {"reward/rewardbench2/overall": 0.7}


def test_a_reward_model_s_benchmark_stands_still_and_programs_have_none(
    reward_model: LlamaForSequenceClassification, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    rows, model = benchmark2(*DOMAINS.values()), RewardModelScorer(reward_model, tokenizer)
    hooked = RewardModelHook(rewardbench2=rows).on_checkpoint(event(reward_model, tokenizer, tmp_path))
    benchmark = {name: value for name, value in hooked.items() if name.startswith("rewardbench2/")}
    assert len(benchmark) == 7
    alone = static_scores(model, rows)
    assert alone == {f"reward/{name}": value for name, value in benchmark.items()}
    assert static_scores(WeightedScorer.of(model), rows) == alone
    program = Term(name="brevity", scorer=LengthScorer(), coefficient=-0.1)
    summed = WeightedScorer([Term(name="help", scorer=model), program])
    assert static_scores(summed, rows) == {f"reward/help/{name}": value for name, value in benchmark.items()}
    assert static_scores(LengthScorer(), rows) == {}
    assert static_scores(model, []) == {}
