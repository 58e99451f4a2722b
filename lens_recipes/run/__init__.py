"""A request becomes batches, batches become arrays: here, or as jobs on an NDIF server."""
