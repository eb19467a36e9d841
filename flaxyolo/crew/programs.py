"""The compiled programs that a worker keeps from one job to the next."""

from flaxyolo.cost.measure import forget_programs
from flaxyolo.spec import DetectorSpec

KEPT = 3
"""Networks whose programs are kept, 100 to 300 MiB each: 1.8 GiB of a worker became 2.2 in the
first command on two cores."""


class Programs:
    """Those of the last few networks: whoever goes on with one of these traces, lowers and loads
    none again. JAX lets go of all or of none."""

    def __init__(self) -> None:
        self._specs: list[DetectorSpec] = []

    def turn_to(self, spec: DetectorSpec | None) -> None:
        """Before a job: make room for its network, which may not be drawn yet."""
        if len(self._specs) >= KEPT and spec not in self._specs:
            forget_programs()
            self._specs.clear()

    def are_of(self, spec: DetectorSpec | None) -> None:
        """After a job: it was about this network."""
        if spec is not None and spec not in self._specs:
            self._specs.append(spec)
