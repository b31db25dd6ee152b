"""What is shown and kept holds neither what a terminal would act on nor a password."""

import json
import traceback
from pathlib import Path

import pytest

from core.runs.record import fail_run, open_run
from core.text import printable, redacted, redacted_values, shown


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;a title\x07b", "b"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1b]not ended", "not ended"),
        ("\x9b2Ja\x00b\x08c\r", "abc"),
        ("safe\u202etxt.exe\u2066", "safetxt.exe"),
        ("a\tb\nç 日本 🙂", "a\tb\nç 日本 🙂"),
    ],
)
def test_what_a_terminal_would_act_on_is_left_out(text: str, left: str) -> None:
    assert printable(text) == left


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("http://me:hunter2@host:8000/v1", "http://me:***@host:8000/v1"),
        ("postgres://me:hunt@er2@host/db", "postgres://me:***@host/db"),
        ("https://ghp_0123456789abcdef@host", "https://***@host"),
        ("GET /v1?x=1&api_key=hunter2&y=2", "GET /v1?x=1&api_key=***&y=2"),
        ("hf_0123456789abcdef is not valid", "hf_*** is not valid"),
        ("Authorization: Bearer 0123456789abc", "Authorization: *** ***"),
        ("judge:\n  api_key: hunter2\n  model: m", "judge:\n  api_key: ***\n  model: m"),
        ("reward.judge.api_key=hunter2 seed=1", "reward.judge.api_key=*** seed=1"),
        ("{'password': 'hunter two', 'n': 1}", "{'password': ***, 'n': 1}"),
    ],
)
def test_a_secret_is_replaced_and_the_rest_stays(text: str, said: str) -> None:
    assert redacted(text) == said
    assert redacted(said) == said


@pytest.mark.parametrize(
    "text",
    [
        *(
            "org/name@main",
            "http://host:8000/v1",
            "https://host/org/name@v1.0",
            "max_tokens: 5",
            "pad_token: <pad>",
            "api_key_env: OPENAI_API_KEY",
        ),
        *(
            "unexpected token: foo",
            "api_key: ${oc.env:KEY}",
            "api_key: ''",
            "model.path=sk-learn/model",
            "key=1,2",
            "runs/demo/rm-a-1c27a5e0",
        ),
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert shown(text) == text


def test_values_under_the_key_of_a_secret_are_hidden_in_nested_settings() -> None:
    settings = {"judge": [{"api_key": "hunter2", "url": "http://a:b@h", "api_key_env": "KEY"}], "token": "", "max_tokens": 5}
    hidden = {"judge": [{"api_key": "***", "url": "http://a:***@h", "api_key_env": "KEY"}], "token": "", "max_tokens": 5}
    assert redacted_values(settings) == hidden


def test_no_file_of_a_run_holds_a_password(tmp_path: Path) -> None:
    url = "http://me:hunter2@host/v1"
    run, _ = open_run(
        runs_dir=tmp_path,
        study="s",
        job="rm",
        name="n",
        identity={"url": url},
        config_yaml=f"url: {url}\n",
        extra={"data": {"from": [url]}},
    )
    try:
        raise ValueError(f"{url} does not answer")
    except ValueError:
        fail_run(run, traceback.format_exc())
    assert json.loads((run.dir / "record.json").read_text())["identity"] == {"url": "http://me:***@host/v1"}
    for file in run.dir.rglob("*"):
        assert "hunter2" not in file.read_text()
