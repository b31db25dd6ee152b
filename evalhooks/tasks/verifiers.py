"""Verifiers for real tasks, one function each; a configuration names one as `evalhooks.tasks.verifiers:gsm8k`."""

import re
from collections.abc import Mapping
from decimal import Decimal

# A hyphen after a letter or digit is not a minus sign: "3-4 days" ends in 4.
_NUMBER = re.compile(r"(?<![\w.])-?(?:\d[\d,]*(?:\.\d+)?|\.\d+)")


def gsm8k(completion: str, reference: Mapping[str, object]) -> float:
    """1.0 if the last number in the completion equals the one after "####" in `reference["answer"]`, else 0.0."""
    if "answer" not in reference:
        raise ValueError(f"a GSM8K row needs an 'answer'; this one has {sorted(reference)}.")
    expected = _last_number(str(reference["answer"]).rsplit("####", 1)[-1])
    if expected is None:
        raise ValueError(f"the reference answer {reference['answer']!r:.80} of a GSM8K row contains no number; fix or remove the row.")
    return float(_last_number(completion) == expected)


def _last_number(text: str) -> Decimal | None:
    numbers = _NUMBER.findall(text.replace("$", ""))
    return Decimal(numbers[-1].replace(",", "")) if numbers else None
