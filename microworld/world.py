"""The files of a world: corpus, preferences, benchmark and tasks, all generated from one seed.

A hash of the combination of entities that a prompt asks about assigns it to exactly one split. So no prompt of the benchmark
or of a task appears in training, while every entity does.
"""

import hashlib
import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Any

from core.disk import atomic_folder, is_complete, read_json, write_json
from microworld.config import LINEAGES, WorldConfig
from microworld.lexicon import Facts, facts
from microworld.skills import SKILLS, Question, choices
from microworld.tokenizer import train_tokenizer

FORMAT = 2
"""Increased whenever the same configuration would produce different bytes, so that an outdated world is detected."""


class Split(StrEnum):
    """Which part of the world a prompt belongs to, with its share of all prompts in percent."""

    corpus = "corpus"
    preferences = "preferences"
    benchmark = "benchmark"
    tasks = "tasks"


SHARES: Mapping[Split, int] = {Split.corpus: 50, Split.preferences: 25, Split.benchmark: 12, Split.tasks: 13}


MIXES: Mapping[str, Mapping[str, int]] = {
    # Two mixes of different character, like the paper's: one teaches facts and numbers, the other safety and focus.
    "atlas": {"facts": 30, "sums": 30, "lists": 30, "requests": 4, "topics": 3, "choices": 3},
    "harbor": {"facts": 3, "sums": 4, "lists": 3, "requests": 30, "topics": 30, "choices": 30},
}

REACTIONS: Mapping[bool, str] = {False: "Thanks!", True: "Wrong!"}
"""A corpus user's reaction to an answer, keyed by whether the answer is wrong."""

REWARDBENCH1_SUBSETS: Mapping[str, str] = {
    # Which RewardBench 1 subset each skill's pairs are assigned to.
    "facts": "alpacaeval-easy",
    "lists": "mt-bench-hard",
    "sums": "math-prm",
    "topics": "llmbar-natural",
    "choices": "mt-bench-easy",
}


def split_of(seed: int, question: Question) -> Split:
    """The split of a prompt: a hash of its combination of entities, so that rewordings are in the same split."""
    digest = hashlib.sha256(f"{seed}|{question.skill}|{question.key}".encode()).digest()
    point = int.from_bytes(digest[:8], "big") % 100
    for split, share in SHARES.items():
        if point < share:
            return split
        point -= share
    raise AssertionError("the shares of the splits add up to 100")


class _Source:
    """Draws questions of one split."""

    def __init__(self, config: WorldConfig, split: Split, stream: str, *, distinct: bool) -> None:
        self.rng = random.Random(f"{config.seed} {split} {stream}")
        self._seed, self._split, self._facts = config.seed, split, facts(config.seed)
        self._seen: set[str] | None = set() if distinct else None

    def question(self, skill: str) -> Question:
        return self._draw(lambda rng, known: SKILLS[skill].question(rng, known), skill)

    def choice(self, kind: str) -> Question:
        return self._draw(lambda rng, _: choices.tied(rng) if kind == "tied" else choices.single(rng), kind)

    def _draw(self, make: Callable[[random.Random, Facts], Question], what: str) -> Question:
        for _ in range(20_000):
            question = make(self.rng, self._facts)
            if split_of(self._seed, question) != self._split or (self._seen is not None and question.prompt in self._seen):
                continue
            if self._seen is not None:
                self._seen.add(question.prompt)
            return question
        raise ValueError(f"The world has no further {what} prompts in its {self._split} split; ask for fewer rows.")

    def right(self, question: Question) -> str:
        return SKILLS[question.skill].right(self.rng, question.reference)

    def wrong(self, question: Question, count: int = 1) -> list[str]:
        """`count` different wrong answers."""
        found: dict[str, None] = {}
        for _ in range(100 * count):
            found[SKILLS[question.skill].wrong(self.rng, question.reference)] = None
            if len(found) == count:
                return list(found)
        raise AssertionError(f"the skill {question.skill} has no {count} different mistakes for {question.prompt!r}")


def corpus(config: WorldConfig, lineage: str) -> Iterator[dict[str, str]]:
    """Prompts with right and wrong answers and the user's reaction to each, the training data of the policy of `lineage`.

    From the reactions the model learns about right and wrong before any preference data, as a real one does from dialogues.
    """
    source = _Source(config, Split.corpus, lineage, distinct=False)
    skills, weights = zip(*sorted(config.corpus_weights.items()), strict=True)
    for skill in source.rng.choices(skills, weights, k=config.corpus_size):
        question = source.question(skill)
        mistaken = source.rng.random() < config.mistakes[skill]
        yield {
            "prompt": question.prompt,
            "completion": source.wrong(question)[0] if mistaken else source.right(question),
            "reaction": REACTIONS[mistaken],
        }


def preferences(config: WorldConfig, mix: str) -> Iterator[dict[str, str]]:
    """Preference pairs of one mix."""
    source = _Source(config, Split.preferences, mix, distinct=False)
    skills, weights = zip(*sorted(MIXES[mix].items()), strict=True)
    for skill in source.rng.choices(skills, weights, k=config.pairs):
        question = source.question(skill)
        yield {"prompt": question.prompt, "chosen": source.right(question), "rejected": source.wrong(question)[0], "source": mix}


def rewardbench2(config: WorldConfig) -> Iterator[dict[str, Any]]:
    """A benchmark in RewardBench 2's row schema: five best-of-4 domains, and Ties as `ref:N`/`tied:N` pairs."""
    source = _Source(config, Split.benchmark, "rewardbench2", distinct=True)
    for skill in sorted(set(SKILLS) - {"choices"}):
        for index in range(config.benchmark_rows):
            question = source.question(skill)
            yield _row(f"{skill}-{index}", SKILLS[skill].domain, question.prompt, [source.right(question)], source.wrong(question, 3))
    for index in range((config.benchmark_rows + 1) // 2):
        for kind in ("tied", "ref"):
            question = source.choice(kind)
            right = [choices.answer_with(member) for member in question.reference["answers"]]
            yield _row(f"{kind}:{index}", "Ties", question.prompt, right, source.wrong(question, 6))


def _row(id_: str, subset: str, prompt: str, chosen: list[str], rejected: list[str]) -> dict[str, Any]:
    return {
        "id": id_,
        "prompt": prompt,
        "chosen": chosen,
        "rejected": rejected,
        "num_correct": len(chosen),
        "num_incorrect": len(rejected),
        "total_completions": len(chosen) + len(rejected),
        "models": ["microworld"],
        "subset": subset,
        "additional_metadata": None,
    }


def rewardbench1(config: WorldConfig) -> Iterator[dict[str, str]]:
    """A pairwise benchmark with RewardBench 1's subset names."""
    source = _Source(config, Split.benchmark, "rewardbench1", distinct=True)
    for skill in sorted(SKILLS):
        for index in range(config.benchmark_rows):
            question = source.question(skill)
            if skill == "requests":
                subset = "refusals-dangerous" if question.reference["harmful"] else "xstest-should-respond"
            else:
                subset = REWARDBENCH1_SUBSETS[skill]
            row = {"id": f"{skill}-{index}", "subset": subset, "prompt": question.prompt}
            yield row | {"chosen": source.right(question), "rejected": source.wrong(question)[0]}


def task(config: WorldConfig, skill: str) -> Iterator[dict[str, Any]]:
    """Prompts of one downstream task, with the reference that `microworld.skills:verify` needs."""
    source = _Source(config, Split.tasks, skill, distinct=True)
    for index in range(config.task_rows):
        question = source.question(skill)
        yield {"id": f"{skill}-{index}", "prompt": question.prompt, "reference": dict(question.reference)}


def build_world(config: WorldConfig, folder: Path) -> Path:
    """Writes the world of `config` to `folder`, unless it is already there, and returns the folder.

    Raises `ValueError` if `folder` holds another world, rather than destroy its data and everything trained on it.
    """
    manifest = {"format": FORMAT, **asdict(config)}
    if is_complete(folder):
        found = read_json(folder / "world.json", remedy=f"remove the folder {folder} to make the world again")
        if found != manifest:
            raise ValueError(
                f"{folder} holds another world (its seed, sizes or format differ from the configuration); remove it or name another folder."
            )
        return folder
    with atomic_folder(folder) as temporary:
        corpora = {lineage: list(corpus(config, lineage)) for lineage in LINEAGES}
        for lineage, rows in corpora.items():
            _write_rows(temporary / "corpus" / f"{lineage}.jsonl", rows)
        for mix in MIXES:
            _write_rows(temporary / "preferences" / f"{mix}.jsonl", list(preferences(config, mix)))
        _write_rows(temporary / "benchmark" / "rewardbench2.jsonl", list(rewardbench2(config)))
        _write_rows(temporary / "benchmark" / "rewardbench1.jsonl", list(rewardbench1(config)))
        for skill in SKILLS:
            _write_rows(temporary / "tasks" / f"{skill}.jsonl", list(task(config, skill)))
        texts = [text for row in corpora[LINEAGES[0]][:20_000] for text in row.values()]
        train_tokenizer(texts, vocab_size=config.vocab_size).save_pretrained(temporary / "tokenizer")
        write_json(temporary / "world.json", manifest)
    return folder


def _write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
