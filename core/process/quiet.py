"""What libraries say of their own accord, kept off the terminal as far as the user's environment does not ask for it."""

import logging
import os

_SETTINGS = {
    "TRANSFORMERS_VERBOSITY": "error",  # on loading it reports that a head is new; our own messages say so where it matters
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",  # TRL's trainers send usage data unless told not to
    "MLFLOW_DISABLE_TELEMETRY": "true",  # and TRL imports MLflow where it is there, which sends them from then on
    "MLFLOW_LOGGING_LEVEL": "WARNING",  # and tells at once of every table that it makes
}


def quieten_libraries() -> None:
    """Leaves it to this project to say what is going on. To be called in every process before libraries are imported."""
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it asks a hub for kernels as it is imported, and warns if there are none
    deepspeed = logging.getLogger("DeepSpeed")
    if _is_worth_saying not in deepspeed.filters:
        deepspeed.addFilter(_is_worth_saying)


def _is_worth_saying(record: logging.LogRecord) -> bool:
    """All but DeepSpeed's remark that it found no GPU, which it makes as it is imported; it sets its level itself."""
    return not record.getMessage().startswith("Setting accelerator to CPU")
