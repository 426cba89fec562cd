"""The runtime: one process's service, runner, leases, sweeper and worker process."""
