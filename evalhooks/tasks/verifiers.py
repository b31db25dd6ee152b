"""Verifiers for real tasks, one function each; a configuration names one as `evalhooks.tasks.verifiers:gsm8k`.

Each judges a completion as it was written, so that it also serves as a reward: the answer alone counts, not reasoning in
`<think>...</think>` before it. Each raises `ValueError` for a row that lacks what it needs, and where a package is missing.
"""

import json
from collections.abc import Mapping
from typing import Any

from core.data.thinking import answer_of
from core.functions import SkippedError
from evalhooks.tasks.code import preamble, program_of
from evalhooks.tasks.final_number import final_number
from evalhooks.tasks.instructions import follows_all
from evalhooks.tasks.math_answers import equal_answers
from evalhooks.tasks.sandbox.run import require_sandbox, run_tests
from evalhooks.tasks.short_answers import given_answer, names_any, same_answer


def gsm8k(completion: str, reference: Mapping[str, object]) -> float:
    """1.0 if the final number of the completion equals the one after "####" in `reference["answer"]`, else 0.0.

    What the final number of a text is, and how numbers are read: see `evalhooks.tasks.final_number`.
    """
    _require("GSM8K", reference, "answer")
    expected = final_number(str(reference["answer"]).rsplit("####", 1)[-1])
    if expected is None:
        raise ValueError(f"the reference answer {reference['answer']!r:.80} of a GSM8K row contains no number; fix or remove the row.")
    return float(final_number(answer_of(completion)) == expected)


def math(completion: str, reference: Mapping[str, object]) -> float:
    """1.0 if the completion's final answer equals `reference["answer"]`, or where there is none that boxed in `["solution"]`, else 0.0.

    For MATH and MATH-500. Equality is math-verify's: of numbers, expressions, sets, intervals, tuples, matrices. Raises `SkippedError`
    where it finds no verdict in time.
    """
    if "answer" not in reference:
        _require("MATH", reference, "solution")
    return float(equal_answers(answer_of(completion), str(reference.get("answer", "")), str(reference.get("solution", ""))))


def humaneval(completion: str, reference: Mapping[str, object]) -> float:
    """1.0 if the completion's program passes the row's `test` in the sandbox, else 0.0; for HumanEval and HumanEval+.

    The completion is a program in a block of code, or what follows `reference["prompt"]`. Raises `ValueError` where there is no sandbox.
    """
    _require("HumanEval", reference, "prompt", "entry_point", "test")
    require_sandbox()
    prompt, entry_point = str(reference["prompt"]), str(reference["entry_point"])
    program = program_of(answer_of(completion), prompt, entry_point)
    tests = f"{preamble(prompt, entry_point)}\n{reference['test']}"
    return float(run_tests(program, tests, entry_point=entry_point).passed)


def ifeval(completion: str, reference: Mapping[str, Any]) -> float:
    """1.0 if the completion follows all instructions of an IFEval row strictly (prompt-level strict accuracy), else 0.0."""
    return follows_all("ifeval", answer_of(completion), reference, loose=False)


def ifeval_loose(completion: str, reference: Mapping[str, Any]) -> float:
    """As `ifeval`, by the loose criterion (prompt-level loose accuracy), which Tulu 3 reports."""
    return follows_all("ifeval", answer_of(completion), reference, loose=True)


def ifbench(completion: str, reference: Mapping[str, Any]) -> float:
    """1.0 if the completion follows all instructions of an IFBench row by the loose criterion, which its authors report, else 0.0."""
    return follows_all("ifbench", answer_of(completion), reference, loose=True)


def bbh(completion: str, reference: Mapping[str, object]) -> float:
    """1.0 if the answer that the completion gives is `reference["target"]`, of a BIG-Bench Hard row, else 0.0."""
    _require("BIG-Bench Hard", reference, "target")
    return float(same_answer(given_answer(answer_of(completion)), str(reference["target"]).strip()))


def popqa(completion: str, reference: Mapping[str, object]) -> float:
    """1.0 if the completion names any of `reference["possible_answers"]` (a list, or JSON of one), else 0.0 (Mallen et al. 2023)."""
    _require("PopQA", reference, "possible_answers")
    answers = reference["possible_answers"]
    aliases = json.loads(answers) if isinstance(answers, str) else answers
    if not isinstance(aliases, list) or not aliases:
        raise ValueError(f"possible_answers of a PopQA row is {answers!r:.80}; give a list of texts, or JSON of one.")
    return float(names_any(answer_of(completion), map(str, aliases)))


def preferred(completion: str, reference: Mapping[str, object]) -> float:
    """Skips every row, for want of a judge; `tasks.NAME.judge` names one, which then says which of two answers it prefers."""
    raise SkippedError("no judge is named; give tasks.NAME.judge.model=NAME or tasks.NAME.judge.path=FOLDER")


def _require(what: str, reference: Mapping[str, object], *keys: str) -> None:
    for key in keys:
        if key not in reference:
            raise ValueError(f"a {what} row needs {key!r}; this one has {sorted(reference)}.")
