"""Ask a server over HTTP: whom, with which key, within which limits, and what its faults mean."""
