-- The schema's name stands here as raincheck and is replaced by the one that is set.
-- Times are microseconds since 1970-01-01T00:00:00Z. Columns up to fingerprint never change after the insert.

CREATE TABLE raincheck.task (
    task_ref         text COLLATE "C" PRIMARY KEY,
    scope            text COLLATE "C" NOT NULL,
    operation_type   text COLLATE "C" NOT NULL,
    created_at       bigint NOT NULL,
    deadline_at      bigint NOT NULL,
    ttl_seconds      double precision NOT NULL,
    max_attempts     integer NOT NULL,
    retry_when_lost  boolean NOT NULL,
    idempotency_key  text COLLATE "C",
    key_kind         text COLLATE "C" NOT NULL,
    -- Of scope, key_kind and idempotency_key, of any length: what an index holds is bounded.
    key_digest       text COLLATE "C",
    fingerprint      text COLLATE "C" NOT NULL,
    status           text COLLATE "C" NOT NULL,
    version          bigint NOT NULL,
    -- Names the last change: who lost the connection while it was committed finds out whether it was.
    change_id        bigint NOT NULL,
    updated_at       bigint NOT NULL,
    settled_at       bigint,
    expires_at       bigint,
    attempt          integer NOT NULL,
    fence            bigint NOT NULL,
    worker_id        text COLLATE "C",
    lease_until      bigint,
    started_at       bigint,
    -- The earlier of deadline_at and lease_until; NULL once settled.
    due_at           bigint,
    error_code       text,
    progress         text,
    -- JSON as text, ASCII only: jsonb could not hold every string.
    arguments        text NOT NULL,
    inputs           text,
    outcome          text,
    -- The negative of the priority: all of task_by_turn is in ascending order.
    turn             smallint NOT NULL,
    callback_url     text,
    own_webhook      boolean NOT NULL,
    caller           text,
    checkpoint       text,
    awaiting_external boolean NOT NULL
) WITH (fillfactor = 85, autovacuum_vacuum_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.05);

CREATE UNIQUE INDEX task_by_key ON raincheck.task (key_digest) WHERE key_digest IS NOT NULL;

CREATE INDEX task_by_due ON raincheck.task (due_at) WHERE due_at IS NOT NULL;

CREATE INDEX task_by_expiry ON raincheck.task (expires_at) WHERE expires_at IS NOT NULL;

-- Claims and listings of what is pending read one range of task_by_turn for each operation and priority there is, listings
-- of every other status one of task_by_status for each operation.
CREATE INDEX task_by_turn ON raincheck.task (operation_type, turn, created_at, task_ref) WHERE status = 'pending';

CREATE INDEX task_by_status ON raincheck.task (status, operation_type, created_at, task_ref) WHERE status <> 'pending';

-- By scope, so that however many tasks one scope has, those of the others are found.
CREATE INDEX task_by_scope_turn ON raincheck.task (operation_type, turn, scope, created_at, task_ref)
WHERE status = 'pending';

CREATE INDEX task_by_scope ON raincheck.task (scope, status, operation_type, created_at, task_ref);

-- How many tasks there are in each status: the sum over the shards. A transaction adds to one shard, chosen by chance
-- and locked last, so that writers do not wait for each other.
CREATE TABLE raincheck.task_count (
    shard           integer PRIMARY KEY,
    pending         bigint NOT NULL DEFAULT 0,
    processing      bigint NOT NULL DEFAULT 0,
    input_required  bigint NOT NULL DEFAULT 0,
    completed       bigint NOT NULL DEFAULT 0,
    failed          bigint NOT NULL DEFAULT 0,
    cancelled       bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 10);

INSERT INTO raincheck.task_count (shard) SELECT generate_series(0, 63);

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

-- The bodies of large results, in parts. Keys begin with the hour after which they may go.

CREATE TABLE raincheck.blob (
    key     text COLLATE "C" NOT NULL,
    part    integer NOT NULL,
    body    bytea NOT NULL,
    PRIMARY KEY (key, part)
);

-- Neither tried to be compressed nor in the way of the rows' own pages.
ALTER TABLE raincheck.blob ALTER COLUMN body SET STORAGE EXTERNAL;
