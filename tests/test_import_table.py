"""Tables of other tools: read in long and wide form, guessed or said, refused in one sentence; order is kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dam.errors import UserError
from dam.evaluation.auc import roc_auc
from dam.evaluation.import_columns import TableForm
from dam.evaluation.import_table import add_metadata, read_table
from dam.evaluation.scale import CLIP, to_logits

LONG = "image,patient,label,target,m\na,p1,X,1,.9\na,p1,Y,0,.2\nb,p1,X,0,.1\nb,p1,Y,1,.7\n"


def put(folder: Path, text: str, name: str = "t.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_long_table_is_guessed_and_said(tmp_path: Path) -> None:
    found = read_table(put(tmp_path, LONG), TableForm())
    table = found.predictions
    assert table.labels == ("X", "Y") and list(table.images) == ["a", "b"] and list(table.patients) == ["p1", "p1"]
    np.testing.assert_array_equal(table.targets, [[1, 0], [0, 1]])
    np.testing.assert_allclose(1 / (1 + np.exp(-table.scores["m"])), [[0.9, 0.2], [0.1, 0.7]], rtol=1e-12)
    assert found.probabilities == ("m",)
    assert "long form" in found.notes[0] and "guessed: score column m" in found.notes[0]


@pytest.mark.parametrize(
    ("text", "form", "labels", "models"),
    [
        ("id,Edema,Mass,Edema_prob,Mass_prob\n1,1,0,.9,.2\n2,0,1,.3,.8\n", TableForm(), ("Edema", "Mass"), ("prob",)),
        ("y_A;y_B;s A;s B\n1;0;3;-1\n0;1;-2;4\n", TableForm(), ("A", "B"), ("s",)),
        ("target\tnet1\tnet2\n1\t3\t2\n0\t1\t5\n", TableForm(), ("target",), ("net1", "net2")),
        ("label,score\n1,.8\n0,.3\n", TableForm(), ("label",), ("score",)),
        ("Lung,Lung Opacity,Lung_p,Lung Opacity_p\n1,0,.9,.2\n0,1,.3,.8\n", TableForm(), ("Lung", "Lung Opacity"),
         ("p",)),
        ("t|a|b\n1|3|2\n0|1|5\n", TableForm(targets=("t",), scores=("ours=a",)), ("t",), ("ours",)),
        ("A_t,B_t,A_1,B_1,A_2,B_2\n1,0,1,2,3,4\n0,1,2,3,4,9\n",
         TableForm(targets=("{label}_t",), scores=("x={label}_1", "{label}_2")), ("A", "B"), ("x", "2")),
        ("finding,y_true,net\nX,TRUE,2.5\nX,false,-1\n", TableForm(), ("X",), ("net",)),
    ],
)  # fmt: skip
def test_other_forms_are_understood(
    tmp_path: Path, text: str, form: TableForm, labels: tuple[str, ...], models: tuple[str, ...]
) -> None:
    table = read_table(put(tmp_path, text), form).predictions
    assert (table.labels, table.models) == (labels, models)
    for k in range(len(labels)):
        assert not np.isnan(table.targets[:, k]).any()


def test_long_and_wide_say_the_same(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    targets, scores = rng.integers(0, 2, (40, 2)), rng.random((40, 2))
    wide = ["image,A,B,A_s,B_s"] + [f"i{i},{t[0]},{t[1]},{s[0]!r},{s[1]!r}" for i, (t, s) in
                                    enumerate(zip(targets.tolist(), scores.tolist(), strict=True))]  # fmt: skip
    long = ["image,label,target,s"] + [f"i{i},{name},{targets[i, k]},{scores[i, k].item()!r}"
                                       for i in range(40) for k, name in enumerate("AB")]  # fmt: skip
    a = read_table(put(tmp_path, "\n".join(wide) + "\n", "w.csv"), TableForm()).predictions
    b = read_table(put(tmp_path, "\n".join(long) + "\n", "l.csv"), TableForm()).predictions
    np.testing.assert_array_equal(a.targets, b.targets)
    np.testing.assert_array_equal(a.scores["s"], b.scores["s"])


@pytest.mark.parametrize(
    ("text", "form", "says"),
    [
        ("", TableForm(), "is empty"),
        ("image,label,target,m\n", TableForm(), "no rows"),
        (LONG, TableForm(targets=("traget",)), "no column traget, which --target names; did you mean target?"),
        (LONG, TableForm(scores=("n",)), "no column n, which --score names"),
        ("image,label,score\na,X,.5\nb,X,.4\n", TableForm(layout="long"), "has no column target"),
        ("image,a,b\nx,.5,.2\ny,.4,.1\n", TableForm(), "which columns are targets cannot be told"),
        ("label,target,m\nX,1,.5\nX,1,.4\n", TableForm(), "X holds positives only"),
        ("target,m\n0,.5\n0,.4\n", TableForm(), "target holds negatives only"),
        ("label,target,m\nX,1,.5\nX,0,nan\n", TableForm(), "line 3, column m: nan is no finite number"),
        ("target,m\n1,.5\n0,inf\n", TableForm(), "line 3, column m: the score of image 2 inf is no finite number"),
        ("target,m\n1,.5\n0,\n", TableForm(), "line 3, column m: the score of image 2 is blank"),
        ("target,m\n1,.5\n0,high\n", TableForm(), "line 3, column m: the score of image 2 high is no finite number"),
        ("label,target,m\nX,yes,.5\nX,0,.4\n", TableForm(), "line 2, column target: the target yes is none of 0, 1"),
        ("label,target,m\nX,1,.5\nX,-1,.4\n", TableForm(), "uncertain labels must be decided first"),
        ("image,label,target,m\na,X,1,.5\na,X,1,.5\nb,X,0,.2\n", TableForm(), "image a and label X come a second time"),
        ("image,target,m\na,1,.5\na,0,.4\n", TableForm(), "image a comes a second time"),
        ("label,target,m\nX,1,.5\nX,0,.4\nY,1,.3\n", TableForm(), "no image column and not the same number of rows"),
        ("target,target,m\n1,1,.5\n", TableForm(), "two columns 'target'"),
        ("A,B,m\n1,0,.5\n0,1,.4\n", TableForm(targets=("A", "B"), scores=("m",)), "such as --score '{label}_m'"),
        ("target,m\n1,.5,9\n0,.4,9\n", TableForm(), "more fields than its first line"),
        ("label,target,target2,m\nX,1,1,.5\n", TableForm(layout="long", targets=("target", "target2")), "one target"),
        ("label;target;m\nX;1;0,5\nX;0;0,4\n", TableForm(), "m has decimal commas"),
        ("label,target,m\nX,,.5\nX,,.4\n", TableForm(), "X holds no known target, and"),
        ("mean,m\n1,.5\n0,.4\n", TableForm(targets=("mean",)), 'no label may be called "mean"'),
    ],
)
def test_a_bad_table_is_told_in_one_sentence(tmp_path: Path, text: str, form: TableForm, says: str) -> None:
    with pytest.raises(UserError) as error:
        read_table(put(tmp_path, text), form)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_files_that_are_not_there_or_no_text(tmp_path: Path) -> None:
    put(tmp_path, LONG, "predictions.csv")
    with pytest.raises(UserError, match=r"did you mean .*predictions\.csv"):
        read_table(tmp_path / "prediction.csv", TableForm())
    with pytest.raises(UserError, match="is a directory"):
        read_table(tmp_path, TableForm())
    (tmp_path / "b.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="UTF-8"):
        read_table(tmp_path / "b.csv", TableForm())


def test_probabilities_and_raw_scores_are_told_apart_a_model_at_a_time(tmp_path: Path) -> None:
    text = "image,label,target,p,z,mixed\na,X,1,.9,3,.9\nb,X,0,.1,-2,.2\na,Y,1,.7,1,7\nb,Y,0,0,.5,-7\n"
    found = read_table(put(tmp_path, text), TableForm())
    assert found.probabilities == ("p",)
    np.testing.assert_array_equal(found.predictions.scores["z"], [[3, 1], [-2, 0.5]])
    assert any("mixed: raw scores" in note and "those of X all lie in [0, 1]" in note for note in found.notes)
    again = read_table(put(tmp_path, text), TableForm(), kind=found.probabilities)
    np.testing.assert_array_equal(again.predictions.scores["p"], found.predictions.scores["p"])
    with pytest.raises(UserError, match="3 of image a, label X, is no probability"):
        read_table(put(tmp_path, text), TableForm(), kind="probability")
    logits = read_table(put(tmp_path, text), TableForm(), kind="logit")
    assert logits.predictions.scores["p"][0, 0] == 0.9 and logits.probabilities == ()


def test_logits_keep_every_rank_and_every_tie() -> None:
    rng = np.random.default_rng(1)
    steps = [0.5, 1e-5, 0.3, 1 - 1e-12, 1e-300, 1 - 2e-8]
    near = [x for start in steps for x in start + np.spacing(start) * np.arange(6)]
    p = np.concatenate([rng.random(500), np.array(near), [0, 0, 1, 1, CLIP, 1 - CLIP, CLIP / 2, 1 - CLIP / 2]])
    p = np.clip(np.concatenate([p, p[:50]]), 0, 1)
    z = to_logits(p)
    assert np.isfinite(z).all() and np.abs(z).max() < 18
    np.testing.assert_array_equal(np.unique(p, return_inverse=True)[1], np.unique(z, return_inverse=True)[1])
    y = rng.integers(0, 2, len(p))
    assert roc_auc(y, z) == roc_auc(y, p)
    inside = (p > CLIP) & (p < 1 - CLIP)
    np.testing.assert_allclose(z[inside], np.log(p[inside] / (1 - p[inside])), rtol=1e-6, atol=1e-12)
    with pytest.raises(ValueError, match="lie in"):
        to_logits(np.array([0.2, 1.2]))


def test_metadata_of_the_table_and_of_another(tmp_path: Path) -> None:
    text = "image,label,target,m,sex\na,X,1,.9,F\na,Y,0,.2,F\nb,X,0,.1,M\nb,Y,1,.7,M\n"
    found = read_table(put(tmp_path, text), TableForm())
    assert found.metadata["sex"].tolist() == ["F", "M"] and found.predictions.models == ("m",)
    more = add_metadata(found, put(tmp_path, "image,site\nb,north\n", "more.csv"))
    assert more.metadata["site"].fillna("").tolist() == ["", "north"]
    assert "1 of 2 images are not in" in more.notes[-1]
    with pytest.raises(UserError, match="no column image, patient or study"):
        add_metadata(found, put(tmp_path, "name,site\nb,north\n", "bad.csv"))
    with pytest.raises(UserError, match="none of its 1 values of image"):
        add_metadata(found, put(tmp_path, "image,site\nzz,north\n", "bad.csv"))
    with pytest.raises(UserError, match="image b comes with two different rows"):
        add_metadata(found, put(tmp_path, "image,site\nb,north\nb,south\n", "bad.csv"))


def test_a_model_may_lack_a_label(tmp_path: Path) -> None:
    text = "A,B,A_x,B_x,A_y\n1,0,1,2,3\n0,1,2,3,4\n"
    found = read_table(put(tmp_path, text), TableForm(targets=("A", "B")))
    assert np.isnan(found.predictions.scores["y"][:, 1]).all()
    assert any("y has no scores for B" in note for note in found.notes)
