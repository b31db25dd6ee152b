"""While rows take a token at a time, angles come from a table and are the same; rotations are left to attention only where it gets what
they gave."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AttentionInterface

from core.models.fused import layers
from core.models.fused.layers import fuse
from core.models.fused.rotations import AngleTables, Rotations, observer
from tests.core.models.test_fused import IDS, tiny

PLACES = torch.tensor([[3, 0, 17, 17, 5, 1, 2, 30, 8, 9, 4], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]])
YARN = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4, "original_max_position_embeddings": 64}


@torch.no_grad()
def hidden(model: Any, row: slice) -> Tensor:
    return model(input_ids=IDS[row], position_ids=PLACES[row], use_cache=False).last_hidden_state


@pytest.mark.parametrize(("kind", "options"), [("llama", {}), ("qwen3", {}), ("llama", {"rope_parameters": YARN})])
def test_angles_of_a_table_are_those_of_the_model(kind: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny(kind, max_position_embeddings=256, **options)
    before = [hidden(model, row) for row in (slice(0, 1), slice(0, 2))]
    tables, places = AngleTables(model, 32), list[int]()
    own = type(model.rotary_emb).forward
    monkeypatch.setattr(type(model.rotary_emb), "forward", lambda self, x, ids: (places.append(ids.shape[-1]), own(self, x, ids))[1])
    for _ in range(2):
        with tables.in_place():
            assert hidden(model, slice(0, 1)).equal(before[0])
    assert places == [32], "made once, for all places"
    with tables.in_place():
        assert hidden(model, slice(0, 2)).equal(before[1]), "rows of their own places are left to the model"
    assert "forward" not in vars(model.rotary_emb)


@pytest.mark.parametrize("changing", [{"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}])
def test_angles_that_change_with_the_length_are_left_to_the_model(changing: dict[str, Any]) -> None:
    model = tiny("llama", max_position_embeddings=8, rope_parameters=changing)
    before = hidden(model, slice(0, 1))
    with AngleTables(model, 32).in_place():
        assert "forward" not in vars(model.rotary_emb)
        assert hidden(model, slice(0, 1)).equal(before)


def observing(model: Any, rotations: Rotations, monkeypatch: pytest.MonkeyPatch, *, leaving: bool = False) -> list[bool]:
    """Whether attention was left the rotation, layer by layer, in one forward pass of a model whose rotations tell what they do."""
    seen = list[bool]()

    def attend(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **options: Any) -> tuple[Tensor, None]:
        seen.append(rotations.receive(query, key, value) is not None)
        return query.transpose(1, 2), None

    AttentionInterface.register("seen", attend)
    model.config._attn_implementation = "seen"
    with rotations.observed(leaving=leaving):
        hidden(model, slice(0, 1))
    assert observer() is None
    return seen


@pytest.fixture
def telling(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Rotations that behave on a CPU as those of fused layers do on a GPU."""

    def rotation(own: Any) -> Any:
        def rotate(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
            observed = observer()
            if observed is not None and observed.leave(q, k, (cos, sin)):
                return q, k
            turned = own(q, k, cos, sin)
            if observed is not None:
                observed.give(*turned)
            return turned

        return rotate

    monkeypatch.setattr(layers, "_rotation", rotation)
    layers._fused_attention.cache_clear()  # pyright: ignore[reportPrivateUsage]
    yield
    layers._fused_attention.cache_clear()  # pyright: ignore[reportPrivateUsage]


@pytest.mark.usefixtures("telling")
@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_rotations_are_left_once_attention_was_seen_to_get_what_they_gave(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny(kind)
    fuse(model)
    rotations = Rotations(lambda q, k: True)
    assert observing(model, rotations, monkeypatch) == [False, False]
    assert rotations.are_direct
    assert observing(model, rotations, monkeypatch, leaving=True) == [True, True]
    assert observing(model, rotations, monkeypatch) == [False, False]
    assert observing(model, Rotations(lambda q, k: False), monkeypatch, leaving=True) == [False, False]


@pytest.mark.usefixtures("telling")
@pytest.mark.parametrize("kind", ["hunyuan_v1_dense", "ministral3"])
def test_they_are_not_left_where_something_comes_between(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny(kind, head_dim=8)
    fuse(model)
    rotations = Rotations(lambda q, k: True)
    assert observing(model, rotations, monkeypatch) == [False, False]
    assert not rotations.are_direct
    assert observing(model, rotations, monkeypatch, leaving=True) == [False, False]


@pytest.mark.parametrize("changed", ["nothing", "query", "key", "format of values", "shape of values"])
def test_anything_that_changes_on_the_way_is_seen(changed: str) -> None:
    q, k, v = torch.zeros(1, 4, 3, 8), torch.zeros(1, 2, 3, 8), torch.zeros(1, 2, 3, 8)
    values = {"format of values": v.half(), "shape of values": v[..., :4]}.get(changed, v)
    rotations = Rotations(lambda q, k: True)
    with rotations.observed():
        rotations.give(q, k)
        assert rotations.receive(q.clone() if changed == "query" else q, k.clone() if changed == "key" else k, values) is None
        rotations.receive(q, k, v)  # of a layer that rotates nothing
    assert rotations.are_direct == (changed == "nothing")
    with rotations.observed(leaving=True):
        assert rotations.leave(q, k, (k, v)) == (changed == "nothing")
        assert not rotations.leave(q, k, (torch.zeros(2, 3, 8), v)), "of one batch"


@pytest.mark.usefixtures("telling")
def test_a_rotation_that_is_left_and_not_received_ends_the_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("hunyuan_v1_dense", head_dim=8)
    fuse(model)
    with pytest.raises(RuntimeError, match="got other queries and keys"):
        observing(model, Rotations(lambda q, k: True), monkeypatch, leaving=True)
