import json

import numpy as np
import pytest

from benchmarks.aa_test import Setting, found_rate, measured, wrong_rate


@pytest.mark.parametrize("arms", [1, 4])
def test_200_ablations_of_identical_arms(arms):
    setting = Setting("promise", arms, 3)
    assert wrong_rate(setting, 200) <= 0.05
    assert found_rate(setting, 200, 2.0) >= 0.9


@pytest.mark.slow
@pytest.mark.parametrize(
    "setting",
    [
        Setting("two seeds", 1, 2),
        # The images' bootstrap is no help here: seeds alone must keep to 5 %.
        Setting("no noise by images", 1, 3, by_images=0.0),
        Setting("heavy tails", 4, 3, noise="heavy tails", by_images=0.0),
        Setting("a noisy arm", 4, 3, scale=(1.0, 3.0)),
    ],
    ids=lambda setting: setting.name,
)
def test_the_true_rate_is_at_most_a_twentieth(setting):
    number = 800
    # Three standard errors of a share of a twentieth.
    border = 0.05 + 3 * (0.05 * 0.95 / number) ** 0.5
    assert wrong_rate(setting, number, seed=10) <= border


def test_measured_noise_has_a_deviation_of_one_and_no_bias(tmp_path):
    path = tmp_path / "ablation.json"
    path.write_text(json.dumps({"residuals": [[0.01, -0.03], [-0.01, 0.03]], "noise_by_images": 1}))
    noise, share = measured(path)
    drawn = noise(np.random.default_rng(0), (4000,))
    assert share == 1
    assert np.unique(np.abs(drawn)).size == 2
    assert drawn.std() == pytest.approx(1, abs=0.05)
    assert drawn.mean() == pytest.approx(0, abs=0.05)
