"""The same settings have the same hash, and any name becomes one fit for a folder."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import pytest

from core.runs.identity import clean_name, identity_hash, study_name


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
    ("name", "cleaned"),
    [
        *(("Tulu + Skywork", "tulu-skywork"), ("a/../b", "a-..-b"), ("lr=1e-6,ep=2", "lr-1e-6-ep-2"), ("-x-", "x")),
        *(
            (" UP. ", "up"),
            ("研究 1", "研究-1"),
            ("Straße", "strasse"),
            ("\uff21\uff22", "ab"),
            ("a\x1b[31mb\u202e", "a-31mb"),
            ("007", "007"),
        ),
    ],
)
def test_names_become_safe_file_names(name: str, cleaned: str) -> None:
    assert clean_name(name) == cleaned


def test_one_name_has_one_folder_however_its_letters_are_encoded() -> None:
    composed, apart = "M\u00fcnchen", "Mu\u0308nchen"
    assert clean_name(composed) == clean_name(apart) == clean_name(apart.upper()) == "m\u00fcnchen"


@pytest.mark.parametrize("name", ["x" * 99 + "--y", "字" * 80, "\u0130stanbul", "\u1e9e", "\ufb03", "a" + "\u0300" * 90])
def test_cleaning_twice_changes_nothing_and_a_name_fits_a_file_system(name: str) -> None:
    assert clean_name(clean_name(name)) == clean_name(name)
    assert len(clean_name(name).encode()) <= 100


@pytest.mark.parametrize("name", ["../esc", "a/../b", "..", "/abs", "~", "~/x", "a\\..\\b", " /x"])
def test_a_path_is_no_name(name: str) -> None:
    with pytest.raises(ValueError, match=r"study=.* is a path; give a name .* runs_dir=FOLDER"):
        study_name(name)


def test_a_name_that_would_be_cut_is_refused_since_two_might_become_one() -> None:
    assert study_name("a" * 100) == "a" * 100
    with pytest.raises(ValueError, match="has 101 bytes"):
        study_name("a" * 101)


@pytest.mark.parametrize("name", ["", "..", " / ", "---"])
def test_a_name_without_letters_or_digits_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="holds no letter or digit"):
        clean_name(name)
