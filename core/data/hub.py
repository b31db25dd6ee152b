"""Hub ids, and whether the hub can be reached."""

import os
import re
import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

from huggingface_hub import constants

_HUB_ID = re.compile(r"([\w-][\w.-]*/[\w-][\w.-]*)(?:@([\w./-]+))?")


@dataclass(frozen=True, kw_only=True, slots=True)
class HubId:
    """A repository on the hub, with a branch, tag or commit as `revision`; None is the default branch.

    >>> HubId.parse("org/name@refs/pr/1")
    HubId(name='org/name', revision='refs/pr/1')
    """

    name: str
    revision: str | None = None

    @classmethod
    def parse(cls, text: str) -> "HubId | None":
        """The id that `text` spells as `org/name` or `org/name@revision`, else None.

        A relative path of two parts looks the same, so check the disk first.
        """
        match = _HUB_ID.fullmatch(text)
        return cls(name=match[1], revision=match[2]) if match else None


def is_offline() -> bool:
    """Whether the user has the hub's client download nothing (HF_HUB_OFFLINE)."""
    return constants.HF_HUB_OFFLINE


def require_hub(what: str) -> None:
    """Raises a `ValueError` that begins with `what` if the hub cannot be reached: its own client would retry for a minute first."""
    if is_offline() or os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy"):
        return  # offline by choice, or behind a proxy, which a plain connection does not test
    address = urlsplit(constants.ENDPOINT)
    try:
        socket.create_connection((address.hostname or "", address.port or 443), timeout=3).close()
    except OSError as error:
        raise ValueError(
            f"{what} does not exist here, and the hub cannot be reached ({error}); check the spelling or give a local path."
        ) from error
