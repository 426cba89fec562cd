-- The statements about blobs.

-- name: put_part
INSERT INTO raincheck.blob (key, part, body) VALUES (%(key)s, %(part)s, %(body)s) ON CONFLICT DO NOTHING;

-- name: get_parts
SELECT part, body FROM raincheck.blob
WHERE key = %(key)s AND (part BETWEEN %(first)s AND %(last)s OR part = 0)
ORDER BY part;

-- name: remove
DELETE FROM raincheck.blob WHERE key = %(key)s;

-- name: purge
WITH expired AS (
    SELECT key FROM raincheck.blob WHERE key < %(before)s AND part = 0 ORDER BY key LIMIT %(limit)s
), gone AS (
    DELETE FROM raincheck.blob WHERE key IN (SELECT key FROM expired) RETURNING part
)
SELECT count(*) FILTER (WHERE part = 0) FROM gone;
