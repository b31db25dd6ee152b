"""What the processes of a study or sweep need, imported once before they are forked, so that none of them waits for it."""

import importlib

from core.process.quiet import quieten_libraries

quieten_libraries()
for _name in ("launch.jobs.bench", "launch.jobs.bon", "launch.jobs.ppo", "launch.jobs.rm", "microworld.policy"):
    importlib.import_module(_name)
