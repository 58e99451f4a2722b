"""Runs as jobs on an NDIF server: sent once, asked for by their ids, kept in a file."""
