"""Writing: from a producer's records to batches, and from batches to durable ones."""
