-- The statements of the PostgreSQL store, by name (raincheck.stores.shared.sql_files reads them).
-- The schema's name stands here as raincheck and is replaced by the one that is set.

-- name: counted
counted AS (
    UPDATE raincheck.task_count AS kept SET
        pending = kept.pending + delta.pending, processing = kept.processing + delta.processing,
        input_required = kept.input_required + delta.input_required, completed = kept.completed + delta.completed,
        failed = kept.failed + delta.failed, cancelled = kept.cancelled + delta.cancelled
    FROM (
        SELECT
            coalesce(sum(number) FILTER (WHERE status = 'pending'), 0) AS pending,
            coalesce(sum(number) FILTER (WHERE status = 'processing'), 0) AS processing,
            coalesce(sum(number) FILTER (WHERE status = 'input_required'), 0) AS input_required,
            coalesce(sum(number) FILTER (WHERE status = 'completed'), 0) AS completed,
            coalesce(sum(number) FILTER (WHERE status = 'failed'), 0) AS failed,
            coalesce(sum(number) FILTER (WHERE status = 'cancelled'), 0) AS cancelled
        FROM moved HAVING count(*) > 0
    ) AS delta
    WHERE kept.shard = %(shard)s
);

-- A statement waits for locks no longer than its callers wait for it: what they were told had failed is not done later.
-- What two transactions both need they lock in the same order: keys and tasks sorted, the shard last.
-- name: insert
WITH fresh AS MATERIALIZED (
    SELECT sent.* FROM set_config('lock_timeout', %(patience)s, true) CROSS JOIN json_to_recordset(%(rows)s) AS sent (
        task_ref text, scope text, operation_type text, created_at bigint, deadline_at bigint,
        ttl_seconds double precision, max_attempts integer, retry_when_lost boolean, idempotency_key text,
        key_kind text, key_digest text, fingerprint text, status text, version bigint, change_id bigint, updated_at bigint,
        settled_at bigint, expires_at bigint, attempt integer, fence bigint, worker_id text, lease_until bigint,
        started_at bigint, due_at bigint, error_code text, progress text, arguments text, inputs text, outcome text,
        turn smallint, callback_url text, own_webhook boolean, caller text, checkpoint text, awaiting_external boolean
    )
), ended AS MATERIALIZED (
    -- Those that lose their keys: to be removed, or to stay without.
    SELECT held.task_ref, held.key_kind = 'inflight' AS stays
    FROM fresh JOIN raincheck.task AS held ON held.key_digest = fresh.key_digest
    WHERE CASE
        WHEN held.key_kind = 'inflight' THEN held.expires_at IS NOT NULL
        ELSE held.expires_at <= fresh.created_at
    END
    ORDER BY held.key_digest FOR UPDATE OF held
), removed AS (
    DELETE FROM raincheck.task USING ended WHERE task.task_ref = ended.task_ref AND NOT ended.stays
    RETURNING task.status
), parted AS (
    UPDATE raincheck.task SET idempotency_key = NULL, key_digest = NULL
    FROM ended WHERE task.task_ref = ended.task_ref AND ended.stays
    RETURNING task.task_ref
), created AS (
    INSERT INTO raincheck.task (
        task_ref, scope, operation_type, created_at, deadline_at, ttl_seconds, max_attempts, retry_when_lost,
        idempotency_key, key_kind, key_digest, fingerprint, status, version, change_id, updated_at, settled_at, expires_at,
        attempt, fence, worker_id, lease_until, started_at, due_at, error_code, progress, arguments, inputs, outcome,
        turn, callback_url, own_webhook, caller, checkpoint, awaiting_external
    )
    -- The condition has the keys free before.
    SELECT * FROM fresh WHERE (SELECT count(*) FROM removed) + (SELECT count(*) FROM parted) >= 0
    ORDER BY key_digest, task_ref
    ON CONFLICT DO NOTHING RETURNING task_ref, status
), moved AS (
    SELECT status, 1 AS number FROM created UNION ALL SELECT status, -1 FROM removed
), {counted}
SELECT task_ref FROM created;

-- A process that goes away or stands still while it holds these locks loses them with its transaction.
-- name: lock_room
SELECT set_config('lock_timeout', %(patience)s, true),
    set_config('idle_in_transaction_session_timeout', %(patience)s, true), (
        SELECT count(pg_advisory_xact_lock(sorted.lock)) FROM unnest(%(locks)s::bigint[]) AS sorted (lock)
    );

-- What a decision on room goes by: how many are pending, which refs are stored, which keys are held and until when.
-- Of a scope so many are counted as its limit says, and none where all that there are would fit.
-- name: room
WITH total AS MATERIALIZED (SELECT sum(pending)::bigint AS pending FROM raincheck.task_count)
SELECT 'in_all', NULL, pending FROM total
UNION ALL
SELECT 'of_scope', asked.scope, CASE WHEN total.pending + asked.wanted <= asked.most THEN total.pending ELSE (
    SELECT count(*) FROM (
        SELECT FROM raincheck.task WHERE scope = asked.scope AND status = 'pending' LIMIT asked.most
    ) AS few
) END
FROM total CROSS JOIN unnest(%(scopes)s::text[], %(most)s::bigint[], %(wanted)s::bigint[])
    AS asked (scope, most, wanted)
UNION ALL
SELECT 'ref', task_ref, NULL FROM raincheck.task WHERE task_ref = ANY(%(refs)s)
UNION ALL
SELECT 'key', key_digest, expires_at FROM raincheck.task WHERE key_digest = ANY(%(digests)s);

-- The server's clock, in microseconds since 1970.
-- name: now
(extract(epoch FROM clock_timestamp()) * 1000000)::bigint;

-- name: replacing
next AS MATERIALIZED (
    SELECT sent.* FROM set_config('lock_timeout', %(patience)s, true) CROSS JOIN json_to_recordset(%(rows)s) AS sent (
        task_ref text, status text, version bigint, change_id bigint, updated_at bigint, settled_at bigint,
        expires_at bigint, attempt integer, fence bigint, worker_id text, lease_until bigint, started_at bigint,
        due_at bigint, error_code text, progress text, inputs text, outcome text, checkpoint text, awaiting_external boolean,
        seen_lease bigint, lease_length bigint, records json
    )
), held AS MATERIALIZED (
    SELECT next.*, task.status AS before, next.lease_length + {now} AS counted_lease
    FROM next JOIN raincheck.task ON task.task_ref = next.task_ref AND task.version = next.version - 1
    WHERE next.seen_lease IS NULL OR task.lease_until = next.seen_lease
    ORDER BY task.task_ref FOR NO KEY UPDATE OF task
), changed AS (
    UPDATE raincheck.task SET
        status = held.status, version = held.version, change_id = held.change_id, updated_at = held.updated_at,
        settled_at = held.settled_at, expires_at = held.expires_at, attempt = held.attempt, fence = held.fence,
        worker_id = held.worker_id, lease_until = coalesce(held.counted_lease, held.lease_until),
        started_at = held.started_at,
        due_at = CASE
            WHEN held.counted_lease IS NULL THEN held.due_at ELSE least(task.deadline_at, held.counted_lease)
        END,
        error_code = held.error_code, progress = held.progress,
        -- What is the same is not stored again.
        inputs = CASE WHEN task.inputs = held.inputs THEN task.inputs ELSE held.inputs END,
        checkpoint = CASE WHEN task.checkpoint = held.checkpoint THEN task.checkpoint ELSE held.checkpoint END,
        awaiting_external = held.awaiting_external, outcome = held.outcome
    FROM held WHERE task.task_ref = held.task_ref AND task.version = held.version - 1
    RETURNING task.task_ref, task.status, held.before, held.records
);

-- name: replace
WITH {replacing}, moved AS (
    SELECT status, 1 AS number FROM changed WHERE status <> before
    UNION ALL SELECT before, -1 FROM changed WHERE status <> before
), {counted}
SELECT task_ref FROM changed;

-- The same, with records beside some of the tasks; of a record one in a statement.
-- name: replace_with_records
WITH {replacing}, recorded AS (
    INSERT INTO raincheck.record AS kept (kind, key, value, version, change_id, due_at, expires_at)
    SELECT sent.kind, sent.key, sent.value, 1, sent.change_id, sent.due_at, sent.expires_at
    FROM changed CROSS JOIN LATERAL json_to_recordset(changed.records) AS sent (
        kind text, key text, value text, change_id bigint, due_at bigint, expires_at bigint
    )
    WHERE changed.records IS NOT NULL ORDER BY sent.kind, sent.key
    ON CONFLICT (kind, key) DO UPDATE SET
        value = excluded.value, version = kept.version + 1, change_id = excluded.change_id, due_at = excluded.due_at,
        expires_at = excluded.expires_at
    RETURNING kind
), moved AS (
    SELECT status, 1 AS number FROM changed WHERE status <> before
    -- The condition has the records written before the shard is locked.
    UNION ALL SELECT before, -1 FROM changed WHERE status <> before AND (SELECT count(*) FROM recorded) >= 0
), {counted}
SELECT task_ref FROM changed;

-- name: last_changes
SELECT task_ref, version, change_id FROM raincheck.task WHERE task_ref = ANY(%(refs)s);

-- name: renew
WITH lease AS MATERIALIZED (
    SELECT * FROM json_to_recordset(%(leases)s) AS sent (task_ref text, fence bigint)
), held AS MATERIALIZED (
    SELECT task.task_ref, coalesce({now} + %(length)s::bigint, %(until)s) AS until FROM lease JOIN raincheck.task ON task.task_ref = lease.task_ref
    WHERE task.fence = lease.fence AND task.worker_id = %(worker_id)s AND task.settled_at IS NULL
    ORDER BY task.task_ref FOR NO KEY UPDATE OF task
)
UPDATE raincheck.task SET lease_until = held.until, due_at = least(task.deadline_at, held.until)
FROM held WHERE task.task_ref = held.task_ref
RETURNING task.task_ref;

-- name: purge
WITH removed AS (
    DELETE FROM raincheck.task WHERE task_ref IN (
        SELECT task_ref FROM raincheck.task WHERE expires_at <= %(now)s
        ORDER BY expires_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED
    )
    RETURNING status
), forgotten AS (
    DELETE FROM raincheck.record WHERE (kind, key) IN (
        SELECT kind, key FROM raincheck.record WHERE expires_at <= %(now)s
        ORDER BY expires_at LIMIT %(limit_of_records)s FOR UPDATE SKIP LOCKED
    )
    RETURNING kind
), moved AS (
    SELECT status, -1 AS number FROM removed
), {counted}
SELECT (SELECT count(*) FROM removed), (SELECT count(*) FROM forgotten);

-- name: columns
task_ref, scope, operation_type, created_at, deadline_at, ttl_seconds, max_attempts, retry_when_lost,
idempotency_key, key_kind, fingerprint, status, version, updated_at, settled_at, expires_at, attempt, fence, worker_id,
lease_until, started_at, progress, arguments, inputs, outcome, turn, callback_url,
own_webhook, caller, checkpoint, awaiting_external;

-- name: get
SELECT {columns} FROM raincheck.task WHERE task_ref = ANY(%(refs)s);

-- name: holders
SELECT key_digest, {columns} FROM raincheck.task WHERE task_ref = ANY(%(refs)s)
UNION ALL
SELECT key_digest, {columns} FROM raincheck.task WHERE key_digest = ANY(%(digests)s);

-- name: claimable
SELECT page.* FROM unnest(%(operations)s::text[]) AS wanted (operation_type) CROSS JOIN LATERAL (
    SELECT {columns} FROM raincheck.task
    WHERE status = 'pending' AND operation_type = wanted.operation_type
    ORDER BY turn, created_at, task_ref LIMIT %(limit)s
) AS page
ORDER BY turn, created_at, task_ref LIMIT %(limit)s;

-- The scopes of each operation and priority that come behind a name, going round; of each as many as make the limit. Without `scopes`.
-- name: waiting
WITH line AS MATERIALIZED (
    SELECT wanted.operation_type, named.turn
    FROM unnest(%(operations)s::text[]) AS wanted (operation_type) CROSS JOIN LATERAL (
        WITH RECURSIVE found (turn) AS (
            SELECT (
                SELECT turn FROM raincheck.task
                WHERE status = 'pending' AND operation_type = wanted.operation_type ORDER BY 1 LIMIT 1
            )
            UNION ALL
            SELECT (
                SELECT turn FROM raincheck.task
                WHERE status = 'pending' AND operation_type = wanted.operation_type AND turn > found.turn
                ORDER BY 1 LIMIT 1
            )
            FROM found WHERE found.turn IS NOT NULL
        )
        SELECT turn FROM found WHERE turn IS NOT NULL
    ) AS named
), waits AS MATERIALIZED (
    SELECT line.operation_type, line.turn, named.lap, named.scope,
        count(*) OVER (PARTITION BY line.operation_type, line.turn) AS scopes
    FROM line CROSS JOIN LATERAL (
        WITH RECURSIVE found (lap, scope, number) AS (
            SELECT lap.lap, (
                SELECT scope FROM raincheck.task
                WHERE status = 'pending' AND operation_type = line.operation_type AND turn = line.turn
                    AND scope >= lap.start AND scope <> ALL(%(scopes)s::text[])
                ORDER BY 1 LIMIT 1
            ), 1
            FROM (VALUES (0, %(after)s::text || chr(1)), (1, '')) AS lap (lap, start)
            UNION ALL
            SELECT found.lap, (
                SELECT scope FROM raincheck.task
                WHERE status = 'pending' AND operation_type = line.operation_type AND turn = line.turn
                    AND scope > found.scope AND scope <> ALL(%(scopes)s::text[])
                ORDER BY 1 LIMIT 1
            ), found.number + 1
            FROM found WHERE found.scope IS NOT NULL AND found.number < %(limit)s
        )
        SELECT min(lap) AS lap, scope FROM found WHERE scope IS NOT NULL
        GROUP BY scope ORDER BY min(lap), scope LIMIT %(limit)s
    ) AS named
)
SELECT {columns} FROM (
    SELECT waits.lap, page.* FROM waits CROSS JOIN LATERAL (
        SELECT {columns} FROM raincheck.task
        WHERE status = 'pending' AND operation_type = waits.operation_type AND turn = waits.turn
            AND scope = waits.scope
        ORDER BY created_at, task_ref LIMIT (%(limit)s + waits.scopes - 1) / waits.scopes
    ) AS page
    ORDER BY page.turn FETCH FIRST (%(limit)s) ROWS WITH TIES
) AS chosen
ORDER BY turn, lap, scope, created_at, task_ref;

-- name: overdue
SELECT {columns} FROM raincheck.task WHERE due_at <= %(now)s ORDER BY due_at LIMIT %(limit)s;

-- name: versions
SELECT task_ref, version FROM raincheck.task WHERE task_ref = ANY(%(refs)s);

-- name: count
SELECT sum(pending)::bigint, sum(processing)::bigint, sum(input_required)::bigint, sum(completed)::bigint,
    sum(failed)::bigint, sum(cancelled)::bigint
FROM raincheck.task_count;

-- name: summary
created_at, task_ref, scope, operation_type, status, updated_at, deadline_at, settled_at, attempt, worker_id, progress,
error_code;

-- name: newest
AND (created_at, task_ref) < (%(created_at)s, %(task_ref)s)
    ORDER BY created_at DESC, task_ref DESC LIMIT %(limit)s;

-- name: page_of_all
CROSS JOIN LATERAL (
    SELECT {summary} FROM raincheck.task
    WHERE status = wanted.status AND status <> 'pending' AND operation_type = named.operation_type {newest}
) AS page;

-- name: page_of_pending
CROSS JOIN LATERAL (
    SELECT {summary} FROM raincheck.task
    WHERE status = 'pending' AND operation_type = named.operation_type AND turn = named.turn {newest}
) AS page
ORDER BY created_at DESC, task_ref DESC LIMIT %(limit)s;

-- name: page_of_scope
CROSS JOIN LATERAL (
    SELECT {summary} FROM raincheck.task
    WHERE scope = %(scope)s AND status = wanted.status AND operation_type = named.operation_type {newest}
) AS page
ORDER BY created_at DESC, task_ref DESC LIMIT %(limit)s;

-- name: list_all
SELECT page.* FROM unnest(%(statuses)s::text[]) AS wanted (status) CROSS JOIN LATERAL (
    WITH RECURSIVE found (operation_type) AS (
        SELECT (
            SELECT operation_type FROM raincheck.task
            WHERE status = wanted.status AND status <> 'pending' ORDER BY 1 LIMIT 1
        )
        UNION ALL
        SELECT (
            SELECT operation_type FROM raincheck.task
            WHERE status = wanted.status AND status <> 'pending' AND operation_type > found.operation_type
            ORDER BY 1 LIMIT 1
        )
        FROM found WHERE found.operation_type IS NOT NULL
    )
    SELECT operation_type FROM found WHERE operation_type IS NOT NULL
) AS named
{page_of_all}
UNION ALL
SELECT page.* FROM (
    WITH RECURSIVE found (operation_type, turn) AS (
        (
            SELECT operation_type, turn FROM raincheck.task
            WHERE status = 'pending' AND 'pending' = ANY(%(statuses)s::text[]) ORDER BY 1, 2 LIMIT 1
        )
        UNION ALL
        SELECT further.* FROM found CROSS JOIN LATERAL (
            SELECT operation_type, turn FROM raincheck.task
            WHERE status = 'pending' AND (operation_type, turn) > (found.operation_type, found.turn)
            ORDER BY 1, 2 LIMIT 1
        ) AS further
    )
    SELECT * FROM found
) AS named
{page_of_pending};

-- name: list_scope
SELECT page.* FROM unnest(%(statuses)s::text[]) AS wanted (status) CROSS JOIN LATERAL (
    WITH RECURSIVE found (operation_type) AS (
        SELECT (
            SELECT operation_type FROM raincheck.task
            WHERE scope = %(scope)s AND status = wanted.status ORDER BY 1 LIMIT 1
        )
        UNION ALL
        SELECT (
            SELECT operation_type FROM raincheck.task
            WHERE scope = %(scope)s AND status = wanted.status AND operation_type > found.operation_type
            ORDER BY 1 LIMIT 1
        )
        FROM found WHERE found.operation_type IS NOT NULL
    )
    SELECT operation_type FROM found WHERE operation_type IS NOT NULL
) AS named
{page_of_scope};

-- name: list_all_operation
SELECT page.* FROM unnest(%(statuses)s::text[]) AS wanted (status)
CROSS JOIN (SELECT %(operation_type)s::text AS operation_type) AS named
{page_of_all}
UNION ALL
SELECT page.* FROM (
    WITH RECURSIVE found (turn) AS (
        SELECT (
            SELECT turn FROM raincheck.task
            WHERE status = 'pending' AND 'pending' = ANY(%(statuses)s::text[]) AND operation_type = %(operation_type)s
            ORDER BY 1 LIMIT 1
        )
        UNION ALL
        SELECT (
            SELECT turn FROM raincheck.task
            WHERE status = 'pending' AND operation_type = %(operation_type)s AND turn > found.turn ORDER BY 1 LIMIT 1
        )
        FROM found WHERE found.turn IS NOT NULL
    )
    SELECT %(operation_type)s::text AS operation_type, turn FROM found WHERE turn IS NOT NULL
) AS named
{page_of_pending};

-- name: list_scope_operation
SELECT page.* FROM unnest(%(statuses)s::text[]) AS wanted (status)
CROSS JOIN (SELECT %(operation_type)s::text AS operation_type) AS named
{page_of_scope};

-- name: record_columns
record.kind, record.key, record.value, record.version, record.due_at, record.expires_at;

-- name: get_records
SELECT {record_columns} FROM unnest(%(kinds)s::text[], %(keys)s::text[]) AS wanted (kind, key)
JOIN raincheck.record ON record.kind = wanted.kind AND record.key = wanted.key;

-- Of a record one write in a statement; `stored` is the version that it goes over, 0 where there is to be none.
-- name: write_records
WITH sent AS MATERIALIZED (
    SELECT sent.* FROM set_config('lock_timeout', %(patience)s, true) CROSS JOIN json_to_recordset(%(rows)s) AS sent (
        kind text, key text, value text, change_id bigint, due_at bigint, expires_at bigint, stored bigint,
        removes boolean
    )
), held AS MATERIALIZED (
    SELECT sent.* FROM sent JOIN raincheck.record ON record.kind = sent.kind AND record.key = sent.key
    WHERE record.version = sent.stored ORDER BY record.kind, record.key FOR UPDATE OF record
), removed AS (
    DELETE FROM raincheck.record USING held WHERE record.kind = held.kind AND record.key = held.key AND held.removes
    RETURNING record.kind, record.key
), changed AS (
    UPDATE raincheck.record SET
        value = held.value, version = held.stored + 1, change_id = held.change_id, due_at = held.due_at,
        expires_at = held.expires_at
    FROM held WHERE record.kind = held.kind AND record.key = held.key AND NOT held.removes
    RETURNING record.kind, record.key
), created AS (
    INSERT INTO raincheck.record (kind, key, value, version, change_id, due_at, expires_at)
    SELECT kind, key, value, 1, change_id, due_at, expires_at FROM sent
    -- Does not wait for those that change what is there, and has what is there locked before.
    WHERE stored = 0 AND NOT removes AND (SELECT count(*) FROM held) >= 0
        AND NOT EXISTS (SELECT FROM raincheck.record WHERE record.kind = sent.kind AND record.key = sent.key)
    ORDER BY kind, key
    ON CONFLICT DO NOTHING RETURNING kind, key
)
SELECT kind, key FROM removed UNION ALL SELECT kind, key FROM changed UNION ALL SELECT kind, key FROM created;

-- name: last_record_changes
SELECT record.kind, record.key, record.version, record.change_id
FROM unnest(%(kinds)s::text[], %(keys)s::text[]) AS wanted (kind, key)
JOIN raincheck.record ON record.kind = wanted.kind AND record.key = wanted.key;

-- name: records_due
SELECT {record_columns} FROM raincheck.record WHERE kind = %(kind)s AND due_at <= %(due)s
ORDER BY due_at, key LIMIT %(limit)s;

-- name: records_by_key
SELECT {record_columns} FROM raincheck.record WHERE kind = %(kind)s AND key > %(after)s ORDER BY key LIMIT %(limit)s;

-- name: time
SELECT clock_timestamp();

-- Needs no durability: it is told to those who are there.
-- name: notify
SELECT set_config('synchronous_commit', 'off', true), pg_notify(%(channel)s, %(payload)s);

-- name: arrive
SELECT pg_backend_pid() = %(pid)s, current_setting('server_encoding'), (
    SELECT count(set_config(name, value, false)) FROM (
        SELECT * FROM json_each_text(%(settings)s) AS setting (name, value)
        UNION ALL SELECT 'synchronous_commit', 'on' WHERE current_setting('synchronous_commit') = 'off'
    ) AS wanted
    WHERE pg_backend_pid() = %(pid)s
);

-- name: schema_facts
SELECT
    space.oid IS NOT NULL,
    coalesce(has_schema_privilege(space.oid, 'USAGE'), false),
    coalesce(has_schema_privilege(space.oid, 'CREATE'), false),
    has_database_privilege(current_database(), 'CREATE'),
    (
        SELECT has_table_privilege(class.oid, 'SELECT') FROM pg_class AS class
        WHERE class.relnamespace = space.oid AND class.relname = 'raincheck_schema'
    ),
    EXISTS (SELECT FROM pg_class WHERE relnamespace = space.oid),
    current_user
FROM (SELECT %(schema)s::text AS name) AS wanted LEFT JOIN pg_namespace AS space ON space.nspname = wanted.name;

-- name: lacking_rights
SELECT format('%%s on %%I.%%I', wanted.privilege, space.nspname, class.relname)
FROM pg_class AS class JOIN pg_namespace AS space ON space.oid = class.relnamespace
JOIN (
    VALUES ('task', 'SELECT'), ('task', 'INSERT'), ('task', 'UPDATE'), ('task', 'DELETE'), ('task_count', 'SELECT'),
        ('task_count', 'UPDATE'), ('record', 'SELECT'), ('record', 'INSERT'), ('record', 'UPDATE'), ('record', 'DELETE'),
        ('blob', 'SELECT'), ('blob', 'INSERT'), ('blob', 'DELETE')
) AS wanted (relname, privilege) ON wanted.relname = class.relname
WHERE space.nspname = %(schema)s AND NOT has_table_privilege(class.oid, wanted.privilege)
ORDER BY 1;

-- name: durability
SELECT name FROM pg_settings WHERE name IN ('fsync', 'full_page_writes') AND setting = 'off' ORDER BY name;

-- name: schema_version
SELECT version FROM raincheck.raincheck_schema;

-- name: create_version
CREATE TABLE raincheck.raincheck_schema AS SELECT 0 AS version;

-- name: set_version
UPDATE raincheck.raincheck_schema SET version = %(version)s;
