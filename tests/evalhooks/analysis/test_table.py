"""Tables of scores: what is read, what is refused with its place, and what is left out with a sentence."""

import json
from pathlib import Path

import pytest

from evalhooks.analysis.noise import seed_noise
from evalhooks.analysis.table import Group, ScoreTable, read_table


def csv(folder: Path, text: str, name: str = "scores.csv") -> str:
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


def read(folder: Path, text: str, *columns: str, names: str = "") -> ScoreTable:
    return read_table([csv(folder, text)], columns, names=names)


def test_csv_and_jsonl_read_alike(tmp_path: Path) -> None:
    table = read(tmp_path, "model,rb2,bon,base\na,68.7,52.4,tulu\nb,1e1,0,llama\n", "rb2", "bon")
    rows = [{"model": "a", "rb2": 68.7, "bon": 52.4, "base": "tulu"}, {"model": "b", "rb2": 10, "bon": 0, "base": "llama"}]
    lines = "\n".join(map(json.dumps, rows))
    assert read_table([csv(tmp_path, lines, "scores.jsonl")], ["rb2", "bon"]).models == table.models
    assert [(m.name, dict(m.scores), dict(m.facts)) for m in table.models] == [
        ("a", {"rb2": 68.7, "bon": 52.4}, {"base": "tulu"}),
        ("b", {"rb2": 10.0, "bon": 0.0}, {"base": "llama"}),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model,rb2\na,1\n", r"has no column bon; It has model, rb2|has no column bon; did you mean"),
        ("model,rb2,bon\na,1,good\n", r"row 1: bon of a is 'good', which is no number"),
        ("model,rb2,bon\na,1,68.7%\n", r"row 1: bon of a is '68.7%', which is no number"),
        ("model,rb2,bon\na,1\n", r"row 1 has 2 cells where the first line names 3"),
        ("model,rb2,rb2\na,1,2\n", r"has the column rb2 twice"),
        ("model,rb2,bon\n,1,2\n", r"row 1 does not name its reward model"),
        ("model,rb2,bon\n", r"holds no rows"),
        ("", r"holds no rows"),
        ("model,rb2,bon,bon_se\na,1,2,-1\n", r"bon_se of a is -1; a standard error is not below 0"),
        ("model,rb2,bon,control\na,1,2,maybe\n", r"control of a is 'maybe'; give true or false"),
        ("model,rb2,bon\na,1,2\na,2,3\na,4,5\n", r"a stands in rows 1, 2, 3 with different cells.*names no reward models"),
    ],
)
def test_a_bad_table_is_refused_with_its_place_and_a_remedy(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(tmp_path, text, "rb2", "bon")


def test_a_column_that_is_nearly_named_is_suggested(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no column rbv2; did you mean RBv2"):
        read(tmp_path, "model,RBv2\na,1\n", "rbv2")
    with pytest.raises(ValueError, match="is no file"):
        read_table([str(tmp_path / "absent.csv")], ["rb2"])
    with pytest.raises(ValueError, match="is no object"):
        read_table([csv(tmp_path, "[1]\n", "rows.jsonl")], ["rb2"])


def test_missing_and_not_finite_scores_are_left_out_and_told(tmp_path: Path) -> None:
    table = read(tmp_path, "model,rb2,bon\na,1,2\nb,NaN,3\nc,,4\nd,n/a,inf\n", "rb2", "bon")
    assert [sorted(model.scores) for model in table.models] == [["bon", "rb2"], ["bon"], ["bon"], []]
    assert table.notes == (
        "rb2 is not finite for 1 of 4: b; these are left out wherever it is used.",
        "rb2 is missing for 2 of 4: c, d; these are left out wherever it is used.",
        "bon is not finite for 1 of 4: d; these are left out wherever it is used.",
    )


def test_a_name_that_stands_twice_counts_once_if_the_rows_agree_and_not_at_all_if_they_differ(tmp_path: Path) -> None:
    table = read(tmp_path, "model,rb2\na,1\na,1\nb,2\nb,3\nc,4\nd,5\ne,6\n", "rb2")
    assert [model.name for model in table.models] == ["a", "c", "d", "e"]
    assert [note.partition("csv: ")[2] for note in table.notes] == [
        "a stands in rows 1, 2 with the same cells, and counts once.",
        "b stands in rows 3, 4 with different cells, so none of these rows is used.",
    ]


def test_seeds_tell_rows_of_one_name_apart_and_make_the_band(tmp_path: Path) -> None:
    table = read(tmp_path, "model,seed,rb2\na,0,60\na,1,62\nb,0,50\nb,1,51\nb,2,52\nc,0,70\n", "rb2")
    assert [model.name for model in table.models][:2] == ["a (seed 0)", "a (seed 1)"]
    found = seed_noise(table.models, "rb2")
    # Sums of squares about the means: 1 + 1 and 1 + 0 + 1, so 4 over 1 + 2 degrees of freedom; t at 97.5% for 3 is 3.1824.
    assert found is not None
    assert (found.df, found.num_groups) == (3, 2)
    assert found.sd == pytest.approx((4 / 3) ** 0.5)
    assert found.band == pytest.approx(3.1824 * 2**0.5 * (4 / 3) ** 0.5, rel=1e-4)


def test_without_a_seed_only_rows_with_all_settings_count_as_one_recipe(tmp_path: Path) -> None:
    full = "model,base,data,lr,epochs,rb2\na,t,x,3e-6,1,60\nb,t,x,0.000003,1,62\nc,t,x,1e-6,1,50\n"
    found = seed_noise(read(tmp_path, full, "rb2").models, "rb2")
    assert found is not None
    assert found.sd == pytest.approx(2**0.5)
    assert seed_noise(read(tmp_path, "model,base,rb2\na,t,60\nb,t,62\n", "rb2").models, "rb2") is None


def test_groups_go_by_their_usual_names_and_flipped_labels_make_a_control(tmp_path: Path) -> None:
    rows = "model,group,flip,rb2\na,on_policy,0,1\nb,off-distribution,0.0,2\nc,flipped control,,3\nd,on-policy,0.4,4\ne,mine,0,5\n"
    groups = [model.facts["group"] for model in read(tmp_path, rows, "rb2").models]
    assert groups == [Group.on_policy, Group.other_prompts, Group.controls, Group.controls, "mine"]


def test_files_are_joined_by_name_and_a_column_of_both_is_called_after_its_file(tmp_path: Path) -> None:
    first = csv(tmp_path, "model,Score,Math\na,1,5\nb,2,6\n", "one.csv")
    second = csv(tmp_path, "model,Score\nb,3\nc,4\n", "two.csv")
    table = read_table([first, second], ["one/Score", "two/Score", "Math"])
    assert {model.name: dict(model.scores) for model in table.models} == {
        "a": {"one/Score": 1.0, "Math": 5.0},
        "b": {"one/Score": 2.0, "two/Score": 3.0, "Math": 6.0},
        "c": {"two/Score": 4.0},
    }
    with pytest.raises(ValueError, match="has no column Score; did you mean one/Score or two/Score"):
        read_table([first, second], ["Score"])


def test_without_a_column_of_names_rows_are_numbered_and_a_column_can_be_named(tmp_path: Path) -> None:
    table = read(tmp_path, "label,rb2\nx,1\ny,2\n", "rb2")
    assert [model.name for model in table.models] == ["row 1", "row 2"]
    assert "reward models are called by their rows" in table.notes[0]
    assert [model.name for model in read(tmp_path, "label,rb2\nx,1\ny,2\n", "rb2", names="label").models] == ["x", "y"]
    with pytest.raises(ValueError, match="has no column nope"):
        read(tmp_path, "label,rb2\nx,1\n", "rb2", names="nope")
