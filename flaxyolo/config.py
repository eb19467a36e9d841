"""How a detector is trained, and the YAML files that hold a detector and its training."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import Field
from pydantic.dataclasses import dataclass

from flaxyolo.base.errors import InputError
from flaxyolo.base.files import comment, read_yaml, replace_file
from flaxyolo.spec import STRICT, DetectorSpec, Rate, parse, to_dict

Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True, config=STRICT)
class Augmentation:
    """Strengths of the training augmentation; 0 turns a part off."""

    mosaic: Share = 1.0
    """Share of images made of four."""
    close_mosaic_epochs: Annotated[int, Field(ge=0)] = 10
    """Last epochs without mosaic."""
    hue: Share = 0.015
    saturation: Share = 0.7
    value: Share = 0.4
    flip: Share = 0.5
    """Share of images mirrored left to right."""
    translate: Share = 0.1
    """Largest shift, as a share of the image size."""
    scale: Rate = 0.5
    """Scale is drawn from 1 - scale to 1 + scale."""


@dataclass(frozen=True, config=STRICT)
class Distillation:
    """How much is learnt of a teacher, where there is one; 0 turns a part off."""

    class_gain: Annotated[float, Field(ge=0)] = 1.0
    box_gain: Annotated[float, Field(ge=0)] = 1.5
    """Of the distributions, or of the overlaps where those do not match."""
    feature_gain: Annotated[float, Field(ge=0)] = 2.0
    temperature: Annotated[float, Field(gt=0)] = 10.0
    """Of the distributions of boxes (arXiv 2102.12252)."""


def _usual(distillation: Distillation) -> bool:
    return distillation == Distillation()


@dataclass(frozen=True, config=STRICT)
class TrainConfig:
    """Everything that decides a training run beside the detector and the data."""

    epochs: Annotated[int, Field(ge=1)] = 100
    batch_size: Annotated[int, Field(ge=1)] = 16
    optimizer: Literal["auto", "sgd", "adamw"] = "auto"
    """auto: AdamW for runs of at most 10,000 steps, otherwise SGD with Nesterov momentum."""
    learning_rate: Annotated[float, Field(gt=0)] | None = None
    """Peak rate. None: 0.01 for SGD (the loss is summed over the batch, so the rate that suits 64
    images a step suits other batches too), 0.002 x 5 / (4 + classes) for AdamW."""
    momentum: Rate = 0.937
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    """On kernels only, never on biases and norms."""
    warmup_epochs: Annotated[float, Field(ge=0)] = 3.0
    decay_share: Share = 0.4
    """Last share of the run in which the rate falls linearly to `final_rate`."""
    final_rate: Share = 0.01
    """Rate at the end, as a share of the peak."""
    ema_decay: Rate = 0.9999
    ema_ramp_steps: Annotated[float, Field(gt=0)] = 2000.0
    clip_norm: Annotated[float, Field(gt=0)] = 10.0
    box_gain: Annotated[float, Field(ge=0)] = 7.5
    class_gain: Annotated[float, Field(ge=0)] = 0.5
    dfl_gain: Annotated[float, Field(ge=0)] = 1.5
    tal_topk: Annotated[int, Field(ge=1)] = 10
    tal_alpha: Annotated[float, Field(ge=0)] = 0.5
    tal_beta: Annotated[float, Field(ge=0)] = 6.0
    augmentation: Augmentation = Augmentation()
    distillation: Annotated[Distillation, Field(exclude_if=_usual)] = Distillation()
    """Written where it is not the usual one, so that runs of before keep their names."""
    seed: Annotated[int, Field(ge=0)] = 0


@dataclass(frozen=True, config=STRICT)
class Config:
    """One file of `configs/`: a detector and its training."""

    detector: DetectorSpec
    training: TrainConfig = TrainConfig()


def fitted(
    config: Config,
    *,
    num_classes: int,
    mirror: bool,
    image_size: int | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    seed: int | None = None,
) -> Config:
    """A config with the data's classes and the flags' values; None leaves the config's own.

    Flips are off unless an object may be mirrored. ValueError where a value does not fit.
    """
    detector, training = config.detector, config.training
    augmentation = training.augmentation
    return Config(
        replace(detector, num_classes=num_classes, image_size=image_size or detector.image_size),
        replace(
            training,
            epochs=epochs or training.epochs,
            batch_size=batch_size or training.batch_size,
            seed=training.seed if seed is None else seed,
            augmentation=augmentation if mirror else replace(augmentation, flip=0.0),
        ),
    )


def read_config(path: Path) -> Config:
    """Read a YAML config. InputError names the file and every wrong key or value."""
    data = read_yaml(path, "config")
    if not isinstance(data, dict):
        raise InputError(f"{path}: expected the keys 'detector' and 'training', got {data!r:.60}")
    return parse(Config, data, str(path))


def write_config(path: Path, config: Config, note: str = "") -> None:
    """Write a config that `read_config` reads back equal; replaces the file atomically."""
    content = comment(note) + yaml.safe_dump(to_dict(config), sort_keys=False)
    replace_file(path, content)
