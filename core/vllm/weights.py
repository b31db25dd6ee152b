"""Transfers the weights of a policy in training to vLLM servers.

Two ways documented by vLLM, both behind its development routes (VLLM_SERVER_DEV_MODE=1): it reloads a folder
(https://docs.vllm.ai/en/latest/training/layerwise/), or its workers join an NCCL group in which the trainer broadcasts
(https://docs.vllm.ai/en/latest/training/weight_transfer/nccl/). vLLM itself is never imported. Tested only
against a stand-in with the server's routes, not against vLLM on hardware.
"""

import base64
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor

from core.vllm.server import Server

Weights = Iterable[tuple[str, Tensor]]

CHUNK_BYTES = 1 << 30
"""Upper bound on the bytes of weights in flight at a time."""
DEV_MODE = "start vLLM with VLLM_SERVER_DEV_MODE=1 in its environment."
NCCL_MODE = 'start vLLM 0.30 or later with VLLM_SERVER_DEV_MODE=1 and --weight-transfer-config \'{"backend": "nccl"}\'.'


class WeightTransfer(Protocol):
    """Sends weights to paused servers of the same model."""

    def send(self, servers: Sequence[Server], weights: Weights) -> None:
        """Returns once each server holds all of them."""
        ...


class FolderTransfer:
    """Writes the weights as safetensors into `folder`, which the servers see under the same path, and has them reload it."""

    def __init__(self, folder: Path, dtype: torch.dtype) -> None:
        self.folder, self.dtype = folder, dtype

    def send(self, servers: Sequence[Server], weights: Weights) -> None:
        """Replaces what was sent before. A server reads the folder only when told to, so it never sees a partial one."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for old in self.folder.glob("*.safetensors"):
            old.unlink()
        for number, chunk in enumerate(chunks(weights, self.dtype)):
            tensors = {name: tensor.to("cpu").contiguous() for name, tensor in chunk}
            save_file(_without_aliases(tensors), self.folder / f"model-{number:05}.safetensors", metadata={"format": "pt"})
        call = {"method": "reload_weights", "kwargs": {"weights_path": str(self.folder)}}
        for_each(servers, lambda server: server.post("/collective_rpc", call, retry=False, remedy=DEV_MODE))


class TransferGroup(Protocol):
    """A process group of this process, rank 0, and the servers' workers."""

    unique_id: bytes
    """What the other processes need to join."""

    def join(self) -> None:
        """Waits for the others, and all-reduces one float with them, which is the first thing vLLM's workers do."""
        ...

    def broadcast(self, tensor: Tensor) -> None:
        """Sends `tensor` to the others; returns once it is queued."""
        ...

    def wait(self) -> None:
        """Returns once everything has arrived."""
        ...


class BroadcastTransfer:
    """Broadcasts the weights to the workers of all servers, straight from GPU to GPU, chunk by chunk.

    The group is opened at the first `send`, by `open_group(number of processes)`.
    """

    def __init__(self, open_group: "Callable[[int], TransferGroup]", dtype: torch.dtype) -> None:
        self.open_group, self.dtype = open_group, dtype
        self._group: TransferGroup | None = None

    def send(self, servers: Sequence[Server], weights: Weights) -> None:
        """Updates the servers' weights, in as many chunks as it takes."""
        if self._group is None:
            self._group = self._open(servers)
        for_each(servers, lambda server: server.post("/start_weight_update", retry=False, remedy=NCCL_MODE))
        for chunk in chunks(weights, self.dtype):
            self._send_chunk(servers, self._group, chunk)
        for_each(servers, lambda server: server.post("/finish_weight_update", retry=False, remedy=NCCL_MODE))

    def _open(self, servers: Sequence[Server]) -> TransferGroup:
        sizes = [_world_size(server) for server in servers]
        size = 1 + sum(sizes)
        group = self.open_group(size)
        offsets = {server.base_url: 1 + sum(sizes[:place]) for place, server in enumerate(servers)}

        def join(server: Server) -> None:
            init_info = {
                "rank_offset": offsets[server.base_url],
                "world_size": size,
                "nccl_unique_id_b64": base64.b64encode(group.unique_id).decode(),
                "packed": False,
            }
            server.post("/init_weight_transfer_engine", {"init_info": init_info}, retry=False, remedy=NCCL_MODE)

        _concurrently(group.join, lambda: for_each(servers, join))
        return group

    def _send_chunk(self, servers: Sequence[Server], group: TransferGroup, chunk: list[tuple[str, Tensor]]) -> None:
        update_info = {
            "names": [name for name, _ in chunk],
            "dtype_names": [str(tensor.dtype).removeprefix("torch.") for _, tensor in chunk],
            "shapes": [list(tensor.shape) for _, tensor in chunk],
        }

        def broadcast() -> None:
            for _, tensor in chunk:
                group.broadcast(tensor)
            group.wait()

        def update(server: Server) -> None:
            server.post("/update_weights", {"update_info": update_info}, retry=False, remedy=NCCL_MODE)

        _concurrently(broadcast, lambda: for_each(servers, update))


class NCCLGroup:
    """A `TransferGroup` over NCCL on the GPU `device`, beside any other process group of this process.

    The id under which the workers join is that of a ProcessGroupNCCL over a store that nobody else knows: torch leaves it
    there, under "0", before it waits for the others (as in vLLM's example rlhf_http_nccl_no_vllm.py).
    """

    @staticmethod
    def require(device: torch.device) -> None:
        """Raises `ValueError` if no such group can be formed."""
        if device.type != "cuda" or not dist.is_nccl_available():
            raise ValueError("rollout.sync=nccl needs the policy on a CUDA device; use rollout.sync=folder.")

    def __init__(self, size: int, device: torch.device) -> None:
        self.require(device)
        self.device = device
        untyped: Any = dist  # the type stubs of both classes are incomplete
        self._store = untyped.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        self._group = untyped.ProcessGroupNCCL(self._store, 0, size)
        self._warm_up = threading.Thread(target=self._sum_one, daemon=True)
        self._warm_up.start()
        self.unique_id = self._store.get("0")

    def _sum_one(self) -> None:
        with torch.cuda.device(self.device):
            self._group.allreduce([torch.zeros(1, device=self.device)]).wait()

    def join(self) -> None:
        """Waits for the workers."""
        self._warm_up.join()
        self.wait()

    def broadcast(self, tensor: Tensor) -> None:
        """Queues `tensor` on the stream."""
        self._group.broadcast([tensor.to(self.device).contiguous()]).wait()

    def wait(self) -> None:
        """Waits for the device."""
        torch.cuda.synchronize(self.device)


def for_each(servers: Sequence[Server], call: Callable[[Server], object]) -> None:
    """Calls all servers at once, since each may take its time or wait for the others; raises the first error."""
    with ThreadPoolExecutor(len(servers)) as pool:
        list(pool.map(call, servers))


def chunks(weights: Weights, dtype: torch.dtype) -> Iterator[list[tuple[str, Tensor]]]:
    """The weights in their order, floating-point ones as `dtype`, in lists of at most `CHUNK_BYTES` or of one tensor."""
    chunk: list[tuple[str, Tensor]] = []
    size = 0
    for name, weight in weights:
        tensor = weight.detach()
        tensor = tensor.to(dtype) if tensor.is_floating_point() else tensor
        if chunk and size + tensor.nbytes > CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
        chunk.append((name, tensor))
        size += tensor.nbytes
    if chunk:
        yield chunk


def _without_aliases(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, with those that share memory (tied embeddings) copied, since safetensors rejects them."""
    seen: set[int] = set()
    copies: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        place = tensor.untyped_storage().data_ptr()
        copies[name] = tensor.clone() if place in seen else tensor
        seen.add(place)
    return copies


def _world_size(server: Server) -> int:
    found = server.get("/get_world_size", remedy=NCCL_MODE)
    size = found.get("world_size") if isinstance(found, dict) else None
    if not isinstance(size, int) or size < 1:
        raise ValueError(f"{server.base_url}/get_world_size answered {found!r:.200}; is it a vLLM server? If so, {NCCL_MODE}")
    return size


def _concurrently(work: Callable[[], None], request: Callable[[], object]) -> None:
    """Runs both at once, since each waits for the other; raises an error of the request without waiting for `work`."""
    failed: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except (RuntimeError, ValueError) as error:  # from torch and NCCL; raised below, in the calling thread
            failed.append(error)

    # A daemon: if the request fails, nobody joins the collective, and the thread would keep the process from exiting.
    thread = threading.Thread(target=guarded, daemon=True)
    thread.start()
    request()
    thread.join()
    if failed:
        raise failed[0]
