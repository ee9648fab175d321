"""Overrides -> checked config: every accepted form, every fault with its sentence, YAML there and back."""

from __future__ import annotations

from pathlib import Path

import pytest

from dam.compose import compose, from_yaml, resume_changes, to_yaml
from dam.config import AdamConfig, AUCMarginConfig, PESGConfig
from dam.errors import UserError
from dam.schema import ConfigError


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


# ---------------------------------------------------------------- what is refused


def test_all_faults_come_at_once() -> None:
    found = faults(
        "auc.loss.margn=3", "+batch_sise=3", "++data.rot=x", "auc.optimizer.lr=-1", "precision=fp17",
        "experiment=quick", "data=chexpertt", "control.loss.alpha=1", "seed=1,2", "batch_size.foo=1",
        "accumulate=7", "select",
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
        ("~seed", "try seed=null"),
        ("~data.uncertain.Nothing", "no such entry to delete"),
        ("seed", "'seed' is no override: write key=value"),
        ("--foo", "--foo is no option"),
        ("seed=[1", "cannot be read"),
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
        (["auc.loss=ce"], "choose adam, adamw or sgd"),
        (["auc.optimizer=adamw"], "auc.loss.inner=batch"),
        (["auc.loss.inner=batch"], "no inner problem to solve"),
        (["auc.loss.inner=batch", "auc.optimizer=adam", "accumulate=2"], "accumulate=2"),
        (["auc.loss.inner=batch", "auc.optimizer=adam", "auc.sampler=shuffle"], "choose auc.sampler=two_class"),
        (["auc.loss.inner=batch", "auc.optimizer=adam", "auc.loss.form=prior"], "use form=auto"),
        (["auc.loss.score=bsn", "accumulate=2"], "use accumulate=1 or score=sigmoid"),
        (["auc.loss.form=prior", "auc.loss.prior=train"], "contradicts auc.sampler=two_class"),
        (["auc.loss.prior=0.1"], "contradicts auc.sampler.sampling_rate=0.5"),
        (["auc.loss.form=class_mean", "auc.loss.prior=0.1"], "is not used with form=class_mean"),
        (["auc.heads=joint"], "auc.heads=joint trains 5 at once"),
        (["warm_start.sampler=two_class"], "use warm_start.sampler=shuffle"),
        (["accumulate=3"], "must divide batch_size=32"),
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
        (["data.val_fraction=0.6", "data.test_fraction=0.5"], "nothing to train on"),
    ],
)
def test_combinations_that_make_no_sense_are_refused(words: list[str], told: str) -> None:
    assert told in only(*words)


@pytest.mark.parametrize(
    "words",
    [
        ["auc.loss.form=auto", "auc.loss.prior=train"],
        ["auc.loss.prior=0.5"],
        ["auc.sampler=shuffle", "auc.loss.form=prior", "auc.loss.prior=train"],
        ["auc.heads=joint", "auc.sampler=shuffle"],
        ["auc.loss.inner=batch", "auc.optimizer=adamw"],
        ["auc.optimizer.lr=probe"],
        ["auc=ce"],
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
    with pytest.raises(UserError, match="is no YAML"):
        from_yaml("a: [")
    with pytest.raises(UserError, match="another version"):
        from_yaml("")


def test_resume_accepts_what_only_moves_a_run() -> None:
    old = compose([])
    words = ["device=cpu", "workers=0", "tracking.tensorboard=true", "auc.epochs=5", "seed=0", "checkpoint.every=10"]
    config, accepted = resume_changes(old, words)
    assert accepted == ["device", "workers", "tracking.tensorboard", "auc.epochs", "checkpoint.every"]
    assert config.auc is not None and config.auc.epochs == 5.0 and config.device == "cpu"
    assert resume_changes(old, []) == (old, [])


def test_resume_refuses_everything_else_by_name_with_the_reason() -> None:
    words = ["precision=bf16", "auc.loss.margin=2", "data.val_fraction=0.3", "auc=ce", "control.ema=0.9", "sed=1"]
    words += ["workers=-1"]
    with pytest.raises(ConfigError) as caught:
        resume_changes(compose([]), words)
    told = "\n".join(fault.text for fault in caught.value.faults)
    assert len(caught.value.faults) == 7
    assert "precision cannot change with resume= (it changes the numbers" in told
    assert "auc.loss.margin cannot change with resume= (it would be another experiment)" in told
    assert "data.val_fraction cannot change with resume= (the run's first part was trained on other images)" in told
    assert "control.ema: this run has no control" in told
    assert "sed is not a key; did you mean seed (now 0)?" in told
    assert "workers must be a whole number >= 0, got -1" in told
