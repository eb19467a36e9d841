"""The networks of `configs/` are the ones people know: equal in every count."""

from functools import cache

import jax
import pytest

from benchmarks.known_networks import CONFIGS, REFERENCES, compare, main, table
from flaxyolo.config import read_config
from flaxyolo.cost.measure import count_gflops
from flaxyolo.nn.detector import abstract_weights

counted = cache(compare)

QUICK = ("yolov5n", "yolov6n", "yolov8n", "yolov10n", "yolo11n", "yolox-nano", "rtmdet-tiny")
NAMES = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in REFERENCES]


def test_every_config_has_a_reference():
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == set(REFERENCES)


@pytest.mark.parametrize("name", NAMES)
def test_counts_are_those_of_the_original(name):
    row = counted(name)
    assert row.params_difference in (0, None)
    assert row.folded_difference in (0, None)
    assert (row.params_reference, row.folded_reference) != (None, None)
    # Both count the same products; what differs is the last digit of a sum of floats.
    assert row.gflops == pytest.approx(row.gflops_reference, rel=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_the_config_tells_its_counts(name):
    comment = [
        line[2:]
        for line in (CONFIGS / f"{name}.yaml").read_text().splitlines()
        if line.startswith("#")
    ]
    spec = read_config(CONFIGS / f"{name}.yaml").detector
    row, told = counted(name), " ".join(comment)
    gflops = row.gflops if spec.image_size == 640 else count_gflops(spec)
    assert f"{row.params:,} trainable parameters" in told
    assert any(f"{gflops:.{digits}f} GFLOPs" in told for digits in (1, 2))
    assert f"{spec.image_size} px" in told


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "published", "share"),
    [
        # The counters used there also count norms, activations and biases.
        ("yolox-nano", 1.08, 0.035),
        ("yolox-tiny", 6.45, 0.01),
        ("yolox-s", 26.8, 0.01),
        ("rtmdet-tiny", 2 * 8.1, 0.01),
        ("rtmdet-s", 2 * 14.8, 0.01),
        ("yolov10n", 6.7, 0.01),
    ],
)
def test_gflops_are_near_the_published_ones(name, published, share):
    spec = read_config(CONFIGS / f"{name}.yaml").detector
    gflops = counted(name).gflops if spec.image_size == 640 else count_gflops(spec)
    assert gflops == pytest.approx(published, rel=share)


def test_rep_vgg_blocks_fold_into_the_plain_network():
    spec = read_config(CONFIGS / "yolov6n.yaml").detector
    trained = sum(leaf.size for leaf in jax.tree.leaves(abstract_weights(spec).params))
    row = counted("yolov6n")
    assert trained == 4_915_888
    # The plain network less its batch norms' scales and shifts, which a bias replaces.
    assert row.folded == 4_500_064 - 4_688


def test_the_table_and_its_json_have_a_row_for_each(capsys, monkeypatch):
    rows = [counted("yolov8n"), counted("yolov6n")]
    lines = table(rows).splitlines()
    assert len(lines) == 2 + len(rows)
    assert "| 3,157,184 | 3,157,184 | 0 |" in lines[2]
    assert "| 4,915,888 | - | - |" in lines[3]
    monkeypatch.setattr("benchmarks.known_networks.REFERENCES", {"yolov8n": REFERENCES["yolov8n"]})
    monkeypatch.setattr("sys.argv", ["known_networks", "--json"])
    main()
    assert '"params_difference": 0' in capsys.readouterr().out
