"""What the console asks of the services, by the calls of the client alone."""
