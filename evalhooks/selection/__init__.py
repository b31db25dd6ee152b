"""Best-of-n as people look at it: the answers that completions vote with, pictures, and the choice of a generator."""
