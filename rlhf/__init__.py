"""Human preferences: segments, ratings, preferences, contrastive preference learning."""
