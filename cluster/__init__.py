"""The run as a whole: who runs where, supervision, logbook, status, report."""
