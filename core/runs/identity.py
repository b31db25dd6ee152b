"""What a run is known by: the hash of its settings, and names fit for folders."""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from core.disk import jsonable


def identity_hash(identity: Mapping[str, Any]) -> str:
    """The first 8 hex digits of the SHA-256 of `identity` as canonical JSON: sorted keys, floats as `repr` prints them.

    >>> identity_hash({"lr": 3e-6, "seed": 0}) == identity_hash({"seed": 0, "lr": 0.000003})
    True
    """
    text = json.dumps(jsonable(identity), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def clean_name(name: str) -> str:
    """`name` as part of a file name: lower case, at most 100 characters, runs of anything but a-z, 0-9, `.`, `_` and `-` as one `-`.

    >>> clean_name("Tulu + Skywork, lr=3e-6")
    'tulu-skywork-lr-3e-6'

    Raises `ValueError` if nothing is left, which also keeps `..` out of paths.
    """
    cleaned = re.sub(r"[^a-z0-9._-]+", "-", name.lower())[:100].strip(".-_")
    if not cleaned:
        raise ValueError(f"The name {name!r} holds no letter or digit, so it cannot name a folder; give a name such as name=tulu-lr3e-6.")
    return cleaned
