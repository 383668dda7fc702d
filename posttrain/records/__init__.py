"""Records: JSONL in, message lists out."""
