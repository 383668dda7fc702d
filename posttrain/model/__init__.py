"""Models and tokenizers: names, loading, memory."""
