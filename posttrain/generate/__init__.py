"""Answers: from a local model, or from an endpoint."""
