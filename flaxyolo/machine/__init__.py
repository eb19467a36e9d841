"""This machine: its processes, its clock, its devices, and locks."""
