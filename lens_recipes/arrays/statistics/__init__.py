"""Statistics over items: bootstrap intervals, medians and permutation tests, in numpy alone."""
