"""What all packages share: errors, files, storage, processes and timeouts.

Knows nothing of the others.
"""
