"""The gRPC server: calls, health, errors."""
