"""`pianist doctor`: checks of a cluster, or of this machine, before a run costs money."""
