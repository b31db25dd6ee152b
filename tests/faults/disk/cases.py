"""All faults of disks and neighbours."""

from tests.faults.case import Case
from tests.faults.disk.finished import finished_cases
from tests.faults.disk.neighbours import neighbour_cases
from tests.faults.disk.refused_writes import write_cases
from tests.faults.disk.resumed import resumed_cases
from tests.faults.disk.surroundings import surrounding_cases
from tests.faults.stage import Stage


def disk_cases(stage: Stage, seed: int) -> list[Case]:
    """All of them; they do not depend on the seed."""
    return [*resumed_cases(stage), *finished_cases(stage), *write_cases(stage), *neighbour_cases(stage), *surrounding_cases(stage)]
