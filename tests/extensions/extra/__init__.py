"""A package of somebody else: one idea of each kind, a file for each, and no edit of `tarflow`."""
