"""What a revision says of its own run: the command that trains one like it, and a file for machines."""

import re
import shlex
from collections.abc import Mapping
from enum import Enum
from typing import Any

from core.text import printable, shown
from launch.identity import unhashed_keys
from launch.overrides.differences import common, settings_of, text_of
from launch.overrides.grammar import quoted
from launch.publish.revisions import Revision
from launch.schema import RMJob

_LOCAL = re.compile(r"(?<![\w./])(?:~|\.{1,2})?/(?!/)(?:[^/,\]\s'\"]+/)*([^/,\]\s'\"]+)")
"""A path on this machine, which nobody else has and which may name its user; its last part is kept."""
_PLAIN = re.compile(r"(?!(?:null|true|false|nan|inf)$)[A-Za-z_][\w./@+-]*", re.IGNORECASE)
"""Text that Hydra reads as such without quotes."""
_OWN = ("model.path", "data.paths", "data.name")


def command_of(job: RMJob) -> str:
    """The command that trains a run with these settings, as one pastes it into a shell."""
    values = {key: setting.value for key, setting in settings_of(job).items()}
    own = {key: values[key] for key in own_settings(job) if key not in _OWN and not key.startswith("data.sources.")}
    words = [f"{key}={_override(value)}" for key, value in {**{key: values[key] for key in _OWN}, **own}.items()]
    if job.data.sources:
        parts = (
            f"{name}:{{path:{_override(found.path)},split:{_override(found.split)},weight:{found.weight!r}}}"
            for name, found in job.data.sources.items()
        )
        words.insert(len(_OWN), f"+data.sources={{{','.join(parts)}}}")
    return " \\\n    ".join(["rewardloop rm model=custom data=custom", *map(shlex.quote, words)])


def own_settings(job: RMJob) -> dict[str, str]:
    """The settings that are not the defaults and can change what comes out, and the model's lineage."""
    ignored = unhashed_keys(job) - {"model.lineage"}
    return {key: value for key, value in common([job]).items() if not any(key == other or key.startswith(f"{other}.") for other in ignored)}


def record_of(revision: Revision) -> Mapping[str, Any]:
    """What a revision says of its own run, for machines: settings, command, metrics, counts."""
    record = revision.record
    return {
        "revision": revision.name,
        "id": record["id"],
        "base_model": revision.base_model,
        "step": revision.step,
        "seed": revision.job.seed,
        "settings": own_settings(revision.job),
        "command": command_of(revision.job),
        "metrics": dict(revision.metrics),
        "warnings": [without_local_paths(shown(text)) for text in revision.warnings],
        "versions": record.get("versions", {}),
        "finished": record.get("finished"),
        **{key: value for key, value in record.items() if key.startswith("num_")},
    }


def without_local_paths(text: str) -> str:
    """A text in which paths on this machine are file names.

    >>> without_local_paths("/home/ada/pairs.jsonl has few pairs; see https://host/page")
    'pairs.jsonl has few pairs; see https://host/page'
    """
    return _LOCAL.sub(r"\1", text)


def version_of(revision: Revision) -> str:
    """The version of rewardloop that trained a revision."""
    return str(revision.record.get("versions", {}).get("rewardloop", "of an unknown version"))


def _override(value: object) -> str:
    """A value as Hydra reads it back."""
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, list):
        return f"[{','.join(map(_override, value))}]"
    if isinstance(value, str) and not _PLAIN.fullmatch(value):
        return quoted(printable(value))
    return text_of(value)
