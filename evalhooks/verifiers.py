"""Verifiers of real tasks."""

import re
from collections.abc import Mapping
from typing import Any

from math_verify import parse, verify

_NUMBER = re.compile(r"-?\$?\d[\d,]*(?:\.\d+)?")


def gsm8k(completion: str, reference: Mapping[str, Any]) -> float:
    """1.0 where the last number of the answer equals the one after "####" in `reference["answer"]`."""
    numbers = _NUMBER.findall(completion.replace("$", ""))
    if not numbers:
        return 0.0
    expected = str(reference["answer"]).rsplit("####", 1)[-1].strip().replace(",", "")
    found = numbers[-1].replace(",", "")
    # Timeouts of math-verify use signals, which only the main thread may; plain numbers need none.
    return float(verify(parse(expected, parsing_timeout=None), parse(found, parsing_timeout=None), timeout_seconds=None))
