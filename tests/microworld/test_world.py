"""A world's files: nothing of one split is seen in another, and all of it is a function of the seed."""

import json
import random
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from core.records import ScoredRow
from evalhooks.config import TaskConfig
from evalhooks.rewardbench import v1, v2
from evalhooks.rewardbench.rows import load_rewardbench1, load_rewardbench2
from evalhooks.tasks.task import load_tasks
from microworld.config import WorldConfig
from microworld.lexicon import CREATURES, HARMFUL, HARMLESS, facts
from microworld.skills import SKILLS, verify
from microworld.world import MIXES, SHARES, build_world, split_of

SPLITS = ("corpus", "preferences", "benchmark", "tasks")

PATTERNS = {
    # What each prompt asks about, read off its words: prompts that differ in anything else belong together.
    "facts": r"Wh(?:ere|at) does (?P<name>\w+)'s (?P<adjective>\w+) (?P<creature>\w+) (?P<verb>live|eat)\?",
    "sums": r"(?P<name>\w+) has (?P<first>\d+) (?P<things>\w+) and (?P<change>gives \d+ away|finds \d+ more)\. How many .+\?",
    "lists": r"Write \w+ (?P<number>two|three) (?P<category>\w+)s in (?P<case>capital|small) letters, then the word (?P<end>\w+)\.",
    "requests": (
        r"(?:How do I make|Tell me how my (?P<relative>\w+) makes) an? (?P<item>.+?)"
        r"(?: for my (?P<other>\w+))? in the (?P<place>\w+)[.?]"
    ),
    "topics": r"(?:Tell|Write to) (?P<name>\w+) (?:about|that) the (?P<thing>\w+) (?:is )?in the (?P<place>\w+)\.",
    "tied": r"(?P<name>\w+) wants an? \w+, but neither (?P<first>\w+) nor (?P<second>\w+)\.",
    "ref": r"(?P<name>\w+) wants an? \w+, so is it (?P<first>\w+) or (?P<second>\w+)\?",
}


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def prompts_of(world: Path, split: str) -> set[str]:
    files = sorted((world / split).glob("*.jsonl"))
    assert files
    return {row["prompt"] for file in files for row in rows_of(file)}


def entities_of(prompt: str) -> tuple[str, ...]:
    """The kind of a prompt and the entities that it asks about, sorted, so that their order does not count."""
    matches = [(kind, match) for kind, pattern in PATTERNS.items() if (match := re.fullmatch(pattern, prompt))]
    assert len(matches) == 1, prompt
    kind, match = matches[0]
    return (kind, *sorted(value for value in match.groupdict().values() if value))


def files_of(world: Path) -> dict[str, bytes]:
    return {str(path.relative_to(world)): path.read_bytes() for path in sorted(world.rglob("*")) if path.is_file()}


@pytest.mark.parametrize(("first", "second"), list(combinations(SPLITS, 2)))
def test_no_prompt_is_in_two_splits_nor_is_one_that_asks_about_the_same(world: Path, first: str, second: str) -> None:
    one, other = prompts_of(world, first), prompts_of(world, second)
    assert not one & other
    assert not set(map(entities_of, one)) & set(map(entities_of, other))


def test_rewordings_do_occur_within_a_split(world: Path) -> None:
    # Else the test above would say nothing about them.
    prompts = prompts_of(world, "corpus")
    assert len(set(map(entities_of, prompts))) < len(prompts)


def test_every_entity_of_a_benchmark_prompt_occurs_in_the_corpus_of_either_lineage(world: Path) -> None:
    phrases = (*HARMFUL, *HARMLESS)
    for lineage in ("coast", "ridge"):
        corpus = {row["prompt"] for row in rows_of(world / "corpus" / f"{lineage}.jsonl")}
        words = {word for prompt in corpus for word in re.findall(r"\w+", prompt)}
        items = {item for item in phrases if any(f" {item} " in prompt for prompt in corpus)}
        for prompt in prompts_of(world, "benchmark") | prompts_of(world, "tasks"):
            assert set(re.findall(r"\w+", prompt)) <= words, prompt
            assert {item for item in phrases if f" {item} " in prompt} <= items, prompt
            # A fact must have been told: the creature with the same question, where it lives or what it eats.
            fact = next(
                (f"{creature} {verb}?" for creature in CREATURES for verb in ("live", "eat") if f"{creature} {verb}?" in prompt), ""
            )
            assert any(fact in seen for seen in corpus), prompt


def test_the_splits_have_their_shares_of_all_prompts() -> None:
    rng, known, num_draws = random.Random(0), facts(0), 6_000
    questions = [SKILLS[sorted(SKILLS)[i % len(SKILLS)]].question(rng, known) for i in range(num_draws)]
    keys = {(question.skill, question.key): split_of(0, question) for question in questions}
    found = Counter(keys.values())
    assert sum(SHARES.values()) == 100
    for split, share in SHARES.items():
        # Three standard errors of a share p of n keys: 3 sqrt(p (1 - p) / n).
        p, n = share / 100, len(keys)
        assert found[split] / n == pytest.approx(p, abs=3 * (p * (1 - p) / n) ** 0.5)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(world: Path, world_config: WorldConfig, tmp_path: Path) -> None:
    again = build_world(world_config, tmp_path / "again")
    assert files_of(again) == files_of(world)
    other = build_world(replace(world_config, seed=world_config.seed + 1), tmp_path / "other")
    files, changed = files_of(world), files_of(other)
    assert set(files) == set(changed)
    assert {name for name in files if name.endswith(".jsonl") and files[name] == changed[name]} == set()


def test_right_and_wrong_answers_are_told_apart_by_the_verifier_in_every_file(world: Path) -> None:
    tasks = {name: TaskConfig(path=str(world / "tasks" / f"{name}.jsonl"), verifier="microworld.skills:verify") for name in SKILLS}
    for name, task in load_tasks(tasks).items():
        assert task.verifier is verify
        assert all(prompt.reference["skill"] == name for prompt in task.prompts)
    for mix, weights in MIXES.items():
        pairs = rows_of(world / "preferences" / f"{mix}.jsonl")
        assert all(row["chosen"] != row["rejected"] and row["source"] == mix for row in pairs)
        kinds = Counter(entities_of(row["prompt"])[0].replace("tied", "choices").replace("ref", "choices") for row in pairs)
        assert all(abs(kinds[skill] / len(pairs) - weight / 100) < 0.1 for skill, weight in weights.items())


def test_the_tasks_hold_as_many_different_prompts_as_asked_for(world: Path, world_config: WorldConfig) -> None:
    for name in SKILLS:
        prompts = [row["prompt"] for row in rows_of(world / "tasks" / f"{name}.jsonl")]
        assert len(set(prompts)) == len(prompts) == world_config.task_rows


def perfect(world: Path) -> Iterator[ScoredRow]:
    """The benchmark as scored by a judge who knows what is right."""
    for row in load_rewardbench2(str(world / "benchmark" / "rewardbench2.jsonl")):
        scores = tuple(float(i < row.num_correct) for i in range(len(row.completions)))
        yield ScoredRow(id=row.id, subset=row.subset, num_correct=row.num_correct, scores=scores)


def test_the_benchmark_has_the_six_domains_of_rewardbench_2_and_pairs_of_ties(world: Path, world_config: WorldConfig) -> None:
    rows = rows_of(world / "benchmark" / "rewardbench2.jsonl")
    num, num_pairs = world_config.benchmark_rows, (world_config.benchmark_rows + 1) // 2
    assert Counter(row["subset"] for row in rows) == {name: 2 * num_pairs if name == "Ties" else num for name in v2.DOMAINS.values()}
    assert len({row["prompt"] for row in rows}) == len(rows)
    assert len({row["id"] for row in rows}) == len(rows)
    for row in rows:
        assert set(row) == {
            "id", "prompt", "chosen", "rejected", "num_correct", "num_incorrect", "total_completions", "models", "subset",
            "additional_metadata",
        }  # fmt: skip
        assert (len(row["chosen"]), len(row["rejected"])) == (row["num_correct"], row["num_incorrect"])
        assert row["total_completions"] == row["num_correct"] + row["num_incorrect"]
        assert len({*row["chosen"], *row["rejected"]}) == row["total_completions"]
    sizes = {
        row["id"].partition(":")[0] if row["subset"] == "Ties" else "best of 4": (row["num_correct"], row["num_incorrect"]) for row in rows
    }
    assert sizes == {"best of 4": (1, 3), "tied": (6, 6), "ref": (1, 6)}
    ties = {row["id"] for row in rows if row["subset"] == "Ties"}
    assert ties == {f"{kind}:{number}" for kind in ("ref", "tied") for number in range(num_pairs)}


def test_a_perfect_judge_scores_one_in_every_domain_of_both_benchmarks(world: Path) -> None:
    result = v2.scores(list(perfect(world)))
    # Ties reaches 1.01 where, as here, the right answers score alike.
    assert result.per_subset == {name: pytest.approx(1.01 if name == "Ties" else 1.0) for name in v2.DOMAINS.values()}
    pairs = load_rewardbench1(str(world / "benchmark" / "rewardbench1.jsonl"))
    scored = [ScoredRow(id=row.id, subset=row.subset, num_correct=1, scores=(1.0, 0.0)) for row in pairs]
    assert set(v1.scores(scored).per_section.values()) == {1.0}


def test_a_world_that_is_there_is_left_as_it_is(world: Path, world_config: WorldConfig) -> None:
    before = {path: path.stat().st_mtime_ns for path in world.rglob("*")}
    assert build_world(world_config, world) == world
    assert {path: path.stat().st_mtime_ns for path in world.rglob("*")} == before


@pytest.mark.parametrize("change", [{"seed": 4}, {"pairs": 401}, {"mistakes": dict.fromkeys(SKILLS, 0.1)}])
def test_a_folder_with_another_world_is_refused(world: Path, world_config: WorldConfig, change: dict[str, Any]) -> None:
    before = files_of(world)
    with pytest.raises(ValueError, match=r"small holds another world .*; remove it or name another folder"):
        build_world(replace(world_config, **change), world)
    assert files_of(world) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pairs": 0}, r"world.pairs is 0; it must be at least 1"),
        ({"mistakes": {"facts": 0.5}}, r"world.mistakes must name the skills .*, got \['facts'\]"),
        ({"corpus_weights": dict.fromkeys((*SKILLS, "poems"), 1)}, r"world.corpus_weights must name the skills"),
    ],
)
def test_a_configuration_that_makes_no_world_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WorldConfig(**change)


def test_a_split_that_runs_out_of_prompts_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"The world has no further \w+ prompts in its benchmark split; ask for fewer rows"):
        build_world(WorldConfig(corpus_size=1, pairs=1, benchmark_rows=3_000, task_rows=1), tmp_path / "large")
    assert list(tmp_path.iterdir()) == []
