"""One figure a file; see `bench`."""
