"""What happens to runs that are killed, files that are damaged and inputs that are wrong: `python -m tests.faults --help`.

One process imports torch and the project once and forks a child for every case, so that a case costs what it does and not a start.
"""
