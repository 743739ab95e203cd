"""The report: one run as one HTML file, to look at without anything else."""
