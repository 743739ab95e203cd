"""Human preferences: segments, ratings, preferences, contrastive preference learning.

Knows nothing of runs and jobs.
"""
