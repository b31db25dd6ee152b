"""Answers of judges kept on disk, so that no question is asked twice and a run that was stopped goes on from there."""

import hashlib
import json
import sqlite3
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from core.records import Dialogue
from evalhooks.judges.chat import Chat, Refusal, asking

_KEYS_PER_QUERY = 500  # SQLite may be built with a limit of 999 variables


class AnswerCache:
    """Answers by key in one SQLite file, which several processes may use at once.

    Every answer is committed on its own: a killed process loses only what it had not received. A connection lasts for one
    operation, so that threads and forked processes share none. Raises `ValueError` where the file cannot be used.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path).expanduser()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"the answer cache {self.path} cannot be made ({error}); set reward.judge.cache to another file.") from error
        with self._open() as database:
            database.execute("CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, answer TEXT NOT NULL) WITHOUT ROWID")

    def find(self, keys: Sequence[str]) -> dict[str, str]:
        """The answers that are there, by key."""
        found: dict[str, str] = {}
        with self._open() as database:
            for start in range(0, len(keys), _KEYS_PER_QUERY):
                part = keys[start : start + _KEYS_PER_QUERY]
                marks = ", ".join("?" * len(part))
                found.update(database.execute(f"SELECT key, answer FROM answers WHERE key IN ({marks})", part).fetchall())
        return found

    def keep(self, key: str, answer: str) -> str:
        """Keeps `answer`, unless another process was first; returns the answer that is kept, so that all use the same."""
        with self._open() as database:
            database.execute("INSERT INTO answers VALUES (?, ?) ON CONFLICT DO NOTHING", (key, answer))
            return database.execute("SELECT answer FROM answers WHERE key = ?", (key,)).fetchone()[0]

    @contextmanager
    def _open(self) -> Generator[sqlite3.Connection]:
        try:
            # The rollback journal and not the faster write-ahead log, which does not work on network file systems.
            with closing(sqlite3.connect(self.path, timeout=60)) as database, database:
                yield database
        except sqlite3.Error as error:
            raise ValueError(f"the answer cache {self.path} cannot be used ({error}); set reward.judge.cache to another file.") from error


class CachedChat:
    """A Chat that asks another one only for what the cache does not hold, and equal dialogues once.

    `identity` is everything besides the dialogue that determines an answer: the model, where it is served, how it
    samples. `num_asked` counts the answers that were asked for and received, `num_cached` those that needed no asking.
    `num_refused` counts the dialogues that were refused instead, `first_refusal` is what was said to the first of them. A
    refusal may be for a while only and is not kept: the next run asks again.
    """

    def __init__(self, chat: Chat, cache: AnswerCache, identity: Mapping[str, Any]) -> None:
        self.cache, self.identity = cache, dict(identity)
        self._chat = chat
        self.num_asked = 0
        self.num_cached = 0
        self.num_refused = 0
        self.first_refusal = ""

    def answers(self, dialogues: Sequence[Dialogue], *, proven: bool = False) -> Iterator[tuple[int, str | Refusal]]:
        """Index and text of every answer, the known ones first; each other one is on the disk before it is yielded.

        An answer that is known, from any call so far, proves the model too.
        Raises the chat's `ValueError` with the number of answers that are kept.
        """
        places: dict[str, list[int]] = {}
        for place, dialogue in enumerate(dialogues):
            places.setdefault(self._key(dialogue), []).append(place)
        known = self.cache.find(list(places))
        for key, text in known.items():
            self.num_cached += len(places[key])
            yield from ((place, text) for place in places[key])

        missing = [key for key in places if key not in known]
        num_kept = len(known)
        if not missing:
            return
        try:
            proven = proven or self.num_asked + self.num_cached > 0
            with asking(self._chat, [dialogues[places[key][0]] for key in missing], proven=proven) as answers:
                for index, answer in answers:
                    same = places[missing[index]]
                    if isinstance(answer, Refusal):
                        self.num_refused += 1
                        self.first_refusal = self.first_refusal or answer.message
                    else:
                        answer = self.cache.keep(missing[index], answer)
                        num_kept += 1
                        self.num_asked += 1
                        self.num_cached += len(same) - 1
                    yield from ((place, answer) for place in same)
        except ValueError as error:
            rerun = f"{num_kept} of {len(places)} answers are kept in {self.cache.path}; a rerun continues from there."
            raise ValueError(f"{error} {rerun}") from error

    def _key(self, dialogue: Dialogue) -> str:
        question = {"identity": self.identity, "messages": [(turn.role, turn.content) for turn in dialogue]}
        return hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()
