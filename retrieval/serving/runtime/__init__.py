"""Settings, cores, logs, metrics and credentials of a service process."""
