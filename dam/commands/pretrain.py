"""``dam pretrain``: self-supervised pretraining on images without labels."""

from __future__ import annotations

from dam.config_files import choices
from dam.errors import UserError
from dam.processes import place

HELP = """
usage: dam pretrain [+experiment=NAME] [group=choice] [key=value] ...
       dam pretrain resume=RUN [device=... workers=... tracking.* checkpoint.*]
       dam pretrain --cfg job ...    print the composed config and stop

Momentum contrast (MoCo v2) on the training images of any dataset, labelled or not. Labels, where there are some, are
only used to show what frozen features are worth: a linear and a nearest-neighbour classifier on them, fitted on
training images and judged on validation. The network's weights are then where training starts.

examples:
  dam pretrain +experiment=moco_chest data=folder data.root=xrays
  dam train +experiment=csv_example data.csv=labels.csv data.root=xrays \\
      image_size=320 model.weights=outputs/moco_chest/2026-01-31_12-00-00

more:
  dam pretrain +experiment=moco_cifar10 data.root=cifar-10-batches-py dry_run=true
  dam pretrain data=csv data.csv=labels.csv data.root=images augment=moco_colour model=resnet50 pretrain.epochs=100
  dam pretrain resume=outputs/moco_chest/2026-01-31_12-00-00

recipes: {experiments}; views: {views}
The config is that of `dam train`: data, augment, model, batch_size, image_size, device, precision and the like, and
pretrain.* (the queue, the momentum, the temperature, the length, the probe, pretrain.optimizer, pretrain.schedule).
Exit codes: 0 done, 1 failed, 2 your mistake (one sentence), 130 interrupted and saved.
""".format(
    experiments=", ".join(name for name in choices("experiment") if name.startswith("moco_")),
    views=", ".join(f"augment={name}" for name in choices("augment") if name.startswith("moco_")),
)

# What a pretraining run is beside the words: they may choose otherwise, and are then told that it does not go together.
WITHOUT = ("warm_start=none", "auc=none", "control=none", "metadata=none", "pretrain=moco")


def run(arguments: list[str]) -> int:
    """Pretrain as the words say; returns the exit code."""
    from dam.commands import train

    words, options = train.options_of(arguments)
    if "-m" in options:
        raise UserError("`dam pretrain` trains one run; start one for each value (`dam train -m` sweeps over training)")
    if any(word.lstrip("+-").startswith("resume=") for word in words):
        return train.run(arguments)
    if "--cfg" in options:
        return train.run([*WITHOUT, *arguments])
    from dam.compose import compose

    config = compose([*WITHOUT, *words])
    from dam.pretraining.run import start

    result = start(config, ["dam", "pretrain", *arguments])
    if place().rank == 0:
        print(result.table)
    return result.exit_code
