-- Several processes on one database: one that validates, and any number that serve the organic API.

-- Miners that may be asked, as the validating process sees them now.
CREATE TABLE contenders (
    hotkey TEXT COLLATE "C" NOT NULL,
    task TEXT COLLATE "C" NOT NULL,
    uid BIGINT NOT NULL,
    url TEXT NOT NULL,
    -- For one period, in the task's unit.
    declared DOUBLE PRECISION NOT NULL,
    -- By the last scoring, 0 to 1; a quality that is not known is -1.
    score DOUBLE PRECISION NOT NULL,
    quality DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (hotkey, task)
);

-- Goes up whenever they change: one row.
CREATE TABLE contenders_version (
    one BIGINT PRIMARY KEY CHECK (one = 1),
    version BIGINT NOT NULL
);

INSERT INTO contenders_version VALUES (1, 0);

-- What users' requests came to in other processes, until the validating one has counted it.
CREATE TABLE outcomes (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- Unix milliseconds between which they were under way.
    from_ms BIGINT NOT NULL,
    to_ms BIGINT NOT NULL,
    hotkey TEXT COLLATE "C" NOT NULL,
    task TEXT COLLATE "C" NOT NULL,
    served BIGINT NOT NULL,
    tokens BIGINT NOT NULL,
    refused BIGINT NOT NULL,
    unreachable BIGINT NOT NULL,
    bad_status BIGINT NOT NULL,
    too_late BIGINT NOT NULL,
    broken BIGINT NOT NULL,
    unusable BIGINT NOT NULL,
    void BIGINT NOT NULL
);

-- Processes that serve the API: limits per minute are divided by their number.
CREATE TABLE api_nodes (
    node TEXT COLLATE "C" PRIMARY KEY,
    seen_ms BIGINT NOT NULL
);

-- The part of a key's budget that a process may spend without asking, in pico-USD. What is imported into the ledger is no
-- longer in it.
CREATE TABLE budget_leases (
    key_id TEXT COLLATE "C" NOT NULL,
    node TEXT COLLATE "C" NOT NULL,
    amount BIGINT NOT NULL,
    -- Others may take it from then on, Unix milliseconds.
    until_ms BIGINT NOT NULL,
    PRIMARY KEY (key_id, node)
);
