"""What keeps upstreams from being overrun: circuit breakers, and permits for starts, for all processes on a store."""
