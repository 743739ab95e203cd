"""Deployment: jobs on a Ray cluster, the check of a cluster or machine, files for `ray up`."""
