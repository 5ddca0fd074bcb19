-- The evidence of many answers against one contender.
CREATE TABLE suspicions (
    hotkey TEXT COLLATE "C" NOT NULL,
    task TEXT COLLATE "C" NOT NULL,
    -- What it was added up to, JSON.
    process TEXT NOT NULL,
    -- Its natural logarithm.
    log_e DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (hotkey, task)
);

-- Answers that said most against a contender since its evidence began, as they were sent to the checking server, JSON.
CREATE TABLE telling_answers (
    id TEXT COLLATE "C" PRIMARY KEY,
    at_ms BIGINT NOT NULL,
    hotkey TEXT COLLATE "C" NOT NULL,
    task TEXT COLLATE "C" NOT NULL,
    log_e DOUBLE PRECISION NOT NULL,
    body TEXT NOT NULL
);

CREATE INDEX telling_answers_of_contender ON telling_answers (hotkey, task, log_e);
CREATE INDEX telling_answers_by_age ON telling_answers (at_ms);

-- Contenders against whom the evidence is settled: what they answered in that period is worth nothing.
CREATE TABLE flags (
    period BIGINT NOT NULL,
    hotkey TEXT COLLATE "C" NOT NULL,
    task TEXT COLLATE "C" NOT NULL,
    at_ms BIGINT NOT NULL,
    -- Answers that were taken into account, and the natural logarithm of the evidence.
    answers BIGINT NOT NULL,
    log_e DOUBLE PRECISION NOT NULL,
    -- What explains the answers best.
    hypothesis TEXT NOT NULL,
    -- The telling answers, JSON.
    evidence TEXT NOT NULL,
    PRIMARY KEY (period, hotkey, task)
);

CREATE INDEX flags_by_age ON flags (at_ms);
