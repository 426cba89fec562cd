-- The statements of the SQLite store, by name (raincheck.stores.shared.sql_files reads them).
-- The columns that `insert` and `replace` write stand in the order of raincheck.stores.shared.task_codec.

-- name: insert
INSERT INTO task (
    task_ref, scope, operation_type, created_at, deadline_at, ttl_seconds, max_attempts, retry_when_lost,
    idempotency_key, key_kind, fingerprint, priority, callback_url, own_webhook, caller, arguments, status, version,
    updated_at, settled_at, expires_at, attempt, fence, worker_id, lease_until, started_at, due_at, error_code, progress,
    inputs, outcome, checkpoint, awaiting_external, apart
) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (scope, idempotency_key, key_kind) WHERE idempotency_key IS NOT NULL DO NOTHING;

-- A body that is the same as before dirties no page: SQLite compares.
-- name: insert_payload
INSERT INTO payload (task_id, part, body) VALUES (?, ?, ?)
ON CONFLICT (task_id, part) DO UPDATE SET body = excluded.body;

-- name: current
SELECT id, version, status, apart, lease_until FROM task WHERE task_ref = ?;

-- name: replace
UPDATE task SET
    status = ?, version = ?, updated_at = ?, settled_at = ?, expires_at = ?, attempt = ?, fence = ?, worker_id = ?,
    lease_until = ?, started_at = ?, due_at = ?, error_code = ?, progress = ?, inputs = ?, outcome = ?,
    checkpoint = ?, awaiting_external = ?, apart = ?
WHERE id = ?;

-- name: replace_same_status
UPDATE task SET
    version = ?, updated_at = ?, attempt = ?, fence = ?, worker_id = ?, lease_until = ?, started_at = ?, due_at = ?,
    progress = ?, inputs = ?, checkpoint = ?, awaiting_external = ?, apart = ?
WHERE id = ?;

-- name: delete_payload_part
DELETE FROM payload WHERE task_id = ? AND part = ?;

-- name: add_to_count
UPDATE task_count SET number = number + ? WHERE status = ?;

-- name: renew
UPDATE task SET lease_until = ?1, due_at = min(deadline_at, ?1)
WHERE id IN (
    SELECT held.id FROM json_each(?2) AS lease CROSS JOIN task AS held ON held.task_ref = lease.key
    WHERE held.fence = lease.value AND held.worker_id = ?3 AND held.due_at IS NOT NULL
);

-- name: held
SELECT held.task_ref FROM json_each(?) AS lease CROSS JOIN task AS held ON held.task_ref = lease.key
WHERE held.fence = lease.value AND held.worker_id = ? AND held.due_at IS NOT NULL;

-- name: expired
SELECT id, status, apart FROM task WHERE expires_at <= ? ORDER BY expires_at LIMIT ?;

-- name: delete_payload
DELETE FROM payload WHERE task_id = ?;

-- name: delete
DELETE FROM task WHERE id = ?;

-- name: columns
id, task_ref, scope, operation_type, created_at, deadline_at, ttl_seconds, max_attempts, retry_when_lost,
idempotency_key, key_kind, fingerprint, status, version, updated_at, settled_at, expires_at, attempt, fence, worker_id,
lease_until, started_at, progress, arguments, inputs, outcome, checkpoint, awaiting_external, priority, callback_url,
own_webhook,
caller, apart;

-- name: get
SELECT {columns} FROM task WHERE task_ref = ?;

-- name: get_by_key
SELECT {columns} FROM task WHERE scope = ? AND idempotency_key = ? AND key_kind = ?;

-- name: get_by_id
SELECT {columns} FROM task WHERE id = ?;

-- name: payload
SELECT body FROM payload WHERE task_id = ? AND part = ?;

-- name: pending
SELECT -priority, created_at, task_ref, id FROM task WHERE status = 'pending' AND operation_type = ?
ORDER BY priority DESC, created_at, task_ref LIMIT ?;

-- name: priorities_waiting
WITH RECURSIVE found (priority) AS (
    SELECT max(priority) FROM task WHERE status = 'pending' AND operation_type = ?1
    UNION ALL
    SELECT (
        SELECT max(priority) FROM task
        WHERE status = 'pending' AND operation_type = ?1 AND priority < found.priority
    )
    FROM found WHERE found.priority IS NOT NULL
)
SELECT priority FROM found WHERE priority IS NOT NULL;

-- The first scopes from a name on.
-- name: scopes_waiting
WITH RECURSIVE found (scope, number) AS (
    SELECT (
        SELECT min(scope) FROM task
        WHERE status = 'pending' AND operation_type = ?1 AND priority = ?2 AND scope >= ?3
    ), 1
    UNION ALL
    SELECT (
        SELECT min(scope) FROM task
        WHERE status = 'pending' AND operation_type = ?1 AND priority = ?2 AND scope > found.scope
    ), number + 1
    FROM found WHERE found.scope IS NOT NULL AND number < ?4
)
SELECT scope FROM found WHERE scope IS NOT NULL;

-- name: waiting_of_scope
SELECT id FROM task WHERE status = 'pending' AND operation_type = ? AND priority = ? AND scope = ?
ORDER BY created_at, task_ref LIMIT ?;

-- name: pending_of_scope
SELECT count(*) FROM (SELECT 1 FROM task WHERE scope = ? AND status = 'pending' LIMIT ?);

-- name: part_from_key
UPDATE task SET idempotency_key = NULL WHERE id = ?;

-- name: overdue
SELECT {columns} FROM task WHERE due_at <= ? ORDER BY due_at LIMIT ?;

-- name: versions
SELECT wanted.task_ref, wanted.version
FROM json_each(?) AS ref CROSS JOIN task AS wanted ON wanted.task_ref = ref.value;

-- name: count
SELECT status, number FROM task_count;

-- name: summary
created_at, task_ref, scope, operation_type, status, updated_at, deadline_at, settled_at, attempt, worker_id, progress,
error_code;

-- name: operations_of_status
WITH RECURSIVE found (operation_type) AS (
    SELECT min(operation_type) FROM task WHERE status = ?1
    UNION ALL
    SELECT (SELECT min(operation_type) FROM task WHERE status = ?1 AND operation_type > found.operation_type)
    FROM found WHERE found.operation_type IS NOT NULL
)
SELECT operation_type FROM found WHERE operation_type IS NOT NULL;

-- name: operations_of_scope
WITH RECURSIVE found (operation_type) AS (
    SELECT min(operation_type) FROM task WHERE scope = ?2 AND status = ?1
    UNION ALL
    SELECT (
        SELECT min(operation_type) FROM task
        WHERE scope = ?2 AND status = ?1 AND operation_type > found.operation_type
    )
    FROM found WHERE found.operation_type IS NOT NULL
)
SELECT operation_type FROM found WHERE operation_type IS NOT NULL;

-- name: list_all
SELECT {summary} FROM task WHERE status = ? AND operation_type = ?
ORDER BY created_at DESC, task_ref DESC LIMIT ?;

-- name: list_all_after
SELECT {summary} FROM task WHERE status = ? AND operation_type = ? AND (created_at, task_ref) < (?, ?)
ORDER BY created_at DESC, task_ref DESC LIMIT ?;

-- name: list_scope
SELECT {summary} FROM task WHERE scope = ? AND status = ? AND operation_type = ?
ORDER BY created_at DESC, task_ref DESC LIMIT ?;

-- name: list_scope_after
SELECT {summary} FROM task WHERE scope = ? AND status = ? AND operation_type = ? AND (created_at, task_ref) < (?, ?)
ORDER BY created_at DESC, task_ref DESC LIMIT ?;

-- name: clock
SELECT offset FROM clock WHERE boot = ?;

-- name: set_clock
INSERT INTO clock (id, boot, offset) VALUES (1, ?1, ?2)
ON CONFLICT (id) DO UPDATE SET boot = excluded.boot, offset = excluded.offset WHERE boot <> excluded.boot;

-- name: record_columns
kind, key, version, due_at, expires_at, value;

-- name: insert_record
INSERT INTO record (kind, key, version, due_at, expires_at, value) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (kind, key) DO NOTHING;

-- name: insert_record_over
INSERT INTO record (kind, key, version, due_at, expires_at, value) VALUES (?, ?, 1, ?, ?, ?)
ON CONFLICT (kind, key) DO UPDATE SET
    version = version + 1, due_at = excluded.due_at, expires_at = excluded.expires_at, value = excluded.value;

-- name: update_record
UPDATE record SET version = ?, due_at = ?, expires_at = ?, value = ? WHERE kind = ? AND key = ? AND version = ?;

-- name: delete_record
DELETE FROM record WHERE kind = ? AND key = ? AND version = ?;

-- name: get_record
SELECT {record_columns} FROM record WHERE kind = ? AND key = ?;

-- name: records_due
SELECT {record_columns} FROM record WHERE kind = ? AND due_at <= ? ORDER BY due_at LIMIT ?;

-- name: records_after
SELECT {record_columns} FROM record WHERE kind = ? AND key > ? ORDER BY key LIMIT ?;

-- name: delete_expired_records
DELETE FROM record WHERE id IN (SELECT id FROM record WHERE expires_at <= ? ORDER BY expires_at LIMIT ?);
