"""Serving engines: Triton and what stands before it."""
