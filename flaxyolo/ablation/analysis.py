"""What the runs of an ablation come to: every arm beside the baseline, and a verdict on each."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from flaxyolo.ablation.results import Arm, Run, load_detections
from flaxyolo.ablation.statistics import (
    LEVEL,
    Comparison,
    Comparisons,
    compare,
    detectable_by_both,
    residuals,
    spread,
)
from flaxyolo.base.detections import Detections
from flaxyolo.base.errors import InputError
from flaxyolo.scoring import bootstrap
from flaxyolo.scoring.coco_matches import matched_by_size
from flaxyolo.scoring.truth import GroundTruth

logger = logging.getLogger(__name__)

ErrorKinds = Callable[[GroundTruth, Detections], dict[str, Any]]
BETTER, WORSE, NO_EVIDENCE = "better", "worse", "no evidence"


@dataclass(frozen=True)
class Spread:
    """Over the seeds."""

    mean: float
    std: float


@dataclass(frozen=True)
class Verdict:
    """On one arm, and what it rests on."""

    word: str
    """better, worse or no evidence: of mAP50-95, against the baseline."""
    reason: str


@dataclass(frozen=True)
class ArmAnalysis:
    """One arm; everything that compares it with the baseline is None for the baseline."""

    arm: Arm
    scores: dict[str, Spread | None]
    """By the keys of METRICS; None is a size that no validation object has."""
    per_seed: dict[str, tuple[float | None, ...]]
    gap: Spread | None
    """mAP50-95 on training images less that on validation images."""
    cost: dict[str, float | None]
    """By the keys of COSTS: the median over the seeds."""
    errors: dict[str, Any] | None
    """Error kinds as the mean over the seeds."""
    comparison: Comparison | None = None
    """Of mAP50-95."""
    differences: dict[str, Comparison | None] | None = None
    """The same of every metric, as description: only mAP50-95 is tested."""
    image_intervals: dict[str, tuple[float, float]] | None = None
    """The 95 % bootstrap intervals over images of the differences of mAP50-95 and mAP50."""
    detectable: float | None = None
    """The smallest difference that seeds and images would both have shown with power 80 %."""
    verdict: Verdict | None = None


@dataclass(frozen=True)
class Analysis:
    """A whole ablation; scores are shares of one."""

    arms: tuple[ArmAnalysis, ...]
    seeds: tuple[int, ...]
    images: int
    resamples: int
    comparisons: Comparisons
    """Of mAP50-95, with the pooled noise."""
    noise_by_images: float | None
    """How much of the variance between seeds would go with endlessly many validation images."""
    conditions: tuple[str, ...]
    """Device, type and size of the cost measurements: one line if all are alike."""
    notes: tuple[str, ...]
    """What was left out, or is doubtful, in words."""

    @property
    def baseline(self) -> ArmAnalysis:
        """The arm that changes nothing."""
        return self.arms[0]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {**asdict(self), "residuals": self.residuals().tolist()}

    def residuals(self) -> Float[np.ndarray, "k s"]:
        """The noise of mAP50-95 of every arm and seed: what an A/A test draws from."""
        return residuals(np.array([one.per_seed["map"] for one in self.arms], np.float64))


def analyse(
    arms: Sequence[Arm],
    runs: Sequence[Run],
    truth: GroundTruth,
    *,
    error_kinds: ErrorKinds | None = None,
    resamples: int = bootstrap.RESAMPLES,
) -> Analysis:
    """Compare the arms with the first over the seeds that all of them have.

    `truth` are the objects of the validation images; `error_kinds` sums up the errors of one run's
    detections.
    """
    by_arm, seeds, notes = _paired(arms, runs)
    scores = _matrix(by_arm, "map")
    comparisons = compare(scores)
    logger.info("ablation: %d arms, %d seeds, bootstrap over images", len(arms), len(seeds))
    detections = [[load_detections(run.folder, truth) for run in of_arm] for of_arm in by_arm]
    drawn = _resampled(truth, detections, resamples)
    apart = drawn.mean(1)[1:] - drawn.mean(1)[0]
    others = {key: _compare_if_there(by_arm, key) for key in METRICS}

    analysed = []
    for place, (arm, of_arm) in enumerate(zip(arms, by_arm, strict=True)):
        against: dict[str, Any] = {}
        if place:
            comparison = comparisons.arms[place - 1]
            images = {
                key: bootstrap.interval(apart[place - 1, :, column])
                for column, key in enumerate(("map", "map_50"))
            }
            error = float(np.nanstd(apart[place - 1, :, 0]))
            against = {
                "comparison": comparison,
                "differences": {
                    key: None if other is None else other.arms[place - 1]
                    for key, other in others.items()
                },
                "image_intervals": images,
                "detectable": detectable_by_both(comparison, len(arms) - 1, len(seeds), error),
                "verdict": judge(comparison, images["map"]),
            }
        analysed.append(
            ArmAnalysis(
                arm=arm,
                scores={key: _spread([run.scores[key] for run in of_arm]) for key in METRICS},
                per_seed={key: tuple(run.scores[key] for run in of_arm) for key in METRICS},
                gap=_spread([_gap(run) for run in of_arm]),
                cost={key: _median([run.cost.get(key) for run in of_arm]) for key in COSTS},
                errors=None
                if error_kinds is None
                else mean_of([error_kinds(truth, of_run) for of_run in detections[place]]),
                **against,
            )
        )
    return Analysis(
        arms=tuple(analysed),
        seeds=seeds,
        images=len(truth.image_ids),
        resamples=resamples,
        comparisons=comparisons,
        noise_by_images=_noise_by_images(scores, drawn[..., 0]),
        conditions=tuple(dict.fromkeys(_conditions(run.cost) for one in by_arm for run in one)),
        notes=(*notes, *_doubts(arms, comparisons, scores)),
    )


def judge(comparison: Comparison, images: tuple[float, float] | None) -> Verdict:
    """Different only if both speak: the seeds after Holm, and the interval over the images.

    Each guards against another accident (which seeds, which images), so neither is enough.
    """
    by_seeds = comparison.holm < LEVEL
    by_images = images is None or not images[0] <= 0 <= images[1]
    seeds = f"p {comparison.holm:.2g} after Holm"
    if by_seeds and by_images:
        word = BETTER if comparison.difference > 0 else WORSE
        return Verdict(word, f"seeds ({seeds}) and images show it")
    if comparison.noise == 0:
        same = "the same score as the baseline with every seed"
        reason = "all seeds score the same, so there is no noise to hold the difference against"
        return Verdict(NO_EVIDENCE, reason if comparison.difference else same)
    if by_seeds:
        reason = f"seeds show it ({seeds}), images do not: other images could turn it round"
    elif by_images and images is not None:
        reason = f"images show it, seeds do not ({seeds}): other seeds could turn it round"
    else:
        reason = f"seeds do not show it ({seeds})" + (", nor do images" if images else "")
    return Verdict(NO_EVIDENCE, reason)


def mean_of(parts: Sequence[Any]) -> Any:
    """The mean of every number in dicts and lists of one form; None where one has none."""
    first = parts[0]
    if isinstance(first, Mapping):
        return {key: mean_of([part[key] for part in parts]) for key in first}
    if isinstance(first, (list, tuple)):
        return [mean_of(list(group)) for group in zip(*parts, strict=True)]
    if all(isinstance(part, (int, float)) and not isinstance(part, bool) for part in parts):
        return float(np.mean(parts))
    return first if all(part == first for part in parts) else None


def _paired(
    arms: Sequence[Arm], runs: Sequence[Run]
) -> tuple[list[list[Run]], tuple[int, ...], list[str]]:
    """The runs of each arm over the seeds that all arms have, and what was left out."""
    found: dict[str, dict[int, Run]] = {arm.name: {} for arm in arms}
    if len(found) < len(arms):
        names = [arm.name for arm in arms]
        raise InputError(f"ablation: expected each arm's name once, got {names}")
    for run in runs:
        if run.arm not in found:
            known = ", ".join(found)
            raise InputError(f"ablation: {run.folder}: expected an arm of {known}; got {run.arm}")
        if run.seed in found[run.arm]:
            raise InputError(
                f"ablation: arm {run.arm}, seed {run.seed}: expected one run, got "
                f"{found[run.arm][run.seed].folder} and {run.folder}"
            )
        found[run.arm][run.seed] = run
    for name, of_arm in found.items():
        if not of_arm:
            raise InputError(f"ablation: arm {name}: expected runs, got none; run it first")
    common = set.intersection(*(set(of_arm) for of_arm in found.values()))
    notes = []
    for name, of_arm in found.items():
        if extra := sorted(set(of_arm) - common):
            listed = ", ".join(map(str, extra))
            notes.append(f"left out: {name} with seed {listed}, which not every arm has run")
    seeds = tuple(sorted(common))
    return [[of_arm[seed] for seed in seeds] for of_arm in found.values()], seeds, notes


def _matrix(by_arm: list[list[Run]], key: str) -> np.ndarray:
    for run in (run for of_arm in by_arm for run in of_arm):
        if run.scores[key] is None:
            raise InputError(
                f"ablation: {run.folder}: expected a score {key!r}, got none; "
                "the validation images hold no object"
            )
    return np.array([[run.scores[key] for run in of_arm] for of_arm in by_arm], np.float64)


def _compare_if_there(by_arm: list[list[Run]], key: str) -> Comparisons | None:
    if any(run.scores[key] is None for of_arm in by_arm for run in of_arm):
        return None
    return compare(_matrix(by_arm, key))


def _resampled(
    truth: GroundTruth, detections: list[list[Detections]], resamples: int
) -> Float[np.ndarray, "k s b 2"]:
    matched = [
        matched_by_size(truth, of_run, ["all"])["all"] for of_arm in detections for of_run in of_arm
    ]
    weights = bootstrap.draw_weights(len(truth.image_ids), resamples)
    runs = [of_run.found for of_run in matched]
    drawn = bootstrap.weighted_map(matched[0].objects, runs, weights)
    return drawn.reshape(len(detections), len(detections[0]), resamples, 2)


def _noise_by_images(scores: np.ndarray, drawn: np.ndarray) -> float | None:
    """The bootstrap's variance of the residuals of arm and seed over their variance.

    Near one, seeds differ only by which images each happens to get right, and more validation
    images would make the ablation sharper; near zero, only more seeds would.
    """
    left = residuals(scores)
    total = float(np.square(left).sum())
    if total <= 1e-20:
        return None
    moved = residuals(np.moveaxis(drawn, -1, 0))
    return float(min(1.0, np.nanvar(moved, axis=0).sum() / total))


def _doubts(arms: Sequence[Arm], comparisons: Comparisons, scores: np.ndarray) -> list[str]:
    notes = []
    for arm, row in zip(arms[1:], scores[1:], strict=True):
        if (row == scores[0]).all():
            notes.append(
                f"{arm.name} equals the baseline with every seed, so its change may not act"
            )
    if comparisons.doubtful and comparisons.noisiest is not None:
        alone = [
            arm.name
            for arm, one in zip(arms[1:], comparisons.arms, strict=True)
            if one.freedom != comparisons.freedom
        ]
        judged = (
            f"{', '.join(alone)} judged by the plain paired t-test over their own seeds; the "
            "pooled noise of the others holds the noisy arm too, which is cautious"
            if alone
            else "the pooled noise is kept, as no arm's own differences scatter more"
        )
        notes.append(
            f"pooling the noise is doubtful: {arms[comparisons.noisiest].name} is noisier than "
            f"the others (p {comparisons.equal_noise_p:.2g}); {judged}"
        )
    return notes


def _gap(run: Run) -> float | None:
    train, val = run.train_scores.get("map"), run.scores["map"]
    return None if train is None or val is None else train - val


def _spread(values: Sequence[float | None]) -> Spread | None:
    found = spread(values)
    return None if found is None else Spread(*found)


def _median(values: Sequence[float | int | None]) -> float | None:
    there = [value for value in values if value is not None]
    return float(np.median(there)) if there else None


def _conditions(cost: Mapping[str, Any]) -> str:
    size = cost.get("image_size")
    return (
        f"{cost.get('device')}, {cost.get('dtype')}, {size}x{size}, batch {cost.get('batch_size')}"
    )


METRICS = {
    "map": "mAP50-95",
    "map_50": "mAP50",
    "map_small": "mAP_s",
    "map_medium": "mAP_m",
    "map_large": "mAP_l",
}
COSTS = {
    "latency_ms_p50": ("p50 ms", ".2f"),
    "latency_ms_p95": ("p95 ms", ".2f"),
    "fps": ("FPS", ".0f"),
    "vram_mib": ("MiB", ".1f"),
    "train_vram_mib": ("train MiB", ".0f"),
    "params": ("params", ",.0f"),
    "gflops": ("GFLOPs", ".3f"),
}
