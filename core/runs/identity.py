"""What a run is known by: the hash of its settings, and names fit for folders."""

import hashlib
import json
import re
import unicodedata
from collections.abc import Mapping
from typing import Any

from core.disk import jsonable

INPUTS = "inputs"
"""The key of an identity that holds the hashes of the inputs."""

_NAME_BYTES = 100
"""A folder's name has at most 255, and a run's also holds its job, its hash and marks such as `.old-1`."""


def identity_hash(identity: Mapping[str, Any]) -> str:
    """The first 8 hex digits of the SHA-256 of `identity` as canonical JSON: sorted keys, floats as `repr` prints them.

    >>> identity_hash({"lr": 3e-6, "seed": 0}) == identity_hash({"seed": 0, "lr": 0.000003})
    True
    """
    text = json.dumps(jsonable(identity), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def clean_name(name: str) -> str:
    """`name` as part of a file name: lower case, runs of anything but letters, digits, `.`, `_` and `-` as one `-`.

    All spellings of a letter become one (NFKC and case folding of Unicode), and at most 100 bytes are kept. Cleaning a cleaned
    name changes nothing.

    >>> clean_name("Tulu + Skywork, lr=3e-6"), clean_name("MÜNCHEN.")
    ('tulu-skywork-lr-3e-6', 'münchen')

    Raises `ValueError` if nothing is left, which also keeps `..` out of paths.
    """
    # Folding can take a letter apart, hence the second time.
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    cleaned = re.sub(r"[^\w.-]+", "-", folded).encode()[:_NAME_BYTES].decode(errors="ignore").strip(".-_")
    if not cleaned:
        raise ValueError(f"The name {name!r} holds no letter or digit, so it cannot name a folder; give one such as tulu-lr3e-6.")
    return cleaned


def require_no_path(key: str, name: str) -> None:
    """Raises `ValueError` for a path under a key that takes a name."""
    parts = re.split(r"[/\\]", name.strip())
    if ".." in parts or (len(parts) > 1 and not parts[0]) or parts[0].startswith("~"):
        raise ValueError(f"{key}={name} is a path; give a name such as {key}=tulu, and the folder by runs_dir=FOLDER.")


def study_name(name: str) -> str:
    """The name of a study's folder. Raises `ValueError` for a path, and for a name that would be cut: two might become one."""
    require_no_path("study", name)
    if len(name.encode()) > _NAME_BYTES:
        raise ValueError(f"study={name} has {len(name.encode())} bytes; give a name of at most {_NAME_BYTES}.")
    try:
        return clean_name(name)
    except ValueError as error:
        raise ValueError(f"study={name}: {error}") from None
