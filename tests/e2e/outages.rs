//! What a validator does while the chain or its checking server is away, and after it was stopped itself.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ::localnet::Options;
use common::{Hotkey, TaskId};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use validator::status::Status;

use crate::support::{
    Evidence, Logs, bounded, eventually, look_at_chain, start, until_status, weights_after,
};

fn options(data: PathBuf) -> Options {
    Options { period: Duration::from_secs(5), ..Options::in_folder(data) }
}

#[tokio::test]
async fn a_chain_that_is_away_for_periods_is_reported_once_and_scoring_goes_on() {
    bounded(async {
        let folder = tempfile::tempdir().unwrap();
        let options = options(folder.path().join("subnet"));
        let logs = Logs::collect();
        let localnet = start(&options).await;
        let stored = Evidence::open(&options.data).await;
        weights_after(&localnet.validator, 0).await;
        let answered_before = stored.judged().await;
        let warned_before = logs.warnings_of_the_validator();
        // Not at the turn of a period but in the middle of one.
        let middle = |left: f64| (1.0..4.0).contains(&left).then_some(());
        until_status(&localnet.validator, "a period is half over", |status| {
            status.period_ends_in_s.and_then(middle)
        })
        .await;

        localnet.chain.set_reachable(false);
        stored.further_periods(3).await;
        let scores = localnet.validator.scores();
        assert!(scores.iter().all(|(_, score)| *score > 0.0), "{scores:?}");
        let answered = stored.judged().await;
        assert!(answered.len() > answered_before.len() && answered.is_superset(&answered_before));
        let last = localnet
            .validator
            .confirmed_weights()
            .borrow()
            .as_ref()
            .map(|set| set.block.0)
            .unwrap();

        let warnings = logs.warnings_of_the_validator().split_off(warned_before.len());
        for said in
            ["the chain cannot be read", "weights wait for the chain", "lost the connection"]
        {
            let times = warnings.iter().filter(|line| line.contains(said)).count();
            assert!(times <= 1, "`{said}` {times} times");
        }
        assert!(
            warnings.iter().any(|line| line.contains("the chain cannot be read")),
            "{warnings:?}"
        );

        localnet.chain.set_reachable(true);
        let chain = look_at_chain(localnet.rpc).await;
        let back = chain.finalized_block().await.unwrap().number.0;
        weights_after(&localnet.validator, last.max(back)).await;
        stored.close().await;
        localnet.stop().await;
    })
    .await;
}

#[tokio::test]
async fn answers_wait_for_a_checking_server_that_is_away_even_over_a_restart_and_none_is_lost() {
    bounded(async {
        let folder = tempfile::tempdir().unwrap();
        let relay = Relay::listen().await;
        let options =
            Options { checking: Some(relay.address), ..options(folder.path().join("subnet")) };
        let logs = Logs::collect();
        let first = start(&options).await;
        relay.lead_to(Some(first.checking));
        let stored = Evidence::open(&options.data).await;
        let weights = weights_after(&first.validator, 0).await;
        let contenders =
            until_status(&first.validator, "every miner and task was judged", all_judged).await;

        relay.lead_to(None);
        let judged = eventually("what was on its way is judged", async || {
            let judged = stored.judged().await;
            (!stored.waiting().await.is_empty()).then_some(judged)
        })
        .await;
        stored.further_periods(1).await;
        let waiting = stored.waiting().await;
        stored.further_periods(1).await;
        let more = stored.waiting().await;
        assert!(!waiting.is_empty() && more.is_superset(&waiting) && more.len() > waiting.len());
        assert!(first.validator.status().await.unwrap().checks_waiting as usize >= more.len());
        // Miners are scored by what is known of them.
        let weights = weights_after(&first.validator, weights).await;
        let warnings = logs.warnings_of_the_validator();
        let said =
            warnings.iter().filter(|line| line.contains("answers wait for checking")).count();
        // Once before the relay led anywhere, at most, and once for this outage.
        assert!((1..=2).contains(&said), "{said} times");

        first.stop().await;
        let left = stored.waiting().await;
        assert!(left.is_superset(&more), "stopping loses nothing");

        let second = start(&options).await;
        let remembered =
            second.validator.confirmed_weights().borrow().as_ref().map(|set| set.block.0);
        assert!(remembered >= Some(weights));
        until_status(&second.validator, "earlier evidence is scored again", |status| {
            all_judged(status).filter(|scored| *scored == contenders)
        })
        .await;
        assert!(stored.waiting().await.is_superset(&left));
        assert!(stored.judged().await.is_superset(&judged));

        relay.lead_to(Some(second.checking));
        eventually("everything that waited is judged", async || {
            stored.judged().await.is_superset(&left).then_some(())
        })
        .await;
        let honest = until_status(&second.validator, "the queue is empty again", |status| {
            (status.checks_waiting == 0).then(|| status.rows.clone())
        });
        for row in honest.await {
            assert!(row.quality.is_some_and(|quality| quality > 0.9), "{row:?}");
        }
        stored.close().await;
        second.stop().await;
    })
    .await;
}

/// Every miner and task, once all of them have a quality.
fn all_judged(status: &Status) -> Option<Vec<(Hotkey, TaskId)>> {
    let judged = status.rows.iter().filter(|row| row.quality.is_some());
    let judged: Vec<_> = judged.map(|row| (row.hotkey, row.task.clone())).collect();
    (judged.len() == 4).then_some(judged)
}

/// A TCP relay that can be interrupted.
struct Relay {
    address: SocketAddr,
    target: watch::Sender<Option<SocketAddr>>,
    _running: JoinSet<()>,
}

impl Relay {
    async fn listen() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (target, targets) = watch::channel(None);
        let mut running = JoinSet::new();
        running.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((connection, _)) = listener.accept().await {
                connections.spawn(relay(connection, targets.clone()));
                while connections.try_join_next().is_some() {}
            }
        });
        Self { address, target, _running: running }
    }

    /// Relays to there from now on; connections that lead elsewhere are cut.
    fn lead_to(&self, target: Option<SocketAddr>) {
        self.target.send_replace(target);
    }
}

async fn relay(mut inward: TcpStream, mut targets: watch::Receiver<Option<SocketAddr>>) {
    let Some(target) = *targets.borrow_and_update() else { return };
    let Ok(mut outward) = TcpStream::connect(target).await else { return };
    tokio::select! {
        _ = targets.changed() => {}
        _ = copy_bidirectional(&mut inward, &mut outward) => {}
    }
}
