"""Students of a flow: models that draw samples in one pass, or a few."""
