"""What both services share at run time: opening and swapping bundles, the gRPC server, errors, metrics, logs."""
