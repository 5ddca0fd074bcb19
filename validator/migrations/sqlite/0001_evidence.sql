-- Times are Unix milliseconds. State is keyed by hotkey: a uid is only a slot that changes hands.

CREATE TABLE periods (
    id INTEGER PRIMARY KEY,
    started_ms INTEGER NOT NULL,
    -- NULL while the period runs.
    ended_ms INTEGER
);

-- What one miner did for one task in one period. The running period's rows grow as answers come in.
CREATE TABLE tallies (
    period INTEGER NOT NULL REFERENCES periods (id) ON DELETE CASCADE,
    hotkey TEXT NOT NULL,
    task TEXT NOT NULL,
    declared REAL NOT NULL,
    consumed REAL NOT NULL,
    served INTEGER NOT NULL,
    refused INTEGER NOT NULL,
    failed INTEGER NOT NULL,
    -- NULL until the period is over, and where nothing was asked.
    score REAL,
    PRIMARY KEY (period, hotkey, task)
) WITHOUT ROWID;

CREATE INDEX tallies_of_contender ON tallies (hotkey, task, period);

-- Answers that wait for a checking server. A row leaves this table in the transaction that writes its verdict.
CREATE TABLE pending_checks (
    id TEXT PRIMARY KEY,
    at_ms INTEGER NOT NULL,
    -- How often it came back without a verdict.
    attempts INTEGER NOT NULL DEFAULT 0,
    hotkey TEXT NOT NULL,
    task TEXT NOT NULL,
    -- Tokens per second, as measured here.
    speed REAL NOT NULL,
    tokens INTEGER NOT NULL,
    -- The check as it is sent to the checking server, JSON.
    body TEXT NOT NULL
) WITHOUT ROWID;

CREATE INDEX pending_checks_by_turn ON pending_checks (attempts, at_ms);

CREATE TABLE verdicts (
    id TEXT PRIMARY KEY,
    at_ms INTEGER NOT NULL,
    hotkey TEXT NOT NULL,
    task TEXT NOT NULL,
    quality REAL NOT NULL,
    speed REAL NOT NULL,
    tokens INTEGER NOT NULL,
    -- Evidence and reasons, JSON.
    verdict TEXT NOT NULL
) WITHOUT ROWID;

CREATE INDEX verdicts_of_contender ON verdicts (hotkey, task, at_ms);

-- Weights that were confirmed on chain.
CREATE TABLE weights_set (
    id INTEGER PRIMARY KEY,
    at_ms INTEGER NOT NULL,
    block INTEGER NOT NULL,
    -- [[uid, hotkey, weight], ...], JSON.
    weights TEXT NOT NULL
);
