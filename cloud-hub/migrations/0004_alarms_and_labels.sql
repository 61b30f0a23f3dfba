-- Stretches in which a stream was mostly called anomalous, and what a person made of them.
CREATE TABLE alarms (
    id TEXT NOT NULL PRIMARY KEY,
    agent TEXT NOT NULL,
    stream TEXT NOT NULL,
    model TEXT NOT NULL,
    version BIGINT NOT NULL,
    began_ms BIGINT NOT NULL,
    last_ms BIGINT NOT NULL,
    is_over BOOLEAN NOT NULL,
    answers BIGINT NOT NULL,
    anomalous BIGINT NOT NULL,
    peak_score DOUBLE PRECISION NOT NULL,
    threshold DOUBLE PRECISION NOT NULL,
    reached_epoch BIGINT NOT NULL,
    reached_sequence BIGINT NOT NULL,
    verdict TEXT CHECK (verdict IN ('fault', 'false_alarm', 'seen')),
    comment TEXT,
    reviewed_by TEXT,
    reviewed_ms BIGINT
);
CREATE INDEX alarms_by_time ON alarms (began_ms);

-- What people say of stretches of readings.
CREATE TABLE labels (
    id TEXT NOT NULL PRIMARY KEY,
    agent TEXT NOT NULL,
    stream TEXT NOT NULL,
    from_ms BIGINT NOT NULL,
    to_ms BIGINT NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('normal', 'fault')),
    comment TEXT NOT NULL,
    made_by TEXT NOT NULL,
    made_ms BIGINT NOT NULL,
    rows BIGINT NOT NULL,
    position BIGINT NOT NULL
);
