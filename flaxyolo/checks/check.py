"""The outcome of one check."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """What one check measured, and where it failed the likely cause."""

    name: str
    passed: bool
    measured: str
    cause: str = ""
    seconds: float = 0.0
    step_seconds: float | None = None
    """Of one training step, from the check that takes some."""

    def line(self) -> str:
        """The check in one line."""
        state = "ok" if self.passed else "FAILED"
        cause = f"; likely cause: {self.cause}" if self.cause else ""
        return f"{self.name}: {state}, {self.measured}{cause} ({self.seconds:.1f} s)"
