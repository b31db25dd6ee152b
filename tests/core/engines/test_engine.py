"""All engines do the same sums: gradients added up over micro batches and processes, clipped, and one step of AdamW."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

import core.engines.torch_engine
from core.config import Dtype, EngineConfig, EngineKind, Offload, OptimConfig
from core.engines.engine import open_engine
from core.engines.resume import resumable_steps
from core.engines.stamp import require_same_engine, write_engine
from core.process.world import World
from tests.core.spread import INPUTS, KINDS, opened, update, weights_of

ALONE = World(rank=0, size=1, device=torch.device("cpu"))
EACH_KIND = pytest.mark.parametrize("kind", ["single", *KINDS])

# The inputs (1, 0) and (0, 2) give every row of a weight the gradient (1, 2) and every bias 2. Of one block that is a squared
# norm of 2 * (1 + 4) + 2 * 4 = 18, of both 36. A norm of 6 is clipped to 1: gradients 1/6, 2/6 and 2/6. The first step of Adam
# moves by g / (|g| + eps) of the rate, with eps = 1/6 by 1/2, 2/3 and 2/3. Rates of 0.1 and 0.2 are halved to 0.05 and 0.1, of
# which the decay of 0.5 takes its part of the weights, which are 1, and not of the biases, which are 0.5.
UPDATED = {
    "actor.linear.weight": [1 - 0.025 - 0.05 / 2, 1 - 0.025 - 0.05 * 2 / 3] * 2,
    "actor.linear.bias": [0.5 - 0.05 * 2 / 3] * 2,
    "critic.linear.weight": [1 - 0.05 - 0.1 / 2, 1 - 0.05 - 0.1 * 2 / 3] * 2,
    "critic.linear.bias": [0.5 - 0.1 * 2 / 3] * 2,
}
FRESH = {"critic.linear.weight": [1.0] * 4, "critic.linear.bias": [0.5] * 2}


def approx(weights: dict[str, list[float]]) -> dict[str, Any]:
    return {name: pytest.approx(values, abs=1e-6) for name, values in weights.items()}


def of_critic(weights: dict[str, list[float]]) -> dict[str, list[float]]:
    return {name: values for name, values in weights.items() if name.startswith("critic")}


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one process does that has the inputs of both."""
    found: dict[str, Any] = {}
    engine = opened(EngineKind.single, ALONE)
    found["norm"], found["updated"] = update(engine, [*INPUTS]), weights_of(engine)
    engine = opened(EngineKind.single, ALONE)
    found["norm_of_actor"], found["frozen"] = update(engine, [*INPUTS], frozen=("critic",)), weights_of(engine)
    folder = tmp_path_factory.mktemp("single")
    engine.save(folder)
    update(engine, [*INPUTS])
    again = opened(EngineKind.single, ALONE)
    again.load(folder)
    found["after"], found["loaded"] = weights_of(engine), weights_of(again)
    update(again, [*INPUTS])
    return {**found, "again": weights_of(again)}


def found_by(kind: str, single: dict[str, Any], two_ranks: Any) -> list[dict[str, Any]]:
    return [single] if kind == "single" else [found["engines"][kind] for found in two_ranks[1]]


@EACH_KIND
def test_one_update_is_the_one_worked_out_by_hand(kind: str, single: Any, two_ranks: Any) -> None:
    for found in found_by(kind, single, two_ranks):
        assert found["norm"] == pytest.approx(6, rel=1e-6)
        assert found["updated"] == approx(UPDATED)


@EACH_KIND
def test_a_frozen_group_does_not_move_and_later_begins_as_if_it_had_never_been_asked(kind: str, single: Any, two_ranks: Any) -> None:
    for found in found_by(kind, single, two_ranks):
        assert found["norm_of_actor"] == pytest.approx(math.sqrt(18), rel=1e-6)
        assert of_critic(found["frozen"]) == FRESH
        assert found["frozen"]["actor.linear.bias"][0] < 0.47
        # Its first own step is Adam's first: moments or steps counted before it would change its length.
        assert of_critic(found["after"]) == approx(of_critic(UPDATED))


@EACH_KIND
def test_a_state_that_is_loaded_goes_on_to_the_same_bits(kind: str, single: Any, two_ranks: Any) -> None:
    for found in found_by(kind, single, two_ranks):
        assert found["loaded"] == found["frozen"]
        assert found["again"] == found["after"] != found["frozen"]


def test_the_engines_that_shard_hold_a_part_and_the_others_all(two_ranks: Any) -> None:
    for found in two_ranks[1]:
        sizes = {kind: (engine["sharded"], engine["held"]) for kind, engine in found["engines"].items()}
        # Twelve numbers, of which each of two processes holds half; ZeRO-3 holds none between its passes.
        assert sizes == {"ddp": (False, 12), "fsdp2": (True, 6), "zero2": (False, 12), "zero3": (True, 0)}


@pytest.mark.parametrize("kind", KINDS)
def test_each_weight_comes_whole_on_all_processes_by_the_rest_of_its_name_in_the_format_asked_for(kind: str, two_ranks: Any) -> None:
    expected = {name.removeprefix("critic."): values for name, values in UPDATED.items() if name.startswith("critic")}
    for found in two_ranks[1]:
        assert found["engines"][kind]["critic"] == approx(expected)
        for name, (dtype, values) in found["engines"][kind]["critic in bf16"].items():
            assert dtype == "torch.bfloat16"
            assert values == torch.tensor(found["engines"][kind]["critic"][name]).bfloat16().tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_all_processes_hear_of_a_model_that_cannot_be_written(kind: str, two_ranks: Any) -> None:
    for found in two_ranks[1]:
        assert found["engines"][kind]["told"] == ["disk full"] * 2


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_save_one_checkpoint_with_the_stamp_of_their_engine(kind: str, two_ranks: Any) -> None:
    run_dir = two_ranks[0] / kind
    assert resumable_steps(run_dir) == [1]
    assert (run_dir / "checkpoints" / "step-000001" / "model.txt").read_text() == "whole"
    stamp = json.loads((run_dir / "checkpoints" / "step-000001" / "state" / "engine.json").read_text())
    assert stamp == {"kind": kind, "processes": 2}


def test_where_the_norm_is_not_finite_nothing_moves_and_the_next_update_begins_afresh() -> None:
    engine = opened(EngineKind.single, ALONE)
    before = weights_of(engine)
    assert not math.isfinite(update(engine, [[math.inf, 0.0]]))
    assert weights_of(engine) == before
    update(engine, [*INPUTS])
    assert weights_of(engine) == approx(UPDATED)


@pytest.mark.parametrize(("dtype", "product"), [(Dtype.fp32, torch.float32), (Dtype.bf16, torch.bfloat16)])
def test_matrix_products_are_in_the_format_asked_for_and_weights_stay_in_fp32(dtype: Dtype, product: torch.dtype) -> None:
    engine = opened(EngineKind.single, ALONE, dtype)
    with engine.autocast():
        assert engine.module.actor(torch.ones(1, 2)).dtype == product
    assert {tensor.dtype for _, tensor in engine.iter_weights()} == {torch.float32}


def module_and_groups() -> tuple[nn.Module, list[dict[str, Any]]]:
    module = nn.Linear(2, 1)
    return module, [{"params": [*module.parameters()], "lr": 1.0}]


@pytest.mark.parametrize("kind", KINDS)
def test_one_process_alone_cannot_have_an_engine_for_several(kind: str) -> None:
    with pytest.raises(ValueError, match=rf"engine={kind} does not work with 1 process\(es\); start several: torchrun"):
        open_engine(EngineConfig(kind=EngineKind(kind)), *module_and_groups(), optim=OptimConfig(), dtype=Dtype.fp32, world=ALONE)


def test_one_process_that_torchrun_started_can_shard_and_updates_as_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "1")
    try:
        engine = opened(EngineKind.fsdp2, ALONE)
        assert engine.sharded
        assert update(engine, [*INPUTS]) == pytest.approx(6, rel=1e-6)
        assert weights_of(engine) == approx(UPDATED)
    finally:
        dist.destroy_process_group()


def test_several_processes_cannot_have_the_engine_of_one() -> None:
    world = World(rank=0, size=2, device=torch.device("cpu"))
    with pytest.raises(ValueError, match=r"engine=single does not work with 2 process\(es\); choose ddp"):
        open_engine(EngineConfig(kind=EngineKind.single), *module_and_groups(), optim=OptimConfig(), dtype=Dtype.fp32, world=world)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"kind": "fsdp2", "offload": "optimizer"}, "offload=optimizer does not go with engine=fsdp2; .* or engine.offload=all"),
        ({"kind": "zero2", "offload": "all"}, "choose engine=fsdp2 or engine=zero3"),
        ({"kind": "auto", "offload": "all"}, "offload=all does not go with engine=auto"),
        ({"kind": "ddp", "reduce_once": True}, "engine=ddp reduces once anyway; leave it out"),
        ({"kind": "zero3", "reduce_once": True}, "engine=zero3 reduces after every pass; leave it out"),
    ],
)
def test_what_an_engine_cannot_do_is_refused(settings: dict[str, Any], words: str) -> None:
    typed = {name: {"kind": EngineKind, "offload": Offload, "reduce_once": bool}[name](value) for name, value in settings.items()}
    with pytest.raises(ValueError, match=words):
        EngineConfig(**typed)


def test_an_engine_that_did_not_take_effect_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core.engines.torch_engine, "_shard", lambda *_, **__: None)
    world = World(rank=0, size=2, device=torch.device("cpu"))
    with pytest.raises(RuntimeError, match="engine=fsdp2 did not take effect"):
        open_engine(EngineConfig(kind=EngineKind.fsdp2), *module_and_groups(), optim=OptimConfig(), dtype=Dtype.fp32, world=world)


def world_of(size: int, rank: int = 0) -> World:
    return World(rank=rank, size=size, device=torch.device("cpu"))


@pytest.mark.parametrize(
    ("saved", "size", "loaded", "loading_size", "any_size", "fits"),
    [
        ("zero2", 2, "zero2", 2, False, True),
        ("zero2", 2, "zero2", 4, False, False),  # a state of ZeRO lies in as many parts as there were processes
        ("fsdp2", 2, "fsdp2", 4, True, True),
        ("ddp", 2, "single", 1, True, True),  # both keep the state whole
        ("single", 1, "ddp", 8, True, True),
        ("fsdp2", 2, "ddp", 2, True, False),
        ("zero2", 2, "zero3", 2, False, False),
    ],
)
def test_a_state_is_read_by_the_engine_that_wrote_it_alone(
    tmp_path: Path, saved: str, size: int, loaded: str, loading_size: int, any_size: bool, fits: bool
) -> None:
    write_engine(tmp_path, EngineKind(saved), world_of(size))
    if fits:
        require_same_engine(tmp_path, EngineKind(loaded), world_of(loading_size), any_size=any_size)
        return
    words = rf"saved by engine={saved} on {size} process\(es\), not engine={loaded} on {loading_size}; .* resume=false to start anew"
    with pytest.raises(ValueError, match=words):
        require_same_engine(tmp_path, EngineKind(loaded), world_of(loading_size), any_size=any_size)


def test_only_the_main_process_stamps_a_state(tmp_path: Path) -> None:
    write_engine(tmp_path, EngineKind.ddp, world_of(2, rank=1))
    assert list(tmp_path.iterdir()) == []
