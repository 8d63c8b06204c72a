"""How images lie on disk, and what `tarflow prepare` writes."""
