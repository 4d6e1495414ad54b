"""The gRPC runtime that both services share: settings, open bundles, server, errors, metrics, logs, processes."""

import os

# Set here because gRPC reads the variable once, when it is first imported, which happens after this module is run.
# By default gRPC reads sockets in its own event threads, which hand each event to the thread that polls for it. Without
# that listener the polling thread reads the sockets itself: a call takes a seventh less CPU time
# (`benchmarks.services.calls`).
os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_listener")
