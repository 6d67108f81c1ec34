"""The programs that the figures are compared with, doing the same work."""
