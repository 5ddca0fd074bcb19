-- Weights on their way to the chain, and weights of several mechanisms.

-- Everything by which it can be found out what became of weights that may have been sent: written before they are.
CREATE TABLE weight_submissions (
    id INTEGER PRIMARY KEY,
    at_ms BIGINT NOT NULL,
    -- When it came to its stage.
    changed_ms BIGINT NOT NULL,
    mechanism BIGINT NOT NULL,
    -- plain, timelocked or hashed.
    way TEXT NOT NULL,
    -- sent, committed, in_force or failed; the first two are not over.
    stage TEXT NOT NULL,
    -- All that the chain's client must know, JSON.
    submission TEXT NOT NULL,
    -- [[uid, hotkey, weight], ...], JSON.
    weights TEXT NOT NULL,
    -- NULL: not known, or deleted since.
    scoring BIGINT REFERENCES scorings (id) ON DELETE SET NULL,
    -- Between two blocks, to say roughly when a block will be.
    block_ms BIGINT NOT NULL,
    -- The block since which the chain holds the commit, and the one since which it holds the weights.
    commit_block BIGINT,
    effect_block BIGINT,
    -- The transaction's hash; empty where it is not known.
    extrinsic TEXT NOT NULL,
    -- What went wrong last; empty where nothing did.
    error TEXT NOT NULL
);

CREATE INDEX open_submissions ON weight_submissions (id) WHERE stage IN ('sent', 'committed');
CREATE INDEX submissions_of_mechanism ON weight_submissions (mechanism, id);
CREATE INDEX submissions_of_scoring ON weight_submissions (scoring);

ALTER TABLE weights_set ADD COLUMN mechanism BIGINT NOT NULL DEFAULT 0;
CREATE INDEX weights_of_mechanism ON weights_set (mechanism, id);

-- The mechanism of each task, JSON; tasks that are not named are of mechanism 0.
ALTER TABLE scorings ADD COLUMN mechanisms TEXT NOT NULL DEFAULT '{}';
