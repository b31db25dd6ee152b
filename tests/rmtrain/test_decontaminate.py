"""Training prompts that overlap with a benchmark's are found by Tulu 3's rule, told and dropped."""

import random
import time
from collections.abc import Callable, Mapping, Sequence

import pytest

import rmtrain.decontaminate
from core.records import Message, Preference, user
from rmtrain.config import Decontaminate
from rmtrain.decontaminate import BenchmarkIndex, Decontaminated, Hits, Overlap, hits_of

TEN = "one two three four five six seven eight nine ten"
"""Its 8-grams begin at one, two and three."""


def pair(*turns: str) -> Preference:
    """A pair whose prompt are these turns, of the user and the assistant in turn."""
    roles = ("user", "assistant") * len(turns)
    prompt = tuple(Message(role=role, content=text) for role, text in zip(roles, turns, strict=False))
    return Preference(prompt=prompt, chosen="good", rejected="bad")


def overlaps(benchmark_prompt: str, *turns: str) -> bool:
    return bool(BenchmarkIndex({"b": [benchmark_prompt]}).overlaps(pair(*turns).prompt))


def decontaminate(
    sources: Mapping[str, Sequence[Preference]],
    benchmarks: Mapping[str, Sequence[str]],
    mode: Decontaminate,
    say: Callable[[str], None] = lambda _: None,
) -> Decontaminated:
    def hits(source: str) -> Hits:
        return hits_of((pair.prompt for pair in sources[source]), benchmarks)

    return rmtrain.decontaminate.decontaminate(sources, benchmarks, mode, hits, say)


def kept(found: Decontaminated) -> dict[str, list[bool]]:
    return {source: mask.tolist() for source, mask in found.kept.items()}


def fillers(num: int, name: str = "x") -> str:
    return " ".join(f"{name}{i}" for i in range(num))


@pytest.mark.parametrize(("num_words", "found"), [(8, True), (15, True), (16, False), (17, False)])
def test_more_than_half_of_the_words_must_be_seen(num_words: int, found: bool) -> None:
    # The training prompt holds one 8-gram of it: 8 of 15 words are more than half, 8 of 16 are not.
    eight = "one two three four five six seven eight"
    assert overlaps(f"{eight} {fillers(num_words - 8)}", f"And now {eight}!") == found


def test_seven_words_in_one_piece_are_no_8_gram() -> None:
    assert not overlaps(TEN, "one two three four five six seven and eight nine ten")


def test_words_count_once_though_several_8_grams_hold_them() -> None:
    # Three 8-grams of ten words are seen, together 10 of 20 words, not 24: no more than half. One word less does it.
    assert not overlaps(f"{TEN} {fillers(10)}", TEN)
    assert overlaps(f"{TEN} {fillers(9)}", TEN)


def test_a_repeated_8_gram_covers_all_its_places() -> None:
    eight = "one two three four five six seven eight"
    assert overlaps(f"{eight} {fillers(15)} {eight}", eight)  # 16 of 31 words


def test_pieces_of_several_user_turns_add_up() -> None:
    asked = f"{TEN} {fillers(2)} {fillers(10, 'y')} {fillers(4, 'z')}"  # 26 words: 10, 2, 10, 4
    assert not overlaps(asked, TEN)
    assert overlaps(asked, TEN, "Hm?", fillers(10, "y"))  # 20 of 26


def test_what_two_prompts_hold_between_them_does_not_add_up() -> None:
    index = BenchmarkIndex({"b": [f"{TEN} {fillers(2)} {fillers(10, 'y')} {fillers(4, 'z')}"]})
    assert [index.overlaps(pair(text).prompt) for text in (TEN, fillers(10, "y"))] == [(), ()]


def test_what_the_assistant_said_is_no_prompt() -> None:
    assert not overlaps(TEN, "Count.", TEN)
    assert overlaps(TEN, "Hm?", "Hm?", TEN)


def test_an_8_gram_does_not_reach_over_two_turns() -> None:
    assert not overlaps(TEN, "one two three four five", "Go on.", "six seven eight nine ten")


def test_case_and_punctuation_part_no_words() -> None:
    assert overlaps("One two, three: four five six seven eight.", "(one TWO three four) five/six-seven\neight")


@pytest.mark.parametrize(
    ("benchmark", "training", "found"),
    [
        ("Name a fruit.", "name  a fruit", True),
        ("Name a fruit.", "Name a fruit, please.", False),
        ("What is 2 + 2?", "what is 2 + 2", True),
        ("What is 2 + 2?", "What is 2 - 2?", False),
        ("?", "!", False),
    ],
)
def test_a_prompt_of_fewer_than_8_words_must_be_equal_to_a_user_turn(benchmark: str, training: str, found: bool) -> None:
    assert overlaps(benchmark, training) == found
    assert overlaps(benchmark, "Hello.", "Hi.", training) == found


def test_all_prompts_that_a_training_prompt_contaminates_are_found() -> None:
    index = BenchmarkIndex({"b": [TEN, "other", f"{TEN} eleven"], "c": ["hello", TEN]})
    assert sorted(index.overlaps(pair(TEN, "Hm?", "Hello.").prompt)) == [("b", 0), ("b", 2), ("c", 0), ("c", 1)]


SOURCES = {"tulu": [pair(TEN), pair("Name a fruit."), pair(f"So, {TEN}")], "skywork": [pair("Name a lamp."), pair("Hello.")]}
BENCHMARKS = {"rb2": ["Name a fruit", TEN], "rb1": ["hello"], "rb0": ["nothing of it"]}


def test_overlaps_are_counted_by_source_and_benchmark_with_an_example() -> None:
    said: list[str] = []
    found = decontaminate(SOURCES, BENCHMARKS, Decontaminate.report, said.append)
    assert kept(found) == {"tulu": [True] * 3, "skywork": [True] * 2}
    assert found.overlaps == [
        Overlap(benchmark="rb2", source="tulu", num_pairs=3, num_prompts=2, example=(TEN, TEN)),
        Overlap(benchmark="rb1", source="skywork", num_pairs=1, num_prompts=1, example=("Hello.", "hello")),
    ]
    assert said == [
        f"the prompts of 3 of 3 pairs of tulu overlap with 2 of rb2, for instance '{TEN}' with '{TEN}'; "
        "leave them out with data.decontaminate=drop",
        "the prompts of 1 of 2 pairs of skywork overlap with 1 of rb1, for instance 'Hello.' with 'hello'; "
        "leave them out with data.decontaminate=drop",
    ]


def test_overlapping_pairs_are_dropped_and_counted() -> None:
    said: list[str] = []
    found = decontaminate(SOURCES, BENCHMARKS, Decontaminate.drop, said.append)
    assert kept(found) == {"tulu": [False] * 3, "skywork": [True, False]}
    assert found.num_dropped == {"tulu": 3, "skywork": 1}
    assert said[1] == "dropped 1 of 2 pairs of skywork, whose prompts overlap with 1 of rb1, for instance 'Hello.' with 'hello'"


def test_a_pair_that_overlaps_with_two_benchmarks_is_dropped_once() -> None:
    found = decontaminate({"a": [pair(TEN)]}, {"x": [TEN], "y": [TEN]}, Decontaminate.drop, lambda _: None)
    assert (len(found.overlaps), found.num_dropped) == (2, {"a": 1})


@pytest.mark.parametrize(
    ("mode", "benchmarks"), [(Decontaminate.ignore, BENCHMARKS), (Decontaminate.report, {}), (Decontaminate.drop, {"b": []})]
)
def test_nothing_is_looked_at_on_request_or_without_benchmarks(mode: Decontaminate, benchmarks: dict[str, list[str]]) -> None:
    said: list[str] = []
    found = decontaminate(SOURCES, benchmarks, mode, said.append)
    assert (kept(found), found.overlaps) == ({"tulu": [True] * 3, "skywork": [True] * 2}, [])
    assert set(found.num_dropped.values()) == {0}
    # Who asks for pairs to be dropped must hear that there was nothing to compare them with.
    assert [line.split(" has ")[0] for line in said] == (["data.decontaminate=drop"] if mode == Decontaminate.drop else [])


def test_ten_thousand_prompts_against_two_thousand_take_seconds() -> None:
    # 350,000 at this rate would take a few minutes at most. Half of the benchmark and a third of the prompts begin alike: what
    # they have in common must not be compared prompt by prompt.
    draw = random.Random(0)
    words = [f"w{i}" for i in range(20_000)]
    alike = "please answer the following question by choosing exactly one of the options below and then explain why"
    benchmark = [f"{alike if i % 2 else ''} {' '.join(draw.choices(words, k=200))}" for i in range(2_000)]
    pairs = [
        Preference(prompt=user(f"{'' if i % 3 else alike} {' '.join(draw.choices(words, k=150))}"), chosen="good", rejected="bad")
        for i in range(10_000)
    ]
    started = time.process_time()
    assert decontaminate({"a": pairs}, {"b": benchmark}, Decontaminate.report).overlaps == []
    assert time.process_time() - started < 20
