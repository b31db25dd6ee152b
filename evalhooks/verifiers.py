"""Verifiers of real tasks."""

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

_NUMBER = re.compile(r"-?\$?\d[\d,]*(?:\.\d+)?")


def gsm8k(completion: str, reference: Mapping[str, Any]) -> float:
    """1.0 where the last number of the answer equals the one after "####" in `reference["answer"]`."""
    numbers = _NUMBER.findall(completion.replace("$", ""))
    if not numbers:
        return 0.0
    expected = str(reference["answer"]).rsplit("####", 1)[-1].strip().replace(",", "").replace("$", "")
    return float(Decimal(numbers[-1].replace(",", "")) == Decimal(expected))
