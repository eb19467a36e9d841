"""The compiled programs that a worker keeps from one job to the next."""

from flaxyolo.cost.measure import forget_programs
from flaxyolo.spec import DetectorSpec


class Programs:
    """Those of one network: whoever goes on with it traces, lowers and loads none again, and those
    of another would be some 100 MiB each."""

    def __init__(self) -> None:
        self._spec: DetectorSpec | None = None

    def turn_to(self, spec: DetectorSpec | None) -> None:
        """Before a job: let go of all that is not this network's, which may not be drawn yet."""
        if spec is None or spec != self._spec:
            forget_programs()
            self._spec = None

    def are_of(self, spec: DetectorSpec | None) -> None:
        """After a job: it was about this network."""
        self._spec = spec
