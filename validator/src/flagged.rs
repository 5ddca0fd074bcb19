//! `validator evidence`: which miners were flagged for good, and why.

use std::fmt::Write as _;

use common::bundle::{Bundle, VERSION};
use common::{Hotkey, TaskId};

use crate::config::Config;
use crate::explain::{ExplainError, open, utc};
use crate::store::Flagged;

/// Whose flags are asked for; everybody's, if nobody is named.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Wanted {
    pub hotkey: Option<Hotkey>,
    pub task: Option<TaskId>,
    pub most: u32,
}

/// The newest flags in the configured store, newest first. A validator may be using it at the same time.
///
/// # Errors
/// If there is no store, or it cannot be read.
pub async fn flagged(config: &Config, wanted: &Wanted) -> Result<Vec<Flagged>, ExplainError> {
    let store = open(&config.store).await?;
    let flags = store.flags(wanted.hotkey.as_ref(), wanted.task.as_ref(), wanted.most).await;
    store.close().await;
    Ok(flags?)
}

/// The evidence for others to re-compute.
pub fn bundle(flagged: Flagged) -> Bundle {
    Bundle {
        version: VERSION,
        miner: flagged.id.hotkey,
        task: flagged.id.task,
        at_ms: flagged.at_ms,
        answers: u64::from(flagged.answers),
        log_e: flagged.log_e,
        hypothesis: flagged.hypothesis,
        telling: flagged.telling,
    }
}

/// For people.
pub fn text(flags: &[Flagged]) -> String {
    if flags.is_empty() {
        return "no miner was flagged for good\n".to_owned();
    }
    let mut text = String::new();
    for flag in flags {
        let reasons = flag.telling.iter().rev().flat_map(|telling| &telling.verdict.reasons);
        let _ = writeln!(
            text,
            "{} {} {}: after {} answers, odds of 1 to 1e{:.1} for an honest miner; best explained by `{}`; worth nothing in period {}",
            utc(flag.at_ms),
            flag.id.hotkey,
            flag.id.task,
            flag.answers,
            flag.log_e / std::f64::consts::LN_10,
            flag.hypothesis,
            flag.period.0,
        );
        for reason in reasons.take(3) {
            let _ = writeln!(text, "    {reason}");
        }
    }
    text
}
