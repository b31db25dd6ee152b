"""Pools are drawn once, survive a kill without drawing anything twice, and are verified apart from that."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from bon.config import MANIFEST
from bon.draw import PoolPlan, PoolTask, is_made, make_pools
from bon.picks import rerank
from bon.pools import bounds, load_pools
from bon.rows import PoolRow, Pools
from bon.store import parts_of, read_drawn
from core.disk import MARKER, is_complete
from core.functions import SkippedError, Verifier
from core.progress import LineProgress
from core.records import Completion, Dialogue, Message, Prompt, Sampling, user
from tests.fakes import LengthScorer

ROW = '{"id": "1", "prompt": "?", "completions": %s, "correct": %s}\n'


class Counter:
    """Answers with the first n of "1", "22", "333", ...; remembers what it was asked, and may die."""

    def __init__(self, *, dies_at_call: int = 0) -> None:
        self.asked: list[str] = []
        self.num_calls, self.dies_at_call = 0, dies_at_call

    def generate(self, prompts: Sequence[Dialogue], sampling: Sampling) -> list[list[Completion]]:
        self.num_calls += 1
        if self.num_calls == self.dies_at_call:
            raise RuntimeError("the machine went away")
        self.asked += [prompt[-1].content for prompt in prompts]
        return [[Completion(text=str(i) * i, token_ids=(i,), finished=i < 3) for i in range(1, sampling.n + 1)] for _ in prompts]


class Batches(Counter):
    """Hands over one prompt at a time, the last one first, with its index as the text."""

    def generate_batches(
        self, prompts: Sequence[Dialogue], sampling: Sampling, indices: Sequence[int]
    ) -> Iterator[tuple[list[int], list[list[Completion]]]]:
        for place in reversed(range(len(prompts))):
            self.num_calls += 1
            if self.num_calls == self.dies_at_call:
                raise RuntimeError("the machine went away")
            self.asked.append(prompts[place][-1].content)
            yield [place], [[Completion(text=f"{indices[place]}", token_ids=(1,), finished=True)] * sampling.n]


def is_of_length(completion: str, reference: Mapping[str, Any]) -> float:
    return float(len(completion) == reference["length"])


PROMPTS = {
    "sums": [
        Prompt(id="sums-0", dialogue=user("1?"), reference={"length": 3}),
        Prompt(id="sums-1", dialogue=user("2?"), reference={"length": 1}),
    ],
    "lists": [Prompt(id="lists-0", dialogue=(Message(role="system", content="Hm."), *user("é?")), reference={"length": 2})],
}  # fmt: skip
SAMPLING = Sampling(n=3, temperature=0.8, max_new_tokens=5)


def planned(
    *,
    policy: str = "abc",
    verifier: Verifier = is_of_length,
    identity: str = "v1",
    prompts: Mapping[str, Sequence[Prompt]] = PROMPTS,
    sampling: Sampling = SAMPLING,
    origin: Mapping[str, Any] | None = None,
) -> PoolPlan:
    tasks = {name: PoolTask(prompts=rows, verifier=verifier, identity={"program": identity}) for name, rows in prompts.items()}
    return PoolPlan(tasks=tasks, sampling=sampling, policy={"model": policy}, origin=origin)


def made(folder: Path, generator: Counter, plan: PoolPlan | None = None, *, batch_size: int = 1, say: list[str] | None = None) -> Pools:
    return make_pools(folder, plan or planned(), lambda: generator, batch_size=batch_size, say=[].append if say is None else say.append)


def test_drawing_and_verifying_are_told_in_a_line_each_however_many_tasks_there_are(tmp_path: Path) -> None:
    log = io.StringIO()
    make_pools(tmp_path / "pools", planned(), Counter, progress=LineProgress(log))
    assert [line.partition(":")[0] for line in log.getvalue().splitlines()] == ["sampling pools", "verifying pools"]


def test_a_pool_holds_every_completion_of_every_prompt_with_its_correctness(tmp_path: Path) -> None:
    pools = made(tmp_path / "pools", Counter())
    completions, finished = ("1", "22", "333"), (True, True, False)
    assert pools == {
        "lists": [
            PoolRow(
                id="lists-0", prompt=PROMPTS["lists"][0].dialogue, completions=completions, correct=(0.0, 1.0, 0.0), finished=finished
            ),
        ],
        "sums": [
            PoolRow(id="sums-0", prompt=user("1?"), completions=completions, correct=(0.0, 0.0, 1.0), finished=finished),
            PoolRow(id="sums-1", prompt=user("2?"), completions=completions, correct=(1.0, 0.0, 0.0), finished=finished),
        ],
    }  # fmt: skip
    manifest = json.loads((tmp_path / "pools" / MANIFEST).read_text())
    assert (list(manifest["tasks"]), manifest["sampling"]["n"], manifest["policy"]) == (["sums", "lists"], 3, {"model": "abc"})
    assert not (tmp_path / "pools" / "drawing").exists()


def test_a_pool_is_made_once_and_read_afterwards(tmp_path: Path) -> None:
    first = made(tmp_path / "pools", Counter())
    untouched = Counter()
    assert made(tmp_path / "pools", untouched) == first
    assert untouched.num_calls == 0


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (planned(policy="another"), "policy.model is abc there and another here"),
        (planned(sampling=Sampling(n=3, temperature=0.8, max_new_tokens=5, seed=1)), "sampling.seed is 0 there and 1 here"),
        (planned(prompts={"sums": PROMPTS["sums"]}), r"tasks\.lists is \{'num_prompt.* there and nothing here"),
        (planned(prompts={**PROMPTS, "sums": PROMPTS["sums"][:1]}), "tasks.sums.num_prompts is 2 there and 1 here"),
    ],
)
@pytest.mark.parametrize("torn", [False, True])
def test_pools_of_another_key_are_refused_with_what_differs(tmp_path: Path, other: PoolPlan, words: str, torn: bool) -> None:
    folder = tmp_path / "pools"
    made(folder, Counter())
    if torn:
        (folder / MARKER).unlink()
    remedy = rf"{words}.*\. Delete that folder \({re.escape(str(folder))}\) to draw them again, name another folder \(pools=OTHER\)"
    with pytest.raises(ValueError, match=remedy):
        made(folder, Counter(), other)
    shutil.rmtree(folder)  # the remedy does what it says
    made(folder, Counter(), other)


def test_a_folder_of_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"holds notes\.txt and no pool\.json, so it is no folder of pools"):
        made(tmp_path, Counter())
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("kind", [Counter, Batches])
@pytest.mark.parametrize("dies_at", [1, 2, 3])
def test_what_was_drawn_before_an_end_is_not_drawn_again(tmp_path: Path, kind: type[Counter], dies_at: int) -> None:
    whole = made(tmp_path / "whole", kind())
    torn, rest = kind(dies_at_call=dies_at), kind()
    with pytest.raises(RuntimeError, match="the machine went away"):
        made(tmp_path / "pools", torn)
    with pytest.raises(ValueError, match=r"pools holds no complete pools; make them with `rewardloop bon pools="):
        load_pools(tmp_path / "pools")
    assert made(tmp_path / "pools", rest) == whole
    assert sorted(torn.asked + rest.asked) == ["1?", "2?", "é?"]
    assert len(torn.asked) == dies_at - 1
    # Whoever fingerprints the folder sees no trace of the interruption.
    files = [sorted(file.relative_to(tmp_path / name).as_posix() for file in (tmp_path / name).rglob("*")) for name in ("whole", "pools")]
    assert files[0] == files[1]
    for file in (tmp_path / "whole").rglob("*.parquet"):
        assert (tmp_path / "pools" / file.relative_to(tmp_path / "whole")).read_bytes() == file.read_bytes()


def test_several_prompts_are_drawn_at_a_time_with_their_places_in_the_task(tmp_path: Path) -> None:
    many = {"a": [Prompt(id=str(i), dialogue=user(f"{i}?"), reference={"length": 1}) for i in range(5)]}

    class Places(Counter):
        def generate(self, prompts: Sequence[Dialogue], sampling: Sampling) -> list[list[Completion]]:
            super().generate(prompts, sampling)
            return [[Completion(text=f"{sampling.first + i}", token_ids=(1,), finished=True)] * sampling.n for i in range(len(prompts))]

    torn, rest = Places(dies_at_call=2), Places()
    with pytest.raises(RuntimeError, match="the machine went away"):
        made(tmp_path, torn, planned(prompts=many), batch_size=2)
    pools = made(tmp_path, rest, planned(prompts=many), batch_size=2)
    assert [row.completions[0] for row in pools["a"]] == list("01234")
    assert (torn.num_calls, rest.num_calls, rest.asked) == (2, 2, ["2?", "3?", "4?"])


def test_a_process_that_is_killed_leaves_its_batches_to_the_next(tmp_path: Path) -> None:
    """A process of its own, killed by SIGKILL while it draws; every prompt is written down as it is drawn."""
    script = f"""
import sys
sys.path.insert(0, {os.getcwd()!r})
from tests.bon.test_pools import Batches, made
from pathlib import Path
class Killed(Batches):
    def generate_batches(self, prompts, sampling, indices):
        for batch in super().generate_batches(prompts, sampling, indices):
            with open({str(tmp_path / "drawn.txt")!r}, "a") as log:
                log.write(self.asked[-1] + "\\n")
            if len(self.asked) == int(sys.argv[1]):
                import os, signal
                os.kill(os.getpid(), signal.SIGKILL)
            yield batch
made(Path({str(tmp_path / "pools")!r}), Killed())
"""
    ended = [subprocess.run([sys.executable, "-c", script, limit], capture_output=True, text=True) for limit in ("2", "99")]
    assert [done.returncode for done in ended] == [-signal.SIGKILL, 0], ended[1].stderr[-500:]
    # The batch that it was killed in was never stored, so it is the only one that is drawn twice.
    assert (tmp_path / "drawn.txt").read_text().split() == ["2?", "1?", "1?", "é?"]
    assert load_pools(tmp_path / "pools") == made(tmp_path / "whole", Batches())


def test_a_batch_that_was_damaged_since_is_drawn_again(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="the machine went away"):
        made(tmp_path / "pools", Counter(dies_at_call=3))
    [first, _] = parts_of(tmp_path / "pools" / "drawing" / "sums")
    content = bytearray(first.read_bytes())
    content[len(content) // 3] ^= 255
    first.write_bytes(content)
    rest, said = Counter(), list[str]()
    assert made(tmp_path / "pools", rest, say=said)["sums"][0].completions == ("1", "22", "333")
    assert rest.asked == ["1?", "é?"]
    assert "part-00000.parquet is no part of a pool" in said[0]


def test_a_mended_verifier_judges_again_and_nothing_is_drawn(tmp_path: Path) -> None:
    folder, said = tmp_path / "pools", list[str]()
    made(folder, Counter())
    untouched = Counter()

    def is_short(completion: str, reference: Mapping[str, Any]) -> float:
        return float(len(completion) < 3)

    plan = planned(verifier=is_short, identity="v2")
    assert not is_made(folder, plan)
    pools = made(folder, untouched, plan, say=said)
    assert [row.correct for row in pools["sums"]] == [(1.0, 1.0, 0.0)] * 2
    assert untouched.num_calls == 0
    assert said == [
        f"the verifier of {task}, or its references, changed: its completions are verified again, and none is drawn" for task in PROMPTS
    ]
    assert load_pools(folder) == pools
    assert is_made(folder, plan)
    mended = {**PROMPTS, "lists": [Prompt(id="lists-0", dialogue=PROMPTS["lists"][0].dialogue, reference={"length": 3})]}
    assert made(folder, untouched, planned(prompts=mended), say=said)["lists"][0].correct == (0.0, 0.0, 1.0)
    assert untouched.num_calls == 0


def test_what_a_verifier_skips_is_neither_right_nor_wrong_and_tried_again(tmp_path: Path) -> None:
    skips, said = ["22"], list[str]()

    def hesitant(completion: str, reference: Mapping[str, Any]) -> float:
        if completion in skips:
            raise SkippedError("no sandbox")
        return is_of_length(completion, reference)

    pools = made(tmp_path / "pools", Counter(), planned(verifier=hesitant), say=said)
    assert [row.correct for row in pools["sums"]] == [(), ()]
    assert "sums: 2 completions were skipped, and accuracy leaves their prompts out: no sandbox (2)" in said
    assert bounds(pools, 2) == {"random": {}, "oracle": {}}
    assert rerank(pools, LengthScorer(), [2]) == {}
    skips.clear()
    untouched = Counter()
    assert made(tmp_path / "pools", untouched, planned(verifier=hesitant))["sums"][0].correct == (0.0, 0.0, 1.0)
    assert untouched.num_calls == 0


def test_a_verifier_that_fails_loses_no_completion(tmp_path: Path) -> None:
    def broken(completion: str, reference: Mapping[str, Any]) -> float:
        raise KeyError("answer")

    with pytest.raises(ValueError, match="KeyError: 'answer'"):
        made(tmp_path / "pools", Counter(), planned(verifier=broken))
    untouched = Counter()
    assert made(tmp_path / "pools", untouched)["sums"][0].correct == (0.0, 0.0, 1.0)
    assert untouched.num_calls == 0


def test_a_completion_may_hold_any_character(tmp_path: Path) -> None:
    strange = 'a\u2028b\u2029c\x85d\x0be\x1cf\r\ng"h\\n\ufffdé\x00'

    class Strange(Counter):
        def generate(self, prompts: Sequence[Dialogue], sampling: Sampling) -> list[list[Completion]]:
            return [[Completion(text=strange, token_ids=(1,), finished=True)] for _ in prompts]

    assert made(tmp_path / "pools", Strange())["lists"][0].completions == (strange,)


def test_pools_that_were_cut_altered_or_lost_are_refused(tmp_path: Path) -> None:
    made(tmp_path / "pools", Counter())
    [file] = parts_of(tmp_path / "pools" / "drawn" / "sums")
    whole = file.read_bytes()
    assert [row.id for row in read_drawn(file, "")] == ["sums-0", "sums-1"]
    for content, why in (
        (whole[:-9], r"part-00000\.parquet has .* bytes instead of"),
        (whole.replace(b"333", b"444"), r"the content of drawn/sums/part-00000\.parquet has changed"),
    ):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=rf"the pools in {tmp_path}/pools have changed since they were drawn: .*{why}.*; restore"):
            load_pools(tmp_path / "pools")
    file.unlink()
    with pytest.raises(ValueError, match=r"part-00000\.parquet is missing"):
        load_pools(tmp_path / "pools")


# Pools of earlier versions


def old(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True)
    manifest = {"tasks": ["sums"], "sampling": {"n": 2}, "origin": {"policy": "abc"}, "num_rows": {"sums": 1}}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    (folder / "sums.jsonl").write_text(ROW % ('["a", "b"]', "[1.0, 0.0]"))
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(content)
    (folder / MARKER).write_text("")
    return folder


def test_pools_of_earlier_versions_are_read_and_drawn_again_only_for_other_settings(tmp_path: Path) -> None:
    folder = old(tmp_path / "pools")
    assert load_pools(folder) == {"sums": [PoolRow(id="1", prompt=user("?"), completions=("a", "b"), correct=(1.0, 0.0))]}
    with pytest.raises(ValueError, match=r"or pools of an earlier version; take them as they are \(tasks=none\), delete that folder"):
        made(folder, Counter())
    assert is_complete(folder)
    sampling = {"n": 3, "temperature": 0.8, "max_new_tokens": 5, "seed": 0, "first": 0}
    manifest = {"tasks": ["lists", "sums"], "sampling": sampling, "origin": {"policy": "abc"}, "num_rows": {"sums": 1}}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    assert is_made(folder, planned(origin={"policy": "abc"}))


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        (MANIFEST, "", r"pool\.json is empty"),
        (MANIFEST, '{"tasks": ["su', r"pool\.json is no JSON"),
        (MANIFEST, "{}", r"pool\.json names no tasks"),
        ("sums.jsonl", '{"id": "sums-0", "pro', r"sums\.jsonl, row 1 is no JSON"),
        ("sums.jsonl", "", r"sums\.jsonl has no rows"),
        ("sums.jsonl", ROW % ('["a"]', '["right"]'), r"sums\.jsonl, row 1 is no row of a pool \(could not convert"),
        ("sums.jsonl", ROW % ("[null]", "[1]"), r"sums\.jsonl, row 1 has completions that are not a list of texts"),
        ("sums.jsonl", ROW % ('"a"', "[1]"), r"sums\.jsonl, row 1 has completions that are not a list of texts"),
        ("sums.jsonl", '{"id": "1", "prompt": "?"}\n', r"sums\.jsonl, row 1 is no row of a pool \(KeyError: 'completions'\)"),
        ("sums.jsonl", '{"id": "1", "prompt": "?", "completions": ["a", "b"], "correct": [1]}', "2 completions and 1 values of `correct`"),
        ("sums.jsonl", ROW % ('["a"]', "[NaN]"), "row 1 has nan among its values of `correct`, which lie between 0 and 1"),
        ("sums.jsonl", ROW % ('["a"]', "[-1.0]"), "row 1 has -1.0 among its values of `correct`, which lie between 0 and 1"),
    ],
)
def test_broken_pools_are_refused_by_file_and_row_with_what_to_do(tmp_path: Path, name: str, content: str, why: str) -> None:
    folder = old(tmp_path / "pools")
    (folder / name).write_text(content)
    with pytest.raises(ValueError, match=rf"{why}.*; restore the file, or delete the folder to draw the pools again"):
        load_pools(folder)
