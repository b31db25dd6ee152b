"""Pools are drawn once, survive a kill, and are reranked with numbers that can be worked out by hand."""

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from bon.pools import MANIFEST, PoolRow, Pools, bounds, load_pools, make_pools, rerank
from core.disk import MARKER
from core.records import Completion, Dialogue, Message, Prompt, Sampling, user
from tests.fakes import LengthScorer

ROW = '{"id": "1", "prompt": "?", "completions": %s, "correct": %s}\n'


class Counter:
    """Answers with the first n of "1", "22", "333", ...; remembers how often it was asked, and may die."""

    def __init__(self, *, dies_at_call: int = 0) -> None:
        self.num_calls, self.dies_at_call = 0, dies_at_call

    def generate(self, prompts: Sequence[Dialogue], sampling: Sampling) -> list[list[Completion]]:
        self.num_calls += 1
        if self.num_calls == self.dies_at_call:
            raise RuntimeError("the machine went away")
        return [[Completion(text=str(i) * i, token_ids=(i,), finished=True) for i in range(1, sampling.n + 1)] for _ in prompts]


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


def made(folder: Path, generator: Counter, advanced: list[int] | None = None) -> Pools:
    verifiers = dict.fromkeys(PROMPTS, is_of_length)
    return make_pools(
        folder, PROMPTS, verifiers, generator, SAMPLING, ([] if advanced is None else advanced).append, origin={"policy": "abc"}
    )


def test_a_pool_holds_every_completion_of_every_prompt_with_its_correctness(tmp_path: Path) -> None:
    advanced: list[int] = []
    pools = made(tmp_path / "pools", Counter(), advanced)
    completions = ("1", "22", "333")
    assert pools == {
        "sums": [
            PoolRow(id="sums-0", prompt=user("1?"), completions=completions, correct=(0.0, 0.0, 1.0)),
            PoolRow(id="sums-1", prompt=user("2?"), completions=completions, correct=(1.0, 0.0, 0.0)),
        ],
        "lists": [
            PoolRow(id="lists-0", prompt=PROMPTS["lists"][0].dialogue, completions=completions, correct=(0.0, 1.0, 0.0)),
        ],
    }  # fmt: skip
    assert advanced == [2, 1]
    manifest = json.loads((tmp_path / "pools" / MANIFEST).read_text())
    assert (manifest["tasks"], manifest["sampling"]["n"], manifest["origin"]) == (["lists", "sums"], 3, {"policy": "abc"})


def test_a_pool_is_made_once_and_read_afterwards(tmp_path: Path) -> None:
    first = made(tmp_path / "pools", Counter())
    untouched = Counter()
    assert made(tmp_path / "pools", untouched) == first
    assert untouched.num_calls == 0


def test_pools_of_another_policy_are_refused(tmp_path: Path) -> None:
    made(tmp_path / "pools", Counter())
    verifiers = dict.fromkeys(PROMPTS, is_of_length)
    folder = tmp_path / "pools"
    remedy = rf"delete that folder \({re.escape(str(folder))}\) to draw them again, or name another folder: pools=OTHER"
    with pytest.raises(ValueError, match=remedy):
        make_pools(folder, PROMPTS, verifiers, Counter(), SAMPLING, [].append, origin={"policy": "another"})
    shutil.rmtree(folder)  # the remedy does what it says
    make_pools(folder, PROMPTS, verifiers, Counter(), SAMPLING, [].append, origin={"policy": "another"})


def test_a_pool_whose_making_was_cut_short_is_absent_and_made_anew(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="the machine went away"):
        made(tmp_path / "pools", Counter(dies_at_call=2))
    with pytest.raises(ValueError, match=r"pools holds no complete pools; make them with `rewardloop bon pools="):
        load_pools(tmp_path / "pools")
    generator = Counter()
    assert set(made(tmp_path / "pools", generator)) == {"sums", "lists"}
    assert generator.num_calls == 2


def test_a_torn_pool_folder_is_replaced(tmp_path: Path) -> None:
    expected = made(tmp_path / "pools", Counter())
    (tmp_path / "pools" / MARKER).unlink()
    (tmp_path / "pools" / "sums.jsonl").write_text('{"id": "sums-0", "pro')
    (tmp_path / "pools" / "stray.jsonl").touch()
    assert made(tmp_path / "pools", Counter()) == expected
    assert not (tmp_path / "pools" / "stray.jsonl").exists()


def test_a_completion_may_hold_any_character(tmp_path: Path) -> None:
    strange = 'a\u2028b\u2029c\x85d\x0be\x1cf\r\ng"h\\n\ufffdé'

    class Strange(Counter):
        def generate(self, prompts: Sequence[Dialogue], sampling: Sampling) -> list[list[Completion]]:
            return [[Completion(text=strange, token_ids=(1,), finished=True)] for _ in prompts]

    assert made(tmp_path / "pools", Strange())["lists"][0].completions == (strange,)


def drawn(folder: Path) -> Path:
    made(folder, Counter())
    return folder / "sums.jsonl"


def test_pools_that_were_cut_or_filled_up_are_refused_with_their_numbers_of_rows(tmp_path: Path) -> None:
    file = drawn(tmp_path / "pools")
    whole = file.read_text()
    for rows, text in ((1, whole.splitlines()[0] + "\n"), (4, whole * 2), (0, "")):
        file.write_text(text)
        words = rf"the pools in {tmp_path}/pools have changed since they were drawn: sums\.jsonl has {rows} rows instead of 2; restore"
        with pytest.raises(ValueError, match=words):
            load_pools(tmp_path / "pools")
        with pytest.raises(ValueError, match=words):
            made(tmp_path / "pools", Counter())
    file.unlink()
    with pytest.raises(ValueError, match="has 0 rows instead of 2"):
        load_pools(tmp_path / "pools")


def test_pools_that_were_altered_are_refused_unless_that_is_meant(tmp_path: Path) -> None:
    file = drawn(tmp_path / "pools")
    file.write_text(file.read_text().replace("0.0, 0.0, 1.0", "1.0, 0.0, 1.0"))
    with pytest.raises(ValueError, match=r"the content of sums\.jsonl has changed; .* if the change is meant, empty .*COMPLETE"):
        load_pools(tmp_path / "pools")
    (tmp_path / "pools" / MARKER).write_text("")
    assert load_pools(tmp_path / "pools")["sums"][0].correct == (1.0, 0.0, 1.0)


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
    ],
)
def test_broken_pools_of_any_version_are_refused_by_file_and_row_with_what_to_do(tmp_path: Path, name: str, content: str, why: str) -> None:
    drawn(tmp_path / "pools")
    (tmp_path / "pools" / MARKER).write_text("")
    (tmp_path / "pools" / name).write_text(content)
    with pytest.raises(ValueError, match=rf"{why}.*; restore the file, or delete the folder to draw the pools again"):
        load_pools(tmp_path / "pools")


def pool(*rows: Sequence[tuple[str, float]]) -> list[PoolRow]:
    return [
        PoolRow(id=str(i), prompt=user("?"), completions=tuple(text for text, _ in row), correct=tuple(correct for _, correct in row))
        for i, row in enumerate(rows)
    ]


def test_reranking_is_the_mean_over_prompts_and_then_over_tasks() -> None:
    # LengthScorer prefers the longer. In "a", the longest is right in the first row and wrong in the second:
    #   @1: means 1/3 and 1/3, so 1/3. @3: 1 and 0, so 1/2.
    #   @2: pairs {ccc,bb} {ccc,a} {bb,a} pick 1, 1, 0: 2/3; {dd,e} {dd,ffff} {e,ffff} pick 1, 0, 0: 1/3; so 1/2.
    # In "b" the two longest tie, one of them right: @1 2/3; @2: {yy,zz} 1/2, {yy,x} 1, {zz,x} 0: 1/2; @3 1/2.
    # The averages weigh tasks, not prompts: (1/3 + 2/3) / 2 = 1/2 (over prompts it would be 4/9).
    pools = {
        "a": pool([("a", 0.0), ("bb", 0.0), ("ccc", 1.0)], [("dd", 1.0), ("e", 0.0), ("ffff", 0.0)]),
        "b": pool([("x", 1.0), ("yy", 1.0), ("zz", 0.0)]),
    }
    scorer = LengthScorer()
    metrics = rerank(pools, scorer, [1, 2, 3])
    assert metrics == pytest.approx(
        {
            "bon/a@1": 1 / 3,
            "bon/b@1": 2 / 3,
            "bon/average@1": 1 / 2,
            "bon/a@2": 1 / 2,
            "bon/b@2": 1 / 2,
            "bon/average@2": 1 / 2,
            "bon/a@3": 1 / 2,
            "bon/b@3": 1 / 2,
            "bon/average@3": 1 / 2,
        },
        abs=1e-12,
    )
    assert len(scorer.calls) == 1, "all sizes come from one pass of the reward model"


def test_bounds_are_the_share_of_right_completions_and_the_chance_that_n_hold_one() -> None:
    # "a": shares 1/4 and 0, mean 1/8; pass@2 = 1 - C(3,2)/C(4,2) = 1/2 and 0, mean 1/4. "b": 1 and 1.
    pools = {"a": pool([("p", 1.0), ("q", 0.0), ("r", 0.0), ("s", 0.0)], [("p", 0.0)] * 4), "b": pool([("p", 1.0)] * 4)}
    assert bounds(pools, 2) == {
        "random": {"a": pytest.approx(1 / 8), "b": 1.0, "average": pytest.approx(9 / 16)},
        "oracle": {"a": pytest.approx(1 / 4), "b": 1.0, "average": pytest.approx(5 / 8)},
    }


def test_a_pool_smaller_than_n_is_refused() -> None:
    with pytest.raises(ValueError, match="best-of-16 needs"):
        rerank({"a": pool([("x", 1.0)])}, LengthScorer(), [16])


class Fixed:
    """Gives the numbers that the completions spell."""

    def score(self, prompts: Sequence[Dialogue], completions: Sequence[Sequence[str]]) -> list[list[float]]:
        return [[float(text) for text in texts] for texts in completions]


def test_a_nan_picks_nothing_right_and_is_named_and_a_task_of_nothing_else_is_left_out() -> None:
    pools = {
        "a": pool([("nan", 1.0), ("1", 1.0)], [("2", 1.0), ("1", 0.0)], [("inf", 1.0), ("1", 0.0)]),
        "b": pool([("nan", 1.0), ("nan", 1.0)]),
    }
    said: list[str] = []
    assert rerank(pools, Fixed(), [2], said.append) == {"bon/a@2": pytest.approx(2 / 3)}  # no average of one of two tasks
    assert said == [
        "best-of-n: 2 of 3 rows of a have scores that are NaN or infinite, and a NaN counts as a wrong pick in bon/a: 0, 2",
        "best-of-n: 1 of 1 rows of b have scores that are NaN or infinite, which leaves no row to measure, so there is no bon/b: 0",
    ]


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), 100.0, -1.0])
def test_stored_results_of_a_verifier_are_checked_when_pools_are_read(tmp_path: Path, wrong: float) -> None:
    made(tmp_path / "pools", Counter())
    file = tmp_path / "pools" / "sums.jsonl"
    first, *rest = file.read_text().splitlines()
    row = json.loads(first)
    row["correct"][-1] = wrong
    file.write_text("\n".join([json.dumps(row), *rest]) + "\n")
    (tmp_path / "pools" / MARKER).write_text("")  # the change is meant
    with pytest.raises(ValueError, match=rf"sums.jsonl, row 1 has {wrong} among its values of `correct`, which lie between 0 and 1"):
        load_pools(tmp_path / "pools")
