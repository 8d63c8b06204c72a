"""Parts, batches, and the shares of them that processes read."""
