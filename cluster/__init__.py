"""Deployment: jobs on a Ray cluster, checks of a cluster or machine, files for `ray up`."""
