"""Which detector to try next."""
