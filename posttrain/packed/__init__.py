"""Lines of packed tokens: a prompt is read once for all its answers, nothing is padded."""
