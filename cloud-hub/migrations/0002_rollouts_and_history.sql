-- How versions reach boxes. The record is the rollout as JSON; the columns beside it are for people who ask the database.
CREATE TABLE rollouts (
    id BIGINT NOT NULL PRIMARY KEY,
    model TEXT NOT NULL,
    version BIGINT NOT NULL,
    state TEXT NOT NULL CHECK (
        state IN ('running', 'awaiting_approval', 'paused', 'released', 'rolled_back', 'superseded')
    ),
    started_ms BIGINT NOT NULL,
    ended_ms BIGINT,
    record TEXT NOT NULL,
    FOREIGN KEY (model, version) REFERENCES versions (model, version)
);

-- What happened to versions, in order. Never updated, never deleted: each row's hash covers the row and the hash before
-- it (history.rs).
CREATE TABLE history (
    sequence BIGINT NOT NULL PRIMARY KEY,
    at_ms BIGINT NOT NULL,
    kind TEXT NOT NULL,
    body TEXT NOT NULL,
    hash TEXT NOT NULL
);
