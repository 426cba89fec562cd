#!/bin/sh
# Redis with the one user of examples/fleet/users.acl and without the default one, which may do everything. The password
# of REDIS_PASSWORD stands in no command line and, but as its digest, in no file.
set -eu
umask 077
digest=$(printf %s "$REDIS_PASSWORD" | sha256sum | cut -d ' ' -f 1)
users=$(mktemp)
{ echo 'user default off'; sed "s/>change-me/#$digest/" "${USERS:-/users.acl}"; } >"$users"
exec redis-server --aclfile "$users" "$@"
