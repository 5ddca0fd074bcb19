-- Several processes on one database: one that validates, and any number that serve the organic API.

-- Miners that may be asked, as the validating process sees them now.
CREATE TABLE contenders (
    hotkey TEXT NOT NULL,
    task TEXT NOT NULL,
    uid INTEGER NOT NULL,
    url TEXT NOT NULL,
    -- For one period, in the task's unit.
    declared REAL NOT NULL,
    -- By the last scoring, 0 to 1; a quality that is not known is -1.
    score REAL NOT NULL,
    quality REAL NOT NULL,
    PRIMARY KEY (hotkey, task)
) WITHOUT ROWID;

-- Goes up whenever they change: one row.
CREATE TABLE contenders_version (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    version INTEGER NOT NULL
);

INSERT INTO contenders_version VALUES (1, 0);

-- What users' requests came to in other processes, until the validating one has counted it.
CREATE TABLE outcomes (
    id INTEGER PRIMARY KEY,
    -- Unix milliseconds between which they were under way.
    from_ms INTEGER NOT NULL,
    to_ms INTEGER NOT NULL,
    hotkey TEXT NOT NULL,
    task TEXT NOT NULL,
    served INTEGER NOT NULL,
    tokens INTEGER NOT NULL,
    refused INTEGER NOT NULL,
    unreachable INTEGER NOT NULL,
    bad_status INTEGER NOT NULL,
    too_late INTEGER NOT NULL,
    broken INTEGER NOT NULL,
    unusable INTEGER NOT NULL,
    void INTEGER NOT NULL
);

-- Processes that serve the API: limits per minute are divided by their number.
CREATE TABLE api_nodes (
    node TEXT PRIMARY KEY,
    seen_ms INTEGER NOT NULL
) WITHOUT ROWID;

-- The part of a key's budget that a process may spend without asking, in pico-USD. What is imported into the ledger is no
-- longer in it.
CREATE TABLE budget_leases (
    key_id TEXT NOT NULL,
    node TEXT NOT NULL,
    amount INTEGER NOT NULL,
    -- Others may take it from then on, Unix milliseconds.
    until_ms INTEGER NOT NULL,
    PRIMARY KEY (key_id, node)
) WITHOUT ROWID;
