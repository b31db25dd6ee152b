"""Brings the folders of a publication to the hub, a branch at a time; what is there already is not sent again."""

import re
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError
from huggingface_hub.utils import disable_progress_bars, logging

from launch.publish.asking import AnswerError, Hub
from launch.publish.folders import FACTS, RESULTS
from launch.publish.plan import MAIN

_STALE = re.compile(r"[^/]+\.(?:safetensors|bin|json|jinja|model|tiktoken)|(?:merges|vocab)\.txt|" + re.escape(RESULTS))
"""What a publication of before may have written. Whatever else is there, such as a license or a picture, is somebody's own."""
_HTTP_ERROR: type[Exception] = HfHubHTTPError.__bases__[0]
"""The base of the errors of the HTTP client that the hub's client uses."""
_LARGE = 10**8
"""Bytes of a branch whose upload takes a while."""
_NEEDS_TOKEN = "log in with `hf auth login`, or set HF_TOKEN, with a token that may write to it"
_HINTS = {
    401: _NEEDS_TOKEN,
    403: _NEEDS_TOKEN,
    404: f"it is not there, or not for this token; {_NEEDS_TOKEN}",
    409: "somebody else is changing the repository; try again when they are done",
    412: "somebody else is changing the repository; try again when they are done",
    429: "the hub asks for a pause; try again in some minutes",
}
"""What to do, by status."""


def upload(
    repo: str, folders: Mapping[str, Path], *, private: bool, leave: bool, say: Callable[[str], None], api: HfApi | None = None
) -> str:
    """Uploads every folder to the branch of its name and returns the repository's address; `say` gets a line for each.

    A branch is changed by one commit, so that it is whole at any time: an upload that was cut off goes on where it was. Raises
    `ValueError` with the reason if the hub refuses, cannot be reached, answers what no hub does or asks for too long a pause; for a
    repository or branch whose model somebody else put there; for one that is not private although it should be; and, without `leave`,
    for revisions of before that are not among `folders`.
    """
    hub = Hub(api=api or HfApi(), say=say)
    endpoint = hub.api.endpoint
    if not sys.stderr.isatty():
        disable_progress_bars()
    logging.set_verbosity_error()  # it warns of commits without changes
    at = "the repository"
    try:
        _require_repository(hub, repo, private=private)
        before = hub.ask(lambda api: {branch.name: branch.target_commit for branch in api.list_repo_refs(repo).branches})
        files = {branch: _files(hub, repo, branch) for branch in before}
        _require_ours(repo, files, folders, leave=leave)
        for number, (branch, folder) in enumerate(folders.items(), 1):
            at = branch
            if branch not in before and branch != MAIN:
                hub.ask(lambda api, branch=branch: api.create_branch(repo, branch=branch, exist_ok=True))
            there = files[branch] if branch in files else _files(hub, repo, branch)
            size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
            if size > _LARGE:
                say(f"{number}/{len(folders)} {branch}: comparing {size / 1e9:.1f} GB, and sending what is new")
            done = _commit(hub, repo, branch, folder, there)
            say(f"{number}/{len(folders)} {branch}: {'there already' if done == before.get(branch) else f'{size / 1e6:.1f} MB'}")
    except AnswerError as error:
        raise ValueError(f"{at}: {error}") from error
    except (_HTTP_ERROR, OSError, RuntimeError) as error:  # of a large file that was not taken a `RuntimeError`
        raise ValueError(f"{endpoint} did not take {at} ({_reason(error)}); {_remedy(error)}.") from error
    return f"{endpoint}/{repo}"


def _files(hub: Hub, repo: str, branch: str) -> list[str]:
    return hub.ask(lambda api: api.list_repo_files(repo, revision=branch))


def _require_repository(hub: Hub, repo: str, *, private: bool) -> None:
    """Makes the repository if it is not there. Raises `ValueError` for one that is public although it should be private."""
    try:
        found = hub.ask(lambda api: api.repo_info(repo))
    except RepositoryNotFoundError:
        hub.ask(lambda api: api.create_repo(repo, private=private or None, exist_ok=True))
        return
    if private and not found.private:
        raise ValueError(f"{repo} is there and public, which private=true does not change; make it private in its settings first.")


def _require_ours(repo: str, files: Mapping[str, list[str]], folders: Mapping[str, Path], *, leave: bool) -> None:
    """Raises `ValueError` for branches that hold a model of somebody else's, and for revisions of before that would be forgotten."""
    for branch, there in files.items():
        foreign = [name for name in there if _STALE.fullmatch(name)]
        if branch in folders and foreign and FACTS not in there:
            some = ", ".join(foreign[:3])
            raise ValueError(f"{repo} holds a model that was not published from here ({branch}: {some}); name another repository.")
    forgotten = [branch for branch, there in files.items() if branch not in folders and FACTS in there]
    if forgotten and not leave:
        some = f"{', '.join(forgotten[:5])}{', ...' if len(forgotten) > 5 else ''}"
        raise ValueError(
            f"{repo} has {len(forgotten)} revision{'s' if len(forgotten) > 1 else ''} of before that these runs are not ({some}); name "
            "their runs too, so that they stay in the table and main is the best of all, or give leave=true for those to stay apart."
        )


def _commit(hub: Hub, repo: str, branch: str, folder: Path, there: list[str]) -> str:
    """Makes the branch what the folder is; returns the commit, the last one if nothing has changed."""
    own = {file.relative_to(folder).as_posix(): file for file in sorted(folder.rglob("*")) if file.is_file()}
    operations = [
        *(CommitOperationAdd(path_in_repo=name, path_or_fileobj=file) for name, file in own.items()),
        *(CommitOperationDelete(path_in_repo=name) for name in there if name not in own and _STALE.fullmatch(name)),
    ]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        try:
            done = hub.ask(lambda api: api.create_commit(repo, operations, commit_message=f"Publish {branch}", revision=branch).oid)
        except ValueError as error:  # the card's metadata, or a large file, as the hub's client puts it
            raise ValueError(f"{hub.api.endpoint} refuses {branch}: {' '.join(str(error).split())}") from error
    for warning in caught:
        if issubclass(warning.category, UserWarning):
            hub.say(f"the hub says of {branch}: {' '.join(str(warning.message).split())}")
    return done


def _reason(error: Exception) -> str:
    """What went wrong, in one line; of a large file only the cause says more than its name."""
    found = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error
    if isinstance(found, HfHubHTTPError) and found.server_message:
        return f"{found.response.status_code}: {' '.join(found.server_message.split())[:300]}"
    return f"{type(found).__name__}: {' '.join(str(found).split())[:300]}"


def _remedy(error: Exception) -> str:
    found = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error
    hint = _HINTS.get(found.response.status_code) if isinstance(found, HfHubHTTPError) else None
    xet = "for a hub without Xet set HF_HUB_DISABLE_XET=1; " if "xet" in str(found).lower() else ""
    return f"{xet}{f'{hint}; ' if hint else ''}the same command goes on from there"
