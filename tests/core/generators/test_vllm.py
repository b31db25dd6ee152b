"""A server's completions are those of the policy whose weights it was last given, and it never mixes two policies."""

import base64
import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from core.data.chat import encode_prompts, pad_id
from core.generators.local import TransformersGenerator, sample
from core.generators.vllm import VLLMGenerator
from core.records import RolloutEngine, Sampling, user
from core.vllm import weights as weight_transfer
from core.vllm.server import Server
from core.vllm.weights import BroadcastTransfer, FolderTransfer, NCCLGroup, chunks
from tests.core.vllm.fake_server import Standin, serving

PROMPTS = [user("Name " + "a short " * repeats + "fruit.") for repeats in (0, 3, 1)]
GREEDY = Sampling(temperature=0, max_new_tokens=24)
SAMPLED = Sampling(n=3, max_new_tokens=12, seed=5, temperature=0.7)


@pytest.fixture
def server(policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch) -> Iterator[Standin]:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("core.vllm.server.FIRST_WAIT_S", 0.01)
    with serving(Standin(copy.deepcopy(policy), tokenizer)) as state:
        yield state


@pytest.fixture
def engine(server: Standin, tmp_path: Path) -> Iterator[VLLMGenerator]:
    with Server(server.url, timeout_s=10, retries=2) as connection:
        yield VLLMGenerator(
            [connection], server.tokenizer, FolderTransfer(tmp_path / "weights", torch.float32), ends=server.ends, parallel=4
        )


@pytest.fixture
def moved(policy: LlamaForCausalLM) -> LlamaForCausalLM:
    """The policy after an update that nobody could overlook."""
    model = copy.deepcopy(policy)
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


class QueueGroup:
    """A `TransferGroup` whose wire is the stand-in's queue."""

    unique_id = bytes(range(128))

    def __init__(self, size: int, *servers: Standin) -> None:
        self.servers, self.size, self.joined = servers, size, 0

    def join(self) -> None:
        self.joined += 1

    def broadcast(self, tensor: Tensor) -> None:
        for server in self.servers:
            server.wire.put(tensor.clone())

    def wait(self) -> None: ...


def test_completions_are_those_of_the_served_policy_in_the_order_of_the_prompts(
    engine: VLLMGenerator, policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    assert isinstance(engine, RolloutEngine)
    found = engine.generate(PROMPTS, GREEDY)
    assert found == TransformersGenerator(policy, tokenizer).generate(PROMPTS, GREEDY)
    assert {completion.logprobs for [completion] in found} == {(0.0,) * len(completion.token_ids) for [completion] in found}
    assert engine.generate([], GREEDY) == []


def test_a_request_holds_token_ids_and_leaves_nothing_to_the_defaults_of_the_server(
    engine: VLLMGenerator, server: Standin, tokenizer: PreTrainedTokenizerFast
) -> None:
    engine.generate(PROMPTS[1:2], Sampling(n=3, max_new_tokens=12, seed=5, temperature=0.7, first=40))
    assert server.calls[-1] == (
        "/v1/completions",
        {
            "model": "org/policy",
            "prompt": encode_prompts(tokenizer, PROMPTS)[1],
            "n": 3,
            "max_tokens": 12,
            "temperature": 0.7,
            "top_p": 1.0,
            "top_k": 0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "seed": 15_000_165,  # (5 * 1,000,003 + 40) * 3
            "ignore_eos": True,
            "stop_token_ids": [tokenizer.eos_token_id],
            "logprobs": 0,
            "return_token_ids": True,
        },
    )


def test_a_list_in_parts_is_drawn_as_the_whole_list(engine: VLLMGenerator, server: Standin, tokenizer: PreTrainedTokenizerFast) -> None:
    whole = engine.generate(PROMPTS, SAMPLED)
    for number, completion in enumerate(whole[0]):  # vLLM numbers a request's completions; the seed is (5 * 1,000,003 + 0) * 3
        alone = Sampling(max_new_tokens=12, seed=15_000_045 + number, temperature=0.7)
        prompt = encode_prompts(tokenizer, PROMPTS[:1])
        [row], _ = sample(server.model, prompt, [0], alone, pad=pad_id(tokenizer), ends=server.ends)
        assert list(completion.token_ids) == row
    rest = engine.generate(PROMPTS[1:], Sampling(n=3, max_new_tokens=12, seed=5, temperature=0.7, first=1))
    assert rest == whole[1:]
    equal = engine.generate([PROMPTS[0]] * 3, SAMPLED)
    assert len({completion.token_ids for row in equal for completion in row}) == 9  # no two share their draws
    for completion in whole[0]:
        assert completion.logprobs is not None
        assert len(completion.logprobs) == len(completion.token_ids)
        assert max(completion.logprobs) < 0


def test_after_new_weights_the_server_answers_with_them(
    engine: VLLMGenerator, server: Standin, moved: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    before = engine.generate(PROMPTS, GREEDY)
    assert server.remembers
    engine.load_weights(moved.state_dict().items())
    assert server.paths()[-4:] == ["/pause?mode=wait", "/collective_rpc", "/reset_prefix_cache?reset_running_requests=true", "/resume"]
    assert not server.remembers
    after = engine.generate(PROMPTS, GREEDY)
    assert after == TransformersGenerator(moved, tokenizer).generate(PROMPTS, GREEDY) != before


@pytest.mark.parametrize("chunk_bytes", [4000, 10**6])  # several files, and one with both names of the tied weights
def test_tied_weights_and_several_files_arrive_whole_and_leave_nothing_of_the_last_time(
    server: Standin, moved: LlamaForCausalLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk_bytes: int
) -> None:
    monkeypatch.setattr(weight_transfer, "CHUNK_BYTES", chunk_bytes)
    weights = {**moved.state_dict(), "lm_head.weight": moved.get_parameter("model.embed_tokens.weight")}
    server.paused = True
    (tmp_path / "model-99999.safetensors").write_bytes(b"of the last time")
    with Server(server.url) as connection:
        FolderTransfer(tmp_path, torch.float32).send([connection], weights.items())
    assert (len(list(tmp_path.iterdir())) > 2) == (chunk_bytes == 4000)
    for name, tensor in server.model.state_dict().items():
        assert torch.equal(tensor, weights[name]), name


def test_broadcast_weights_are_told_of_as_they_are_and_arrive(
    server: Standin, moved: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weight_transfer, "CHUNK_BYTES", 4000)
    groups: list[QueueGroup] = []

    def open_group(size: int) -> QueueGroup:
        groups.append(QueueGroup(size, server))
        return groups[-1]

    with Server(server.url, timeout_s=10) as connection:
        engine = VLLMGenerator([connection], tokenizer, BroadcastTransfer(open_group, torch.float32), ends=server.ends)
        engine.load_weights(moved.state_dict().items())
        engine.load_weights(moved.state_dict().items())
        assert engine.generate(PROMPTS, GREEDY) == TransformersGenerator(moved, tokenizer).generate(PROMPTS, GREEDY)
    [group] = groups  # opened once
    assert (group.size, group.joined) == (3, 1)  # the trainer and two workers
    told = dict(server.calls)["/init_weight_transfer_engine"]["init_info"]
    assert base64.b64decode(told.pop("nccl_unique_id_b64")) == bytes(range(128))
    assert told == {"rank_offset": 1, "world_size": 3, "packed": False}
    ordered = [path for path in server.paths() if "update" in path or "engine" in path]
    num_chunks = len(list(chunks(moved.state_dict().items(), torch.float32)))
    once = ["/start_weight_update", *["/update_weights"] * num_chunks, "/finish_weight_update"]
    assert num_chunks > 2
    assert ordered == ["/init_weight_transfer_engine", *once, *once]


@pytest.mark.parametrize("broadcasts", [False, True])
def test_several_servers_share_the_prompts_and_all_get_the_weights(
    policy: LlamaForCausalLM, moved: LlamaForCausalLM, server: Standin, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, broadcasts: bool
) -> None:
    expected = TransformersGenerator(moved, tokenizer).generate(PROMPTS, GREEDY)
    with serving(Standin(copy.deepcopy(policy), tokenizer)) as other:
        groups: list[QueueGroup] = []

        def open_group(size: int) -> QueueGroup:
            groups.append(QueueGroup(size, server, other))
            return groups[-1]

        transfer = BroadcastTransfer(open_group, torch.float32) if broadcasts else FolderTransfer(tmp_path, torch.float32)
        with Server(server.url, timeout_s=10) as one, Server(other.url, timeout_s=10) as two:
            engine = VLLMGenerator([one, two], tokenizer, transfer, ends=server.ends)
            engine.load_weights(moved.state_dict().items())
            assert engine.generate(PROMPTS, GREEDY) == expected
            assert [each.paths().count("/v1/completions") for each in (server, other)] == [2, 1]
            other.failures["/collective_rpc" if not broadcasts else "/start_weight_update"] = [500]
            with pytest.raises(ValueError, match=f"{other.url}/.* did not answer"):
                engine.load_weights(moved.state_dict().items())
            with pytest.raises(ValueError, match=f"{server.url}, {other.url} received only part of the last weights"):
                engine.generate(PROMPTS, GREEDY)
    if broadcasts:
        told = [dict(each.calls)["/init_weight_transfer_engine"]["init_info"] for each in (server, other)]
        assert [(info["rank_offset"], info["world_size"]) for info in told] == [(1, 5), (3, 5)]  # two workers each, and the trainer
        assert [group.size for group in groups] == [5]


def test_floating_weights_are_sent_in_the_servers_format_and_others_as_they_are() -> None:
    weights = {"w": torch.ones(2, 3), "steps": torch.tensor([7])}
    [chunk] = chunks(weights.items(), torch.bfloat16)
    assert [(name, tensor.dtype) for name, tensor in chunk] == [("w", torch.bfloat16), ("steps", torch.int64)]


def test_a_failed_transfer_leaves_the_server_paused_and_generates_nothing(
    engine: VLLMGenerator, server: Standin, moved: LlamaForCausalLM
) -> None:
    server.failures["/collective_rpc"] = [500]
    with pytest.raises(ValueError, match=r"/collective_rpc did not answer in 1 attempts, the last one with status 500 \(not today\)"):
        engine.load_weights(moved.state_dict().items())
    assert server.paused
    with pytest.raises(ValueError, match="only part of the last weights"):
        engine.generate(PROMPTS, GREEDY)
    engine.load_weights(moved.state_dict().items())
    assert len(engine.generate(PROMPTS, GREEDY)) == 3


def test_a_server_that_cannot_clear_its_prefix_cache_is_refused(engine: VLLMGenerator, server: Standin, moved: LlamaForCausalLM) -> None:
    server.answers["/reset_prefix_cache?reset_running_requests=true"] = {"success": False}
    with pytest.raises(ValueError, match="could not clear its prefix cache"):
        engine.load_weights(moved.state_dict().items())


def test_a_server_without_development_routes_is_told_how_to_start(engine: VLLMGenerator, server: Standin, moved: LlamaForCausalLM) -> None:
    server.failures["/pause?mode=wait"] = [404]
    with pytest.raises(ValueError, match="VLLM_SERVER_DEV_MODE=1"):
        engine.load_weights(moved.state_dict().items())
    server.failures["/get_world_size"] = [404]
    with pytest.raises(ValueError, match="--weight-transfer-config"):
        BroadcastTransfer(lambda size: QueueGroup(size, server), torch.float32).send(engine.servers, [])


def test_a_passing_failure_of_the_server_costs_nothing_but_time(engine: VLLMGenerator, server: Standin) -> None:
    expected = engine.generate(PROMPTS, SAMPLED)
    server.failures["/v1/completions"] = [503, 429]
    assert engine.generate(PROMPTS, SAMPLED) == expected


def test_answers_that_are_no_completions_are_refused(engine: VLLMGenerator, server: Standin) -> None:
    choice = {"index": 0, "token_ids": [5, 6], "logprobs": {"token_logprobs": [-1.0, -1.0]}, "finish_reason": "abort"}
    for answer, problem in (
        ({"object": "error"}, "without token ids"),
        ({"choices": [{**choice, "token_ids": None}]}, "without token ids"),
        ({"choices": [choice, {**choice, "index": 1}]}, "gave 2 completions of 1"),
        ({"choices": [{**choice, "token_ids": [5]}]}, "not one logprob per token"),
        ({"choices": [choice]}, r"ended a completion after 2 of 24 tokens without an end of turn \(finish_reason 'abort'\)"),
        ("<html>", "is no JSON"),
    ):
        server.answers["/v1/completions"] = answer
        with pytest.raises(ValueError, match=problem):
            engine.generate(PROMPTS[:1], GREEDY)


def test_something_that_is_no_inference_server_is_refused_at_the_start(server: Standin, tmp_path: Path) -> None:
    server.answers["/v1/models"] = {"data": []}
    with Server(server.url) as connection, pytest.raises(ValueError, match="is it a vLLM server"):
        VLLMGenerator([connection], server.tokenizer, FolderTransfer(tmp_path, torch.float32), ends=server.ends)


def test_nccl_without_a_gpu_is_refused_before_anything_is_drawn() -> None:
    with pytest.raises(ValueError, match=r"rollout\.sync=nccl needs the policy on a CUDA device"):
        NCCLGroup.require(torch.device("cpu"))
