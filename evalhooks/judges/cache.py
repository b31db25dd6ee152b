"""An on-disk cache of judge answers, so that no question is asked twice and an interrupted run resumes where it stopped."""

import hashlib
import json
import sqlite3
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from core.records import Dialogue
from evalhooks.judges.chat import Chat, Refusal, asking

_KEYS_PER_QUERY = 500  # some builds of SQLite allow at most 999 variables


class AnswerCache:
    """Answers by key in one SQLite file that several processes may use at once.

    Every answer is committed on its own, so a killed process loses only what it had not received. Each operation opens its own
    connection, so threads and forked processes never share one. Raises `ValueError` if the file cannot be used.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path).expanduser()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(
                f"the answer cache {self.path} cannot be created ({error}); set reward.judge.cache to another file."
            ) from error
        with self._open() as database:
            database.execute("CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, answer TEXT NOT NULL) WITHOUT ROWID")

    def find(self, keys: Sequence[str]) -> dict[str, str]:
        """The cached answers among `keys`, by key."""
        found: dict[str, str] = {}
        with self._open() as database:
            for start in range(0, len(keys), _KEYS_PER_QUERY):
                part = keys[start : start + _KEYS_PER_QUERY]
                marks = ", ".join("?" * len(part))
                found.update(database.execute(f"SELECT key, answer FROM answers WHERE key IN ({marks})", part).fetchall())
        return found

    def keep(self, key: str, answer: str) -> str:
        """Stores `answer` unless another process got there first; returns the stored answer, so that all processes use the same one."""
        with self._open() as database:
            database.execute("INSERT INTO answers VALUES (?, ?) ON CONFLICT DO NOTHING", (key, answer))
            return database.execute("SELECT answer FROM answers WHERE key = ?", (key,)).fetchone()[0]

    @contextmanager
    def _open(self) -> Generator[sqlite3.Connection]:
        try:
            # Keeps the default rollback journal: the faster write-ahead log does not work on network file systems.
            with closing(sqlite3.connect(self.path, timeout=60)) as database, database:
                yield database
        except sqlite3.Error as error:
            raise ValueError(f"the answer cache {self.path} cannot be used ({error}); set reward.judge.cache to another file.") from error


class CachedChat:
    """A Chat that asks another one only for answers missing from the cache, and only once for equal dialogues.

    `identity` is everything besides the dialogue that determines an answer: the model, where it is served, how it
    samples. `num_asked` counts answers received from the model, `num_cached` answers that needed no request, and
    `num_refused` dialogues that were refused; `first_refusal` is the message of the first refusal. Refusals may be
    temporary and are not cached: the next run asks again.
    """

    def __init__(self, chat: Chat, cache: AnswerCache, identity: Mapping[str, Any]) -> None:
        self.cache, self.identity = cache, dict(identity)
        self._chat = chat
        self.num_asked = 0
        self.num_cached = 0
        self.num_refused = 0
        self.first_refusal = ""

    def answers(self, dialogues: Sequence[Dialogue], *, proven: bool = False) -> Iterator[tuple[int, str | Refusal]]:
        """Index and text of every answer, cached ones first; a new one is on disk before it is yielded.

        Any answer so far, cached or received, counts as proof that the model works. Re-raises the chat's `ValueError` with the
        number of answers in the cache.
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
