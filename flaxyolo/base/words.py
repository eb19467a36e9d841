"""Numbers of things, as a person says them."""


def many(count: int, thing: str) -> str:
    """`1 epoch`, `2 epochs`, `1,200 boxes`."""
    ending = "" if count == 1 else "es" if thing.endswith(("x", "s")) else "s"
    return f"{count:,} {thing}{ending}"


def percent(share: int | float) -> str:
    """`86%`; of hardly anything `under 1%`, of more than the whole `130%`."""
    return "under 1%" if 0 < share < 0.005 else f"{share:.0%}"
