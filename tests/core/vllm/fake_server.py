"""A stand-in for vLLM: the routes that rollouts use, in front of a real, tiny policy."""

import json
import queue
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from core.data.chat import pad_id
from core.data.turn_ends import turn_ends
from core.generators.local import sample
from core.records import Sampling

Answer = tuple[int, Any]


@dataclass
class Standin:
    """What the server holds and was asked; `failures` are statuses to answer a path with before it works."""

    model: LlamaForCausalLM
    tokenizer: PreTrainedTokenizerFast
    url: str = ""
    calls: list[tuple[str, Any]] = field(default_factory=list)
    failures: dict[str, list[int]] = field(default_factory=dict)
    answers: dict[str, Any] = field(default_factory=dict)
    """Bodies to answer a path with instead of working."""
    wire: "queue.Queue[Tensor]" = field(default_factory=queue.Queue)
    """What the trainer broadcasts."""
    paused: bool = False
    remembers: set[tuple[int, ...]] = field(default_factory=set)
    """Prompts whose keys and values it keeps."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def ends(self) -> frozenset[int]:
        return turn_ends(self.model, self.tokenizer)

    def paths(self) -> list[str]:
        return [path for path, _ in self.calls]

    def answer(self, path: str, body: Any) -> Answer:
        with self.lock:
            self.calls.append((path, body))
            if self.failures.get(path):
                return self.failures[path].pop(0), {"error": {"message": "not today"}}
        if path in self.answers:
            return 200, self.answers[path]
        match path:
            case "/v1/models":
                return 200, {"data": [{"id": "org/policy"}]}
            case "/v1/completions":
                with self.lock:
                    return self.completions(body)
            case "/get_world_size":
                return 200, {"world_size": 2}
            case "/pause?mode=wait" | "/resume":
                self.paused = path != "/resume"
            case "/reset_prefix_cache?reset_running_requests=true":
                self.remembers.clear()
                return 200, {"success": True}
            case "/collective_rpc":
                assert body["method"] == "reload_weights"
                for file in sorted(Path(body["kwargs"]["weights_path"]).glob("*.safetensors")):
                    self.take(load_file(file))
            case "/update_weights":
                told = body["update_info"]
                arrived = {name: self.wire.get(timeout=5) for name in told["names"]}
                assert [list(tensor.shape) for tensor in arrived.values()] == told["shapes"]
                assert [f"torch.{name}" for name in told["dtype_names"]] == [str(tensor.dtype) for tensor in arrived.values()]
                self.take(arrived)
            case "/init_weight_transfer_engine" | "/start_weight_update" | "/finish_weight_update":
                pass
            case _:
                return 404, {"detail": "Not Found"}
        return 200, None

    def take(self, weights: dict[str, Tensor]) -> None:
        """Loads them as vLLM does: in any number format."""
        assert self.paused, "weights changed under requests"
        own = self.model.state_dict()
        with torch.no_grad():
            for name, tensor in weights.items():
                own[name].copy_(tensor)

    def completions(self, body: dict[str, Any]) -> Answer:
        assert not self.paused
        self.remembers.add(tuple(body["prompt"]))
        # vLLM numbers the completions of a request and adds the number to its seed.
        rows, logprobs, ends = [], [], frozenset(body["stop_token_ids"])
        for number in range(body["n"]):
            sampling = Sampling(temperature=body["temperature"], max_new_tokens=body["max_tokens"], seed=body["seed"] + number)
            drawn = sample(self.model, [body["prompt"]], [0], sampling, pad=pad_id(self.tokenizer), ends=ends)
            rows += drawn[0]
            logprobs += drawn[1]
        choices = [
            {"index": i, "token_ids": row, "logprobs": {"token_logprobs": own}, "finish_reason": "stop" if row[-1] in ends else "length"}
            for i, (row, own) in enumerate(zip(rows, logprobs, strict=True))
        ]
        return 200, {"choices": choices[::-1]}  # the index counts, not the place


@contextmanager
def serving(state: Standin) -> Generator[Standin]:
    """Answers under `state.url` for as long as the block lasts."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.reply(None)

        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            self.reply(json.loads(content) if content else None)

        def reply(self, body: Any) -> None:
            status, value = state.answer(self.path, body)
            content = b"" if value is None else value.encode() if isinstance(value, str) else json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        state.url = f"http://127.0.0.1:{running.server_port}"
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield state
        running.shutdown()
        thread.join()
