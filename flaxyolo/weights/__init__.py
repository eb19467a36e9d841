"""Weights: checkpoints, those of another detector, those from elsewhere."""
