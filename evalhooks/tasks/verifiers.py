"""Verifiers for real tasks, one function each; a configuration names one as `evalhooks.tasks.verifiers:gsm8k`."""

from collections.abc import Mapping

from evalhooks.tasks.final_number import final_number


def gsm8k(completion: str, reference: Mapping[str, object]) -> float:
    """1.0 if the final number of the completion equals the one after "####" in `reference["answer"]`, else 0.0.

    What the final number of a text is, and how numbers are read: see `evalhooks.tasks.final_number`.
    """
    if "answer" not in reference:
        raise ValueError(f"a GSM8K row needs an 'answer'; this one has {sorted(reference)}.")
    expected = final_number(str(reference["answer"]).rsplit("####", 1)[-1])
    if expected is None:
        raise ValueError(f"the reference answer {reference['answer']!r:.80} of a GSM8K row contains no number; fix or remove the row.")
    return float(final_number(completion) == expected)
