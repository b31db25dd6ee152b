"""The commands of docs/first-day.md, so that the page says nothing that does not run."""

import re
import shlex
from collections.abc import Mapping
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "first-day.md"
_BLOCK = re.compile(r"^```\n(.*?)^```", flags=re.MULTILINE | re.DOTALL)


def commands() -> list[list[str]]:
    """The commands in their order, each as its arguments after `rewardloop`."""
    lines = "\n".join(_BLOCK.findall(PAGE.read_text(encoding="utf-8"))).replace("\\\n", " ").splitlines()
    return [shlex.split(line)[1:] for line in lines if line.startswith("rewardloop ")]


def filled(arguments: list[str], words: Mapping[str, str]) -> list[str]:
    """A command with the page's words, such as `RM`, replaced by what they stand for."""
    if not words:
        return arguments
    pattern = re.compile(rf"(?<![\w.])({'|'.join(map(re.escape, words))})(?![\w.])")
    return [pattern.sub(lambda match: words[match[1]], argument) for argument in arguments]
