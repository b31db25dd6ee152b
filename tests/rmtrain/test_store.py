"""Pairs and their tokens stay on disk: read back as they were, found again by other jobs, and no burden on memory."""

import copy
import json
import os
import pickle
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

import core.data.json_array
import rmtrain.decontaminate
import rmtrain.rows
import rmtrain.token_store
from core.progress import NoProgress
from core.records import Message, Preference, user
from rmtrain.config import Overlong, PreferenceDataConfig, SourceConfig
from rmtrain.data import PreferenceData, load_preferences
from rmtrain.store import PairStore, groups, write_pairs
from rmtrain.tokens import TokenPairs, tokenize
from tests.fakes import word_tokenizer
from tests.rmtrain.pairs import write_jsonl

CALL = Message(role="assistant", content="", fields='{"tool_calls": [{"name": "f"}]}')


def stored(tmp_path: Path, *pairs: Preference) -> PairStore:
    tmp_path.mkdir(exist_ok=True)
    write_pairs(tmp_path, enumerate(pairs, 1), lambda: {"read": len(pairs)})
    return PairStore(tmp_path, path="pairs.jsonl", name="pairs-1", cache=None)


def rows(num: int, *, words: int = 3) -> list[dict[str, Any]]:
    said = " ".join(["plum"] * words)
    return [{"prompt": f"name {'a ' * (i % 40)}fruit {i}", "chosen": f"{said} a", "rejected": f"lamp {said}"} for i in range(num)]


def load(tmp_path: Path, *paths: str, seed: int = 0, said: list[str] | None = None, **options: Any) -> PreferenceData:
    config = PreferenceDataConfig(paths=list(paths), cache=str(tmp_path / "cache"), **options)
    say = (said if said is not None else []).append
    return load_preferences(config, seed=seed, benchmark_prompts={"rb2": ["name fruit 0", "name a fruit 1"]}, say=say)


def tokens(data: PreferenceData, tokenizer: Any = None, **options: Any) -> TokenPairs:
    return tokenize(data.training, tokenizer or word_tokenizer(), **{"max_length": 60, "overlong": Overlong.cut, **options})


def ids(found: TokenPairs) -> list[tuple[list[int], list[int]]]:
    return [(pair.chosen.tolist(), pair.rejected.tolist()) for pair in found.pairs]


def refuse(*_: object, **__: object) -> Any:
    raise AssertionError("nothing should be made again")


def test_a_pair_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    pairs = [
        Preference(prompt=(Message(role="system", content="é\u2028\n"), *user("a")), chosen="b", rejected=CALL, margin=0.1, source="s"),
        Preference(prompt=(Message(role="\ud800", content="a"),), chosen="", rejected="\x00", margin=3),
    ]
    store = stored(tmp_path, *pairs)
    assert [*store] == store[:] == pairs
    assert [pair.where for pair in store] == ["pairs.jsonl, row 1", "pairs.jsonl, row 2"]
    assert (store[-1], store.meta) == (pairs[1], {"read": 2})


def test_a_store_outlives_its_folder(tmp_path: Path) -> None:
    store = stored(tmp_path / "store", *[Preference(prompt=user(str(i)), chosen="b", rejected="c") for i in range(9)])
    for file in (tmp_path / "store").iterdir():
        file.unlink()
    assert store[5].prompt == user("5")


def test_another_process_is_given_the_pairs_themselves(tmp_path: Path) -> None:
    held_out = load(tmp_path, write_jsonl(tmp_path / "pairs.jsonl", rows(30)), held_out=0.2).held_out
    assert pickle.loads(pickle.dumps(held_out)) == [*held_out]
    assert len(held_out) == 6


def test_equal_hashes_have_one_number_and_its_first_place() -> None:
    numbers, firsts = groups(np.array([[7, 1], [7, 2], [7, 1], [0, 9], [7, 2]], dtype=np.uint64))
    assert [numbers.tolist().index(number) for number in numbers.tolist()] == [0, 1, 0, 3, 1]
    assert firsts[numbers].tolist() == [0, 1, 0, 3, 1]


def test_the_second_job_reads_and_tokenises_nothing_and_says_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_jsonl(tmp_path / "pairs.jsonl", [*rows(30), *rows(2), {"prompt": "a", "chosen": "b", "rejected": "b"}, "{torn"])
    said, said_again = list[str](), list[str]()
    data = load(tmp_path, path, said=said, skip_broken=True)
    found = tokens(data)
    assert (found.num_cut, len(said)) == (0, 4)
    found = tokens(data, max_length=30)
    assert found.num_cut > 0
    for module, name in ((rmtrain.rows, "read_rows"), (rmtrain.decontaminate, "hits_of"), (rmtrain.token_store, "encode")):
        monkeypatch.setattr(module, name, refuse)
    again = load(tmp_path, path, said=said_again, skip_broken=True)
    assert (again.counts, [*again.training], said_again) == (data.counts, [*data.training], said)
    same = tokens(again, max_length=30)
    assert (ids(same), same.num_cut, same.num_dropped) == (ids(found), found.num_cut, found.num_dropped)


def test_other_draws_of_the_same_pairs_share_their_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = (write_jsonl(tmp_path / f"{name}.jsonl", rows(30 + 30 * place)[30 * place :]) for place, name in enumerate("ab"))
    for data in (load(tmp_path, a), load(tmp_path, b)):
        tokens(data)
    monkeypatch.setattr(rmtrain.token_store, "encode", refuse)
    both = tokens(load(tmp_path, a, b, seed=3, held_out=0.2, flip=0.5, subsample=0.8), max_length=1000, overlong=Overlong.drop)
    assert len(both.pairs) == 38  # of 60, 80% are 48, of which 10 are held out
    half = load(tmp_path, a, flip=0.5)
    for (chosen, rejected), given in zip(ids(tokens(half)), half.training, strict=True):
        assert (10 in chosen, 10 in rejected) == ("lamp" in str(given.chosen), "lamp" in str(given.rejected))  # 10 is lamp
    assert sum("lamp" in str(given.chosen) for given in half.training) == 15


@pytest.mark.parametrize("what", ["file", "template", "special token", "name"])
def test_what_decides_the_tokens_is_read_and_made_again_when_it_changes(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_jsonl(tmp_path / "pairs.jsonl", rows(5))
    before = ids(tokens(load(tmp_path, path), tokenizer, max_length=1000))
    own, name = copy.deepcopy(tokenizer), "pairs"
    match what:
        case "file":
            write_jsonl(tmp_path / "pairs.jsonl", rows(6)[1:])
        case "template":
            own.chat_template = f"x{own.chat_template}"
        case "special token":
            own.add_special_tokens({"additional_special_tokens": ["fruit"]})
        case _:
            name = "other"
    data = load_preferences(
        PreferenceDataConfig(sources={name: SourceConfig(path=path)}, cache=str(tmp_path / "cache")), seed=0, say=lambda _: None
    )
    assert (ids(tokens(data, own, max_length=1000)) == before) == (what == "name")
    assert {pair.source for pair in data.training} == {name}


def test_of_a_small_subsample_only_its_pairs_are_tokenised(tmp_path: Path) -> None:
    started: list[int] = []

    class Counted(NoProgress):
        def start(self, description: str, total: int, *, unit: str = "", done: int = 0) -> None:
            started.append(total)

    path = write_jsonl(tmp_path / "pairs.jsonl", rows(40))
    for share in (0.1, 0.1, 0.6, 1.0, 0.2):
        tokens(load(tmp_path, path, subsample=share), progress=Counted())
    assert started == [4, 40]


def test_memory_hardly_grows_with_the_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pair of these has 2,000 bytes of text and 800 tokens; what is held of it are hashes, lengths and places."""
    # What is read at a time, far less than the files.
    monkeypatch.setattr(rmtrain.token_store, "CHUNK", 16)
    monkeypatch.setattr(core.data.json_array, "BLOCK", 1000)

    def memory(num: int) -> tuple[int, int]:
        """What is held, and what was at most."""
        path = write_jsonl(tmp_path / f"{num}.jsonl", rows(num, words=200))
        tracemalloc.start()
        try:
            data = load(tmp_path, path, held_out=0.1, flip=0.1)
            found = tokens(data, max_length=1000)
            assert sum(len(pair.chosen) for pair in found.pairs) > 150 * num
            return tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

    memory(10)  # what is loaded once
    few, many = memory(64), memory(320)
    assert (many[0] - few[0]) / (320 - 64) < 600
    assert (many[1] - few[1]) / (320 - 64) < 600


def sharing(folder: Path, *, num_processes: int = 1, killed: bool = False) -> int:
    """Has processes prepare the pairs and tokens of a folder at once; returns the exit code."""
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(num_processes)) if num_processes > 1 else ()
    command = [sys.executable, *torchrun, "-m", "tests.rmtrain.sharing", str(folder), *(["killed"] if killed else [])]
    ended = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300)
    assert killed or ended.returncode == 0, ended.stderr[-3000:]
    return ended.returncode


def test_of_two_processes_that_start_at_once_one_prepares_what_the_other_waits_for(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "pairs.jsonl", rows(20))
    sharing(tmp_path, num_processes=2)
    one, other = (json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in (0, 1))
    assert sorted([*one["made"], *other["made"]]) == ["pairs", "tokens"]
    assert one["ids"] == other["ids"]
    assert len(one["ids"]) == 20
    assert any("waiting for" in line and "is making" in line for line in (*one["said"], *other["said"]))


def test_a_process_killed_while_it_prepares_leaves_no_half_and_no_lock(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "pairs.jsonl", rows(20))
    assert sharing(tmp_path, killed=True) == -signal.SIGKILL
    cache = tmp_path / "cache"
    assert list(cache.glob(".tmp-tokens-*"))
    sharing(tmp_path)
    after = json.loads((tmp_path / "rank-0.json").read_text())
    assert after["made"] == ["tokens"]  # the pairs were there whole
    assert after["said"] == []
    assert len(after["ids"]) == 20
    assert not [*cache.glob(".tmp-*")]
    (tmp_path / "rank-0.json").unlink()
    sharing(tmp_path)
    assert json.loads((tmp_path / "rank-0.json").read_text()) == {"made": [], "said": [], "ids": after["ids"]}


def test_a_file_that_ends_early_is_named(tmp_path: Path) -> None:
    store = stored(tmp_path, Preference(prompt=user("a"), chosen="b", rejected="c"))
    (tmp_path / "pairs.jsonl").write_text("")
    with pytest.raises(EOFError, match=r"pairs\.jsonl ends at byte 0, before"):
        store[0]
