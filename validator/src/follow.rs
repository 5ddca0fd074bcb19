//! Follows the validating process through the database: whom it lets be asked, and what it has found out about them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::accounts::Accounts;
use crate::ask::Asker;
use crate::routing::Router;
use crate::store::{PeriodId, Published, Store, StoreError};
use crate::suspicion::Suspicions;
use crate::tally::Tallies;

/// Between two looks.
const TURN: Duration = Duration::from_secs(1);
/// Looks between two readings of the verdicts, which decide how many answers of each miner are checked.
const VERDICTS_TURNS: u32 = 30;

/// How far the validating process was followed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Followed {
    pub contenders: usize,
    /// When it last said who may be asked.
    pub heard: Option<Instant>,
}

/// The loop that follows.
#[derive(Debug)]
pub struct Follower {
    pub store: Store,
    pub router: Arc<Router>,
    pub tallies: Arc<Tallies>,
    pub suspicions: Arc<Suspicions>,
    pub accounts: Arc<Accounts>,
    pub asker: Asker,
    pub followed: watch::Sender<Followed>,
}

impl Follower {
    /// Takes over what there is now. Trouble is left for [`run`](Self::run) to speak of.
    pub async fn look(&self) {
        let _ = self.look_again(&mut Seen::default(), true).await;
    }

    /// Follows until it is told to stop. While the database is away, the last view stays in force.
    pub async fn run(self, stop: CancellationToken) {
        let (mut seen, mut failing, mut turns) = (Seen::default(), false, 0_u32);
        loop {
            let looked = self.look_again(&mut seen, turns.is_multiple_of(VERDICTS_TURNS)).await;
            match (&looked, failing) {
                (Err(error), false) => {
                    warn!("who may be asked cannot be read, going on with what is known: {error}");
                }
                (Ok(()), true) => info!("who may be asked can be read again"),
                (Ok(()), false) | (Err(_), true) => {}
            }
            failing = looked.is_err();
            turns = turns.wrapping_add(1);
            if timeout(TURN, stop.cancelled()).await.is_ok() {
                return;
            }
        }
    }

    async fn look_again(&self, seen: &mut Seen, verdicts: bool) -> Result<(), StoreError> {
        if let Some(published) = self.store.published(seen.version).await? {
            self.take_over(published, seen);
        }
        if verdicts {
            self.suspicions.replace(&self.store.recent_quality().await?);
        }
        Ok(())
    }

    fn take_over(&self, published: Published, seen: &mut Seen) {
        let Published { version, period, candidates } = published;
        let declared: BTreeMap<_, _> = candidates
            .iter()
            .map(|candidate| (candidate.id.clone(), candidate.contender.declared))
            .collect();
        let miners: BTreeSet<_> = declared.keys().map(|id| id.hotkey).collect();
        if seen.period != Some(period) {
            self.router.turn();
        }
        self.tallies.follow(period, &declared);
        self.router.replace(candidates);
        self.accounts.keep_only(|id| declared.contains_key(id));
        self.asker.forget(|miner| !miners.contains(miner));
        // The first look finds what may be old.
        let heard = seen.version.is_some().then(Instant::now);
        *seen = Seen { version: Some(version), period: Some(period) };
        self.followed.send_modify(|followed| {
            followed.contenders = declared.len();
            followed.heard = heard.or(followed.heard);
        });
    }
}

/// What was taken over last.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    version: Option<i64>,
    period: Option<PeriodId>,
}
