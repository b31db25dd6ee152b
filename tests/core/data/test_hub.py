"""Hub ids are told from paths by their form, and a revision by its place behind the @."""

import pytest

from core.data.hub import HubId


@pytest.mark.parametrize(
    ("text", "name", "revision"),
    [
        ("org/name", "org/name", None),
        ("Org_1/name-v0.2", "Org_1/name-v0.2", None),
        ("org/name@v1.0", "org/name", "v1.0"),
        ("org/name@refs/pr/1", "org/name", "refs/pr/1"),
    ],
)
def test_an_id_is_an_owner_and_a_name_with_a_revision_behind_an_at(text: str, name: str, revision: str | None) -> None:
    assert HubId.parse(text) == HubId(name=name, revision=revision)


@pytest.mark.parametrize(
    "text", ["", "name", "name@v1", "/org/name", "./name", "../name", "~/name", "a/b/c", "org/name@", "org/@v1", "org/.name", "org/a name"]
)
def test_paths_and_halves_of_ids_are_no_ids(text: str) -> None:
    assert HubId.parse(text) is None
