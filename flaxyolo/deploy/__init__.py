"""What leaves the project: exported models, their engines, and predictions."""
