"""Benchmarks behind the README's figures: one command each, with all sides in one run."""
