"""The rewards of a PPO job: what a command may say, what is refused, what determines them, and the sum that they become."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from transformers import LlamaForSequenceClassification, PreTrainedTokenizerFast

from core.config import Dtype, ModelConfig
from core.disk import MARKER, atomic_folder, write_json
from core.models.load import load_reward_model
from core.models.locate import locate
from core.records import Prompt, user
from core.runs.checkpoints import step_folder
from core.runs.record import RECORD
from core.scorers.reward_model import RewardModelScorer
from launch.compose import ConfigError, command, composed
from launch.rewards.build import build_terms, critic_source, without_verifiers
from launch.rewards.config import RewardConfig, RewardKind
from launch.rewards.locate import locate_terms, reward_path
from launch.schema import PPOJob
from tests.fakes import tiny_llama, word_tokenizer

FRUIT = Prompt(id="1", dialogue=user("Name a fruit."), reference={"answer": "plum"})
TOOL = Prompt(id="2", dialogue=user("Name a tool."), reference={"answer": "saw"})
PROMPTS = [FRUIT, TOOL]
ASKED, ANSWERS = [FRUIT.dialogue, TOOL.dialogue], [["plum", "a lamp"], ["saw"]]


def exact(completion: str, reference: Mapping[str, Any]) -> float:
    """A verifier."""
    return float(completion == reference["answer"])


def length(prompts: Sequence[Any], completions: Sequence[Sequence[str]]) -> list[list[float]]:
    """A reward function."""
    return [[float(len(text)) for text in answers] for answers in completions]


def nothing(prompts: Sequence[Any], completions: Sequence[Sequence[str]]) -> Any:
    """A reward function, or a verifier, that forgets to return."""


EXACT, LENGTH, NOTHING = f"{__name__}:exact", f"{__name__}:length", f"{__name__}:nothing"


def job_of(*overrides: str) -> PPOJob:
    job = composed(PPOJob, overrides).job
    assert isinstance(job, PPOJob)
    return job


def test_further_rewards_are_named_on_the_command_line_without_a_plus() -> None:
    job = job_of("reward.path=RM", "rewards.gsm8k.kind=verifier", f"rewards.gsm8k.verifier={EXACT}", "rewards.gsm8k.coefficient=2")
    assert list(job.terms) == ["reward", "gsm8k"]
    assert job.terms["reward"] == RewardConfig(path="RM")
    assert job.terms["gsm8k"] == RewardConfig(kind=RewardKind.verifier, verifier=EXACT, coefficient=2.0)


def test_rewards_may_stand_alone_and_take_a_file_of_the_group() -> None:
    assert list(job_of("rewards.a.path=A", "rewards.b.path=B", "rewards.b.standardize=true").terms) == ["a", "b"]
    assert job_of("+reward@rewards.short=function", f"rewards.short.function={LENGTH}").terms["short"].kind == RewardKind.function
    assert job_of("rewards.b={path: B, dtype: bf16, coefficient: -1}").terms["b"].dtype == Dtype.bf16


def test_a_coefficient_can_be_swept() -> None:
    jobs = command(PPOJob, ["reward.path=A", "rewards.b.path=B", "rewards.b.coefficient=0.5,2"], multirun=True).jobs
    assert [job.terms["b"].coefficient for job in jobs] == [0.5, 2.0]


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("dpo", ["path=A", "reference=B"]),
        ("judge", ["judge.model=NAME"]),
        ("ensemble", ["members=[A,B]"]),
        ("function", [f"function={LENGTH}"]),
        ("vllm", ["url=http://localhost:8000", "path=A"]),
        ("verifier", [f"verifier={EXACT}"]),
    ],
)
def test_every_kind_is_a_reward_of_ppo(kind: str, settings: list[str]) -> None:
    assert job_of(f"reward={kind}", *(f"reward.{text}" for text in settings)).terms["reward"].kind == kind
    assert job_of(f"rewards.x.kind={kind}", *(f"rewards.x.{text}" for text in settings)).terms["x"].kind == kind


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ([], "reward.path is empty and there are no other rewards"),
        (["reward.dtype=bf16", "rewards.a.path=A"], r"reward\.path is empty; give the folder"),  # half of a reward is a slip
        (["reward=verifier"], r"reward\.verifier is empty; name a Python function: reward\.verifier=evalhooks"),
        (["rewards.x.kind=verifier"], r"rewards\.x\.verifier is empty; name a Python function: rewards\.x\.verifier=evalhooks"),
        (["rewards.x.kind=verifier", "rewards.x.verifier=gsm8k"], r"rewards\.x\.verifier=gsm8k must read module:function"),
        (["rewards.x.kind=dpo", "rewards.x.path=A"], r"rewards\.x\.reference is empty"),
        (["rewards.x.kind=teacher"], r"rewards\.x\.kind: Invalid value 'teacher'"),
        (["rewards.x.path=A", "rewards.x.weigth=1"], r"rewards\.x\.weigth is no setting of a reward; choose among kind, path"),
        (["rewards.x=A"], r"rewards\.x=A is no reward; give its settings, as in rewards\.x\.path=FOLDER"),
        (["rewards.x.path=A", "rewards.x.coefficient=0"], r"rewards\.x\.coefficient is 0\.0; give a number other than 0"),
        (["reward.path=A", "reward.coefficient=nan"], r"reward\.coefficient is nan"),
        (["reward.path=A", "rewards.reward.path=B"], r"rewards\.reward clashes with `reward`"),
        (["rewards.x.kind=judge"], r"rewards\.x\.judge\.model and rewards\.x\.judge\.path are both empty"),
        (["rewards.x.kind=judge", "rewards.x.judge.parallel=0"], r"rewards\.x\.judge\.parallel is 0"),
        (["reward=judge", "reward.judge.model=M", "reward.judge.mode=rankings"], r"reward\.judge\.mode=rankings compares several"),
    ],
)
def test_what_cannot_run_is_refused_with_its_key(overrides: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        job_of(*overrides)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["rewards.x.path=no/where/at/all"], r"rewards\.x\.path=no/where/at/all does not exist"),
        (["rewards.x.path=abc"], r"rewards\.x\.path=abc is no folder, and 0 runs under .* end with it"),
        (["rewards.x.kind=ensemble", "rewards.x.members=[./a,./b]"], r"rewards\.x\.members\[0\]=\./a does not exist"),
        (
            ["rewards.x.kind=verifier", "rewards.x.verifier=evalhooks.tasks.verifiers:none"],
            r"rewards\.x\.verifier: evalhooks\.tasks\.verifiers:none",
        ),
        (["reward=function", "reward.function=no_such_module:f"], r"reward\.function: no_such_module:f"),
        (
            ["rewards.x.kind=verifier", "rewards.x.verifier=evalhooks.tasks.verifiers:gsm8k"],
            r"gsm8k, judging an answer to .*'plum' .*contains no number",
        ),
        (["reward=function", f"reward.function={NOTHING}"], r"reward\.function does not fit the prompts: .*nothing returned NoneType"),
        (["reward=verifier", f"reward.verifier={NOTHING}"], r"reward\.verifier does not fit the prompts: .*nothing returned None for"),
        (["reward=judge", "reward.judge.path=./a"], r"reward\.judge\.path=\./a does not exist"),
    ],
)
def test_what_is_not_there_is_found_before_anything_is_loaded(tmp_path: Path, overrides: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        locate_terms(job_of(*overrides, f"runs_dir={tmp_path}"), PROMPTS)


def test_the_last_checkpoint_of_a_run_is_the_one_of_its_record_or_none(tmp_path: Path, reward_model_folder: Path) -> None:
    run = tmp_path / "study" / "rm-name-0123abcd"
    for step in (4, 7):
        with atomic_folder(step_folder(run, step)) as checkpoint:
            shutil.copytree(reward_model_folder, checkpoint, dirs_exist_ok=True)
    write_json(run / RECORD, {"status": "finished", "id": "0123abcd", "job": "rm", "identity": {}, "step": 4})
    assert reward_path(str(run), str(tmp_path)) == step_folder(run, 4)  # 7 is not of this run
    write_json(run / RECORD, {"status": "finished", "id": "0123abcd", "job": "rm", "identity": {}, "step": 7})
    for lost in (lambda: (step_folder(run, 7) / MARKER).unlink(), lambda: shutil.rmtree(step_folder(run, 7))):
        lost()
        with pytest.raises(ValueError, match=r"ended at step 7, whose checkpoint .*step-000007 is missing or .*: step-000004\."):
            reward_path(str(run), str(tmp_path))
    (run / RECORD).write_text("")
    with pytest.raises(ValueError, match=r"record\.json is empty; the command that made the run mends it"):
        reward_path(str(run), str(tmp_path))


def test_a_run_whose_last_checkpoint_is_not_its_best_says_which_is_taken(
    tmp_path: Path, reward_model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "study" / "rm-name-0123abcd"
    for step in (4, 7):
        with atomic_folder(step_folder(run, step)) as checkpoint:
            shutil.copytree(reward_model_folder, checkpoint, dirs_exist_ok=True)
    record = {"status": "finished", "id": "0123abcd", "job": "rm", "identity": {}, "step": 7, "best_step": 4, "best_metric": "margin"}
    write_json(run / RECORD, record)
    told = f"reward.path={run} is a run: its last checkpoint is taken, step-000007; its best one, by margin, is {step_folder(run, 4)}"
    locate_terms(job_of(f"reward.path={run}"), PROMPTS)
    assert capsys.readouterr().out.splitlines() == [told]
    locate_terms(job_of(f"reward.path={step_folder(run, 7)}"), PROMPTS)  # asked for by name
    write_json(run / RECORD, record | {"best_step": 7})
    locate_terms(job_of(f"reward.path={run}"), PROMPTS)
    assert capsys.readouterr().out == ""


def test_a_damaged_checkpoint_is_refused_before_it_is_loaded_and_a_flipped_bit_while_it_is(
    tmp_path: Path, reward_model_folder: Path
) -> None:
    with atomic_folder(tmp_path / "model") as checkpoint:
        shutil.copytree(reward_model_folder, checkpoint, dirs_exist_ok=True)
    weights = tmp_path / "model" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    config = ModelConfig(path=str(tmp_path / "model"))
    with pytest.raises(ValueError, match=r"is damaged: the content of model\.safetensors has changed\. Restore that file"):
        load_reward_model(config)
    weights.write_bytes(content[:-1])
    with pytest.raises(
        ValueError, match=rf"model\.path={tmp_path}/model is damaged: model\.safetensors has \d+ bytes instead of {len(content)}"
    ):
        locate(config)
    weights.write_bytes(content)
    (tmp_path / "model" / MARKER).write_text("")  # the change is meant
    load_reward_model(config)


def test_a_reward_model_is_found_by_folder_by_checkpoint_by_run_by_its_id_and_on_the_hub(
    tmp_path: Path, reward_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "study" / "rm-name-0123abcd"
    run.mkdir(parents=True)
    write_json(run / RECORD, {"status": "finished", "id": "0123abcd", "job": "rm", "identity": {}})
    (tmp_path / "publish-org-name" / "name-0123abcd").mkdir(parents=True)  # is no run
    with atomic_folder(step_folder(run, 7)) as checkpoint:
        shutil.copytree(reward_model_folder, checkpoint, dirs_exist_ok=True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("core.models.locate.is_offline", lambda: False)  # as if it were in the cache
    found = {
        "a": reward_model_folder, "b": step_folder(run, 7), "c": run, "d": "0123abcd", "e": "org/name@v1.0",
    }  # fmt: skip
    sources = locate_terms(job_of(*(f"rewards.{name}.path={path}" for name, path in found.items()), f"runs_dir={tmp_path}"), PROMPTS)
    paths = {name: source.models["path"].path for name, source in sources.items()}
    last = str(step_folder(run, 7))
    assert paths == {"a": str(reward_model_folder), "b": last, "c": last, "d": last, "e": "org/name@v1.0"}


def test_the_rewards_of_a_job_become_one_weighted_sum(reward_model_folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    job = job_of(
        f"reward.path={reward_model_folder}",
        "rewards.right.kind=verifier",
        f"rewards.right.verifier={EXACT}",
        "rewards.right.coefficient=3",
        "rewards.long.kind=function",
        f"rewards.long.function={LENGTH}",
        "rewards.long.coefficient=-0.5",
    )
    scorer = build_terms(job, locate_terms(job, PROMPTS), PROMPTS, tokenizer)
    parts = scorer.parts(ASKED, ANSWERS)
    model = RewardModelScorer(*load_reward_model(locate_terms(job, PROMPTS)["reward"].models["path"])).score(ASKED, ANSWERS)
    assert parts == {"reward": model, "right": [[1.0, 0.0], [1.0]], "long": [[4.0, 6.0], [3.0]]}
    # The model's, plus 3 for a right answer, less half a point per character.
    expected = [[model[0][0] + 3 - 2, model[0][1] - 3], [model[1][0] + 3 - 1.5]]
    assert scorer.score(ASKED, ANSWERS) == [pytest.approx(row) for row in expected]


def test_prompts_of_tasks_are_scored_without_the_verifiers(reward_model_folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    verifier = ("rewards.right.kind=verifier", f"rewards.right.verifier={EXACT}")
    job = job_of(f"reward.path={reward_model_folder}", *verifier)
    rest = without_verifiers(build_terms(job, locate_terms(job, PROMPTS), PROMPTS, tokenizer))
    assert rest is not None
    assert [term.name for term in rest.terms] == ["reward"]
    assert len(rest.score([user("Another one?")], [["plum"]])[0]) == 1
    alone = job_of(*verifier)
    assert without_verifiers(build_terms(alone, locate_terms(alone, PROMPTS), PROMPTS, tokenizer)) is None


def test_the_other_kinds_are_built_too(
    tmp_path: Path, reward_model_folder: Path, policy_folder: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    settings = {
        "implicit": ["kind=dpo", f"path={policy_folder}", f"reference={policy_folder}"],
        "both": ["kind=ensemble", f"members=[{reward_model_folder},{reward_model_folder}]"],
        "judge": ["kind=judge", f"judge.path={policy_folder}", "judge.max_tokens=2", f"judge.cache={tmp_path / 'answers.sqlite'}"],
    }
    job = job_of(*(f"rewards.{name}.{text}" for name, texts in settings.items() for text in texts))
    parts = build_terms(job, locate_terms(job, PROMPTS), PROMPTS, tokenizer).parts(ASKED, ANSWERS)
    assert parts["implicit"] == [[0.0, 0.0], [0.0]]  # a policy that is its own reference
    one = job_of(f"reward.path={reward_model_folder}")
    assert parts["both"] == build_terms(one, locate_terms(one, PROMPTS), PROMPTS, tokenizer).score(ASKED, ANSWERS)
    assert parts["judge"] == [[-1.0, -1.0], [-1.0]]  # two tokens of a random model are no rating


def test_a_reward_has_its_own_number_format(reward_model_folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    job = job_of(f"rewards.half.path={reward_model_folder}", "rewards.half.dtype=bf16", f"rewards.whole.path={reward_model_folder}")
    scorers = [term.scorer for term in build_terms(job, locate_terms(job, PROMPTS), PROMPTS, tokenizer).terms]
    models = [scorer.model for scorer in scorers if isinstance(scorer, RewardModelScorer)]
    assert [model.dtype for model in models] == [torch.bfloat16, torch.float32]


@pytest.fixture
def foreign_folder(tmp_path: Path) -> Path:
    """A reward model with another tokenizer and another template than the policy's."""
    tokenizer = word_tokenizer(pad="<pad>")
    torch.manual_seed(2)
    LlamaForSequenceClassification(tiny_llama(tokenizer, num_labels=1)).save_pretrained(tmp_path / "foreign")
    tokenizer.save_pretrained(tmp_path / "foreign")
    return tmp_path / "foreign"


def test_a_reward_model_with_another_tokenizer_reads_the_text_in_its_own_tokens(
    foreign_folder: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    job = job_of(f"reward.path={foreign_folder}")
    scorer = build_terms(job, locate_terms(job, PROMPTS), PROMPTS, tokenizer).terms[0].scorer
    assert isinstance(scorer, RewardModelScorer)
    # <s> [user] Name a fruit. [assistant] plum </s>
    assert scorer.score_detailed([FRUIT.dialogue], [["plum"]])[0][0].num_tokens == 8


def test_a_critic_starts_from_the_first_reward_model_of_the_policys_tokens_that_is_no_penalty(
    foreign_folder: Path, reward_model_folder: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    foreign, own = f"path={foreign_folder}", f"path={reward_model_folder}"
    job = job_of(f"reward.{foreign}", f"rewards.less.{own}", "rewards.less.coefficient=-1", f"rewards.own.{own}")
    scorer = build_terms(job, locate_terms(job, PROMPTS), PROMPTS, tokenizer)
    last = scorer.terms[2].scorer
    assert isinstance(last, RewardModelScorer)
    assert critic_source(scorer, tokenizer, job) is last.model
    alone = job_of(f"reward.{foreign}")
    assert critic_source(build_terms(alone, locate_terms(alone, PROMPTS), PROMPTS, tokenizer), tokenizer, alone) is None
