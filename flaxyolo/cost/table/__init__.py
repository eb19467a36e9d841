"""Latencies of thousands of detectors from a table of pieces that were timed here."""
