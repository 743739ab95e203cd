"""A training run: its loop, its processes, resuming, its folder, status and evaluation."""
