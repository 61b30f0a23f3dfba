-- What programs that train elsewhere log, and the models they register, as documents.
CREATE TABLE tracking (
    kind TEXT NOT NULL CHECK (kind IN ('experiment', 'run', 'model')),
    id TEXT NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (kind, id)
);

-- Every point of every figure of every run, in the order they came. A value that is no number is null.
CREATE TABLE tracking_points (
    run TEXT NOT NULL,
    key TEXT NOT NULL,
    value DOUBLE PRECISION,
    timestamp BIGINT NOT NULL,
    step BIGINT NOT NULL
);
CREATE INDEX tracking_points_by_run ON tracking_points (run, key, step, timestamp);
