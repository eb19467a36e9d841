"""Detections against truth: average precision, kinds of errors, calibration."""
