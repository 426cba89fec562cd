-- Times are microseconds since 1970-01-01T00:00:00Z. Columns up to fingerprint never change after the insert.

CREATE TABLE task (
    id               INTEGER PRIMARY KEY,
    task_ref         TEXT NOT NULL UNIQUE,
    scope            TEXT NOT NULL,
    operation_type   TEXT NOT NULL,
    created_at       INTEGER NOT NULL,
    deadline_at      INTEGER NOT NULL,
    ttl_seconds      REAL NOT NULL,
    max_attempts     INTEGER NOT NULL,
    retry_when_lost  INTEGER NOT NULL,
    idempotency_key  TEXT,
    key_kind         TEXT NOT NULL,
    fingerprint      TEXT NOT NULL,
    status           TEXT NOT NULL,
    version          INTEGER NOT NULL,
    updated_at       INTEGER NOT NULL,
    settled_at       INTEGER,
    expires_at       INTEGER,
    attempt          INTEGER NOT NULL,
    fence            INTEGER NOT NULL,
    worker_id        TEXT,
    lease_until      INTEGER,
    started_at       INTEGER,
    -- The earlier of deadline_at and lease_until; NULL once settled.
    due_at           INTEGER,
    error_code       TEXT,
    progress         TEXT,
    -- JSON; NULL where it is too large to be rewritten with every change of the row: then it is in payload.
    arguments        TEXT,
    inputs           TEXT,
    outcome          TEXT,
    -- Which of these are in payload: 1 arguments, 2 inputs, 4 outcome, 8 checkpoint, 16 caller.
    apart            INTEGER NOT NULL,
    priority         INTEGER NOT NULL,
    callback_url     TEXT,
    own_webhook      INTEGER NOT NULL,
    caller           TEXT,
    checkpoint       TEXT,
    awaiting_external INTEGER NOT NULL
);

CREATE TABLE payload (
    task_id  INTEGER NOT NULL,
    part     INTEGER NOT NULL,
    body     TEXT NOT NULL,
    PRIMARY KEY (task_id, part)
) WITHOUT ROWID;

-- How many tasks there are in each status, kept by every transaction that changes it.
CREATE TABLE task_count (
    status  TEXT PRIMARY KEY,
    number  INTEGER NOT NULL
) WITHOUT ROWID;

INSERT INTO task_count (status, number)
VALUES ('pending', 0), ('processing', 0), ('input_required', 0), ('completed', 0), ('failed', 0), ('cancelled', 0);

CREATE UNIQUE INDEX task_by_key ON task (scope, idempotency_key, key_kind) WHERE idempotency_key IS NOT NULL;

CREATE INDEX task_by_due ON task (due_at) WHERE due_at IS NOT NULL;

CREATE INDEX task_by_expiry ON task (expires_at) WHERE expires_at IS NOT NULL;

-- Listings and claims read one range of these for each status and operation there is, and merge.
CREATE INDEX task_by_status ON task (status, operation_type, created_at);

CREATE INDEX task_by_scope ON task (scope, status, operation_type, created_at);

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

-- The one clock of all processes on the file: what to add to the machine's uptime, in microseconds, and since which start
-- of the machine. One row at most.

CREATE TABLE clock (
    id      INTEGER PRIMARY KEY CHECK (id = 1),
    boot    TEXT NOT NULL,
    offset  INTEGER NOT NULL
);
