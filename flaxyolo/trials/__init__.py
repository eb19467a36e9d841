"""Carries a sweep out, and tells of it."""
