"""Judging: what a judge is shown, and what it says."""
