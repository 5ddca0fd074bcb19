//! Sessions with miners: opened in the background, used while they last, replaced before they end.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use common::Hotkey;
use common::session::{self, Accepted, Client, Opener};
use http_body_util::{BodyExt, Limited};
use hyper::{Method, StatusCode};
use tokio::time::{Instant, timeout};
use tracing::debug;
use url::Url;

use super::link::{Call, Link};

/// A miner that offers no sessions is asked for one again after this time: it may have been updated.
const NOT_OFFERED_FOR: Duration = Duration::from_secs(600);
/// After another failure.
const RETRY_AFTER: Duration = Duration::from_secs(30);
const DEADLINE: Duration = Duration::from_secs(10);
/// Another session is opened when this part of the time or of the requests of the old one is used up.
const USED_UP: f64 = 0.8;
const MAX_BYTES: usize = 4 << 10;

/// What proves who is asking.
#[derive(Debug, Clone)]
pub(crate) enum Proof {
    /// With the request's counter.
    Session(Arc<Client>, u64),
    Signature,
}

/// Why there is no session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoSession {
    NotOffered,
    Failed,
}

/// The sessions with all miners.
#[derive(Debug, Default)]
pub(super) struct Sessions(Mutex<HashMap<Hotkey, State>>);

#[derive(Debug, Default)]
struct State {
    open: Option<Open>,
    /// No other one is asked for until then.
    not_before: Option<Instant>,
}

#[derive(Debug)]
struct Open {
    session: Arc<Client>,
    since: Instant,
}

impl State {
    fn proof(&mut self, now: Instant) -> (Proof, bool) {
        let lasts = |open: &Open| {
            now.duration_since(open.since).as_secs_f64() / open.session.lifetime().as_secs_f64()
        };
        // Not to its last second: the miner counts from a little earlier.
        self.open.take_if(|open| lasts(open) >= 0.95);
        let counter = self.open.as_ref().and_then(|open| open.session.count());
        let proof = match (&self.open, counter) {
            (Some(open), Some(counter)) => Proof::Session(Arc::clone(&open.session), counter),
            _ => Proof::Signature,
        };
        let is_fresh =
            self.open.as_ref().is_some_and(|open| lasts(open).max(open.session.used()) < USED_UP);
        let may_ask = self.not_before.is_none_or(|then| then <= now);
        let ask = !is_fresh && may_ask;
        if ask {
            // Until the answer is there.
            self.not_before = Some(now + RETRY_AFTER);
        }
        (proof, ask)
    }
}

impl Sessions {
    /// How to prove the next request to a miner, and whether another session should be opened.
    pub(super) fn proof(&self, miner: &Hotkey, now: Instant) -> (Proof, bool) {
        let mut of = self.lock();
        match of.get_mut(miner) {
            Some(state) => state.proof(now),
            None => of.entry(*miner).or_default().proof(now),
        }
    }

    /// What came of opening one.
    pub(super) fn opened(&self, miner: &Hotkey, opened: Result<Client, NoSession>, now: Instant) {
        let mut of = self.lock();
        // Forgotten meanwhile: it has left the subnet.
        let Some(state) = of.get_mut(miner) else { return };
        match opened {
            Ok(session) => {
                *state = State {
                    open: Some(Open { session: Arc::new(session), since: now }),
                    not_before: None,
                };
            }
            Err(NoSession::NotOffered) => state.not_before = Some(now + NOT_OFFERED_FOR),
            Err(NoSession::Failed) => state.not_before = Some(now + RETRY_AFTER),
        }
    }

    /// The miner does not take requests of this session any more.
    pub(super) fn close(&self, miner: &Hotkey, session: &Arc<Client>, now: Instant) {
        if let Some(state) = self.lock().get_mut(miner)
            && state.open.take_if(|open| Arc::ptr_eq(&open.session, session)).is_some()
        {
            // At once, but a miner that closes every session does not get one with each request.
            state.not_before = Some(now + Duration::from_secs(1));
        }
    }

    /// Miners that have left the subnet.
    pub(super) fn forget(&self, gone: impl Fn(&Hotkey) -> bool) {
        self.lock().retain(|miner, _| !gone(miner));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Hotkey, State>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// With a key for this one session.
pub(super) fn opener() -> Opener {
    Opener::new(rand::random())
}

/// Asks a miner for a session.
pub(super) async fn open(
    link: &Link,
    opener: Opener,
    miner: &Hotkey,
    url: &Url,
) -> Result<Client, NoSession> {
    let ask = async {
        let body = Bytes::from(serde_json::to_vec(&opener.opening()).unwrap_or_default());
        let call = Call { miner, url, method: &Method::POST, path: session::PATH, body: &body };
        let response = link.send_signed(call).await.map_err(|_| NoSession::Failed)?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND
            | StatusCode::METHOD_NOT_ALLOWED
            | StatusCode::NOT_IMPLEMENTED => {
                return Err(NoSession::NotOffered);
            }
            _ => return Err(NoSession::Failed),
        }
        let body = Limited::new(response.into_body(), MAX_BYTES).collect().await;
        let body = body.map_err(|_| NoSession::Failed)?.to_bytes();
        let accepted: Accepted = serde_json::from_slice(&body).map_err(|_| NoSession::Failed)?;
        opener.complete(&link.own(), miner, &accepted).map_err(|error| {
            debug!(%miner, "a session could not be opened: {error}");
            NoSession::Failed
        })
    };
    timeout(DEADLINE, ask).await.unwrap_or(Err(NoSession::Failed))
}

#[cfg(test)]
mod tests {
    use std::time::Instant as StdInstant;

    use common::Keypair;
    use common::session::Terms;

    use super::*;

    fn client(lifetime_s: u64, max_requests: u64) -> Client {
        let (alice, bob) = (Keypair::development("Alice"), Keypair::development("Bob"));
        let lifetime = Duration::from_secs(lifetime_s);
        let sessions = session::Sessions::new(Terms { lifetime, max_requests, per_hotkey: 1 });
        let opener = Opener::new([1; 32]);
        let accepted = sessions
            .accept(&alice.hotkey(), &opener.opening(), &bob, [2; 32], [3; 16], StdInstant::now())
            .unwrap();
        opener.complete(&alice.hotkey(), &bob.hotkey(), &accepted).unwrap()
    }

    fn bob() -> Hotkey {
        Keypair::development("Bob").hotkey()
    }

    fn is_session(proof: &Proof) -> bool {
        matches!(proof, Proof::Session(..))
    }

    #[test]
    fn the_first_request_is_signed_and_asks_for_a_session_once() {
        let (sessions, now) = (Sessions::default(), Instant::now());
        let (proof, open) = sessions.proof(&bob(), now);
        assert!(!is_session(&proof) && open);
        assert!(!sessions.proof(&bob(), now).1, "one is being opened");
        sessions.opened(&bob(), Ok(client(100, 10)), now);
        let (proof, open) = sessions.proof(&bob(), now);
        assert!(is_session(&proof) && !open);
    }

    #[test]
    fn another_one_is_opened_before_the_old_one_ends_by_time() {
        let (sessions, now) = (Sessions::default(), Instant::now());
        sessions.proof(&bob(), now);
        sessions.opened(&bob(), Ok(client(100, 1000)), now);
        let at = |s| sessions.proof(&bob(), now + Duration::from_secs(s));
        assert!(!at(79).1);
        let (proof, open) = at(80);
        assert!(is_session(&proof) && open);
        let (proof, open) = at(81);
        assert!(is_session(&proof) && !open);
        assert!(!is_session(&at(95).0));
    }

    #[test]
    fn another_one_is_opened_before_the_old_one_ends_by_number() {
        let (sessions, now) = (Sessions::default(), Instant::now());
        sessions.proof(&bob(), now);
        sessions.opened(&bob(), Ok(client(100, 10)), now);
        let asked: Vec<_> = (0..12).map(|_| sessions.proof(&bob(), now)).collect();
        assert_eq!(asked.iter().filter(|(proof, _)| is_session(proof)).count(), 10);
        assert_eq!(asked.iter().position(|(_, open)| *open), Some(7));
        assert_eq!(asked.iter().filter(|(_, open)| *open).count(), 1);
    }

    #[test]
    fn who_offers_none_is_left_alone_for_a_while() {
        let (sessions, now) = (Sessions::default(), Instant::now());
        sessions.proof(&bob(), now);
        sessions.opened(&bob(), Err(NoSession::NotOffered), now);
        assert!(!sessions.proof(&bob(), now + NOT_OFFERED_FOR / 2).1);
        assert!(sessions.proof(&bob(), now + NOT_OFFERED_FOR).1);
    }

    #[test]
    fn a_closed_session_is_not_used_again_and_a_newer_one_stays() {
        let (sessions, now) = (Sessions::default(), Instant::now());
        sessions.proof(&bob(), now);
        sessions.opened(&bob(), Ok(client(100, 10)), now);
        let Proof::Session(old, _) = sessions.proof(&bob(), now).0 else { panic!("no session") };
        sessions.opened(&bob(), Ok(client(100, 10)), now);
        sessions.close(&bob(), &old, now);
        let Proof::Session(new, _) = sessions.proof(&bob(), now).0 else { panic!("no session") };
        sessions.close(&bob(), &new, now);
        assert!(!is_session(&sessions.proof(&bob(), now).0));
        sessions.forget(|miner| *miner == bob());
        sessions.opened(&bob(), Ok(client(100, 10)), now);
        assert!(!is_session(&sessions.proof(&bob(), now).0), "it has left");
    }
}
