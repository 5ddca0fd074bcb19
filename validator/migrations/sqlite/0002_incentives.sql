-- Refusals and failures by kind, bursts, organic answers, sums over time, scorings. No row is lost.

-- 1 where something has happened since `stretches` was made from it.
ALTER TABLE periods ADD COLUMN changed BIGINT NOT NULL DEFAULT 1;
CREATE INDEX periods_by_end ON periods (ended_ms);
CREATE INDEX periods_changed ON periods (ended_ms) WHERE changed = 1;

-- Answers that wait, with the period in which they counted.
CREATE TABLE new_pending_checks (
    id TEXT PRIMARY KEY,
    period BIGINT NOT NULL,
    at_ms BIGINT NOT NULL,
    -- How often it came back without a verdict.
    attempts BIGINT NOT NULL DEFAULT 0,
    hotkey TEXT NOT NULL,
    task TEXT NOT NULL,
    -- 1: a user asked.
    organic BIGINT NOT NULL,
    -- Units per second, as measured here.
    speed DOUBLE PRECISION NOT NULL,
    -- Seconds until the first token came.
    ttft_s DOUBLE PRECISION NOT NULL,
    tokens BIGINT NOT NULL,
    -- The check as it is sent to the checking server, JSON.
    body TEXT NOT NULL
) WITHOUT ROWID;

-- Period 0 is none: the answer counts for no period's sums. The first token's time was not kept: 0.
INSERT INTO new_pending_checks
SELECT id,
    coalesce((SELECT p.id FROM periods p WHERE p.started_ms <= old.at_ms
              AND (p.ended_ms IS NULL OR p.ended_ms > old.at_ms) ORDER BY p.id LIMIT 1), 0),
    at_ms, attempts, hotkey, task, 0, speed, 0, tokens, body
FROM pending_checks old;

DROP TABLE pending_checks;
ALTER TABLE new_pending_checks RENAME TO pending_checks;
CREATE INDEX pending_checks_by_turn ON pending_checks (attempts, at_ms);
CREATE INDEX pending_checks_by_time ON pending_checks (at_ms);

CREATE TABLE new_verdicts (
    id TEXT PRIMARY KEY,
    period BIGINT NOT NULL,
    at_ms BIGINT NOT NULL,
    hotkey TEXT NOT NULL,
    task TEXT NOT NULL,
    organic BIGINT NOT NULL,
    quality DOUBLE PRECISION NOT NULL,
    speed DOUBLE PRECISION NOT NULL,
    ttft_s DOUBLE PRECISION NOT NULL,
    tokens BIGINT NOT NULL,
    -- Evidence and reasons, JSON.
    verdict TEXT NOT NULL
) WITHOUT ROWID;

INSERT INTO new_verdicts
SELECT id,
    coalesce((SELECT p.id FROM periods p WHERE p.started_ms <= old.at_ms
              AND (p.ended_ms IS NULL OR p.ended_ms > old.at_ms) ORDER BY p.id LIMIT 1), 0),
    at_ms, hotkey, task, 0, quality, speed, 0, tokens, verdict
FROM verdicts old;

DROP TABLE verdicts;
ALTER TABLE new_verdicts RENAME TO verdicts;
CREATE INDEX verdicts_of_contender ON verdicts (hotkey, task, at_ms);
CREATE INDEX verdicts_of_period ON verdicts (period);
CREATE INDEX verdicts_by_time ON verdicts (at_ms);

-- What one miner did for one task in one period. The running period's rows grow as answers come in.
CREATE TABLE new_tallies (
    period BIGINT NOT NULL REFERENCES periods (id) ON DELETE CASCADE,
    hotkey TEXT NOT NULL,
    task TEXT NOT NULL,
    declared DOUBLE PRECISION NOT NULL DEFAULT 0,
    consumed DOUBLE PRECISION NOT NULL DEFAULT 0,
    served BIGINT NOT NULL DEFAULT 0,
    -- Refusals within the declared capacity, the sum of what they cost, and those beyond it.
    refused_within BIGINT NOT NULL DEFAULT 0,
    refusal_cost DOUBLE PRECISION NOT NULL DEFAULT 0,
    refused_beyond BIGINT NOT NULL DEFAULT 0,
    -- Failures by kind.
    unreachable BIGINT NOT NULL DEFAULT 0,
    bad_status BIGINT NOT NULL DEFAULT 0,
    too_late BIGINT NOT NULL DEFAULT 0,
    broken BIGINT NOT NULL DEFAULT 0,
    unusable BIGINT NOT NULL DEFAULT 0,
    -- What came to nothing on our own side; it counts nowhere.
    void BIGINT NOT NULL DEFAULT 0,
    -- The part that users' requests have.
    organic_served BIGINT NOT NULL DEFAULT 0,
    organic_refusal_cost DOUBLE PRECISION NOT NULL DEFAULT 0,
    organic_failed BIGINT NOT NULL DEFAULT 0,
    -- Finished bursts, the sum of the volumes that they have shown, and of the squares.
    exams BIGINT NOT NULL DEFAULT 0,
    shown DOUBLE PRECISION NOT NULL DEFAULT 0,
    shown_squared DOUBLE PRECISION NOT NULL DEFAULT 0,
    -- Checked answers and the sum of their qualities. Grows after the period's end too.
    checked BIGINT NOT NULL DEFAULT 0,
    quality DOUBLE PRECISION NOT NULL DEFAULT 0,
    organic_checked BIGINT NOT NULL DEFAULT 0,
    organic_quality DOUBLE PRECISION NOT NULL DEFAULT 0,
    PRIMARY KEY (period, hotkey, task)
) WITHOUT ROWID;

-- All refusals count as refused within the capacity, each at the share that was unused in the end: what was unused when
-- they came is not known, and it was no less. Failures were not told apart; they are kept as `unreachable`, the kind
-- that most of them are: all kinds count alike.
INSERT INTO new_tallies (period, hotkey, task, declared, consumed, served, refused_within, refusal_cost, unreachable,
    checked, quality)
SELECT old.period, old.hotkey, old.task, old.declared, old.consumed, old.served, old.refused,
    CASE WHEN old.declared > old.consumed
        THEN old.refused * min(1.0, (old.declared - old.consumed) / old.declared) ELSE 0 END,
    old.failed, coalesce(judged.checked, 0), coalesce(judged.quality, 0)
FROM tallies old
LEFT JOIN (SELECT period, hotkey, task, count(*) AS checked, sum(quality) AS quality
           FROM verdicts WHERE period > 0 GROUP BY period, hotkey, task) AS judged
    ON judged.period = old.period AND judged.hotkey = old.hotkey AND judged.task = old.task;

DROP TABLE tallies;
ALTER TABLE new_tallies RENAME TO tallies;
CREATE INDEX tallies_of_contender ON tallies (hotkey, task, period);

-- The evidence that scoring reads: tallies and verdicts, summed up over buckets of time by the ends of their periods.
CREATE TABLE stretches (
    task TEXT NOT NULL,
    hotkey TEXT NOT NULL,
    -- When it begins.
    bucket BIGINT NOT NULL,
    -- The mean of the periods' ends.
    at_ms BIGINT NOT NULL,
    -- Length of the periods in which something was asked, and of the others.
    seconds DOUBLE PRECISION NOT NULL,
    idle_seconds DOUBLE PRECISION NOT NULL,
    -- Sums.
    declared DOUBLE PRECISION NOT NULL,
    consumed DOUBLE PRECISION NOT NULL,
    served BIGINT NOT NULL,
    refused_within BIGINT NOT NULL,
    refusal_cost DOUBLE PRECISION NOT NULL,
    refused_beyond BIGINT NOT NULL,
    failed BIGINT NOT NULL,
    organic_served BIGINT NOT NULL,
    organic_refusal_cost DOUBLE PRECISION NOT NULL,
    organic_failed BIGINT NOT NULL,
    exams BIGINT NOT NULL,
    shown DOUBLE PRECISION NOT NULL,
    shown_squared DOUBLE PRECISION NOT NULL,
    checked BIGINT NOT NULL,
    quality DOUBLE PRECISION NOT NULL,
    organic_checked BIGINT NOT NULL,
    organic_quality DOUBLE PRECISION NOT NULL,
    -- The percentile of speed * quality over the bucket's checked answers; NULL without any.
    speed DOUBLE PRECISION,
    PRIMARY KEY (task, hotkey, bucket)
) WITHOUT ROWID;

CREATE INDEX stretches_by_bucket ON stretches (bucket);

-- How `stretches` was made: one row.
CREATE TABLE stretches_made (
    one BIGINT PRIMARY KEY CHECK (one = 1),
    bucket_ms BIGINT NOT NULL,
    speed_percentile DOUBLE PRECISION NOT NULL,
    -- Of what was before this some rows are deleted: what was made of them stays as it is.
    whole_since_ms BIGINT NOT NULL
);

INSERT INTO stretches_made VALUES (1, 0, 0, 0);

-- Whole results of scoring.
CREATE TABLE scorings (
    id INTEGER PRIMARY KEY,
    at_ms BIGINT NOT NULL,
    -- JSON, as the next three.
    rules TEXT NOT NULL,
    tasks TEXT NOT NULL
);

CREATE TABLE scores (
    scoring BIGINT NOT NULL REFERENCES scorings (id) ON DELETE CASCADE,
    hotkey TEXT NOT NULL,
    score TEXT NOT NULL,
    PRIMARY KEY (scoring, hotkey)
) WITHOUT ROWID;

-- NULL: not known, or deleted since.
ALTER TABLE weights_set ADD COLUMN scoring BIGINT REFERENCES scorings (id) ON DELETE SET NULL;
CREATE INDEX weights_of_scoring ON weights_set (scoring);
