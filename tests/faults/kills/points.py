"""The operations of a process that change files, counted; and a signal at one of them."""

import mmap
import os
import signal
import struct
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook
from transformers import PreTrainedModel

_CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.symlink", "os.link", "os.truncate"}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_TORN = b'{"axis": "train/step", "trai'


class Kill(Enum):
    """How a process is ended."""

    kill = signal.SIGKILL
    term = signal.SIGTERM
    interrupt = signal.SIGINT


class Target(Enum):
    """Whom a signal is sent to."""

    process = "process"
    """The process that does the operation."""
    leader = "leader"
    """The command itself."""
    group = "group"
    """Every process of the command, as a terminal and a power cut do."""


@dataclass(kw_only=True)
class Counter:
    """Counts operations of a process and of those that it forks, and at number `at` calls `then`; `names` gets each of them."""

    at: int = 0
    then: Callable[[str], None] = lambda what: None
    names: list[str] | None = None
    quiet: bool = False
    _cell: mmap.mmap = field(default_factory=lambda: mmap.mmap(-1, 8))

    def counted(self, what: str) -> None:
        """One more operation, about to be done (a step or a forward pass: just done)."""
        if self.quiet:
            return
        (count,) = struct.unpack("q", self._cell[:8])
        self._cell[:8] = struct.pack("q", count + 1)
        if self.names is not None:
            self.names.append(what)
        if count + 1 == self.at:
            self.quiet = True
            self.then(what)
            self.quiet = False

    def become(self, other: "Counter") -> None:
        """Counts for another one from now on."""
        self.at, self.then, self.names, self._cell = other.at, other.then, other.names, other._cell


def count_operations(counter: Counter, folder: Path) -> None:
    """From now on counts what this process does: files opened for writing below `folder`, renamed, removed, flushed; optimiser steps;
    forward passes of whole models."""
    system = tempfile.gettempdir(), os.devnull

    def heard(event: str, arguments: tuple[Any, ...]) -> None:
        if event in _CHANGES:
            if not _is_elsewhere(arguments[0], folder, system):
                counter.counted(f"{event} {_short(arguments[0])}")
        elif (
            event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITES and not _is_elsewhere(arguments[0], folder, system)
        ):
            counter.counted(f"open {_short(arguments[0])}")

    fsync = os.fsync

    def counted_fsync(descriptor: int) -> None:
        counter.counted("os.fsync")
        fsync(descriptor)

    def forward(module: torch.nn.Module, *_: Any) -> None:
        if isinstance(module, PreTrainedModel) and module.__class__.__name__.startswith("LlamaFor"):
            counter.counted("forward pass")

    sys.addaudithook(heard)
    os.fsync = counted_fsync
    register_optimizer_step_post_hook(lambda *_: counter.counted("optimiser step"))
    torch.nn.modules.module.register_module_forward_hook(forward)


def end_by(kill: Kill, *, to: Target = Target.process, torn: bool = False) -> Callable[[str], None]:
    """Sends a signal; with `torn`, the file that is about to be appended to first gets half a line, as if power failed."""

    def end(what: str) -> None:
        operation, _, path = what.partition(" ")
        if torn and operation == "open" and path.endswith(".jsonl"):
            for file in Path.cwd().rglob(Path(path).name):
                with file.open("ab") as lines:
                    lines.write(_TORN)
        if to is Target.group:
            os.killpg(0, kill.value)
        else:
            os.kill(os.getpid() if to is Target.process else os.getpgrp(), kill.value)

    return end


def _is_elsewhere(path: Any, folder: Path, system: tuple[str, ...]) -> bool:
    """Whether a path lies outside the case's folder; a name relative to an open folder counts as inside."""
    if not isinstance(path, (str, bytes, os.PathLike)):
        return True
    text = os.fsdecode(path)
    return os.path.isabs(text) and not text.startswith(str(folder)) and (text.startswith(system) or not text.startswith(str(folder)))


def _short(path: Any) -> str:
    """The last two parts of a path."""
    return "/".join(Path(os.fsdecode(path)).parts[-2:])
