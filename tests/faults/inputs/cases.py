"""All wrong inputs."""

from tests.faults.case import Case
from tests.faults.inputs.commands import command_trials
from tests.faults.inputs.files import file_trials
from tests.faults.inputs.models import model_trials
from tests.faults.inputs.overrides import override_trials
from tests.faults.inputs.programs import program_trials
from tests.faults.inputs.rows import row_trials
from tests.faults.stage import Stage

MAKERS = (override_trials, row_trials, file_trials, model_trials, program_trials, command_trials)


def input_cases(stage: Stage, seed: int) -> list[Case]:
    """All inputs; they do not depend on the seed."""
    return [trial.case() for make in MAKERS for trial in make(stage)]
