"""The command lines of commands without Hydra: places, and settings as key=value."""

import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from core.text import shown


@dataclass(frozen=True, kw_only=True, slots=True)
class Arguments:
    """What a command line names, and its settings.

    >>> Arguments(places=("demo",), settings={"sort": "age"}).places
    ('demo',)
    """

    places: tuple[str, ...]
    settings: Mapping[str, str]


def parse(argv: Sequence[str], *, keys: Sequence[str]) -> Arguments:
    """Takes a command line apart. Raises `ValueError` for a flag, and for a key that is not one of `keys`."""
    places: list[str] = []
    settings: dict[str, str] = {}
    for argument in argv:
        key, equals, value = argument.partition("=")
        if equals and key in keys:
            settings[key] = value
        elif argument.startswith("-") or (equals and key.isidentifier()):
            raise ValueError(f"{argument} is unknown; the settings are {', '.join(f'{key}=...' for key in keys)}.")
        else:
            places.append(argument)
    return Arguments(places=tuple(places), settings=settings)


@contextmanager
def said(command: str, usage: str) -> Generator[None]:
    """Context that prints the usage if it is asked for, and ends the command with 2 and one line for what cannot be done."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(usage)
        raise SystemExit(0)
    try:
        yield
    except (ValueError, OSError) as error:
        print(f"rewardloop {command}: {shown(str(error))}", file=sys.stderr)
        raise SystemExit(2) from error
