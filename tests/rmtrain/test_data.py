"""A mix of preference sources is cleaned, weighed, sampled, held out by prompts, shuffled and flipped, each by seed."""

import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.records import Preference
from rmtrain.config import Decontaminate, PreferenceDataConfig, SourceConfig
from rmtrain.data import PreferenceData, flipped, load_preferences, named_sources

EIGHT = "alpha bravo charlie delta echo foxtrot golf hotel"


def write_jsonl(path: Path, rows: Sequence[Any]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return str(path)


def numbered(num: int, prefix: str = "") -> list[dict[str, str]]:
    return [{"prompt": f"{prefix}{i}", "chosen": "good", "rejected": "bad"} for i in range(num)]


def asked(prompt: str, num: int) -> list[dict[str, str]]:
    """Rows of one prompt and different answers."""
    return [{"prompt": prompt, "chosen": f"good {i}", "rejected": "bad"} for i in range(num)]


def load(paths: Sequence[str] = (), *, seed: int = 0, **options: Any) -> PreferenceData:
    return load_preferences(PreferenceDataConfig(paths=list(paths), **options), seed=seed, say=lambda _: None)


def weighted(tmp_path: Path, weights: Mapping[str, float], num: int = 40, **options: Any) -> PreferenceData:
    """Sources of `num` pairs each, of these names and weights."""
    paths = {name: write_jsonl(tmp_path / f"{name}.jsonl", numbered(num, name)) for name in weights}
    return load(sources={name: SourceConfig(path=paths[name], weight=weight) for name, weight in weights.items()}, **options)


def prompts(pairs: Sequence[Preference]) -> list[str]:
    return [pair.prompt[0].content for pair in pairs]


@pytest.fixture
def forty(tmp_path: Path) -> list[str]:
    return [write_jsonl(tmp_path / "pairs.jsonl", numbered(40))]


@pytest.mark.parametrize(("share", "num_flipped"), [(0.0, 0), (0.1, 4), (0.25, 10), (1.0, 40)])
def test_exactly_the_asked_share_is_flipped_in_place(forty: list[str], share: float, num_flipped: int) -> None:
    data = load(forty, flip=share)
    sides = [(pair.chosen, pair.rejected) for pair in data.training]
    assert (sides.count(("bad", "good")), sides.count(("good", "bad"))) == (num_flipped, 40 - num_flipped)
    assert prompts(data.training) == prompts(load(forty).training)


def test_the_flipped_pairs_are_drawn_by_seed() -> None:
    assert flipped(40, 0.25, seed=1).tolist() == flipped(40, 0.25, seed=1).tolist()
    assert flipped(40, 0.25, seed=1).tolist() != flipped(40, 0.25, seed=2).tolist()
    # Python's own draw, which the flips of existing runs come from.
    assert set(np.flatnonzero(flipped(40, 0.25, seed=1)).tolist()) == set(random.Random("flip 1").sample(range(40), 10))


def test_several_paths_form_their_full_union(tmp_path: Path) -> None:
    data = load([write_jsonl(tmp_path / f"{name}.jsonl", numbered(num, name)) for name, num in (("a", 3), ("b", 5))])
    assert sorted(prompts(data.training)) == ["a0", "a1", "a2", "b0", "b1", "b2", "b3", "b4"]
    assert {pair.source for pair in data.training} == {"a", "b"}
    assert [*data.held_out] == []


def test_paths_and_sources_are_mixed_and_a_pair_is_called_after_its_source(tmp_path: Path) -> None:
    a, b = (write_jsonl(tmp_path / f"{name}.jsonl", numbered(2, name)) for name in "ab")
    data = load([a], sources={"fruits": SourceConfig(path=b)})
    assert sorted((pair.prompt[0].content, pair.source) for pair in data.training) == [
        *(("a0", "a"), ("a1", "a")),
        *(("b0", "fruits"), ("b1", "fruits")),
    ]


def test_a_rows_own_source_stays_while_the_counts_are_of_the_source_it_was_read_from(tmp_path: Path) -> None:
    data = load([write_jsonl(tmp_path / "mix.jsonl", [row | {"source": "lamps"} for row in numbered(2)])])
    assert {pair.source for pair in data.training} == {"lamps"}
    assert data.counts["sources"]["mix"]["training"] == 2


def test_paths_of_one_name_stay_apart() -> None:
    config = PreferenceDataConfig(
        paths=["x/train.jsonl", "y/train.parquet", "org/pairs-v0.2@main", "org/tulu"], sources={"tulu": SourceConfig(path="z")}
    )
    assert {name: source.path for name, source in named_sources(config).items()} == {
        "train": "x/train.jsonl",
        "train-2": "y/train.parquet",
        "pairs-v0.2": "org/pairs-v0.2@main",
        "tulu-2": "org/tulu",
        "tulu": "z",
    }


def test_the_split_of_a_source_is_read(tmp_path: Path) -> None:
    from datasets import Dataset, DatasetDict

    DatasetDict({name: Dataset.from_list(numbered(2, name)) for name in ("train", "test")}).save_to_disk(tmp_path / "saved")
    data = load(sources={"a": SourceConfig(path=str(tmp_path / "saved"), split="test")})
    assert sorted(prompts(data.training)) == ["test0", "test1"]
    with pytest.raises(
        ValueError, match=r"data\.sources\.a names .*, which has no split 'dev' but test, train; set data\.sources\.a\.split"
    ):
        load(sources={"a": SourceConfig(path=str(tmp_path / "saved"), split="dev")})


def test_broken_rows_are_refused_or_left_out_and_counted(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "pairs.jsonl", [*numbered(2), "{torn"])
    with pytest.raises(ValueError, match=r"1 broken row\(s\) of 3:\n  row 3: "):
        load([path])
    data = load([path], skip_broken=True)
    assert (len(data.training), data.counts["sources"]["pairs"]["read"], data.counts["sources"]["pairs"]["broken"]) == (2, 3, 1)


def test_equal_pairs_are_there_once_over_all_sources(tmp_path: Path) -> None:
    a = write_jsonl(tmp_path / "a.jsonl", [*numbered(3), *numbered(1)])  # 0 twice
    b = write_jsonl(tmp_path / "b.jsonl", numbered(5))  # 0 to 2 are in a
    said: list[str] = []
    data = load_preferences(PreferenceDataConfig(paths=[a, b]), seed=0, say=said.append)
    assert sorted((pair.prompt[0].content, pair.source) for pair in data.training) == [
        *(("0", "a"), ("1", "a"), ("2", "a")),
        ("3", "b"),
        ("4", "b"),
    ]
    assert {name: counts["duplicates"] for name, counts in data.counts["sources"].items()} == {"a": 1, "b": 3}
    assert said == ["dropped 1 of 4 pairs of a that are duplicates", "dropped 3 of 5 pairs of b that are duplicates"]


def test_pairs_that_differ_in_one_answer_are_no_duplicates(tmp_path: Path) -> None:
    row = {"prompt": "p", "chosen": "good", "rejected": "bad"}
    assert len(load([write_jsonl(tmp_path / "a.jsonl", [row, row | {"chosen": "fine"}, row | {"rejected": "poor"}])]).training) == 3


def test_duplicates_stay_on_request(tmp_path: Path) -> None:
    data = load([write_jsonl(tmp_path / "a.jsonl", numbered(2) * 2)], deduplicate=False)
    assert (sorted(prompts(data.training)), data.counts["sources"]["a"]["duplicates"]) == (["0", "0", "1", "1"], 0)


def test_pairs_that_contradict_each_other_are_counted_and_kept(tmp_path: Path) -> None:
    row = {"prompt": "p", "chosen": "good", "rejected": "bad"}
    a = write_jsonl(tmp_path / "a.jsonl", [row, *numbered(1)])
    b = write_jsonl(tmp_path / "b.jsonl", [{"prompt": "p", "chosen": "bad", "rejected": "good"}, row])
    said: list[str] = []
    data = load_preferences(PreferenceDataConfig(paths=[a, b]), seed=0, say=said.append)
    assert (len(data.training), data.counts["contradictions"]) == (3, 1)
    assert said[1:] == ["kept 1 pair(s) that contradict each other: the same answers to the same prompt, preferred both ways"]


def contaminated(tmp_path: Path, mode: Decontaminate) -> tuple[PreferenceData, list[str]]:
    """Of 4 pairs, 2 ask what the benchmark asks: their 8 words are its 8 words."""
    path = write_jsonl(tmp_path / "pairs.jsonl", [*numbered(2), *asked(EIGHT, 2)])
    said: list[str] = []
    config = PreferenceDataConfig(paths=[path], decontaminate=mode)
    return load_preferences(config, seed=0, benchmark_prompts={"rb2": [EIGHT], "rb1": ["other"]}, say=said.append), said


def test_what_overlaps_with_a_benchmark_is_reported_by_default(tmp_path: Path) -> None:
    assert PreferenceDataConfig(paths=["a"]).decontaminate == Decontaminate.report
    data, said = contaminated(tmp_path, Decontaminate.report)
    assert len(data.training) == 4
    assert (data.counts["sources"]["pairs"]["contaminated"], data.counts["sources"]["pairs"]["contaminated_dropped"]) == ({"rb2": 2}, 0)
    assert len(said) == 1
    assert said[0].endswith("leave them out with data.decontaminate=drop")


def test_what_overlaps_with_a_benchmark_is_dropped_on_request(tmp_path: Path) -> None:
    data, said = contaminated(tmp_path, Decontaminate.drop)
    assert sorted(prompts(data.training)) == ["0", "1"]
    assert (data.counts["sources"]["pairs"]["contaminated"], data.counts["sources"]["pairs"]["contaminated_dropped"]) == ({"rb2": 2}, 2)
    assert said[0].startswith("dropped 2 of 4 pairs of pairs, whose prompts overlap with 1 of rb2")


def test_nothing_left_after_the_overlaps_is_refused(tmp_path: Path) -> None:
    config = PreferenceDataConfig(paths=[write_jsonl(tmp_path / "a.jsonl", asked(EIGHT, 2))], decontaminate=Decontaminate.drop)
    with pytest.raises(ValueError, match=r"every pair overlaps with a benchmark.*; set data\.decontaminate=report"):
        load_preferences(config, seed=0, benchmark_prompts={"rb2": [EIGHT]}, say=lambda _: None)


@pytest.mark.parametrize(("weight", "times"), [(0.25, {1: 10}), (1.0, {1: 40}), (2.0, {2: 40}), (2.5, {2: 20, 3: 20})])
def test_a_weight_is_how_often_the_mix_holds_each_pair(tmp_path: Path, weight: float, times: dict[int, int]) -> None:
    data = weighted(tmp_path, {"a": weight})
    assert Counter(Counter(prompts(data.training)).values()) == times
    assert data.counts["training"] == data.counts["sources"]["a"]["training"] == 40 * weight


def test_a_larger_weight_contains_what_a_smaller_one_does(tmp_path: Path) -> None:
    mixes = [Counter(prompts(weighted(tmp_path, {"a": weight}).training)) for weight in (0.25, 0.5, 1.0, 1.5, 1.75, 3.0)]
    assert all(smaller < larger for smaller, larger in pairwise(mixes))


def test_what_a_weight_draws_depends_on_seed_and_source_alone(tmp_path: Path) -> None:
    alone, beside, seeded = (
        {prompt for prompt in prompts(weighted(tmp_path, weights, seed=seed).training) if prompt[0] == "a"}
        for weights, seed in (({"a": 0.5}, 0), ({"b": 0.5, "a": 0.5}, 0), ({"a": 0.5}, 1))
    )
    assert alone == beside != seeded
    both = prompts(weighted(tmp_path, {"a": 0.5, "b": 0.5}).training)
    assert {prompt[1:] for prompt in both if prompt[0] == "a"} != {prompt[1:] for prompt in both if prompt[0] == "b"}


def test_the_least_weight_leaves_one_pair(tmp_path: Path) -> None:
    assert len(weighted(tmp_path, {"a": 0.001}).training) == 1


def test_copies_of_a_pair_do_not_lie_side_by_side(tmp_path: Path) -> None:
    order = prompts(weighted(tmp_path, {"a": 2.0}).training)
    # Of 40 couples at random places, about one lies side by side (79 neighbours, 1/79 each); 10 would be no shuffle.
    assert sum(a == b for a, b in pairwise(order)) < 10


def test_the_order_is_shuffled_by_seed(forty: list[str]) -> None:
    first = load(forty, seed=1).training
    assert [*load(forty, seed=1).training] == [*first]
    assert prompts(load(forty, seed=2).training) != prompts(first) != [str(i) for i in range(40)]


def test_a_subsample_keeps_its_share_and_a_larger_one_contains_it(forty: list[str]) -> None:
    quarter, half = (set(prompts(load(forty, subsample=share).training)) for share in (0.25, 0.5))
    assert (len(quarter), len(half)) == (10, 20)
    assert quarter < half


def test_a_subsample_is_of_the_pairs_and_not_of_their_copies(tmp_path: Path) -> None:
    data = weighted(tmp_path, {"a": 2.0}, subsample=0.25)
    assert Counter(Counter(prompts(data.training)).values()) == {2: 10}


def test_the_least_subsample_is_one_pair(forty: list[str]) -> None:
    assert len(load(forty, subsample=0.001).training) == 1


def test_held_out_pairs_are_apart_from_training_and_never_flipped(forty: list[str]) -> None:
    data = load(forty, held_out=0.2, flip=1.0)
    assert len(data.held_out) == 8
    assert sorted(prompts(data.training) + prompts(data.held_out)) == sorted(str(i) for i in range(40))
    assert {pair.chosen for pair in data.held_out} == {"good"}
    assert {pair.chosen for pair in data.training} == {"bad"}


def test_no_prompt_is_both_held_out_and_trained_on(tmp_path: Path) -> None:
    rows = [row for i in range(30) for row in asked(f"p{i}", 1 + i % 4)]  # 8 prompts of 1, 8 of 2, 7 of 3 and 7 of 4 rows: 73
    for seed in range(5):
        data = load([write_jsonl(tmp_path / "pairs.jsonl", rows)], held_out=0.3, seed=seed)
        assert not set(prompts(data.training)) & set(prompts(data.held_out))
        assert len(data.training) + len(data.held_out) == 73
        assert abs(len(data.held_out) - 22) <= 1  # round(21.9); a group of one row is at hand to fill what is left


def test_a_large_group_is_held_out_where_it_comes_closer_than_none(tmp_path: Path) -> None:
    rows = [row for i in range(10) for row in asked(f"p{i}", 4)]
    # 10 % of 40 is one group of 4; of 6 % (2.4, so 2) one group is as far as none; of 7 % (2.8, so 3) it is closer.
    for share, num in ((0.1, 4), (0.06, 0), (0.07, 4)):
        assert len(load([write_jsonl(tmp_path / "pairs.jsonl", rows)], held_out=share).held_out) == num


def test_it_is_said_when_nothing_could_be_held_out(tmp_path: Path) -> None:
    said: list[str] = []
    config = PreferenceDataConfig(paths=[write_jsonl(tmp_path / "pairs.jsonl", asked("p", 10))], held_out=0.2)
    assert len(load_preferences(config, seed=0, say=said.append).held_out) == 0
    assert said == ["data.held_out=0.2 holds out none of 10 pair(s): too few pairs, or too few different prompts"]


def test_held_out_pairs_are_not_repeated(tmp_path: Path) -> None:
    data = weighted(tmp_path, {"a": 2.0}, held_out=0.2)
    assert len(set(prompts(data.held_out))) == len(data.held_out) == 8
    assert Counter(Counter(prompts(data.training)).values()) == {2: 32}


def test_flipping_moves_no_pair_so_that_runs_with_and_without_it_compare(tmp_path: Path) -> None:
    plain, half = (weighted(tmp_path, {"a": 1.5, "b": 0.5}, held_out=0.2, flip=share) for share in (0.0, 0.5))
    assert prompts(half.training) == prompts(plain.training)
    assert [*half.held_out] == [*plain.held_out]
    # Half of the pairs, not of their copies, which agree.
    labels = {(pair.prompt, pair.chosen) for pair in half.training}
    assert len(labels) == len(set(prompts(half.training)))
    assert sum(chosen == "bad" for _, chosen in labels) == round(len(labels) / 2) == half.counts["flipped"]


def test_the_counts_add_up_and_are_plain_data(tmp_path: Path) -> None:
    # a: 10 pairs, one row equal, one broken, two duplicates; b: half of 20 pairs, of which one is in a. 9 + 19/2 -> 9 + 10 (round(9.5)).
    rows = [*numbered(10, "a"), {"prompt": "x", "chosen": "y", "rejected": "y"}, "{torn", *numbered(2, "a")]
    a = write_jsonl(tmp_path / "a.jsonl", rows)
    b = write_jsonl(tmp_path / "b.jsonl", [*numbered(1, "a"), *numbered(19, "b")])
    config = PreferenceDataConfig(
        paths=[a],
        sources={"b": SourceConfig(path=b, weight=0.5)},
        skip_broken=True,
        held_out=0.1,
        flip=0.5,
        decontaminate=Decontaminate.drop,
    )
    data = load_preferences(config, seed=0, benchmark_prompts={"rb2": ["A3"]}, say=lambda _: None)
    counts = data.counts
    assert json.loads(json.dumps(counts)) == counts
    by_source = counts.pop("sources")
    # 19 pairs are kept: 9 of a (a3 is the benchmark's), 10 of b; 2 are held out (round(1.9)), of 17 round(8.5) = 8 are flipped.
    assert counts == {"contradictions": 0, "training": 17, "held_out": 2, "flipped": 8}
    assert (len(data.training), len(data.held_out)) == (17, 2)
    fixed = {name: {key: value for key, value in part.items() if key not in ("held_out", "training")} for name, part in by_source.items()}
    assert fixed == {
        "a": {"read": 14, "broken": 1, "equal": 1, "duplicates": 2, "contaminated": {"rb2": 1}, "contaminated_dropped": 1, "kept": 9},
        "b": {"read": 20, "broken": 0, "equal": 0, "duplicates": 1, "contaminated": {}, "contaminated_dropped": 0, "kept": 10},
    }
    for name, part in by_source.items():
        assert part["training"] == sum(pair.source == name for pair in data.training)
        assert part["held_out"] == sum(pair.source == name for pair in data.held_out)


def test_a_held_out_share_that_leaves_nothing_to_train_on_is_refused(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "pairs.jsonl", numbered(4))
    with pytest.raises(ValueError, match=r"data\.held_out=0\.9 leaves none of 4 pair\(s\) to train on; lower it"):
        load([path], held_out=0.9)


def test_reading_preferences_waits_for_neither_torch_nor_transformers() -> None:
    code = "import sys, rmtrain.data; print([name for name in ('torch', 'transformers', 'datasets') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"paths": []}, r"data\.paths is empty; give preference files"),
        ({"subsample": 0.0}, r"data\.subsample is 0\.0; it is a share above 0 and at most 1"),
        ({"flip": 1.5}, r"data\.flip is 1\.5; it is a share from 0 to 1"),
        ({"held_out": 1.0}, r"data\.held_out is 1\.0; it is a share from 0 to below 1"),
    ],
)
def test_what_cannot_be_is_refused_with_key_value_and_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PreferenceDataConfig(**{"paths": ["pairs.jsonl"], **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": ""}, r"a source of data\.sources has no path"),
        ({"path": "a.jsonl", "weight": 0.0}, r"the weight of a\.jsonl is 0\.0; it is how often each pair is in the mix, above 0"),
        ({"path": "a.jsonl", "weight": float("inf")}, r"the weight of a\.jsonl is inf"),
    ],
)
def test_a_source_without_path_or_weight_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SourceConfig(**options)


def test_validation_pairs_are_held_out_as_they_are_and_those_they_share_with_training_are_said(tmp_path: Path) -> None:
    train = [{"prompt": f"Name fruit {n}.", "chosen": "A plum.", "rejected": "A lamp."} for n in range(8)]
    other = [{"prompt": f"Name vegetable {n}.", "chosen": "A leek.", "rejected": "A lamp."} for n in range(3)]
    for name, rows in (("train", train), ("valid", other)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = PreferenceDataConfig(paths=[str(tmp_path / "train.jsonl")], validation=str(tmp_path / "valid.jsonl"), flip=1.0)
    found = load_preferences(config, seed=0, say=lambda _: None)
    assert len(found.training) == 8
    assert sorted(pair.prompt[0].content for pair in found.held_out) == [f"Name vegetable {n}." for n in range(3)]
    assert {pair.chosen for pair in found.held_out} == {"A leek."}  # flips are for training
    assert {pair.source for pair in found.held_out} == {"validation"}
    assert found.counts["held_out"] == 3
    with pytest.raises(ValueError, match=r"data\.validation"):
        load_preferences(replace(config, validation=str(tmp_path / "nothing.jsonl")), seed=0, say=lambda _: None)
