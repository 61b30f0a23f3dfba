-- Boxes that were let in, and the tokens that let them in, as documents. A token's secret is in here as its hash alone.
CREATE TABLE identities (
    kind TEXT NOT NULL CHECK (kind IN ('token', 'box')),
    id TEXT NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (kind, id)
);
