-- The hub's metadata. The SQL is the part of the language that SQLite and PostgreSQL share; BLOB, in the one table that
-- has it, is BYTEA there. Unsigned 64-bit numbers are stored as the signed number with the same bits.

-- Where the hub's derived state stands in the ingest log: at most one row of each stage.
CREATE TABLE compaction (
    stage TEXT NOT NULL PRIMARY KEY CHECK (stage IN ('planned', 'done')),
    from_position BIGINT NOT NULL,
    to_position BIGINT NOT NULL,
    snapshot BLOB NOT NULL
);

CREATE TABLE runs (
    id BIGINT NOT NULL PRIMARY KEY,
    model TEXT NOT NULL,
    triggered_by TEXT NOT NULL,
    requested_ms BIGINT NOT NULL,
    finished_ms BIGINT,
    state TEXT NOT NULL CHECK (state IN ('running', 'released', 'refused', 'failed')),
    version BIGINT,
    report TEXT NOT NULL
);

-- Never updated, never deleted.
CREATE TABLE versions (
    model TEXT NOT NULL,
    version BIGINT NOT NULL,
    digest TEXT NOT NULL,
    bytes BIGINT NOT NULL,
    created_ms BIGINT NOT NULL,
    parent BIGINT,
    triggered_by TEXT NOT NULL,
    lineage TEXT NOT NULL,
    metrics TEXT NOT NULL,
    run BIGINT NOT NULL REFERENCES runs (id),
    PRIMARY KEY (model, version)
);

CREATE TABLE champions (
    model TEXT NOT NULL PRIMARY KEY,
    version BIGINT NOT NULL,
    FOREIGN KEY (model, version) REFERENCES versions (model, version)
);

-- What an agent says it serves may be a version that this hub never made, so nothing refers to versions.
CREATE TABLE agents (
    agent TEXT NOT NULL PRIMARY KEY,
    first_seen_ms BIGINT NOT NULL,
    last_seen_ms BIGINT NOT NULL,
    agent_version TEXT NOT NULL,
    device TEXT NOT NULL,
    pinned BIGINT,
    serving_model TEXT,
    serving_version BIGINT,
    serving_digest TEXT,
    epoch BIGINT NOT NULL,
    boot_nonce BIGINT NOT NULL,
    CHECK ((serving_model IS NULL) = (serving_version IS NULL)),
    CHECK ((serving_model IS NULL) = (serving_digest IS NULL))
);

CREATE TABLE deployments (
    agent TEXT NOT NULL,
    at_ms BIGINT NOT NULL,
    model TEXT NOT NULL,
    version BIGINT NOT NULL,
    digest TEXT NOT NULL,
    outcome TEXT NOT NULL,
    reason TEXT,
    PRIMARY KEY (agent, at_ms, model, version, outcome)
);

CREATE TABLE drift (
    model TEXT NOT NULL,
    agent TEXT NOT NULL,
    stream TEXT NOT NULL,
    raised_ms BIGINT NOT NULL,
    cleared_ms BIGINT,
    version BIGINT NOT NULL,
    channels TEXT NOT NULL,
    PRIMARY KEY (model, agent, stream, raised_ms)
);
