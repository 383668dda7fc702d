"""The gate: what is compared, how it is decided, how it is told."""
