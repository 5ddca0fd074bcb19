-- Keys of the organic API.
CREATE TABLE api_keys (
    id TEXT PRIMARY KEY,
    -- SHA-256 of the key, in hexadecimal digits.
    hash TEXT NOT NULL UNIQUE,
    created_ms BIGINT NOT NULL,
    -- NULL: not revoked.
    revoked_ms BIGINT,
    -- Name, limits, budget and so on, JSON.
    spec TEXT NOT NULL
);

-- Goes up with every change of a key: one row.
CREATE TABLE api_keys_version (
    one BIGINT PRIMARY KEY CHECK (one = 1),
    version BIGINT NOT NULL
);

INSERT INTO api_keys_version VALUES (1, 0);

-- What was charged, one row for each settled request.
CREATE TABLE ledger (
    id TEXT PRIMARY KEY,
    at_ms BIGINT NOT NULL,
    key_id TEXT NOT NULL,
    task TEXT NOT NULL,
    prompt_tokens BIGINT NOT NULL,
    completion_tokens BIGINT NOT NULL,
    -- In pico-USD.
    amount BIGINT NOT NULL,
    -- -1 and empty where no miner is known.
    uid BIGINT NOT NULL,
    hotkey TEXT NOT NULL,
    attempts BIGINT NOT NULL,
    streamed BIGINT NOT NULL
);

CREATE INDEX ledger_of_key ON ledger (key_id, at_ms);
CREATE INDEX ledger_by_time ON ledger (at_ms);

-- Requests that were reserved for and are not over, as far as the journals are imported.
CREATE TABLE ledger_open (
    id TEXT PRIMARY KEY,
    -- The folder of journals that the reservation is in: its process is the one that will end it.
    node TEXT NOT NULL,
    key_id TEXT NOT NULL
);

-- Requests that the end of a process cut off, by key; not charged.
CREATE TABLE ledger_cut_off (
    key_id TEXT PRIMARY KEY,
    requests BIGINT NOT NULL
);

-- Up to which byte each journal file is imported.
CREATE TABLE ledger_journals (
    journal TEXT PRIMARY KEY,
    position BIGINT NOT NULL
);
