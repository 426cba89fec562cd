-- Run in a schema of our own after procrastinate's own statements, and after every upgrade.

-- Which of procrastinate's migrations are in.
CREATE TABLE IF NOT EXISTS raincheck_migrations (
    name text PRIMARY KEY,
    applied_at timestamp with time zone NOT NULL DEFAULT now()
);

-- procrastinate names its tables without a schema. Tied to this one, its functions and triggers find theirs whatever the
-- caller's search_path is: a task's own transaction, or beside a procrastinate of somebody else in `public`.
DO $$
DECLARE
    routine regprocedure;
BEGIN
    FOR routine IN SELECT oid::regprocedure FROM pg_proc WHERE pronamespace = current_schema()::regnamespace LOOP
        EXECUTE format('ALTER FUNCTION %s SET search_path = %I, pg_temp', routine, current_schema());
    END LOOP;
END;
$$;
