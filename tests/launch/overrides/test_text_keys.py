"""A key that takes text gets what was typed; every other key gets what Hydra makes of it."""

import pytest

from launch.compose import command, composed
from launch.schema import BenchJob, PPOJob, RMJob
from tests.launch.sweeps import OWN

TYPED = ("1_1_1", "1e3", "8472e13", "yes", "No", "007", "TRUE", "1.0", ".5", "+5", "nan", "1:30", "0x1F", "München", "研究 1")


@pytest.mark.parametrize("text", TYPED)
def test_text_stays_as_it_was_typed(text: str) -> None:
    job = composed(RMJob, [*OWN, f"data.name={text}", f"data.paths=[{text}, b.jsonl]", f"runs_dir={text}"]).job
    assert (job.data.name, job.data.paths, job.runs_dir) == (text, [text, "b.jsonl"], text)


def test_a_sweep_over_texts_keeps_each_of_them() -> None:
    jobs = command(RMJob, [*OWN, f"data.name={','.join(TYPED)}"], multirun=True).jobs
    assert [job.data.name for job in jobs] == list(TYPED)


def test_settings_under_names_of_the_users_own_are_texts_too() -> None:
    job = composed(
        PPOJob,
        [
            *("model=custom", "model.path=1e3", "prompts=[1_0]", "best_metric=rm_score"),
            *("rewards.a.path=8472e13", "rewards.b={path: 1_1_1, coefficient: 1e0}", "tasks=gsm8k", "tasks.gsm8k.path=1e1"),
        ],
    ).job
    assert (job.model.path, job.prompts, job.tasks["gsm8k"].path) == ("1e3", ["1_0"], "1e1")
    assert {name: (term.path, term.coefficient) for name, term in job.terms.items()} == {"a": ("8472e13", 1.0), "b": ("1_1_1", 1.0)}


@pytest.mark.parametrize("override", ["study=null", "study=Null", "name=a,null", "data.sources.a.path=null"])
def test_null_is_no_text_and_the_message_says_what_is(override: str) -> None:
    key = override.partition("=")[0]
    with pytest.raises(ValueError, match=rf"{key} takes text; for none give {key}='', and for the word itself \"{key}='null'\""):
        command(RMJob, [*OWN, override], multirun=True)


def test_the_word_null_can_be_given_in_quotes() -> None:
    assert composed(RMJob, [*OWN, "study='null'"]).job.study == "null"


def test_null_leaves_out_what_may_be_left_out_and_numbers_stay_numbers() -> None:
    job = composed(RMJob, [*OWN, "model.revision=null", "micro_batch_size=null", "optim.lr=1e-3", "hooks.best_of=[1_6]"]).job
    assert (job.model.revision, job.micro_batch_size, job.optim.lr, job.hooks.best_of) == (None, None, 1e-3, [16])
    assert composed(RMJob, [*OWN, "model.revision=1e3"]).job.model.revision == "1e3"


def test_a_run_id_that_looks_like_a_number_is_no_number() -> None:
    assert composed(BenchJob, ["reward.path=8472e13"]).job.reward.path == "8472e13"
