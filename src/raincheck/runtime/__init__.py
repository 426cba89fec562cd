"""What runs tasks: one process's service, its runner, leases, sweeper and worker process."""
