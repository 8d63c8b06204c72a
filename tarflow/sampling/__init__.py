"""Many samples: batches that fit memory, folders that a killed run goes on with, plans."""
