"""Building blocks that know torch only: attention with a cache, transformer, embeddings."""
