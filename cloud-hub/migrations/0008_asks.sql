-- Boxes that ask to be let in, beside tokens and boxes. SQLite changes no constraint in place.
CREATE TABLE identities_with_asks (
    kind TEXT NOT NULL CHECK (kind IN ('token', 'ask', 'box')),
    id TEXT NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (kind, id)
);
INSERT INTO identities_with_asks SELECT kind, id, body FROM identities;
DROP TABLE identities;
ALTER TABLE identities_with_asks RENAME TO identities;
