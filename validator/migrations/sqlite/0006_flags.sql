-- The evidence of many answers against one contender.
CREATE TABLE suspicions (
    hotkey TEXT NOT NULL,
    task TEXT NOT NULL,
    -- What it was added up to, JSON.
    process TEXT NOT NULL,
    -- Its natural logarithm.
    log_e REAL NOT NULL,
    PRIMARY KEY (hotkey, task)
) WITHOUT ROWID;

-- Answers that said most against a contender since its evidence began, as they were sent to the checking server, JSON.
CREATE TABLE telling_answers (
    id TEXT PRIMARY KEY,
    at_ms INTEGER NOT NULL,
    hotkey TEXT NOT NULL,
    task TEXT NOT NULL,
    log_e REAL NOT NULL,
    body TEXT NOT NULL
) WITHOUT ROWID;

CREATE INDEX telling_answers_of_contender ON telling_answers (hotkey, task, log_e);
CREATE INDEX telling_answers_by_age ON telling_answers (at_ms);

-- Contenders against whom the evidence is settled: what they answered in that period is worth nothing.
CREATE TABLE flags (
    period INTEGER NOT NULL,
    hotkey TEXT NOT NULL,
    task TEXT NOT NULL,
    at_ms INTEGER NOT NULL,
    -- Answers that were taken into account, and the natural logarithm of the evidence.
    answers INTEGER NOT NULL,
    log_e REAL NOT NULL,
    -- What explains the answers best.
    hypothesis TEXT NOT NULL,
    -- The telling answers, JSON.
    evidence TEXT NOT NULL,
    PRIMARY KEY (period, hotkey, task)
) WITHOUT ROWID;

CREATE INDEX flags_by_age ON flags (at_ms);
