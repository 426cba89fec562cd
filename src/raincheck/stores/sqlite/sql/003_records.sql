-- Priorities, where to call back, who called, what an operation saved to go on from; and the records beside the tasks.

ALTER TABLE task ADD COLUMN priority INTEGER NOT NULL DEFAULT 0;

ALTER TABLE task ADD COLUMN callback_url TEXT;

-- JSON; where it is too large to be rewritten with every change of the row it is in payload, and its bit in apart is 16.
ALTER TABLE task ADD COLUMN caller TEXT;

-- JSON; where it is too large to be rewritten with every change of the row it is in payload, and its bit in apart is 8.
ALTER TABLE task ADD COLUMN checkpoint TEXT;

-- Claims read one range of it for each operation, and merge.
CREATE INDEX task_by_priority ON task (operation_type, priority DESC, created_at, task_ref) WHERE status = 'pending';

-- The same by scope, so that however many tasks one scope has, those of the others are found.
CREATE INDEX task_by_turn ON task (operation_type, priority, scope, created_at, task_ref) WHERE status = 'pending';

CREATE TABLE record (
    id          INTEGER PRIMARY KEY,
    kind        TEXT NOT NULL,
    key         TEXT NOT NULL,
    version     INTEGER NOT NULL,
    due_at      INTEGER,
    expires_at  INTEGER,
    value       TEXT
);

CREATE UNIQUE INDEX record_by_key ON record (kind, key);

CREATE INDEX record_by_due ON record (kind, due_at) WHERE due_at IS NOT NULL;

CREATE INDEX record_by_expiry ON record (expires_at) WHERE expires_at IS NOT NULL;
