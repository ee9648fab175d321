from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from data_configs import data_config

from dam.data.labels import apply_policies, hard_targets
from dam.data.table import ImageTable
from dam.errors import UserError

NAN = float("nan")


def make(values: list[float], split: str | list[str] = "train", label: str = "A") -> ImageTable:
    n = len(values)
    names = [str(i) for i in range(n)]
    columns = {"image": names, "patient": names, "study": names, "split": split, label: values}
    return ImageTable(pd.DataFrame(columns), (label,), Path(), "toy")


def resolved(values: list[float], split: str = "train", **keys: object) -> list[float]:
    table = apply_policies(make(values, split), data_config("csv", **keys))
    return table.frame["A"].tolist()


@pytest.mark.parametrize(
    ("policy", "training", "judged"),
    [("zeros", 0.0, 0.0), ("ones", 1.0, 1.0), ("ignore", NAN, NAN), ("keep", 0.5, NAN)],
)
def test_uncertain_policies(policy: str, training: float, judged: float) -> None:
    keys = {"uncertain": {"default": policy}}
    np.testing.assert_equal(resolved([-1, 0, 1], **keys), [training, 0, 1])
    for split in ("val", "test"):
        np.testing.assert_equal(resolved([-1, 0, 1], split, **keys), [judged, 0, 1])


def test_smooth_draws_once_a_row_in_training_and_takes_a_class_elsewhere() -> None:
    keys = {"uncertain": {"default": "smooth"}, "smooth": {"default": [0.55, 0.85]}}
    drawn = np.array(resolved([-1] * 500, **keys))
    assert drawn.min() >= 0.55 and drawn.max() <= 0.85 and len(np.unique(drawn)) == 500
    assert abs(drawn.mean() - 0.70) < 0.02
    assert resolved([-1] * 500, **keys) == drawn.tolist()
    assert resolved([-1] * 500, split_seed=1, **keys) != drawn.tolist()
    assert resolved([-1], "val", **keys) == [1.0]
    assert resolved([-1], "test", uncertain={"default": "smooth"}, smooth={"default": [0.0, 0.3]}) == [0.0]


def test_a_label_of_its_own_policy() -> None:
    keys = {"uncertain": {"default": "zeros", "A": "ones"}, "blank": {"default": "ignore", "A": "zeros"}}
    assert resolved([-1, NAN], **keys) == [1.0, 0.0]


def test_blanks() -> None:
    assert resolved([NAN], blank={"default": "zeros"}) == [0.0]
    assert np.isnan(resolved([NAN], blank={"default": "ignore"})[0])


def test_fractions() -> None:
    assert resolved([0.3, 0.5, 0.7], soft="weights") == [0.3, 0.5, 0.7]
    assert resolved([0.3, 0.5, 0.7], soft="resolve") == [0.0, 1.0, 1.0]
    assert resolved([0.3, 0.5, 0.7], "val", soft="weights") == [0.0, 1.0, 1.0]


def test_resolve_also_cuts_smoothed_labels() -> None:
    assert resolved([-1], uncertain={"default": "smooth"}, soft="resolve") == [1.0]


def test_every_step_says_how_many_rows_it_changed() -> None:
    table = make([-1, -1, NAN, 0.25, 1, 0, 0.75], ["train"] * 6 + ["val"])
    notes = apply_policies(table, data_config("csv", uncertain={"default": "ones"})).notes
    assert notes == (
        "A: 1 blank label -> unknown",
        "A: 2 uncertain labels -> 1",
        "A: 1 fraction cut at one half",
        "A: 1 fraction kept as soft targets in training",
    )


def test_the_table_given_is_not_changed() -> None:
    table = make([-1.0, 0.0])
    apply_policies(table, data_config("csv", uncertain={"default": "ones"}))
    assert table.frame["A"].tolist() == [-1.0, 0.0]


def test_hard_targets_are_those_of_judging() -> None:
    keys = {"uncertain": {"default": "smooth"}, "smooth": {"default": [0.0, 0.3]}}
    hard = hard_targets(make([-1, 0.7, NAN, 1]), data_config("csv", **keys))
    np.testing.assert_equal(hard[:, 0], [0, 1, NAN, 1])


def test_the_papers_policy_is_the_default_of_chexpert() -> None:
    cfg = data_config("chexpert")
    for label, uncertain in (("Edema", 1.0), ("Atelectasis", 1.0), ("Cardiomegaly", 0.0), ("Pleural Effusion", 0.0)):
        table = apply_policies(make([-1, NAN], label=label), cfg)
        assert table.frame[label].tolist() == [uncertain, 0.0]


def test_faulty_policies() -> None:
    with pytest.raises(UserError, match=r"data\.uncertain has no entry 'default'"):
        resolved([-1], uncertain={"A": "ones"})
    with pytest.raises(UserError, match=r"data\.uncertain\.Edemas names no label .* did you mean 'Edema'"):
        apply_policies(make([1.0], label="Edema"), data_config("csv", uncertain={"default": "ones", "Edemas": "zeros"}))
    with pytest.raises(UserError, match=r"data\.smooth\.default=\[0\.8, 0\.2\] is no range"):
        resolved([-1], smooth={"default": [0.8, 0.2]})


def test_a_policy_for_what_is_no_label_is_refused_unless_the_dataset_has_it() -> None:
    table = make([1.0, 0.0], label="Edema")
    apply_policies(table, data_config("chexpert"))  # its yaml also speaks of Atelectasis, which is left out here
    for name, hint in (("foo", "leave it out, or use 'default'"), ("edema", "did you mean 'Edema'")):
        for dataset in ("csv", "chexpert"):
            with pytest.raises(UserError, match=f"data.uncertain.{name} names no label of this table, .*Edema.*{hint}"):
                apply_policies(table, data_config(dataset, uncertain={"default": "ones", name: "zeros"}))
