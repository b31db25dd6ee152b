"""Small files of a user's, written for the day: pairs, benchmark rows of all domains, questions with answers."""

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

DOMAINS = ("Factuality", "Precise IF", "Math", "Safety", "Focus")


def write_files(folder: Path) -> None:
    """Writes `pairs.jsonl`, `rows.jsonl`, `prompts.jsonl` and `test.jsonl`."""
    draw = random.Random(0)
    _write(folder / "pairs.jsonl", [_pair(draw) for _ in range(80)])
    rows = [_row(draw, f"{domain}-{number}", domain) for domain in DOMAINS for number in range(8)]
    _write(folder / "rows.jsonl", rows + [row for number in range(4) for row in _ties(draw, number)])
    _write(folder / "prompts.jsonl", [_question(draw) for _ in range(24)])
    _write(folder / "test.jsonl", [_question(draw) for _ in range(8)])


def _write(file: Path, rows: Sequence[Mapping[str, object]]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _pair(draw: random.Random) -> dict[str, object]:
    a, b = draw.randint(1, 40), draw.randint(1, 40)
    return {"prompt": f"What is {a} plus {b}?", "chosen": f"The sum is {a + b}.", "rejected": f"No idea, ask {draw.randint(2, 9)} others!"}


def _row(draw: random.Random, key: str, domain: str) -> dict[str, object]:
    a, b = draw.randint(1, 40), draw.randint(1, 40)
    wrong = [f"The sum is {a + b + off}." for off in draw.sample(range(1, 9), 2)] + ["No idea!"]
    return {"id": key, "subset": domain, "prompt": f"What is {a} plus {b}?", "chosen": [f"The sum is {a + b}."], "rejected": wrong}


def _ties(draw: random.Random, number: int) -> list[dict[str, object]]:
    a = draw.randint(1, 40)
    question, wrong = f"Name a number above {a}.", [f"{a - off}." for off in (1, 2)]
    right = [f"{a + off}." for off in draw.sample(range(1, 9), 2)]
    one = {"id": f"ref:{number}", "subset": "Ties", "prompt": question, "chosen": right[:1], "rejected": wrong}
    return [one, {**one, "id": f"tied:{number}", "chosen": right}]


def _question(draw: random.Random) -> dict[str, object]:
    a, b = draw.randint(1, 9), draw.randint(1, 9)
    return {
        "question": f"Ann has {a} plums and buys {b}. How many has she?",
        "answer": f"She has {a}+{b}=<<{a}+{b}={a + b}>>{a + b}.\n#### {a + b}",
    }
