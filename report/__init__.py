"""The report on a run as one HTML file that needs no other files."""
