"""Private servers for the tests: each on a free loopback port, in a folder of its own, and ended by whoever started it."""
