"""Workers: their processes, leases, storage and records, for sweeps and ablations."""
