"""Ways to damage a file."""

import shutil
from collections.abc import Callable
from pathlib import Path

Damage = Callable[[Path], object]


def flip(file: Path) -> None:
    """Flips a bit in the middle of the file's second half, where weights and moments lie."""
    content = bytearray(file.read_bytes())
    content[3 * len(content) // 4] ^= 0x10
    file.write_bytes(content)


def cut(file: Path) -> None:
    """Cuts the file to its first half."""
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


def empty(file: Path) -> None:
    """Leaves nothing in it."""
    file.write_bytes(b"")


def garbage(file: Path) -> None:
    """Writes what is neither JSON nor anything else."""
    file.write_bytes(b"\x00\xff garbage {")


def array(file: Path) -> None:
    """Writes JSON of another shape."""
    file.write_text("[]")


def remove(file: Path) -> None:
    """Removes a file, a link or a folder."""
    if file.is_dir() and not file.is_symlink():
        shutil.rmtree(file)
    else:
        file.unlink()


def as_folder(file: Path) -> None:
    """Puts a folder in its place."""
    remove(file)
    file.mkdir()


def moved_behind_a_link(file: Path) -> None:
    """Moves it elsewhere and leaves a link, as some do where disks are small."""
    elsewhere = file.parent / f"elsewhere-{file.name}"
    file.rename(elsewhere)
    file.symlink_to(elsewhere.name)


def garbage_line(file: Path) -> None:
    """Puts a line that is no JSON into its middle."""
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join([*lines[: len(lines) // 2], '{"axis": "train/st\x00\n', *lines[len(lines) // 2 :]]))


def half_line(file: Path) -> None:
    """Adds half a line, as a process does that is killed while it writes one."""
    content = file.read_bytes()
    file.write_bytes(content + content.splitlines()[-1][:-20])
