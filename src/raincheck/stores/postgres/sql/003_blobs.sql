-- The bodies of large results, in parts. Keys begin with the hour after which they may go.

CREATE TABLE raincheck.blob (
    key     text COLLATE "C" NOT NULL,
    part    integer NOT NULL,
    body    bytea NOT NULL,
    PRIMARY KEY (key, part)
);

-- Neither tried to be compressed nor in the way of the rows' own pages.
ALTER TABLE raincheck.blob ALTER COLUMN body SET STORAGE EXTERNAL;
