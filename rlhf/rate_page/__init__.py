"""The page on which people rate performances, and the server behind it."""
