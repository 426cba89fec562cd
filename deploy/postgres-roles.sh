#!/bin/sh
# Run once by PostgreSQL's image, on an empty volume: the two roles of examples/fleet/rights.sql, neither of which is a
# superuser, with the passwords of RAINCHECK_OWNER_PASSWORD and RAINCHECK_PASSWORD. Both stand in no command line.
set -eu
psql -v ON_ERROR_STOP=1 -q -d raincheck -f "${RIGHTS:-/rights.sql}" -f - <<'SQL'
\getenv owner RAINCHECK_OWNER_PASSWORD
\getenv worker RAINCHECK_PASSWORD
ALTER ROLE raincheck_owner PASSWORD :'owner';
ALTER ROLE raincheck PASSWORD :'worker';
SQL
