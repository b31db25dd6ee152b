"""What docs/architecture.md says of the code is so."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
PACKAGES = ("core", "rmtrain", "ppo", "bon", "evalhooks", "launch", "microworld", "rewardloop")
LANDMARK = re.compile(r"^\| (.+) \| `([\w/]+\.py)` \| `(\w+)` \|$", flags=re.MULTILINE)
SUFFIX = re.compile(r"[a-z][a-z0-9]*(?:_[a-z0-9]+)*_([A-Z12]*[A-Z][A-Z12]*)")


@pytest.mark.parametrize(("what", "file", "name"), LANDMARK.findall(PAGE))
def test_what_is_to_be_found_is_where_the_page_says(what: str, file: str, name: str) -> None:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    defined = [node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    assert name in defined, f"{what}: {file} defines no {name}"


def test_the_page_answers_what_a_stranger_asks_first() -> None:
    answered = {what for what, _, _ in LANDMARK.findall(PAGE)}
    assert {
        "the loop of PPO",
        "the Bradley-Terry loss",
        "the Ties formula",
        "where a checkpoint becomes visible",
        "where a hook is called",
        "where an engine shards",
    } <= answered


def test_the_page_lists_every_room_of_core() -> None:
    listed = re.findall(r"^\| \d? ?\| `(\w+)` \|", PAGE, flags=re.MULTILINE)
    assert sorted(listed) == sorted(folder.parent.name for folder in (ROOT / "core").glob("*/__init__.py"))


def shape_letters(source: str) -> set[str]:
    names = {node.id for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)}
    names |= {node.arg for node in ast.walk(ast.parse(source)) if isinstance(node, ast.arg)}
    return {letter for name in names if (match := SUFFIX.fullmatch(name)) for letter in match[1]}


def test_the_legend_explains_every_letter_that_tensors_are_named_with() -> None:
    legend = PAGE[PAGE.index("## Names of tensors") : PAGE.index("## microworld")]
    explained = {letter for line in re.findall(r"^\| (`.*?) \|", legend, flags=re.MULTILINE) for letter in re.findall(r"`(.)`", line)}
    used: dict[str, str] = {}
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            used |= {letter: str(file.relative_to(ROOT)) for letter in shape_letters(file.read_text(encoding="utf-8"))}
    missing = {letter: file for letter, file in used.items() if letter not in explained}
    assert not missing, f"letters without a line in the legend, and a file that uses each: {missing}"
    assert not explained - used.keys(), f"letters that nothing is named with: {sorted(explained - used.keys())}"
