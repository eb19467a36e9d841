"""Numbers of things, as a person says them."""


def many(count: int, thing: str) -> str:
    """`1 epoch`, `2 epochs`, `1,200 boxes`."""
    ending = "" if count == 1 else "es" if thing.endswith(("x", "s")) else "s"
    return f"{count:,} {thing}{ending}"
