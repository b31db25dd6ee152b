"""What the licenses of well-known base models ask of whoever publishes a model that was trained from one."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class License:
    """A license that asks for more than its name: its title and address, and the text of the notice that goes with the weights.

    `label` is what the card must show, and `name_prefix` what the name of the model must begin with, where the license asks for that.

    >>> LICENSES["llama3.1"].label
    'Built with Llama'
    """

    title: str
    link: str
    notice: str
    label: str = ""
    name_prefix: str = ""


def _llama(version: str, *, page: str) -> License:
    title = f"Llama {version} Community License"
    return License(
        title=f"{title} Agreement",
        link=f"https://www.llama.com/{page}/license/",
        notice=f"Llama {version} is licensed under the {title}, Copyright © Meta Platforms, Inc. All Rights Reserved.",
        label="Built with Llama",
        name_prefix="Llama",
    )


LICENSES = {
    "llama2": License(
        title="Llama 2 Community License Agreement",
        link="https://ai.meta.com/llama/license/",
        notice="Llama 2 is licensed under the LLAMA 2 Community License, Copyright (c) Meta Platforms, Inc. All Rights Reserved.",
    ),
    "llama3": License(
        title="Meta Llama 3 Community License Agreement",
        link="https://www.llama.com/llama3/license/",
        notice="Meta Llama 3 is licensed under the Meta Llama 3 Community License, Copyright © Meta Platforms, Inc. All Rights Reserved.",
        label="Built with Meta Llama 3",
        name_prefix="Llama 3",
    ),
    "llama3.1": _llama("3.1", page="llama3_1"),
    "llama3.2": _llama("3.2", page="llama3_2"),
    "llama3.3": _llama("3.3", page="llama3_3"),
    "llama4": _llama("4", page="llama4"),
    "gemma": License(
        title="Gemma Terms of Use",
        link="https://ai.google.dev/gemma/terms",
        notice="Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms",
    ),
}
"""By the hub's names; section 1.b of Meta's agreements, section 3.1 of Gemma's terms."""
_BASES = (
    (re.compile(r"llama-?2\b"), "llama2"),
    (re.compile(r"llama-?3[.-]1\b"), "llama3.1"),
    (re.compile(r"llama-?3[.-]2\b"), "llama3.2"),
    (re.compile(r"llama-?3[.-]3\b"), "llama3.3"),
    (re.compile(r"llama-?3\b"), "llama3"),
    (re.compile(r"llama-?4\b"), "llama4"),
    (re.compile(r"gemma(?!-?4(?!b))"), "gemma"),
)
"""Names of base models, and the license that those come under; Gemma 4 has another."""


def likely_license(base_model: str) -> str:
    """The license of `LICENSES` that a base model comes under by its name; empty for any other.

    >>> likely_license("meta-llama/Llama-3.1-8B-Instruct"), likely_license("Qwen/Qwen2.5-7B")
    ('llama3.1', '')
    """
    name = base_model.rpartition("/")[2].lower()
    return next((license for pattern, license in _BASES if pattern.search(name)), "")


def obligations(license: str, *, name: str, base_models: Sequence[str], has_copy: bool) -> Iterator[str]:
    """What whoever publishes a model called `name` must still see to, in sentences. `has_copy`: the license is among the files."""
    for base in base_models:
        expected = likely_license(base)
        if expected and expected != license:
            yield f"license={license}, but {base} comes under {expected}, which what is trained from it comes under too"
    if (found := LICENSES.get(license)) is None:
        return
    if found.name_prefix and not _plain(name).startswith(_plain(found.name_prefix)):
        yield f"the {found.title} asks that the name of the model begins with {found.name_prefix!r}, and {name} does not"
    if not has_copy:
        yield (
            f"the {found.title} asks for a copy of it beside the weights: put one called LICENSE into the base model's folder, or upload "
            f"it to the repository, where it stays ({found.link})"
        )


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
