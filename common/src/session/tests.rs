use std::time::{Duration, Instant};

use super::*;

const REQUEST: Request<'_> =
    Request { method: "post", target: "/v1/chat/completions", body: b"{\"model\":\"chat-demo\"}" };

struct Pair {
    alice: Keypair,
    bob: Keypair,
    sessions: Sessions,
    now: Instant,
}

impl Pair {
    fn new(terms: Terms) -> Self {
        let (alice, bob) = (Keypair::development("Alice"), Keypair::development("Bob"));
        Self { alice, bob, sessions: Sessions::new(terms), now: Instant::now() }
    }

    fn accept(&self, number: u8) -> (Opener, Accepted) {
        let opener = Opener::new([number; 32]);
        let accepted = self
            .sessions
            .accept(
                &self.alice.hotkey(),
                &opener.opening(),
                &self.bob,
                [number ^ 0x55; 32],
                [number; 16],
                self.now,
            )
            .unwrap();
        (opener, accepted)
    }

    fn open(&self, number: u8) -> Client {
        let (opener, accepted) = self.accept(number);
        opener.complete(&self.alice.hotkey(), &self.bob.hotkey(), &accepted).unwrap()
    }

    fn check(
        &self,
        request: &Request<'_>,
        headers: &[(&'static str, String)],
        now: Instant,
    ) -> Result<Claim, Rejection> {
        let header = |name: &str| {
            headers.iter().find_map(|(own, value)| (*own == name).then_some(value.as_str()))
        };
        let claim = self.sessions.claimed(header, now)?.ok_or(Rejection::Unknown)?;
        claim.check(request)?;
        Ok(claim)
    }
}

#[test]
fn requests_pass_once_each_and_receipts_are_bound_to_them() {
    let pair = Pair::new(Terms::default());
    let client = pair.open(1);
    assert_eq!(client.receiver(), pair.bob.hotkey().to_string());
    let (first, second) = (client.count().unwrap(), client.count().unwrap());
    let headers = client.headers(&REQUEST, second);
    let claim = pair.check(&REQUEST, &headers, pair.now).unwrap();
    assert_eq!(claim.hotkey(), pair.alice.hotkey());
    assert_eq!(pair.check(&REQUEST, &headers, pair.now).unwrap_err(), Rejection::Replayed);
    pair.check(&REQUEST, &client.headers(&REQUEST, first), pair.now).unwrap();

    let tag = claim.receipt_tag(&[7; 32]);
    assert!(client.is_receipt_tag(second, &[7; 32], &tag));
    assert!(!client.is_receipt_tag(first, &[7; 32], &tag));
    assert!(!client.is_receipt_tag(second, &[8; 32], &tag));
    assert!(!client.is_receipt_tag(second, &[7; 32], "no tag"));
}

#[test]
fn a_tag_covers_every_part_of_the_request() {
    let pair = Pair::new(Terms::default());
    let (client, other) = (pair.open(1), pair.open(2));
    let counter = client.count().unwrap();
    let headers = client.headers(&REQUEST, counter);
    let changed = [
        Request { method: "GET", ..REQUEST },
        Request { target: "/v1/completions", ..REQUEST },
        Request { body: b"{}", ..REQUEST },
    ];
    for request in changed {
        assert_eq!(pair.check(&request, &headers, pair.now).unwrap_err(), Rejection::BadTag);
    }
    let mut of_other = other.headers(&REQUEST, counter);
    of_other[2] = headers[2].clone();
    assert_eq!(pair.check(&REQUEST, &of_other, pair.now).unwrap_err(), Rejection::BadTag);
    let mut counted_on = headers.clone();
    counted_on[1].1 = "1".to_owned();
    assert_eq!(pair.check(&REQUEST, &counted_on, pair.now).unwrap_err(), Rejection::BadTag);
    // What was refused has not used up the counter.
    pair.check(&REQUEST, &headers, pair.now).unwrap();
}

#[test]
fn headers_that_cannot_be_read_are_named() {
    let pair = Pair::new(Terms::default());
    let headers = pair.open(1).headers(&REQUEST, 0);
    for (index, name) in ["Session", "Counter", "Tag"].into_iter().enumerate() {
        let mut wrong = headers.clone();
        wrong[index].1 = "-1".to_owned();
        let rejection = pair.check(&REQUEST, &wrong, pair.now).unwrap_err();
        assert!(rejection.to_string().contains(name), "{rejection}");
        assert_eq!(rejection.name(), "MalformedSession");
    }
    assert!(pair.sessions.claimed(|_| None, pair.now).unwrap().is_none());
}

#[test]
fn sessions_end_by_time_by_number_and_by_newer_ones() {
    let terms = Terms { lifetime: Duration::from_secs(60), max_requests: 2, per_hotkey: 2 };
    let mut pair = Pair::new(terms);
    let first = pair.open(1);
    assert_eq!(first.lifetime(), terms.lifetime);
    let headers = first.headers(&REQUEST, 0);
    let later = pair.now + Duration::from_secs(60);
    assert_eq!(pair.check(&REQUEST, &headers, later).unwrap_err(), Rejection::Unknown);
    pair.check(&REQUEST, &headers, later - Duration::from_millis(1)).unwrap();

    assert_eq!((first.count(), first.used()), (Some(0), 0.5));
    assert_eq!((first.count(), first.count(), first.used()), (Some(1), None, 1.0));
    let beyond = first.headers(&REQUEST, 2);
    assert_eq!(pair.check(&REQUEST, &beyond, pair.now).unwrap_err(), Rejection::Replayed);

    for number in [2, 3] {
        pair.now += Duration::from_secs(1);
        pair.open(number);
    }
    let closed = first.headers(&REQUEST, 1);
    assert_eq!(pair.check(&REQUEST, &closed, pair.now).unwrap_err(), Rejection::Unknown);
}

#[test]
fn nobody_can_stand_between() {
    let pair = Pair::new(Terms::default());
    let (alice, bob) = (pair.alice.hotkey(), pair.bob.hotkey());
    let eve = Keypair::development("Eve").hotkey();
    let complete = |change: fn(&mut Accepted), own: &Hotkey, receiver: &Hotkey| {
        let (opener, mut accepted) = pair.accept(1);
        change(&mut accepted);
        opener.complete(own, receiver, &accepted).map(|_| ())
    };
    assert_eq!(complete(|_| {}, &alice, &bob), Ok(()));
    assert_eq!(complete(|_| {}, &alice, &eve), Err(BadSession::Signature));
    assert_eq!(complete(|_| {}, &eve, &bob), Err(BadSession::Signature));
    let changes: [fn(&mut Accepted); 4] = [
        |accepted| accepted.key = "11".repeat(32),
        |accepted| accepted.session = "11".repeat(16),
        |accepted| accepted.expires_in_s += 1,
        |accepted| accepted.max_requests += 1,
    ];
    for change in changes {
        assert_eq!(complete(change, &alice, &bob), Err(BadSession::Signature));
    }
    assert_eq!(complete(|accepted| accepted.key.clear(), &alice, &bob), Err(BadSession::Key));
    assert_eq!(complete(|accepted| accepted.session.clear(), &alice, &bob), Err(BadSession::Name));
}

#[test]
fn openings_that_make_no_session_are_refused() {
    let pair = Pair::new(Terms::default());
    let accept = |version, key: String| {
        let opening = Opening { version, key };
        let (alice, bob) = (pair.alice.hotkey(), &pair.bob);
        pair.sessions.accept(&alice, &opening, bob, [1; 32], [1; 16], pair.now).map(|_| ())
    };
    assert_eq!(accept(2, "11".repeat(32)), Err(BadSession::Version));
    assert_eq!(accept(1, "11".repeat(31)), Err(BadSession::Key));
    // A point of low order, with which everybody knows the shared secret.
    assert_eq!(accept(1, "00".repeat(32)), Err(BadSession::Key));
}
