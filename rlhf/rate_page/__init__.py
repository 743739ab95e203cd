"""The page on which people rate performances, and its server."""
