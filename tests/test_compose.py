"""Overrides -> checked config: every accepted form, every fault with its sentence, YAML there and back."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from dam.compose import compose, from_yaml, resume_changes, to_yaml
from dam.config import AdamConfig, AUCMarginConfig, AUCSquareConfig, PESGConfig
from dam.errors import UserError
from dam.schema import ConfigError, to_plain


def faults(*words: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        compose(list(words))
    return [fault.text for fault in caught.value.faults]


def only(*words: str) -> str:
    found = faults(*words)
    assert len(found) == 1, found
    return found[0]


# ---------------------------------------------------------------- what is accepted


@pytest.mark.parametrize("form", ["+experiment=quickstart", "experiment=quickstart", "++experiment=quickstart"])
def test_experiments_are_accepted_in_every_form(form: str) -> None:
    config = compose([form])
    assert config.name == "quickstart" and config.model.name == "resnet10t"
    assert config == compose(["+experiment=quickstart"])


@pytest.mark.parametrize("form", ["auc.optimizer=adamw", "auc/optimizer=adamw", "optimizer@auc.optimizer=adamw"])
def test_parts_of_a_stage_are_chosen_in_every_form(form: str) -> None:
    config = compose([form, "auc.loss.inner=batch", "warm_start.optimizer=sgd"])
    assert config.auc is not None and config.warm_start is not None
    assert isinstance(config.auc.optimizer, AdamConfig) and config.auc.optimizer.name == "adamw"
    assert config.warm_start.optimizer.name == "sgd"


@pytest.mark.parametrize("form", ["auc.loss.margin=0.3", "+auc.loss.margin=0.3", "++auc.loss.margin=0.3"])
def test_values_are_accepted_in_every_form(form: str) -> None:
    config = compose([form])
    assert config.auc is not None and isinstance(config.auc.loss, AUCMarginConfig)
    assert config.auc.loss.margin == 0.3


def test_numbers_without_a_point_are_numbers() -> None:
    config = compose(["auc.optimizer.lr=1e-4", "seed=1e3", "batch_size=64.0", "checkpoint.minutes=2"])
    assert config.auc is not None and config.auc.optimizer.lr == 1e-4
    assert config.seed == 1000 and isinstance(config.seed, int)
    assert config.checkpoint.minutes == 2.0 and isinstance(config.checkpoint.minutes, float)


def test_stages_can_be_left_out() -> None:
    config = compose(["+experiment=quickstart", "warm_start=none", "control=none"])
    assert config.warm_start is None and config.control is None
    assert compose(["auc=none", "control=null"]).auc is None


def test_open_tables_take_any_entry() -> None:
    config = compose(
        ["data.uncertain.Pleural Effusion=ones", "model.lr_scale.features.conv0=0.1", "model.lr_scale={b: 2}"]
    )
    assert config.data.uncertain["Pleural Effusion"] == "ones"
    assert config.model.lr_scale == {"features.conv0": 0.1, "b": 2.0}
    assert "Edema" not in compose(["~data.uncertain.Edema"]).data.uncertain


def test_a_typed_length_replaces_the_other_unit() -> None:
    config = compose(["auc.steps=100", "warm_start.epochs=3"])
    assert config.auc is not None and (config.auc.steps, config.auc.epochs) == (100, None)
    assert config.warm_start is not None and config.warm_start.epochs == 3


def test_relative_paths_become_absolute_and_may_hold_any_character(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "in_root.csv").touch()
    config = compose(["data=csv", "data.root=images", "data.csv=in_root.csv", "run_dir=out/a=b,(c) d'e"])
    assert config.data.root == str(tmp_path / "images")
    assert getattr(config.data, "csv") == str(tmp_path / "images" / "in_root.csv")  # noqa: B009 - a key of data=csv
    assert config.run_dir == str(tmp_path / "out/a=b,(c) d'e")
    assert compose(["model.weights=timm"]).model.weights == "timm"
    assert compose(["model.weights=w.safetensors"]).model.weights == str(tmp_path / "w.safetensors")


def test_a_choice_of_the_users_drops_what_the_experiment_set_inside_that_group() -> None:
    recipe = compose(["+experiment=chexpert_densenet121", "data.root=/x"])
    other = compose(["+experiment=chexpert_densenet121", "data=phantom", "auc=ce"])
    assert recipe.auc is not None and isinstance(recipe.auc.optimizer, PESGConfig) and recipe.auc.optimizer.lr == 0.1
    assert other.auc is not None and other.auc.optimizer.name == "adam" and other.auc.optimizer.lr == 1e-4
    assert other.auc.epochs == recipe.auc.epochs and other.auc.schedule == recipe.auc.schedule
    assert other.data == compose([]).data


def test_composing_twice_gives_equal_configs_and_leaves_hydra_as_it_was() -> None:
    first = compose(["auc.loss.margin=0.3"])
    compose(["auc.loss.margin=0.7", "model.lr_scale.a=1"])
    assert compose(["auc.loss.margin=0.3"]) == first
    from hydra.core.global_hydra import GlobalHydra

    assert not GlobalHydra.instance().is_initialized()


@pytest.mark.parametrize(
    "regex", [r"((?:NORMAL2-)?IM-\d+|person\d+)[-_]", r"[ab](\d+)", r"(\d{1,3})'s", r"{(x)}", "(", "007", r"a\\(b)\\"]
)
def test_texts_are_taken_as_typed_where_hydras_grammar_stumbles(regex: str) -> None:
    config = compose(["data=csv", "data.root=x", f"data.patient_regex={regex}"])
    assert getattr(config.data, "patient_regex") == regex  # noqa: B009 - a key of data=csv


@pytest.mark.parametrize(
    "word", ["data.csv=c/a,b.csv", "data.csv=a b,c.csv", "data.csv=$a,b.csv", "data.labels=[Läsion (µm),b]"]
)
def test_the_quoted_form_that_is_offered_is_read_by_a_shell_and_by_dam(word: str) -> None:
    told = only("data=csv", "data.root=x", word)
    offered = shlex.split(told[min(told.index(mark) for mark in ('"data.', "'data.") if mark in told) :])
    config = compose(["data=csv", "data.root=x", offered[0]])
    key, _, text = word.partition("=")
    expected = ["Läsion (µm)", "b"] if key == "data.labels" else str(Path(text).absolute())
    assert getattr(config.data, key.removeprefix("data.")) == expected


def test_a_part_chosen_in_a_stage_drops_what_the_stages_file_set_of_another() -> None:
    config = compose(["auc=auc_direct", "auc.loss=auc_square"])
    assert config.auc is not None and isinstance(config.auc.loss, AUCSquareConfig)
    assert (config.auc.loss.name, config.auc.loss.inner) == ("auc_square", "batch")
    assert to_plain(compose(["auc=auc_direct", "auc.loss=ce"]))["auc"]["loss"] == {"name": "ce"}
    assert compose(["auc=auc_direct"]) == compose([])


# ---------------------------------------------------------------- what is refused


def test_all_faults_come_at_once() -> None:
    found = faults(
        "auc.loss.margn=3", "+batch_sise=3", "++data.rot=x", "auc.optimizer.lr=-1", "precision=fp17",
        "experiment=quick", "data=chexpertt", "control.loss.alpha=1", "seed=1,2", "batch_size.foo=1",
        "accumulate=7", "auc=auc_margin", "select",
    )  # fmt: skip
    assert len(found) == 12


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("auc.loss.margn=3", "auc.loss.margn is not a key; did you mean auc.loss.margin (now 1.0)?"),
        ("+auc.loss.margn=3", "auc.loss.margn is not a key; did you mean auc.loss.margin (now 1.0)?"),
        ("++batchsize=3", "batchsize is not a key; did you mean batch_size (now 32)?"),
        ("margin=3", "margin is not a key; did you mean auc.loss.margin (now 1.0)?"),
        ("auc.loss.alpha=1", "auc.loss.alpha is not a key with auc.loss=auc_margin: it belongs to auc.loss=focal"),
        ("batch_size=1", "batch_size must be a whole number >= 2, got 1"),
        ("batch_size=2.5", "batch_size must be a whole number >= 2, got 2.5"),
        ("dry_run=1", "dry_run must be true or false, got 1"),
        ("auc.loss.margin=nan", "auc.loss.margin must be a number > 0, got nan"),
        ("auc.optimizer.lr=prob", "auc.optimizer.lr must be a number > 0 or probe, got prob; did you mean probe?"),
        ("data.labels=Edema", "data.labels must be a list like [a, b], got Edema"),
        ("data.uncertain.Edema=one", "did you mean ones?"),
        ("warm_start.run=[1]", "warm_start.run must be text or null, got [1]"),
        ("limit_batches=None", "write null for nothing"),
        ("auc.loss=3", "auc.loss=3: there is no loss of this name"),
        ("auc.loss.name=ce", "choose it by auc.loss=ce"),
        ("optimizer=adam", "say of which stage: auc.optimizer=adam"),
        ("experiment=quikstart", "there is no experiment of this name; did you mean quickstart?"),
        ("model=resnext", "Any timm name works as model=timm model.name=resnext"),
        ("batch_size.x=1", "batch_size is 32 and has no keys below it"),
        ("control.loss.alpha=1", "control.loss.alpha has no effect: control=none here; choose control=ce first"),
        ("control.optimizer=sgd", "control.optimizer has no effect: control=none here"),
        ("seed=1,2", "add -m for a run with each"),
        ("+sweep=margin", "belongs to a sweep: add -m"),
        ("hydra/launcher=joblib", "belongs to a sweep: add -m"),
        ("hydra.callbacks.x._target_=os.system", "cannot be set here"),
        ("hydra.launcher._target_=os.system", "a config names no Python objects"),
        ("augment.train=[{_target_: os.system}]", "a config names no Python objects"),
        ("~seed", "can be deleted; seed always has a value: a whole number >= 0"),
        ("~auc.loss.margin", "auc.loss.margin always has a value: a number > 0"),
        ("~limit_batches", "try limit_batches=null"),
        ("~auc.loss.margn", "there is no key auc.loss.margn; did you mean auc.loss.margin"),
        ("~data.uncertain.Nothing", "no such entry to delete"),
        ("seed", "'seed' is no override: write key=value"),
        ("--foo", "--foo is no option"),
        ("seed=[1", "seed=[1 cannot be read: it must be a whole number >= 0"),
        ("auc.labels=[A(b),c d]", "\"auc.labels=['A(b)', c d]\""),
        ("data.labels=Edema,Atelectasis", "or brackets for a list: 'data.labels=[Edema,Atelectasis]'"),
        ("data.csv=c/a,b.csv", "or quotes if the comma is part of it: \"data.csv='c/a,b.csv'\""),
        ("run_dir=", "run_dir= is empty: give a path, or run_dir=null for none"),
        ("seed=1e30", "seed must be a whole number >= 0 and <= 9223372036854775807, got 1e+30"),
        ("seed=9223372036854775808", "and <= 9223372036854775807, got 9223372036854775808"),
        ("data.split_seed=4294967296", "and <= 4294967295, got 4294967296"),
        (f"auc.loss.margin=1{'0' * 400}", "auc.loss.margin must be a number > 0"),
        ("auc=foo", "there is no auc of this name; there are auc_direct, auc_margin, auc_square, ce, focal, none"),
        ("auc.loss=auc_sqare", "did you mean auc_square or auc_margin? There are auc_margin, auc_square, ce, focal."),
        ("data=zzz", "there is no dataset of this name; there are cats_dogs, chexpert, cifar10, cifar100, covidx8b"),
    ],
)
def test_each_fault_has_its_sentence(word: str, told: str) -> None:
    assert told in only(word)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["warm_start=none", "auc=none"], "leave nothing to train"),
        (["auc=none", "control=ce"], "add control=none"),
        (["auc=ce", "control=ce"], "would be the same models"),
        (["control=ce", "control.loss=auc_square", "control.optimizer=pesg"], "is no control"),
        (["auc.steps=5", "auc.epochs=5"], "exactly one gives the length, both are set"),
        (["auc.epochs=null"], "exactly one gives the length, neither is set"),
        (["auc=auc_margin", "auc.loss=ce"], "choose adam, adamw or sgd"),
        (["auc=auc_margin", "auc.optimizer=adamw"], "auc.loss.inner=batch"),
        (
            ["auc.optimizer=pesg"],
            "no inner problem to solve; choose auc.optimizer=adamw, adam or sgd, or auc=auc_margin",
        ),
        (["auc.loss.inner=batch", "auc.optimizer=adam", "accumulate=2"], "accumulate=2"),
        (["auc.loss.inner=batch", "auc.optimizer=adam", "auc.sampler=shuffle"], "choose auc.sampler=two_class"),
        (["auc.loss.inner=batch", "auc.optimizer=adam", "auc.loss.form=prior"], "use form=auto"),
        (["auc=auc_margin", "auc.loss.score=bsn", "accumulate=2"], "use accumulate=1 or score=sigmoid"),
        (["auc=auc_margin", "auc.loss.form=prior", "auc.loss.prior=train"], "contradicts auc.sampler=two_class"),
        (["auc=auc_margin", "auc.loss.prior=0.1"], "contradicts auc.sampler.sampling_rate=0.5"),
        (["auc=auc_margin", "auc.loss.form=class_mean", "auc.loss.prior=0.1"], "is not used with form=class_mean"),
        (["auc.heads=joint"], "auc.heads=joint trains 5 at once"),
        (["warm_start.sampler=two_class"], "use warm_start.sampler=shuffle"),
        (["auc=auc_margin", "accumulate=3"], "must divide batch_size=32"),
        (["data.smooth.default=[0.9,0.1]"], "is no range"),
        (["data=csv"], "data.root=FOLDER or data.csv=FILE"),
        (["data=chexpert"], "data.root is not set"),
        (["data.imratio=0.1"], "data=phantom has several and is not thinned"),
        (["warm_start.optimizer.lr=probe"], "not offered"),
        (["warm_start.run=x", "auc=none"], "nothing to train after it"),
        (["model.mean=[0.5]"], "set both or neither"),
        (["auc.labels=[Edemaa]"], "not among data.labels"),
        (["auc.labels=[Edema,Edema]"], "names Edema twice"),
        (["precision=fp16", "device=cpu"], "needs a CUDA device"),
        (["device=gpu"], "none of auto, cpu, cuda"),
        (["name=a/b"], "names a folder"),
        (["auc.schedule=step", "auc.schedule.at=[0.5,1.5]"], "each below 1"),
        (["auc.schedule=step", "auc.schedule.at=[0.5,0.2]"], "must rise"),
        (["warm_start.optimizer.betas=[0.9]"], "two numbers"),
        (["data=csv", "data.root=x", "data.patient_regex=(a)", "data.patient_column=p"], "both name the patients"),
        (["data.val_fraction=0.6", "data.test_fraction=0.5"], "nothing to train on"),
    ],
)
def test_combinations_that_make_no_sense_are_refused(words: list[str], told: str) -> None:
    assert told in only(*words)


@pytest.mark.parametrize(
    "words",
    [
        ["auc.loss.form=auto", "auc.loss.prior=train"],
        ["auc=auc_margin", "auc.loss.prior=0.5"],
        ["auc=auc_margin", "auc.sampler=shuffle", "auc.loss.form=prior", "auc.loss.prior=train"],
        ["auc.heads=joint", "auc.sampler=shuffle"],
        ["auc.loss.inner=batch", "auc.optimizer=adamw"],
        ["auc.optimizer.lr=probe"],
        ["auc=ce"],
        ["auc.loss=ce"],
        ["auc.loss=focal", "control=none"],
        ["warm_start=none", "auc.head=keep"],
        ["seed=9223372036854775807", "data.split_seed=4294967295"],
        ["warm_start=none", "auc=focal"],
        ["data=csv", "data.csv=x.csv"],
    ],
)
def test_legal_combinations_pass(words: list[str]) -> None:
    compose(words)


def test_the_form_of_the_loss_agrees_with_the_rule_of_the_objectives() -> None:
    """What is refused here is refused by ``resolve_form`` and the other way round."""
    from dam.objectives import resolve_form

    for form in ("auto", "prior", "class_mean"):
        for prior in ("train", "batch", "0.5", "0.25"):
            for sampler in ("shuffle", "two_class"):
                for inner, optimizer in (("learned", "pesg"), ("batch", "adam")):
                    if (sampler, inner) == ("shuffle", "batch"):
                        continue
                    words = [f"auc.loss.form={form}", f"auc.loss.prior={prior}", f"auc.sampler={sampler}",
                             f"auc.loss.inner={inner}", f"auc.optimizer={optimizer}"]  # fmt: skip
                    setting = float(prior) if prior[0] == "0" else prior
                    rate = 0.5 if sampler == "two_class" else None
                    try:
                        resolve_form(form, sampler, setting, inner, rate)
                        legal = True
                    except ValueError:
                        legal = False
                    try:
                        compose(words)
                        accepted = True
                    except ConfigError:
                        accepted = False
                    assert accepted == legal, words


# ---------------------------------------------------------------- YAML and resume


@pytest.mark.parametrize("words", [[], ["+experiment=quickstart"], ["auc=none", "data.uncertain.on=ones", "name=1e3"]])
def test_yaml_there_and_back_is_equal(words: list[str]) -> None:
    config = compose(words)
    assert from_yaml(to_yaml(config)) == config
    assert to_yaml(from_yaml(to_yaml(config))) == to_yaml(config)


def test_a_config_of_another_version_is_explained() -> None:
    text = to_yaml(compose([]))
    with pytest.raises(UserError, match=r"run/config.yaml was written by another version of dam.*gone is not a key"):
        from_yaml(text + "gone: 1\n", "run/config.yaml")
    with pytest.raises(UserError, match="seed is missing"):
        from_yaml(text.replace("seed: 0\n", "", 1))
    with pytest.raises(UserError, match=r"config.yaml is no YAML \(line 1\): it was damaged or cut off"):
        from_yaml("a: [")
    with pytest.raises(UserError, match=r"run/config.yaml is empty: it was damaged or cut off"):
        from_yaml("", "run/config.yaml")
    with pytest.raises(UserError, match=r"run/config.yaml holds no keys"):
        from_yaml("- a", "run/config.yaml")


def test_resume_accepts_what_only_moves_a_run() -> None:
    old = compose([])
    words = ["device=cpu", "workers=0", "tracking.tensorboard=true", "auc.epochs=5", "seed=0", "checkpoint.every=10"]
    config, accepted = resume_changes(old, words)
    assert accepted == ["device", "workers", "tracking.tensorboard", "auc.epochs", "checkpoint.every"]
    assert config.auc is not None and config.auc.epochs == 5.0 and config.device == "cpu"
    assert resume_changes(old, []) == (old, [])


def test_resume_refuses_everything_else_by_name_with_the_reason() -> None:
    words = ["precision=bf16", "auc.loss.margin=2", "data.val_fraction=0.3", "auc=ce", "control.ema=0.9", "sed=1"]
    words += ["workers=-1", "dry_run=true", "run_dir=elsewhere"]
    with pytest.raises(ConfigError) as caught:
        resume_changes(compose([]), words)
    told = "\n".join(fault.text for fault in caught.value.faults)
    assert len(caught.value.faults) == 9
    assert "precision cannot change with resume= (it changes the numbers" in told
    assert "auc.loss.margin cannot change with resume= (it would be another experiment)" in told
    assert "data.val_fraction cannot change with resume= (the run's first part was trained on other images)" in told
    assert "dry_run cannot be set with resume=: a dry run plans a new run, and this one has its plan" in told
    assert "run_dir cannot be set with resume=: the run goes on in its own directory; leave it out" in told
    assert "control.ema: this run has no control" in told
    assert "sed is not a key; did you mean seed (now 0)?" in told
    assert "workers must be a whole number >= 0, got -1" in told
