"""HumanEval's programs: from a completion to code that runs."""

import re

_FENCE = re.compile(r"^[ \t]*(?:```|~~~)[^\n`]*\n(.*?)(?:^[ \t]*(?:```|~~~)|\Z)", re.DOTALL | re.MULTILINE)
_STOPS = ("\nclass ", "\ndef ", "\n#", "\nif ", "\nprint(", "\n@", "\nassert ")
"""What follows a function's body when a model goes on writing: it ends there (Chen et al. 2021, section 2.1)."""


def program_of(completion: str, prompt: str, entry_point: str) -> str:
    """The program in a completion of `prompt`, which ends in the head of the function `entry_point`.

    Of several blocks of code the last that defines the function counts, else the first; what defines the function gets what the prompt
    has before it (imports, helpers), and what does not is taken for the function's body.
    """
    blocks = [found[1] for found in _FENCE.finditer(completion)]
    heads = re.compile(rf"^(?:async )?def {re.escape(entry_point)}\b", re.MULTILINE)
    whole = [block for block in blocks if heads.search(block)] or ([completion] if not blocks and heads.search(completion) else [])
    if whole:
        return f"{preamble(prompt, entry_point)}\n{whole[-1]}\n"
    body = blocks[0] if blocks else completion
    ends = [place for stop in _STOPS if (place := body.find(stop)) >= 0]
    body = body[: min(ends, default=len(body))].strip("\n")
    if body and not body[0].isspace():
        lines = body.split("\n")
        # A model often leaves out the indentation of the first line alone, which the prompt's end seems to have given.
        rest = lines[1:] if all(line[:1].isspace() or not line for line in lines[1:]) else [f"    {line}" for line in lines[1:]]
        body = "\n".join([f"    {lines[0]}", *rest])
    return f"{prompt.rstrip()}\n{body}\n"


def preamble(prompt: str, entry_point: str) -> str:
    """What a prompt has before the function that is asked for."""
    found = re.search(rf"^def {re.escape(entry_point)}\b", prompt, re.MULTILINE)
    return prompt[: found.start()] if found else ""
