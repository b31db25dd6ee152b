"""The hub: whether it answers."""

import os
import socket
from urllib.parse import urlsplit

from huggingface_hub import constants


def require_hub(what: str) -> None:
    """Raises `ValueError` that begins with `what` where the hub does not answer: its client would retry for a minute first."""
    if constants.HF_HUB_OFFLINE or os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy"):
        return  # the user's own word, or a way that a plain connection does not show
    address = urlsplit(constants.ENDPOINT)
    try:
        socket.create_connection((address.hostname or "", address.port or 443), timeout=3).close()
    except OSError as error:
        raise ValueError(
            f"{what} does not exist here, and the hub cannot be reached ({error}); check the spelling or give a local path."
        ) from error
