"""Speed beside peers and evidence that training works: programs to be run from the checkout's root, `python -m benchmarks.ROOM.NAME`."""
