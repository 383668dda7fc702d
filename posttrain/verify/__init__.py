"""Verifiers: is an answer right? Yes, no, or it cannot be told."""
