"""What frozen features say of CIFAR-10's ten classes: a random backbone and a pretrained one (docs/pretraining.md).

    python scripts/probe_classes.py cifar-10-batches-py RUN

Both classifiers of `dam pretrain`'s probe are fitted on 5,000 training images and judged on 5,000 test images.
"""

from __future__ import annotations

import sys

import numpy as np
import torch

from dam.commands.pretrain import WITHOUT
from dam.compose import compose
from dam.data import load_table
from dam.pretraining.probe import accuracy, knn_scores, ridge_scores
from dam.training import single
from dam.training.device import resolve
from dam.training.metrics import label_auc
from dam.training.module import infer
from dam.training.networks import bare_network

IMAGES = 5000


def main(root: str, run: str) -> None:
    torch.set_num_threads(1)
    words = [*WITHOUT, "+experiment=moco_cifar10"]
    cfg = compose([*words, f"data.root={root}", "model.name=resnet8_cifar", "device=cpu"])
    table, device = load_table(cfg.data, labelled=False), resolve(cfg)
    inputs = single.inputs_of(cfg, table, device)
    classes = table.frame["class"].to_numpy()
    names = sorted(set(classes))
    truth = (classes[:, None] == np.array(names)).astype(float)
    rng = np.random.default_rng(0)
    train, test = (np.sort(rng.choice(inputs.splits[split], IMAGES, replace=False)) for split in ("train", "test"))
    for title, weights in (("random backbone", None), (run, run)):
        network = bare_network(cfg, device, 3, 0, weights)
        fitted, judged = (infer(network, inputs.loader(rows, ()), IMAGES, 256) for rows in (train, test))
        for kind, scores in (
            ("linear", ridge_scores(fitted, truth[train], judged, cfg.pretrain.probe.ridge)),
            ("nearest neighbours", knn_scores(fitted, truth[train], judged, cfg.pretrain.probe.neighbours)),
        ):
            auc = np.mean([label_auc(truth[test][:, i], scores[:, i]) for i in range(len(names))])
            print(f"{title}: {kind} accuracy {accuracy(truth[test], scores):.3f}, mean AUC {auc:.3f}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
