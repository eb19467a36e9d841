"""What a sweep may spend: candidates, epochs, finalists and seeds; and what a trial is part of."""

from dataclasses import asdict, dataclass
from typing import Any

from flaxyolo.base.words import many

REDUCTION = 3
"""Halving: of the candidates that reach a rung, one in so many goes on (arXiv 1810.05934)."""
FIRST_RUNG = 3
"""Epochs below which a ninth of a schedule from fresh weights is no rung: what scores at all so
soon is luck (on the digits candidates of 0.7 after 12 epochs had 0.02 after the first, and one of
0.5 had 0.05)."""
CONTROLS = 2
"""The baseline and a scaled YOLOv8."""
LONG_ENOUGH = FIRST_RUNG * REDUCTION**2
"""Epochs below which a schedule is its own short one."""


@dataclass(frozen=True)
class Spending:
    """How much is trained; every number is a most, since time may end a sweep earlier."""

    trials: int
    """Candidates in all, those included that are over the budget."""
    short_epochs: int
    """Of the short schedule, which the candidates are told apart by."""
    epochs: int
    """Of the full schedule."""
    finalists: int
    seeds: tuple[int, ...]
    """Of the finalists' runs, at most: further ones are for those that are not told apart."""
    controls: bool = False
    """Whether the baseline and a YOLOv8 scaled into the budget are trained like finalists."""
    inherited: bool = False
    """Whether networks begin with the weights of another, so that the first epoch tells."""
    taught: float | None = None
    """How many times as long a step of a full run takes with its teacher; None without one."""
    blind: bool = False
    """Whether candidates are drawn at random in the band, and all are trained to the end."""

    @property
    def rungs(self) -> tuple[int, ...]:
        """Epochs after which a candidate waits until it is known to be ahead; the last is whole."""
        if self.blind:
            return (self.short_epochs,)
        return rungs(self.short_epochs, 1 if self.inherited else FIRST_RUNG)

    @property
    def training_epochs(self) -> int:
        """Epochs that are trained, if every candidate is inside the budget, one seed each."""
        going_on, total, before = self.trials, 0, 0
        for rung in self.rungs:
            total += going_on * (rung - before)
            going_on, before = -(-going_on // REDUCTION), rung
        return total + self.epochs_of_finals

    @property
    def entrants(self) -> int:
        """Candidates that have full runs: the finalists and the controls."""
        return min(self.finalists, self.trials) + CONTROLS * self.controls

    @property
    def goes_on(self) -> bool:
        """Whether a full run goes on from the candidate's, as they have the same training."""
        return self.epochs == self.short_epochs and self.taught is None

    @property
    def seconds_each(self) -> float:
        """Times the seconds of a candidate's epoch that an epoch of its full run takes."""
        return 1.0 if self.taught is None else self.taught

    @property
    def epochs_of_finals(self) -> int:
        """Epochs of full runs that the candidates' runs have not trained already, one seed each."""
        first = self.rungs[0]
        if not self.goes_on:
            return self.entrants * self.epochs + first * self.controls
        # These runs go on from the candidates', the first of which are whole.
        few = min(self.finalists, self.trials)
        whole, before = self.trials, 0
        for rung in self.rungs[:-1]:
            whole, before = -(-whole // REDUCTION), rung
        finalists = max(0, few - whole) * (self.epochs - before)
        # The baseline is one of the candidates up to the first rung.
        return finalists + self.controls * (CONTROLS * self.epochs - first)

    def describe(self) -> str:
        """The plan in a line."""
        going_on, parts = self.trials, []
        for rung in self.rungs:
            parts.append(f"{going_on} to epoch {rung}")
            going_on = -(-going_on // REDUCTION)
        few = min(self.finalists, self.trials)
        trained = many(few, "finalist")
        if self.controls:
            trained += ", the baseline and a YOLOv8 scaled into the budget"
        most = len(self.seeds)
        seeds = f"up to {most} seeds, as long as they are not told apart" if most > 1 else "1 seed"
        return (
            f"{many(self.trials, 'candidate')}{', drawn at random' if self.blind else ''}, "
            f"{', '.join(parts)}; then {trained}, "
            f"{many(self.epochs, 'epoch')}, "
            f"{seeds}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def rungs(epochs: int, first: int = FIRST_RUNG) -> tuple[int, ...]:
    """A ninth (if that is `first` or more), a third and all of a schedule, in epochs."""
    ninth, third = round(epochs / REDUCTION**2), max(1, round(epochs / REDUCTION))
    return tuple(sorted({ninth if ninth >= first else third, third, epochs}))


def short_schedule(epochs: int) -> int:
    """Epochs of the short schedule that belongs to a full one: a third of it."""
    return epochs if epochs < LONG_ENOUGH else max(LONG_ENOUGH // REDUCTION, round(epochs / 3))
