"""How a call is made: channel, metadata, deadline, retries and errors."""
