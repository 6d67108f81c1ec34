"""OpenAI's API before Triton."""

import os

#: gRPC's handlers for forks abort a process that is forked while it works (seen: a stage started beside an answer ended
#: with signal 6). What is forked here executes another program at once, so it needs none; to be set before its import.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
