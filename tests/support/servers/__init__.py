"""Private servers for the tests: each on a free loopback port, in its own folder, ended by whoever started it."""
