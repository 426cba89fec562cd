-- Priorities, callbacks, callers, checkpoints, and the records beside the tasks. Processes of the release before go on meanwhile.

ALTER TABLE raincheck.task
    -- The negative of the priority: all of task_by_turn is in ascending order.
    ADD COLUMN turn smallint NOT NULL DEFAULT 0,
    ADD COLUMN callback_url text,
    -- JSON as text, ASCII only.
    ADD COLUMN caller text,
    ADD COLUMN checkpoint text;

-- Claims and listings of what is pending read one range of this for each operation and priority there is; every other
-- status is in task_by_status. So a task is in no more indexes than it was in.
CREATE INDEX task_by_turn ON raincheck.task (operation_type, turn, created_at, task_ref) WHERE status = 'pending';

-- The same by scope, so that however many tasks one scope has, those of the others are found.
CREATE INDEX task_by_scope_turn ON raincheck.task (operation_type, turn, scope, created_at, task_ref)
WHERE status = 'pending';

DROP INDEX raincheck.task_by_status;

CREATE INDEX task_by_status ON raincheck.task (status, operation_type, created_at, task_ref) WHERE status <> 'pending';

CREATE TABLE raincheck.record (
    kind        text COLLATE "C" NOT NULL,
    key         text COLLATE "C" NOT NULL,
    -- JSON as text, ASCII only.
    value       text,
    version     bigint NOT NULL,
    -- Names the last change, as that of a task does.
    change_id   bigint NOT NULL,
    due_at      bigint,
    expires_at  bigint,
    PRIMARY KEY (kind, key)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.05);

CREATE INDEX record_by_due ON raincheck.record (kind, due_at, key) WHERE due_at IS NOT NULL;

CREATE INDEX record_by_expiry ON raincheck.record (expires_at) WHERE expires_at IS NOT NULL;
