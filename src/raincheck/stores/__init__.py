"""Where tasks are kept: one module a store, behind `raincheck.ports.task_store`."""
