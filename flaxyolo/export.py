"""The command `export`: a detector as a file that other programs run."""

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from flaxyolo.base import cli
from flaxyolo.base.errors import InputError
from flaxyolo.base.functions import as_function
from flaxyolo.machine.devices import use_device
from flaxyolo.spec import describe

if TYPE_CHECKING:
    from flaxyolo.deploy.onnx import OnnxForm
    from flaxyolo.nn.detector import TrainedDetector

log = logging.getLogger("flaxyolo.export")

SUFFIXES = {"onnx": ".onnx", "stablehlo": ".stablehlo", "openvino": ".xml"}


@dataclass(frozen=True)
class Flags:
    """Flags of `export`."""

    checkpoint: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="CHECKPOINT")]
    """Folder of a detector, such as runs/<study>/best, or of a study or run."""
    format: Literal["onnx", "stablehlo", "openvino"] = "onnx"
    """ONNX and OpenVINO as clients of YOLO models read them; StableHLO for JAX anywhere."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """The file, or the folder of a bundle; without it, beside the checkpoint."""
    nms: bool = False
    """Suppress inside the model: [B, 300, 6] instead of [B, 4 + classes, N]."""
    batch: int = 1
    """Images at once."""
    dynamic: bool = False
    """Any number of images at once."""
    precision: Literal["float32", "float16", "int8"] = "float32"
    """Of the layers; input and output stay float32. int8 (onnx) is calibrated on training images,
    and the mAP that it costs is printed."""
    image_size: int | None = None
    """Side of the square input in pixels, instead of the detector's own."""
    bundle: Literal["roboflow", "deepstream", "frigate"] | None = None
    """Also the files that this program expects beside the model, in the folder --out."""
    data: str | None = None
    """Images for int8: digits, coco:DIR, ...; else what the checkpoint was trained on."""
    max_pixels: cli.MaxPixels = None
    """Most pixels of an image that is decoded."""
    allow_outside: cli.AllowOutside = False
    """Read what leads out of the data set."""


def _written(flags: Flags) -> list[Path]:
    """Write what the flags name; the files, the model first."""
    from flaxyolo.deploy.bundles import BUNDLES
    from flaxyolo.deploy.onnx import OnnxForm, write_onnx
    from flaxyolo.weights.checkpoint import detector_folder, load_detector

    check(flags)
    checkpoint = detector_folder(flags.checkpoint)
    detector = load_detector(checkpoint)
    if flags.image_size is not None:
        try:
            detector = replace(detector, spec=replace(detector.spec, image_size=flags.image_size))
        except ValueError as error:
            raise InputError(f"--image-size: {describe(error)}") from None
    batch = None if flags.dynamic else flags.batch
    form = OnnxForm(flags.nms, batch, half=flags.precision == "float16")
    out = flags.out or default_out(checkpoint, flags)
    if flags.bundle is not None:
        return BUNDLES[flags.bundle](detector, out, form)
    if flags.format == "stablehlo":
        from flaxyolo.deploy.stablehlo import write_stablehlo

        return [write_stablehlo(detector, out, batch)]
    if flags.format == "openvino":
        from flaxyolo.deploy.openvino import write_openvino

        write_openvino(detector, out, form)
        return [out, out.with_suffix(".bin")]
    if flags.precision == "int8":
        return [_int8(flags, checkpoint, detector, out, form)]
    return [write_onnx(detector, out, form)]


def check(flags: Flags) -> None:
    """InputError where flags contradict each other."""
    if flags.batch < 1:
        raise InputError(f"--batch must be at least 1, got {flags.batch}")
    if flags.dynamic and flags.batch != 1:
        raise InputError("--dynamic is any number of images, and --batch one number: give one")
    if flags.precision == "int8" and (flags.format != "onnx" or flags.bundle):
        raise InputError("--precision int8 is for --format onnx without --bundle")
    if flags.format == "stablehlo" and (flags.precision != "float32" or flags.nms or flags.bundle):
        raise InputError(
            "--format stablehlo is float32 with suppression always: leave out --precision, --nms "
            "and --bundle"
        )
    if flags.bundle and flags.format != "onnx":
        raise InputError(f"--bundle {flags.bundle} holds an ONNX model: leave out --format")
    if flags.data is not None and flags.precision != "int8":
        raise InputError("--data is for --precision int8")
    if flags.out is not None and not flags.bundle and flags.out.suffix != SUFFIXES[flags.format]:
        raise InputError(
            f"--out {flags.out}: expected a name that ends in {SUFFIXES[flags.format]}"
        )


def default_out(checkpoint: Path, flags: Flags) -> Path:
    """The file beside the checkpoint: best.onnx beside best/."""
    checkpoint = checkpoint.resolve()
    if flags.bundle:
        return checkpoint.with_name(f"{checkpoint.name}-{flags.bundle}")
    more = "" if flags.precision == "float32" else f"-{flags.precision}"
    return checkpoint.with_name(f"{checkpoint.name}{more}{SUFFIXES[flags.format]}")


def _int8(
    flags: Flags, checkpoint: Path, detector: "TrainedDetector", out: Path, form: "OnnxForm"
) -> Path:
    from flaxyolo.data.sources import read_dataset
    from flaxyolo.deploy.quantize import write_with_cost
    from flaxyolo.weights.checkpoint import source_of

    if form.batch != 1:
        raise InputError(
            "--precision int8 takes one image at once: leave out --batch and --dynamic"
        )
    source = flags.data or source_of(checkpoint)
    cost = write_with_cost(detector, out, read_dataset(source), form)
    whole, less = cost.float32.map or 0.0, cost.int8.map or 0.0
    print(f"int8 has mAP {less:.3f} on the validation images of {source}, float32 {whole:.3f}: "
          f"{less - whole:+.3f}")  # fmt: skip
    return out


@cli.within_limits
def _run(flags: Flags) -> list[Path]:
    """Write, and say what."""
    files = _written(flags)
    for path in files:
        print(f"{path}  {path.stat().st_size / 1e6:.2f} MB")
    return files


def _command(flags: Flags) -> None:
    # Nothing is computed that another device would do faster.
    use_device("cpu")
    _run(flags)


run_export = as_function(Flags, _run, "export", "the files, the model first")


def main(argv: Sequence[str] | None = None) -> int | None:
    """Run the command."""
    flags = cli.parse(
        Flags,
        argv,
        prog="python -m flaxyolo.export",
        description="A detector as ONNX, OpenVINO or StableHLO, for programs that run it.",
    )
    return cli.run(partial(_command, flags))


if __name__ == "__main__":
    sys.exit(main())
