"""Code that all packages share: errors, files, storage, processes and timeouts.

This package knows nothing of the other packages.
"""
