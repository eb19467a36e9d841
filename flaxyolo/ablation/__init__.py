"""Controlled ablation: one variable at a time, paired seeds, and what may be concluded."""
