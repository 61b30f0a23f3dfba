-- Programs for boxes, and what every box runs, as documents. The files lie in a folder beside the database.
CREATE TABLE programs (
    kind TEXT NOT NULL CHECK (kind IN ('file', 'box')),
    id TEXT NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (kind, id)
);
