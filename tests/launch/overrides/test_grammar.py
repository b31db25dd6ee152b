"""Overrides are taken apart where Hydra's grammar allows it, and any value survives the way through it."""

import pytest

from launch.compose import combinations, composed
from launch.overrides.grammar import quoted, split_line
from launch.schema import RMJob
from tests.launch.sweeps import OWN

AWKWARD = ("a b", "a,b", "it's", 'say "x"', "a=b", "{a: 1}", "[1,2]", "back\\", "\\'", "${epochs}", "~x", "(x)", "#x", "")


@pytest.mark.parametrize("text", AWKWARD)
def test_a_quoted_value_arrives_as_it_was(text: str) -> None:
    job = composed(RMJob, [*OWN, f"data.name={quoted(text)}"]).job
    assert job.data.name == text


def test_a_line_of_overrides_is_split_at_blanks_outside_of_quotes_and_brackets() -> None:
    line = "model=coast  data.name='a b, c'\n data.paths=['x y.jsonl', z.jsonl] optim.lr=1e-3, 1e-4 epochs=1 ,2"
    assert split_line(line) == [
        "model=coast",
        "data.name='a b, c'",
        "data.paths=['x y.jsonl', z.jsonl]",
        "optim.lr=1e-3,1e-4",
        "epochs=1,2",
    ]


def test_a_quote_within_quotes_and_an_escaped_blank_do_not_split() -> None:
    assert split_line(r"""name="it's a" data.name='it\'s b' study=a\ b""") == ['name="it\'s a"', r"data.name='it\'s b'", r"study=a\ b"]


def test_values_with_commas_and_quotes_survive_a_sweep() -> None:
    lists = combinations(split_line("data.name='a, b','c=d' optim.lr=1e-3"))
    assert [composed(RMJob, [*OWN, *texts]).job.data.name for texts in lists] == ["a, b", "c=d"]
