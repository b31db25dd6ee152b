"""A hub for every test that asks for one."""

from collections.abc import Generator

import pytest
from huggingface_hub import HfApi

from tests.launch.publish.hub import Hub, running_hub


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Generator[Hub]:
    with running_hub() as found:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)  # its own servers would be asked
        monkeypatch.setattr("launch.publish.upload.HfApi", lambda: HfApi(endpoint=found.url, token="hf_test"))
        yield found
