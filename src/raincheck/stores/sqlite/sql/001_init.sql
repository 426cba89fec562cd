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
    -- Which of the three are in payload: 1 arguments, 2 inputs, 4 outcome.
    apart            INTEGER NOT NULL
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

CREATE UNIQUE INDEX task_by_key ON task (scope, idempotency_key) WHERE idempotency_key IS NOT NULL;

CREATE INDEX task_by_due ON task (due_at) WHERE due_at IS NOT NULL;

CREATE INDEX task_by_expiry ON task (expires_at) WHERE expires_at IS NOT NULL;

-- Listings and claims read one range of these for each status and operation there is, and merge.
CREATE INDEX task_by_status ON task (status, operation_type, created_at);

CREATE INDEX task_by_scope ON task (scope, status, operation_type, created_at);
