"""Brings the folders of a publication to the hub, a branch at a time; what is there already is not sent again."""

from collections.abc import Callable, Mapping
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import disable_progress_bars, logging

from launch.publish.plan import MAIN

_KEPT = ".gitattributes"
"""What a hub puts into a repository itself."""
_HTTP_ERROR: type[Exception] = HfHubHTTPError.__bases__[0]
"""The base of the errors of the HTTP client that the hub's client uses."""


def upload(repo: str, folders: Mapping[str, Path], *, private: bool, say: Callable[[str], None], api: HfApi | None = None) -> str:
    """Uploads every folder to the branch of its name and returns the repository's address; `say` gets a line for each.

    A branch is changed by one commit, so that it is whole at any time: an upload that was cut off goes on where it was. Raises
    `ValueError` with the reason if the hub refuses or cannot be reached.
    """
    api = api or HfApi()
    disable_progress_bars()
    logging.set_verbosity_error()  # it warns of commits without changes
    at = "the repository"
    try:
        url = api.create_repo(repo, private=private or None, exist_ok=True)
        before = {branch.name: branch.target_commit for branch in api.list_repo_refs(repo).branches}
        for number, (branch, folder) in enumerate(folders.items(), 1):
            at = branch
            if branch not in before and branch != MAIN:
                api.create_branch(repo, branch=branch, exist_ok=True)
            commit = _commit(api, repo, branch, folder)
            size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
            done = "there already" if commit == before.get(branch) else f"{size / 1e6:.1f} MB"
            say(f"{number}/{len(folders)} {branch}: {done}")
    except (_HTTP_ERROR, OSError, RuntimeError) as error:  # of a large file that was not taken a `RuntimeError`
        reason = " ".join(str(error.__cause__ or error).split())[:300]  # of a large file only the cause says more than its name
        hint = " For a hub without Xet set HF_HUB_DISABLE_XET=1." if "xet" in reason else ""
        raise ValueError(f"{api.endpoint} did not take {at} ({reason}); the same command goes on from there.{hint}") from error
    return str(url)


def _commit(api: HfApi, repo: str, branch: str, folder: Path) -> str:
    """Makes the branch what the folder is; returns the commit, the last one if nothing has changed."""
    own = {file.relative_to(folder).as_posix(): file for file in sorted(folder.rglob("*")) if file.is_file()}
    others = [name for name in api.list_repo_files(repo, revision=branch) if name not in own and name != _KEPT]
    operations = [
        *(CommitOperationAdd(path_in_repo=name, path_or_fileobj=file) for name, file in own.items()),
        *(CommitOperationDelete(path_in_repo=name) for name in others),
    ]
    return api.create_commit(repo, operations, commit_message=f"Publish {branch}", revision=branch).oid
