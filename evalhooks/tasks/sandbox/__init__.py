"""A sandbox for code that a model wrote, and tests of it that the code cannot tamper with."""
