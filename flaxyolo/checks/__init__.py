"""What is checked before a run: labels, transforms, network, training step, overfitting."""
