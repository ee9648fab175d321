"""What input a checkpoint expects: known by its looks, told, followed by auto; equalization as its authors do it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
import yaml
from model_configs import model_config
from safetensors.torch import save_file
from torch import Tensor
from weight_files import LAYOUTS, State

from dam import cli
from dam.commands.completion import complete
from dam.config import ModelConfig
from dam.models.backbones import weights_facts, with_input
from dam.models.normalization import HistogramNormalization, input_normalization
from dam.models.weights_fit import open_weights
from dam.models.weights_known import difference


@pytest.fixture(scope="module")
def resnet18() -> State:
    torch.manual_seed(0)
    return dict(torchvision.models.resnet18(num_classes=7).state_dict())


@pytest.fixture(scope="module")
def densenet121() -> State:
    torch.manual_seed(0)
    return dict(torchvision.models.densenet121(num_classes=7).state_dict())


def as_xrv(state: State, head: str, stem: str) -> State:
    gray = {
        **state,
        f"{stem}.weight": state[f"{stem}.weight"][:, :1].contiguous(),
        "op_threshs": torch.full((18,), 0.5),
    }
    return {
        **gray,
        f"{head}.weight": torch.zeros(18, state[f"{head}.weight"].shape[1]),
        f"{head}.bias": torch.zeros(18),
    }


def saved(tmp_path: Path, content: Any, name: str = "w.pt") -> str:
    torch.save(content, tmp_path / name)
    return str(tmp_path / name)


def config(name: str = "resnet18", **changes: Any) -> ModelConfig:
    return model_config(name, **changes)


def test_covid_prognosis_takes_equalized_images(densenet121: State, tmp_path: Path) -> None:
    path = saved(tmp_path, LAYOUTS["CovidPrognosis"](densenet121))
    expected = open_weights(path).expected
    assert expected is not None and "histogram-equalized to 0..255" in expected.words
    decided = with_input(config(name="densenet121", weights=path))
    assert (decided.normalization, decided.mean) == ("histogram_255", None)
    assert difference(decided, expected) is None
    own = with_input(config(name="densenet121", weights=path, mean=[0.5], std=[0.5]))  # the user's word counts
    assert (own.normalization, own.mean) == ("mean_std", [0.5])
    assert "differs from that of the weights" in (difference(own, expected) or "")
    assert with_input(config(weights=path, normalization="mean_std")).normalization == "mean_std"


@pytest.mark.parametrize("layout", ["MoCo-CXR", "MoCo-CXR, fine-tuned"])
def test_moco_cxr_takes_its_own_statistics(layout: str, resnet18: State, tmp_path: Path) -> None:
    path = saved(tmp_path, LAYOUTS[layout](resnet18))
    decided = with_input(config(weights=path))
    assert (decided.mean, decided.std, decided.normalization) == ([0.502], [0.085585], "mean_std")
    expected = open_weights(path).expected
    assert difference(decided, expected) is None
    assert "model.mean=[0.502] model.std=[0.085585]" in (difference(config(normalization="mean_std"), expected) or "")


def test_plain_moco_says_nothing_and_its_file_name_may(resnet18: State, tmp_path: Path) -> None:
    content = LAYOUTS["MoCo v2"](resnet18)
    assert open_weights(saved(tmp_path, content)).expected is None
    assert with_input(config(weights=saved(tmp_path, content))).mean is None
    expected = open_weights(saved(tmp_path, content, "r8w-00001.pth.tar")).expected
    assert expected is not None and expected.mean == (0.502,)


@pytest.mark.parametrize("name", ["resnet18", "densenet121"])
def test_torchxrayvision_takes_one_channel_in_a_wide_range(
    name: str, resnet18: State, densenet121: State, tmp_path: Path
) -> None:
    state = (
        as_xrv(resnet18, "fc", "conv1") if name == "resnet18" else as_xrv(densenet121, "classifier", "features.conv0")
    )
    decided = with_input(config(name=name, weights=saved(tmp_path, state)))
    assert (decided.mean, decided.std) == ([0.5], [1 / 2048])
    pixels = torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 2, 1)
    assert input_normalization(decided, 1)(pixels).flatten().tolist() == pytest.approx([-1024, 1024])


def test_a_run_hands_its_input_on(tmp_path: Path) -> None:
    (tmp_path / "warm_start").mkdir()
    save_file({"conv1.weight": torch.ones(1)}, tmp_path / "warm_start" / "best.safetensors")
    for node, mean, normalization in (
        ({"name": "resnet18", "mean": [0.3], "std": [0.2], "normalization": "mean_std"}, [0.3], "mean_std"),
        ({"name": "resnet18", "mean": None, "std": None, "normalization": "histogram_255"}, None, "histogram_255"),
        ({"name": "resnet18", "mean": None, "std": None}, None, "mean_std"),  # of a version without the key
    ):
        (tmp_path / "config.yaml").write_text(yaml.safe_dump({"model": node}))
        decided = with_input(config(weights=str(tmp_path)))
        assert (decided.mean, decided.normalization) == (mean, normalization)


def test_imagenets_head_means_the_networks_own_statistics(tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = saved(tmp_path, torchvision.models.resnet18().state_dict())
    expected = open_weights(path).expected
    assert expected is not None and difference(with_input(config(weights=path)), expected) is None
    assert difference(config(normalization="mean_std", mean=[0.5], std=[0.5]), expected) is not None
    assert difference(config(normalization="mean_std", mean=[0.449], std=[0.226]), expected) is None  # of gray images


def test_the_facts_of_a_file_for_the_environment(resnet18: State, tmp_path: Path) -> None:
    path = saved(tmp_path, LAYOUTS["MoCo v2"](resnet18))
    facts = weights_facts(config(weights=path), 32)
    assert facts is not None
    assert facts["from"] == path and facts["layout"] == "MoCo v1/v2" and facts["prefix"] == "module.encoder_q."
    assert (facts["loaded"], facts["of"], facts["newly_drawn"], facts["epoch"]) == (120, 120, [], 800)
    assert len(facts["file_sha256"]) == len(facts["sha256"]) == 64 and "module.queue" in facts["left_out"]


# ---------------------------------------------------------------- equalization


def equalized(image: np.ndarray) -> np.ndarray:
    """CovidPrognosis' HistogramNormalize, as its authors wrote it, in float64."""
    histogram, edges = np.histogram(image.flatten(), 256, density=True)
    cumulative = histogram.cumsum()
    cumulative = 255 * cumulative / cumulative[-1]
    return np.interp(image.flatten(), edges[:-1], cumulative).reshape(image.shape)


def gray(image: np.ndarray) -> Tensor:
    return torch.from_numpy(image)[None, :, :, None]


def test_the_vector_of_the_facts() -> None:
    image = np.array([[0, 25, 25], [127, 127, 255]], np.uint8)  # 0 .1 .1; .5 .5 1 of 255
    answer = HistogramNormalization()(gray(image))
    assert answer.shape == (1, 1, 2, 3)
    assert answer.flatten().tolist() == pytest.approx([42.5, 127.5, 127.5, 212.5, 212.5, 255], abs=1e-4)


@pytest.mark.parametrize("seed", range(12))
def test_equalization_equals_the_authors(seed: int) -> None:
    rng = np.random.default_rng(seed)
    span = 2 * int(rng.integers(1, 128)) - 1  # odd: no level lies on an edge of a bin, where rounding would decide
    low = int(rng.integers(0, 256 - span))
    image = (low + rng.beta(*rng.uniform(0.3, 3, 2), (31, 27)) * span).round().astype(np.uint8)
    image[0, :2] = low, low + span
    answer = HistogramNormalization()(gray(image))[0, 0].numpy()
    assert np.abs(answer - equalized(image / 255)).max() < 1e-3


def test_equalization_of_flat_colour_and_batched_images() -> None:
    flat = np.full((4, 4), 7, np.uint8)
    assert (HistogramNormalization()(gray(flat)) == 255).all() and (equalized(flat / 255) == 255).all()
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 200, (3, 9, 9, 1), dtype=np.uint8))
    apart = torch.cat([HistogramNormalization()(one[None]) for one in images])
    together = HistogramNormalization()(images)
    assert torch.equal(together, apart)
    copies = HistogramNormalization()(images.expand(3, 9, 9, 3))
    assert torch.equal(copies, together.expand(3, 3, 9, 9))


# ---------------------------------------------------------------- the verb


def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = cli.main(["weights", *words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_inspect_tells_all_of_it(densenet121: State, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = saved(tmp_path, LAYOUTS["CovidPrognosis"](densenet121))
    code, out, _ = said(capsys, "inspect", path, "--channels", "1")
    assert code == 0
    for words in (
        "layout       MoCo v1/v2 in Lightning",
        "container    state_dict",
        "prefix       'model.encoder_q.'",
        "says         epoch 199",
        "looks like   densenet121 (blocks 6-12-24-16, growth 32, 1024 features)",
        "expects      gray images, histogram-equalized to 0..255",
        "not loaded   objects of argparse.Namespace",
        f"model.name=densenet121 model.weights={path}, images of 1 channel:",
        "loaded       725 of 725 backbone tensors",
        "newly drawn  the head",
        "model.encoder_k.* (727), model.queue, model.queue_ptr",
        "adapted from 3 to 1 channel(s): summed",
    ):
        assert words in out, words


def test_inspect_without_a_known_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = saved(tmp_path, {"a.weight": torch.ones(2)})
    code, out, _ = said(capsys, "inspect", path)
    assert code == 0 and "name it, --model NAME" in out
    code, out, err = said(capsys, "inspect", path, "--model", "resnet18")
    assert code == 2 and "fits only 0% of the 120 backbone tensors of resnet18" in err and err.count("\n") == 1


def test_inspect_takes_no_name_that_timm_does_not_know(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = saved(tmp_path, {"state_dict": {"a.weight": torch.ones(2)}, "arch": "resnet18.of_ours"})
    code, out, _ = said(capsys, "inspect", path)
    assert code == 0 and "says         arch resnet18.of_ours" in out and "name it, --model NAME" in out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("inspect", "nowhere.pt"), "there is no file nowhere.pt"),
        (("inspect",), "takes one file or run"),
        (("inspct", "a"), "one verb, not inspct"),
        ((), "dam weights inspect FILE"),
        (("inspect", "a", "--channels", "2"), "choose one of 3, 1"),
        (("inspect", "a", "--image-size", "x"), "give the side in pixels"),
        (("inspect", "a", "--model", "resnt18"), "resnet18"),
        (("inspect", "a", "--modle", "x"), "did you mean --model?"),
    ],
)
def test_mistakes_end_with_one_sentence(
    words: tuple[str, ...],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = said(capsys, *words)
    assert code == 2 and says in err and err.count("\n") == 1


def test_completion() -> None:
    assert complete("dam weights ") == ["inspect", "--help"]
    assert complete("dam weights inspect ") == []
    assert complete("dam weights inspect w.pt --ch") == ["--channels"]
    assert complete("dam weights inspect w.pt --channels ") == ["1", "3"]
    assert complete("dam train model.normalization=h") == ["model.normalization=histogram_255"]
