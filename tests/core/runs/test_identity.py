"""The same settings have the same hash, and any name becomes one fit for a folder."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import pytest

from core.runs.identity import clean_name, identity_hash


def test_the_hash_is_that_of_canonical_json() -> None:
    class Mix(StrEnum):
        tulu = "tulu"

    @dataclass
    class Data:
        mix: Mix
        path: Path

    # sha256 of {"data":{"mix":"tulu","path":"a/b"},"lr":3e-06} by `printf ... | sha256sum`
    expected = "c0c7a1b0"
    assert identity_hash({"lr": 3e-6, "data": Data(mix=Mix.tulu, path=Path("a/b"))}) == expected
    assert identity_hash({"data": {"path": "a/b", "mix": "tulu"}, "lr": 0.000003}) == expected


@pytest.mark.parametrize(
    ("name", "cleaned"), [("Tulu + Skywork", "tulu-skywork"), ("a/../b", "a-..-b"), ("lr=1e-6,ep=2", "lr-1e-6-ep-2"), ("-x-", "x")]
)
def test_names_become_safe_file_names(name: str, cleaned: str) -> None:
    assert clean_name(name) == cleaned


@pytest.mark.parametrize("name", ["", "..", " / ", "---"])
def test_a_name_without_letters_or_digits_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="holds no letter or digit"):
        clean_name(name)
