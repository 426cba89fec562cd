-- The one clock of all processes on the file: what to add to the machine's uptime, in microseconds, and since which start
-- of the machine. One row at most.

CREATE TABLE clock (
    id      INTEGER PRIMARY KEY CHECK (id = 1),
    boot    TEXT NOT NULL,
    offset  INTEGER NOT NULL
);
