"""The commands. Importing this package does nothing, unless Python does so to run one of them: `python -m launch.rm`."""

import os
import sys

if sys.argv[:1] == ["-m"]:
    # With -m the current folder comes first among the places of modules, and whatever lies there would hide a package: torch.py, say.
    # It stays importable, as the last one, for programs of the user's own.
    _here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    if not sys.flags.safe_path and os.path.abspath(sys.path[0]) == os.getcwd() != _here:
        sys.path.append(sys.path.pop(0))

    from core.process.signals import stop_at_once

    stop_at_once()
