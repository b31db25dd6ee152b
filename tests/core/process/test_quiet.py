"""Libraries say nothing of their own accord, and still what goes wrong."""

import logging
import os

import pytest

from core.process.quiet import quieten_libraries


def test_remarks_of_libraries_on_what_they_lack_are_left_out_and_errors_are_not(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TRANSFORMERS_VERBOSITY", "HF_HUB_DISABLE_PROGRESS_BARS", "HF_HUB_DISABLE_TELEMETRY", "MLFLOW_DISABLE_TELEMETRY"):
        monkeypatch.setenv(name, "of the user's")
    quieten_libraries()
    quieten_libraries()
    deepspeed, kernels = logging.getLogger("DeepSpeed"), logging.getLogger("bitsandbytes.backends.cpu.ops")
    monkeypatch.setattr(logging.root.manager, "disable", 0)
    for logger in (deepspeed, kernels):  # a configuration of logging elsewhere in the process may have disabled them
        monkeypatch.setattr(logger, "disabled", False)
    deepspeed.addHandler(caplog.handler)  # it hands nothing on once the library is imported
    try:
        deepspeed.warning("Setting accelerator to CPU. If you have GPU or other accelerator, we were unable to detect it.")
        kernels.warning("Failed to load CPU gemm_4bit_forward from kernels-community: no network.")
        deepspeed.error("Out of memory.")
        kernels.error("No such device.")
    finally:
        deepspeed.removeHandler(caplog.handler)
    assert set(caplog.messages) == {"Out of memory.", "No such device."}
    assert len([found for found in deepspeed.filters if callable(found)]) == 1


def test_what_the_user_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "info")
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "0")
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "0")
    quieten_libraries()
    assert (os.environ["TRANSFORMERS_VERBOSITY"], os.environ["HF_HUB_DISABLE_PROGRESS_BARS"]) == ("info", "0")


def test_mlflow_sends_and_says_nothing_also_where_trl_imports_it_first(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_DISABLE_TELEMETRY", "MLFLOW_LOGGING_LEVEL"):
        monkeypatch.setenv(name, "")  # put back afterwards
        monkeypatch.delenv(name)
    quieten_libraries()
    assert (os.environ["MLFLOW_DISABLE_TELEMETRY"], os.environ["MLFLOW_LOGGING_LEVEL"]) == ("true", "WARNING")
