"""What both services share at run time: opening and swapping bundles, the gRPC server, errors, metrics, logs."""

import os

# Read when gRPC is imported. By default, threads of its own read the sockets and hand each event to the thread that
# waits for it. Without them that thread reads, and a call takes a seventh less CPU time (`python -m bench.serve`).
os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_listener")
