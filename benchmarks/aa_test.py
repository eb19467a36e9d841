"""Do ablations of identical arms come out as different, and are true effects found?

Ablations are drawn from seed noise and judged by the very functions of `flaxyolo.ablate`: the
two-way noise, Holm's correction, the bootstrap over images and the verdict. An image's share of a
score stands for its detections: a run's score is the mean over the images of what arm and seed
have in common, and of what each run happens to get right in each image.

`--measured ablation.json` draws the noise from the residuals of a finished ablation instead of
the normal distribution, with the part of it that it found to come from the images.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import NamedTuple

import numpy as np

from flaxyolo.ablation.analysis import BETTER, NO_EVIDENCE, judge
from flaxyolo.ablation.statistics import compare
from flaxyolo.scoring.bootstrap import draw_weights, interval

Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


@dataclass(frozen=True)
class Setting:
    """One kind of ablation to simulate; noise has a standard deviation of one per run."""

    name: str
    arms: int = 1
    """Beside the baseline."""
    seeds: int = 3
    noise: str = "normal"
    scale: tuple[float, ...] = ()
    """Noise of the first arms (the baseline is the first) in place of one."""
    by_images: float = 0.5
    """The part of the variance that differs from image to image."""
    images: int = 72


class Ablations(NamedTuple):
    """Simulated scores (n, arms, seeds), and those of each image as the mean over the seeds."""

    scores: np.ndarray
    per_image: np.ndarray


def draw(setting: Setting, number: int, effect: float, noise: Draw, seed: int) -> Ablations:
    """Ablations in which every arm but the baseline is better by `effect`."""
    random = np.random.default_rng(seed)
    shape = (number, setting.arms + 1, setting.seeds)
    scale = np.ones(setting.arms + 1)
    scale[: len(setting.scale)] = setting.scale
    whole = np.sqrt(1 - setting.by_images) * noise(random, shape) * scale[:, None]
    # Seeds share their noise with the baseline's; it must fall out.
    whole += random.standard_normal((number, 1, setting.seeds))
    whole[:, 1:] += effect
    spread = np.sqrt(setting.by_images * setting.images) * scale[:, None, None]
    scores, per_image = np.empty(shape), np.empty((number, setting.arms + 1, setting.images))
    for k in range(number):
        parts = random.standard_normal((*shape[1:], setting.images)) * spread
        scores[k] = whole[k] + parts.mean(-1)
        per_image[k] = (whole[k][..., None] + parts).mean(1)
    return Ablations(scores, per_image)


def verdicts(ablations: Ablations, weights: np.ndarray, *, images: bool = True) -> list[list[str]]:
    """The word on every arm of every ablation; by the seeds alone if not `images`."""
    words, weights = [], weights.astype(np.float64)
    for scores, per_image in zip(*ablations, strict=True):
        drawn = (per_image[1:] - per_image[0]) @ weights.T / weights.shape[1]
        words.append(
            [
                judge(one, interval(difference) if images else None).word
                for one, difference in zip(compare(scores).arms, drawn, strict=True)
            ]
        )
    return words


def detectable(setting: Setting) -> float:
    """The smallest effect that seeds can show when the noise of a run is known to be one."""
    # With residuals of a known size: any scores whose noise comes to one.
    scores = np.random.default_rng(0).standard_normal((setting.arms + 1, setting.seeds))
    found = compare(scores)
    return found.detectable / found.noise


def wrong_rate(
    setting: Setting, number: int, *, images: bool = True, noise: Draw | None = None, seed: int = 0
) -> float:
    """The part of ablations of identical arms in which any arm is found different."""
    nothing = draw(setting, number, 0.0, noise or NOISES[setting.noise], seed)
    words = verdicts(nothing, draw_weights(setting.images), images=images)
    return float(np.mean([any(word != NO_EVIDENCE for word in each) for each in words]))


def found_rate(
    setting: Setting,
    number: int,
    times: float,
    *,
    images: bool = True,
    noise: Draw | None = None,
    seed: int = 1,
) -> float:
    """The part of arms found better that are, by so many times the smallest detectable effect."""
    effect = times * detectable(setting)
    real = draw(setting, number, effect, noise or NOISES[setting.noise], seed)
    words = verdicts(real, draw_weights(setting.images), images=images)
    return float(np.mean([[word == BETTER for word in each] for each in words]))


def rates(setting: Setting, number: int, noise: Draw | None = None) -> dict:
    """One setting's row of the table."""
    return {
        **asdict(setting),
        "ablations": number,
        "detectable_in_sd": detectable(setting),
        "wrong": wrong_rate(setting, number, noise=noise),
        "wrong_by_seeds_alone": wrong_rate(setting, number, noise=noise, images=False),
        "found_at_twice": found_rate(setting, number, 2.0, noise=noise),
        "found_at_once_by_seeds_alone": found_rate(setting, number, 1.0, noise=noise, images=False),
    }


def measured(path: Path) -> tuple[Draw, float]:
    """Noise drawn from the residuals of a finished ablation, and the part of it by images."""
    stored = json.loads(path.read_text())
    pool = np.array(stored["residuals"], np.float64).ravel()
    pool = np.concatenate([pool, -pool])
    pool /= pool.std()
    share = stored["noise_by_images"]
    return lambda random, shape: random.choice(pool, shape), 0.5 if share is None else share


def _tails(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return random.standard_t(3, shape) / np.sqrt(3)


def _arms(number: int) -> str:
    return "1 arm" if number == 1 else f"{number} arms"


def main() -> None:
    """Simulate every setting and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ablations", type=int, default=20_000)
    parser.add_argument("--settings", nargs="*", help="only those whose name begins so")
    parser.add_argument("--measured", type=Path, help="ablation.json of a finished ablation")
    parser.add_argument("--json", type=Path, help="also write the result there")
    arguments = parser.parse_args()
    settings, noise = SETTINGS, None
    if arguments.measured:
        noise, share = measured(arguments.measured)
        settings = tuple(
            Setting(f"measured, {_arms(arms)}, {seeds} seeds", arms, seeds, "measured", (), share)
            for arms in (1, 4)
            for seeds in (2, 3, 5)
        )
    results = []
    print("| setting | different (no effect) | by seeds alone | found (2 x) | (1 x, seeds) |")
    print("|---|---:|---:|---:|---:|")
    for setting in settings:
        if arguments.settings and not setting.name.startswith(tuple(arguments.settings)):
            continue
        result = rates(setting, arguments.ablations, noise)
        results.append(result)
        print(
            f"| {setting.name} | {100 * result['wrong']:.2f} % | "
            f"{100 * result['wrong_by_seeds_alone']:.2f} % | "
            f"{100 * result['found_at_twice']:.1f} % | "
            f"{100 * result['found_at_once_by_seeds_alone']:.1f} % |",
            flush=True,
        )
    if arguments.json:
        report = {"date": date.today().isoformat(), "numpy": np.__version__, "results": results}
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


NOISES: dict[str, Draw] = {
    "normal": lambda random, shape: random.standard_normal(shape),
    "heavy tails": _tails,
}
"""With a standard deviation of one; heavy tails are Student's t with 3 degrees of freedom."""
SETTINGS = (
    *(
        Setting(f"{_arms(arms)}, {seeds} seeds", arms, seeds)
        for arms in (1, 4, 8)
        for seeds in (2, 3, 5)
    ),
    Setting("images: none of the noise", by_images=0.0),
    Setting("images: all of the noise", by_images=1.0),
    Setting("heavy tails, 1 arm", noise="heavy tails", by_images=0.0),
    Setting("heavy tails, 4 arms", 4, noise="heavy tails", by_images=0.0),
    *(
        Setting(f"noisy {what}, {seeds} seeds", 4, seeds, scale=scale, by_images=share)
        for what, scale, share in (
            ("arm (x 3)", (1.0, 3.0), 0.5),
            ("arm (x 3), none by images", (1.0, 3.0), 0.0),
            ("baseline (x 3)", (3.0,), 0.5),
            ("baseline (x 3), none by images", (3.0,), 0.0),
        )
        for seeds in (2, 3, 5)
    ),
)

if __name__ == "__main__":
    main()
