"""Acting: the actor that plays for the learner, the pool of actors, and the evaluator.

This package knows nothing of runs and jobs.
"""
