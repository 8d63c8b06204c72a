"""A package, lest one of that name that something else has installed is found instead."""
