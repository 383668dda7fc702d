"""Run folders: what was done, with what, at what cost."""
