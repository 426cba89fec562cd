-- Two users of PostgreSQL, for the database raincheck. The owner makes and upgrades the schemas (raincheck store migrate);
-- servers and workers get by with the rights of the other one.
CREATE ROLE raincheck_owner LOGIN PASSWORD 'change-me';
CREATE ROLE raincheck LOGIN PASSWORD 'change-me-too';
REVOKE ALL ON DATABASE raincheck FROM PUBLIC;
GRANT CONNECT ON DATABASE raincheck TO raincheck_owner, raincheck;
GRANT CREATE ON DATABASE raincheck TO raincheck_owner;
ALTER DEFAULT PRIVILEGES FOR ROLE raincheck_owner GRANT USAGE ON SCHEMAS TO raincheck;
ALTER DEFAULT PRIVILEGES FOR ROLE raincheck_owner GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO raincheck;
ALTER DEFAULT PRIVILEGES FOR ROLE raincheck_owner GRANT USAGE ON SEQUENCES TO raincheck;
