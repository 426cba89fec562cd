"""The policy on outgoing requests, and the client that holds them to it within bounds of time and size."""
