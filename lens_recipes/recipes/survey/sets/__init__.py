"""Items that need not be written: sets of this package, and those of a paper."""
