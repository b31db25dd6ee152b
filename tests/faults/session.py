"""All that was asked for, tried and counted."""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from tests.faults.case import Case, Outcome, chosen, try_all
from tests.faults.disk.cases import disk_cases
from tests.faults.inputs.cases import input_cases
from tests.faults.kills.cases import kill_cases
from tests.faults.page import Result, write_page
from tests.faults.stage import Stage, build_stage

MOST: Mapping[str, int] = {"inputs": 900}
"""Cases of a part that are tried unless more or fewer are asked for, so that all parts take a quarter of an hour."""

MAKERS: Mapping[str, Callable[[Stage, int], list[Case]]] = {"kills": kill_cases, "disk": disk_cases, "inputs": input_cases}
"""What makes the cases of each part from the stage and the seed."""


def run(asked: argparse.Namespace, scratch: Path, *, parts: Sequence[str]) -> bool:
    """Tries the cases of `parts`, and writes results and page if they are asked for; returns whether all held."""
    stage = build_stage(scratch / "stage")
    outcomes: list[Outcome] = []
    for part in parts:
        most = 0 if asked.all or asked.only or asked.list else MOST.get(part, 0)
        cases = chosen(MAKERS[part](stage, asked.seed), only=asked.only, sample=asked.sample or most, seed=asked.seed)
        if asked.list:
            print(*(case.name for case in cases), sep="\n")
        else:
            outcomes += try_all(cases, scratch, say=lambda line: print(line, flush=True))
    for group in dict.fromkeys(outcome.case.group for outcome in outcomes):
        own = [outcome for outcome in outcomes if outcome.case.group == group]
        print(f"{group}: {sum(outcome.held for outcome in own)} of {len(own)} held, {sum(outcome.seconds for outcome in own):.0f} s")
    results = [Result(name=outcome.case.name, problems=outcome.problems) for outcome in outcomes]
    if asked.results:
        results = _merged(asked.results, results)
    if asked.page:
        write_page(asked.page, results, seed=asked.seed)
    return all(outcome.held for outcome in outcomes)


def _merged(file: Path, results: Sequence[Result]) -> list[Result]:
    """Puts results in place of earlier ones of the same cases in the file, and returns all that it then holds, part by part."""
    before = [Result(**entry) for entry in json.loads(file.read_text())] if file.is_file() else []
    tried = {result.name for result in results}
    merged = [*(result for result in before if result.name not in tried), *results]
    merged.sort(key=lambda result: list(MAKERS).index(result.name.split("/")[0]))
    file.write_text(json.dumps([asdict(result) for result in merged], indent=1) + "\n")
    return merged
