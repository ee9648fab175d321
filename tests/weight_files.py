"""Twins of published checkpoints: the exact keys that the code which wrote them produces, on torchvision's networks.

Written from the writers' sources, without dam: each function takes a torchvision network's ``state_dict`` and gives
what that project would have handed to ``torch.save``. Momentum copies are perturbed, so that taking one is seen.
"""

from __future__ import annotations

import re
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

State = dict[str, Tensor]


def backbone(state: State) -> State:
    return {name: t for name, t in state.items() if not name.startswith(("fc.", "classifier."))}


def under(prefix: str, state: State) -> State:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def perturbed(state: State) -> State:
    """Another network of the same shapes; large tensors are shared, to keep the files small."""
    return {name: t + 1 if t.ndim == 1 and t.is_floating_point() else t for name, t in state.items()}


def head_of(state: State) -> str:
    return "classifier" if "features.conv0.weight" in state else "fc"


def width(state: State) -> int:
    return int(state[f"{head_of(state)}.weight"].shape[1])


def linear(name: str, inputs: int, outputs: int) -> State:
    return {f"{name}.weight": torch.randn(outputs, inputs), f"{name}.bias": torch.zeros(outputs)}


def moco(state: State, prefix: str, mlp: bool, dim: int = 128, keys: int = 256) -> State:
    name, d = head_of(state), width(state)
    head = {**linear(f"{name}.0", d, 32), **linear(f"{name}.2", 32, dim)} if mlp else linear(name, d, dim)
    query = {**backbone(state), **head}
    return {
        **under(f"{prefix}encoder_q.", query),
        **under(f"{prefix}encoder_k.", perturbed(query)),
        f"{prefix}queue": torch.randn(1).expand(dim, keys),
        f"{prefix}queue_ptr": torch.zeros(1, dtype=torch.long),
    }


def moco_v1(state: State) -> Any:
    return {
        "epoch": 200,
        "arch": "resnet50",
        "state_dict": moco(state, "module.", mlp=False),
        "optimizer": {"state": {}},
    }


def moco_v2(state: State) -> Any:
    return {"epoch": 800, "arch": "resnet50", "state_dict": OrderedDict(moco(state, "module.", mlp=True))}


def moco_cxr(state: State) -> Any:
    return {
        "epoch": 20,
        "arch": "resnet18",
        "state_dict": moco(state, "module.", mlp=True, keys=24576),
        "optimizer": {},
    }


def moco_cxr_fine_tuned(state: State) -> Any:
    net = {**backbone(state), **linear(head_of(state), width(state), 1)}
    return {"ckpt_info": {"epoch": 3}, "model_name": "ResNet18", "task_sequence": ["Pleural Effusion"],
            "model_state": under("module.model.", net), "optimizer": {}, "lr_scheduler": {}}  # fmt: skip


def moco_v3(state: State) -> Any:
    name, d = head_of(state), width(state)
    projector = {f"{name}.0.weight": torch.randn(16, d), f"{name}.1.weight": torch.ones(16),
                 f"{name}.1.running_mean": torch.zeros(16), f"{name}.3.weight": torch.randn(8, 16)}  # fmt: skip
    base = {**backbone(state), **projector}
    predictor = {"0.weight": torch.randn(16, 8), "1.running_var": torch.ones(16)}
    whole = {**under("module.base_encoder.", base), **under("module.momentum_encoder.", perturbed(base)),
             **under("module.predictor.", predictor)}  # fmt: skip
    return {"epoch": 300, "arch": "resnet50", "state_dict": whole, "optimizer": {}, "scaler": {}}


def covid_prognosis(state: State) -> Any:
    return {"epoch": 199, "global_step": 7, "pytorch-lightning_version": "1.0.8", "callbacks": {}, "lr_schedulers": [],
            "optimizer_states": [], "state_dict": moco(state, "model.", mlp=False),
            "hyper_parameters": Namespace(arch="densenet121")}  # fmt: skip


def dino(state: State) -> Any:
    head = {"head.mlp.0.weight": torch.randn(4, 4), "head.last_layer.weight_v": torch.randn(4, 4)}
    student = {**under("module.backbone.", perturbed(backbone(state))), **under("module.", head)}
    teacher = {**under("module.backbone.", backbone(state)), **under("module.", head)}
    return {"student": student, "teacher": teacher, "optimizer": {}, "epoch": 100, "args": Namespace(arch="resnet50"),
            "dino_loss": {"center": torch.zeros(1, 4)}}  # fmt: skip


def vissl(state: State) -> Any:
    trunk = under("_feature_blocks.", backbone(state))
    model = {"trunk": trunk, "heads": {"0.clf.0.weight": torch.randn(4, 4)}}
    return {"phase_idx": 1, "classy_state_dict": {"base_model": {"model": model, "meta": {}}, "optimizer": {}}}


def vissl_converted(state: State) -> Any:
    return {"model_state_dict": under("_feature_blocks.", backbone(state))}


def lightly(state: State) -> Any:
    whole = {
        **under("backbone.", backbone(state)),
        **under("backbone_momentum.", perturbed(backbone(state))),
        **linear("projection_head.layers.0", 8, 8),
        **linear("projection_head_momentum.layers.0", 8, 8),
    }
    return {"state_dict": whole, "epoch": 5, "pytorch-lightning_version": "2.0.0", "hyper_parameters": {}}


def lightly_sequential(state: State) -> Any:
    """The backbone as ``nn.Sequential(*list(resnet.children())[:-1])``."""
    numbers = {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5, "layer3": 6, "layer4": 7, "features": 0}
    renamed = {}
    for name, tensor in backbone(state).items():
        first, rest = name.split(".", 1)
        renamed[f"backbone.{numbers[first]}.{rest}"] = tensor
    return {"state_dict": {**renamed, **linear("projection_head.layers.0", 8, 8)}}


def solo_learn(state: State) -> Any:
    whole = {**under("backbone.", backbone(state)), **under("momentum_backbone.", perturbed(backbone(state))),
             **linear("projector.0", 8, 8), **linear("classifier", 8, 10)}  # fmt: skip
    return {"state_dict": whole, "epoch": 400}


def simclr(state: State) -> Any:
    return {**under("encoder.", backbone(state)), **linear("projector.0", 8, 8), **linear("projector.2", 8, 4)}


def simclr_backbone(state: State) -> Any:
    whole = {**under("backbone.", backbone(state)), **linear("backbone.fc.0", 8, 8), **linear("backbone.fc.2", 8, 8)}
    return {"epoch": 100, "arch": "resnet18", "state_dict": whole, "optimizer": {}}


def torchvision(state: State) -> Any:
    return OrderedDict(state)


def libauc_example(state: State) -> Any:
    return {**backbone(state), **linear(head_of(state), width(state), 1)}


def libauc_trainer(state: State) -> Any:
    return {"model_state_dict": libauc_example(state), "optimizer_state_dict": {"state": {}},
            "loss_fn_state_dict": {"a": torch.zeros(1)}, "loss_fn": "AUCMLoss", "state": {"epoch": 1},
            "args": Namespace(lr=0.1)}  # fmt: skip


def timm_training(state: State) -> Any:
    return {"epoch": 9, "arch": "resnet18", "state_dict": perturbed(state), "state_dict_ema": dict(state),
            "optimizer": {}, "version": 2, "args": Namespace(model="resnet18"), "metric": np.float64(77.5)}  # fmt: skip


def compiled_and_parallel(state: State) -> Any:
    return {"state_dict": under("module._orig_mod.", state)}


def parallel_and_compiled(state: State) -> Any:
    return {"model": under("_orig_mod.module.", state)}


def old_densenet(state: State) -> Any:
    """torchvision's densenets of before 2018: a dot in ``norm.1``, and no counters of batches."""
    return {
        re.sub(r"(denselayer\d+\.)(norm|relu|conv)([12])\.", r"\1\2.\3.", name): tensor
        for name, tensor in state.items()
        if not name.endswith("num_batches_tracked")
    }


def old_densenet_counting(state: State) -> Any:
    return {re.sub(r"(denselayer\d+\.)(norm|relu|conv)([12])\.", r"\1\2.\3.", n): t for n, t in state.items()}


LAYOUTS: dict[str, Callable[[State], Any]] = {
    "MoCo v1": moco_v1,
    "MoCo v2": moco_v2,
    "MoCo v3": moco_v3,
    "MoCo-CXR": moco_cxr,
    "MoCo-CXR, fine-tuned": moco_cxr_fine_tuned,
    "CovidPrognosis": covid_prognosis,
    "DINO": dino,
    "VISSL": vissl,
    "VISSL, converted": vissl_converted,
    "lightly": lightly,
    "lightly, numbered": lightly_sequential,
    "solo-learn": solo_learn,
    "SimCLR": simclr,
    "SimCLR, backbone.fc": simclr_backbone,
    "torchvision": torchvision,
    "LibAUC example": libauc_example,
    "LibAUC Trainer": libauc_trainer,
    "timm training": timm_training,
    "module._orig_mod": compiled_and_parallel,
    "_orig_mod.module": parallel_and_compiled,
}
OLD_DENSENETS: dict[str, Callable[[State], Any]] = {
    "old densenet": old_densenet,
    "old densenet, counting": old_densenet_counting,
}
