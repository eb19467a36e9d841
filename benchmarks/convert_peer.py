"""The raw outputs of converted weights beside those of the network they come from.

In two steps, as a peer lives in an environment of its own and nothing of it is imported here:

    PEER_ENV/bin/python benchmarks/convert_peer.py make yolov8n DIR
    python benchmarks/convert_peer.py compare DIR

`make` builds the peer with random weights and random running statistics, runs it on one random
image and writes its state dict (safetensors), the image and the outputs of its last convolutions.
`compare` converts the state dict and prints the largest difference of the raw outputs, for the
network as it is trained and folded for use. Both networks get the very same input tensor (`same`),
and once ours gets the RGB image in 0..1 that it is made of (`rgb`).
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

ULTRALYTICS = ("yolov5n", "yolov5s", "yolov8n", "yolov8s", "yolov10n", "yolo11n", "yolo11s")
YOLOX = ("yolox-nano", "yolox-tiny", "yolox-s")
RTMDET = ("rtmdet-tiny", "rtmdet-s")
MEAN, STD = (103.53, 116.28, 123.675), (57.375, 57.12, 58.395)


def build(name: str) -> tuple[Any, dict[str, str], Any]:
    """The peer's network; its last convolutions, by our name of their output; a way to run it."""
    if name in ULTRALYTICS:
        from ultralytics import YOLO

        network = YOLO(f"{name}.yaml").model
        last = max(int(key.split(".")[1]) for key in network.state_dict())
        layers = {}
        for prefix, ours in (("", ""), ("one2one_", "one_to_one.")):
            if hasattr(network.model[last], f"{prefix}cv2"):
                for i in range(3):
                    layers[f"{ours}box.{i}"] = f"model.{last}.{prefix}cv2.{i}.2"
                    layers[f"{ours}cls.{i}"] = f"model.{last}.{prefix}cv3.{i}.2"
        return network, layers, network
    if name in YOLOX:
        from yolox.exp import get_exp

        network = get_exp(None, name).get_model()
        layers = {
            f"{ours}.{i}": f"head.{theirs}_preds.{i}"
            for i in range(3)
            for ours, theirs in (("box", "reg"), ("cls", "cls"), ("objectness", "obj"))
        }
        return network, layers, network
    if name in RTMDET:
        import mmdet
        from mmdet.registry import MODELS
        from mmengine.config import Config
        from mmengine.registry import init_default_scope

        init_default_scope("mmdet")
        configs = Path(mmdet.__file__).parent / ".mim" / "configs" / "rtmdet"
        file = f"rtmdet_{name.removeprefix('rtmdet-')}_8xb32-300e_coco.py"
        model = Config.fromfile(configs / file).model
        model.backbone.pop("init_cfg", None)
        network = MODELS.build(model)
        layers = {
            f"{ours}.{i}": f"bbox_head.rtm_{theirs}.{i}"
            for i in range(3)
            for ours, theirs in (("box", "reg"), ("cls", "cls"))
        }
        return network, layers, lambda images: network(images, mode="tensor")
    raise SystemExit(f"expected one of {', '.join((*ULTRALYTICS, *YOLOX, *RTMDET))}, got {name}")


def randomise(network: Any, last: list[str], run: Any, tensor: Any) -> None:
    """Random weights and running statistics, of a size at which every layer's signal goes on.

    Fresh batch norms would hide a mistake in them, and fresh convolutions of so deep a network let
    nothing of the image through: the statistics are the image's own, disturbed. Variances are made
    larger on the whole, as otherwise the network blows up its own rounding errors.
    """
    import torch

    norms = [part for part in network.modules() if hasattr(part, "running_var")]
    for norm in norms:
        torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
        torch.nn.init.normal_(norm.bias, 0.0, 0.3)
        norm.momentum, _ = 1.0, norm.train()
    parts = dict(network.named_modules())
    for name in last:
        torch.nn.init.normal_(parts[name].weight, 0.0, parts[name].in_channels ** -0.5)
        torch.nn.init.normal_(parts[name].bias)
    with torch.no_grad():
        run(tensor)
    for norm in norms:
        norm.eval()
        norm.running_mean += 0.1 * norm.running_var.sqrt() * torch.randn_like(norm.running_mean)
        norm.running_var *= torch.empty_like(norm.running_var).uniform_(1.0, 1.5)


def own_input(name: str, image: np.ndarray) -> np.ndarray:
    """What the peer takes, made of an RGB image (h, w, 3) in 0..1."""
    if name in YOLOX:
        return image[..., ::-1] * 255
    if name in RTMDET:
        return (image[..., ::-1] * 255 - np.array(MEAN)) / np.array(STD)
    return image


def random_image(size: int, seed: int) -> np.ndarray:
    """Patches of all sizes in random colours (h, w, 3), in 0..1; of mere noise little is left soon.

    Every octave is as strong as the others.
    """
    rng, total, octaves = np.random.default_rng(seed), np.zeros((size, size, 3)), 0
    side = 5
    while side <= size:
        steps = np.arange(size) * side // size
        total += rng.random((side, side, 3))[steps][:, steps]
        side, octaves = 2 * side, octaves + 1
    return (total / octaves).astype(np.float32)


def as_tensor(image: np.ndarray) -> Any:
    """An image (h, w, 3) as PyTorch takes it."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)[None], np.float32))


def make(name: str, out: Path, size: int, seed: int) -> None:
    """Write the peer's weights, an image and its raw outputs."""
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(seed)
    network, layers, run = build(name)
    network.eval()
    image = random_image(size, seed)
    own = own_input(name, image).astype(np.float32)
    randomise(network, list(layers.values()), run, as_tensor(own))
    found: dict[str, np.ndarray] = {}
    parts = dict(network.named_modules())

    def keep(key: str) -> Any:
        def hook(part: Any, inputs: Any, output: Any) -> None:
            found[key] = output[0].permute(1, 2, 0).reshape(-1, output.shape[1]).numpy()

        return hook

    for ours, theirs in layers.items():
        parts[theirs].register_forward_hook(keep(ours))
    out.mkdir(parents=True, exist_ok=True)
    with torch.no_grad():
        run(as_tensor(own))
    state = {key: tensor.contiguous().clone() for key, tensor in network.state_dict().items()}
    save_file(state, out / "weights.safetensors")
    torch.save(state, out / "weights.pt")
    np.savez(out / "outputs.npz", image=image, own=own, **found)
    (out / "about.json").write_text(json.dumps({"name": name, "size": size}))


def compare(folder: Path) -> list[dict[str, Any]]:
    """Convert, run ours, and list the largest difference of each raw output."""
    from dataclasses import replace
    from functools import partial

    import jax
    import jax.numpy as jnp

    from flaxyolo.config import read_config
    from flaxyolo.nn.detector import fuse, predict, run_network
    from flaxyolo.weights.conversion import convert
    from flaxyolo.weights.families import FAMILIES
    from flaxyolo.weights.state_dicts import read_arrays

    about = json.loads((folder / "about.json").read_text())
    name = about["name"]
    config = Path(__file__).parents[1] / "configs" / f"{name}.yaml"
    spec = replace(read_config(config).detector, image_size=about["size"])
    theirs = dict(np.load(folder / "outputs.npz"))
    arrays = read_arrays(folder / "weights.safetensors")
    rows = []
    for kind, given in (("same", "own"), ("rgb", "image")):
        done = convert(arrays, spec, fold_images=kind == "rgb")
        corner = FAMILIES[done.family.partition("/")[0]].points_at_corner
        images = jnp.asarray(theirs[given][None])
        outputs = {
            "trained": jax.jit(partial(predict, spec, dtype=jnp.float32))(done.weights, images),
            "folded": run_network(spec, fuse(spec, done.weights), images, jnp.float32),
        }
        for form, predictions in outputs.items():
            # A folded network has the one-to-one branches alone.
            alone = "one_to_one." if form == "folded" and spec.head.one_to_one else ""
            for output, values in raw_outputs(predictions, corner).items():
                wanted = np.concatenate([theirs[f"{alone}{output}.{i}"] for i in range(3)])
                rows.append(
                    {
                        "network": name,
                        "input": kind,
                        "form": form,
                        "output": f"{alone}{output}",
                        "largest_difference": float(np.abs(values - wanted).max()),
                        "largest_value": float(np.abs(wanted).max()),
                        # Of an output from cell to cell: what depends on the image.
                        "signal": float(wanted.std(0).mean()),
                    }
                )
    return rows


def raw_outputs(predictions: Any, corner: bool) -> dict[str, np.ndarray]:
    """Raw outputs of one image, as the peer counts them."""
    box = np.asarray(predictions.distances[0])
    box = box.reshape(len(box), -1)
    if corner:
        # Our distances are from the middle of a cell.
        box = box - np.array([0.5, 0.5, -0.5, -0.5])
    outputs = {"cls": np.asarray(predictions.logits[0]), "box": box}
    if predictions.one_to_one is not None:
        second = raw_outputs(predictions.one_to_one, corner)
        outputs |= {f"one_to_one.{part}": values for part, values in second.items()}
    if predictions.objectness is not None:
        outputs["objectness"] = np.asarray(predictions.objectness[0])[:, None]
    return outputs


def main() -> None:
    """Run one of the two steps."""
    parser = argparse.ArgumentParser(description=__doc__)
    steps = parser.add_subparsers(dest="step", required=True)
    maker = steps.add_parser("make", help="in the peer's environment")
    maker.add_argument("name")
    maker.add_argument("folder", type=Path)
    maker.add_argument("--size", type=int, default=320)
    maker.add_argument("--seed", type=int, default=0)
    comparer = steps.add_parser("compare", help="in ours")
    comparer.add_argument("folder", type=Path)
    comparer.add_argument("--json", action="store_true", help="a list of rows instead of a table")
    arguments = parser.parse_args()
    if arguments.step == "make":
        make(arguments.name, arguments.folder, arguments.size, arguments.seed)
        return
    rows = compare(arguments.folder)
    if arguments.json:
        print(json.dumps(rows, indent=1))
        return
    print("| network | input | form | output | largest difference | largest value | signal |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['network']} | {row['input']} | {row['form']} "
            f"| {row['output']} | {row['largest_difference']:.2e} | {row['largest_value']:.3g} "
            f"| {row['signal']:.2g} |"
        )
    worst = max(row["largest_difference"] for row in rows if row["input"] == "same")
    sys.exit(f"the largest difference is {worst:.2e}, not below 1e-3" if worst >= 1e-3 else 0)


if __name__ == "__main__":
    main()
