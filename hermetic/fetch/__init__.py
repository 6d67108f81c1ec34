"""Fixed outputs: what the driver itself brings from the network because a lock already says what it is."""
