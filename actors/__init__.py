"""Acting: the actor that plays for the learner, the pool of actors, and the evaluator.

Knows nothing of runs and jobs.
"""
