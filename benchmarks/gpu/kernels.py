"""Where the device's time goes, by kernel: in a scored batch, a training pass, a training step and a step of a rollout."""

from collections.abc import Callable, Iterator

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.findings import Finding
from benchmarks.gpu.online import drawn_prompts
from benchmarks.gpu.subjects import Scale, classifier, language_model, word_tokenizer
from benchmarks.gpu.training import backward, forward_of, prepared, session_of
from benchmarks.machine import synchronize
from core.config import EngineConfig
from core.generators.graphed import GraphGenerator
from core.records import Sampling

SHOWN = 18


def kernels(scale: Scale) -> Iterator[Finding]:
    """The kernels that take longest, in microseconds."""
    model = classifier(scale.one, torch.bfloat16)
    for what, shape in (("scoring", scale.scoring[0]), ("training", scale.training[-1])):
        groups = [[row.tolist() for row in group] for group in shape.groups(scale.one.vocabulary)]

        def work(what: str = what, groups: list[list[list[int]]] = groups) -> None:
            with torch.set_grad_enabled(what == "training"):
                rewards_R = forward_of(model, groups)
                if what == "training":
                    backward(model, rewards_R)

        yield from profiled(what, work)
    yield from of_a_step(scale)
    policy, tokenizer = language_model(scale.one, torch.bfloat16), word_tokenizer(scale.one)
    engine = GraphGenerator(policy, tokenizer)
    sampling = Sampling(temperature=1.0, max_new_tokens=min(16, scale.new_tokens), seed=0)
    yield from profiled(f"a rollout of {sampling.max_new_tokens} tokens", lambda: engine.generate(drawn_prompts(scale), sampling))


def of_a_step(scale: Scale) -> Iterator[Finding]:
    session = session_of(scale, EngineConfig())
    prepared(session, scale.training[-1], scale)
    yield from profiled("a training step", lambda: session.step(1))


def profiled(what: str, work: Callable[[], object]) -> Iterator[Finding]:
    work()
    synchronize()
    on_gpu = torch.cuda.is_available()
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]) as profiler:
        work()
        synchronize()
    found = [event for event in profiler.key_averages() if (str(event.device_type) == "DeviceType.CUDA") == on_gpu]

    def spent(event: object) -> float:
        return float(getattr(event, "self_device_time_total" if on_gpu else "self_cpu_time_total"))

    total = sum(map(spent, found))
    yield {"what": what, "us in all": total, "kernels": sum(event.count for event in found)}
    for event in sorted(found, key=spent, reverse=True)[:SHOWN]:
        yield {"what": f"{what}: {event.key[:90]}", "us": spent(event), "calls": event.count, "share": spent(event) / total}
