use proptest::prelude::*;

use super::*;

const NOW: u64 = 1_752_076_800_000_000_000;
const SECOND: u64 = 1_000_000_000;
const GENERATE: Request<'static> =
    Request { method: "POST", target: "/generate?stream=false", body: br#"{"prompt": "hello"}"# };

fn alice() -> Keypair {
    Keypair::development("Alice")
}

fn bob() -> Hotkey {
    Keypair::development("Bob").hotkey()
}

fn verifier() -> Verifier {
    Verifier::new(bob(), Windows::default())
}

fn signed() -> Headers {
    sign(&GENERATE, &alice(), Some(&bob()), NOW)
}

#[test]
fn the_published_ed25519_example_verifies() {
    let headers = [
        (HEADER_VERSION, "1"),
        (HEADER_HOTKEY, "5FA9nQDVg267DEd8m1ZypXLBnvN7SFxYwV7ndqSYGiN9TTpu"),
        (HEADER_RECEIVER, "5FHneW46xGXgs5mUiveU4sbTyGBzmstUspZC92UhjJM694ty"),
        (HEADER_NONCE, "1752076800000000000"),
        (HEADER_CRYPTO, "ed25519"),
        (
            HEADER_SIGNATURE,
            "0x1a6b631988bf1f7ea093ab9d5acf61f05c316d0b0e428b24b487b75a5f6ee0e1a56a26918fdf871b6cf09437e658802\
             3a4ce423cf622621b2a7feee17612f704",
        ),
    ];
    let header = |name: &str| headers.iter().find(|(own, _)| *own == name).map(|(_, value)| *value);
    let sender = verifier().verify(&GENERATE, header, NOW).unwrap();
    assert_eq!(sender.scheme, Scheme::Ed25519);
}

#[test]
fn a_signed_request_is_accepted_once() {
    let (verifier, headers) = (verifier(), signed());
    let sender = verifier.verify(&GENERATE, |name| headers.get(name), NOW + SECOND).unwrap();
    assert_eq!(sender, Sender { hotkey: alice().hotkey(), nonce_ns: NOW, scheme: Scheme::Sr25519 });
    assert_eq!(
        verifier.verify(&GENERATE, |name| headers.get(name), NOW + SECOND),
        Err(Rejection::ReplayedRequest)
    );
}

#[test]
fn a_request_is_accepted_up_to_the_edges_of_the_window() {
    let headers = signed();
    let at = |now_ns| verifier().verify(&GENERATE, |name| headers.get(name), now_ns);
    assert!(at(NOW + 10 * SECOND).is_ok());
    assert_eq!(at(NOW + 10 * SECOND + 1), Err(Rejection::StaleRequest));
    assert!(at(NOW - 2 * SECOND).is_ok());
    assert_eq!(at(NOW - 2 * SECOND - 1), Err(Rejection::StaleRequest));
}

#[test]
fn what_was_signed_before_a_restart_is_stale_after_it() {
    let headers = signed();
    let restarted =
        |at| verifier().since(at).verify(&GENERATE, |name| headers.get(name), NOW + SECOND);
    assert_eq!(restarted(NOW + 1), Err(Rejection::StaleRequest));
    assert!(restarted(NOW).is_ok());
}

#[test]
fn headers_alone_show_who_claims_to_send_but_prove_nothing() {
    let headers = signed();
    let claimed = |name: &str| headers.get(name);
    assert_eq!(verifier().claimed(claimed, NOW), Ok(alice().hotkey()));
    assert_eq!(verifier().claimed(claimed, NOW + 11 * SECOND), Err(Rejection::StaleRequest));
    let other = Verifier::new(alice().hotkey(), Windows::default());
    assert_eq!(other.claimed(claimed, NOW), Err(Rejection::WrongReceiver));
    let none = |_: &str| None;
    assert!(matches!(verifier().claimed(none, NOW), Err(Rejection::MalformedAuth(_))));
}

#[test]
fn a_forged_request_does_not_use_up_the_nonce_of_the_real_one() {
    let (verifier, headers) = (verifier(), signed());
    let forged = Request { body: b"{}", ..GENERATE };
    assert_eq!(
        verifier.verify(&forged, |name| headers.get(name), NOW),
        Err(Rejection::BadSignature)
    );
    assert!(verifier.verify(&GENERATE, |name| headers.get(name), NOW).is_ok());
}

#[test]
fn a_request_for_nobody_needs_a_verifier_that_allows_it() {
    let headers = sign(&GENERATE, &alice(), None, NOW);
    let header = |name: &str| headers.get(name);
    assert_eq!(verifier().verify(&GENERATE, header, NOW), Err(Rejection::WrongReceiver));
    assert!(verifier().accept_unbound().verify(&GENERATE, header, NOW).is_ok());
}

#[test]
fn what_a_wallet_tool_signed_in_bytes_tags_is_accepted() {
    let text = payload(Scheme::Sr25519, &GENERATE, NOW, &alice().hotkey(), Some(&bob()));
    let signature = alice().sign(format!("<Bytes>{text}</Bytes>").as_bytes());
    let mut headers = signed();
    for (name, value) in &mut headers.0 {
        if *name == HEADER_SIGNATURE {
            *value = format!("0x{}", hex::encode(signature));
        }
    }
    assert!(verifier().verify(&GENERATE, |name| headers.get(name), NOW).is_ok());
}

#[test]
fn a_nonce_of_any_size_is_a_time_and_anything_else_is_malformed() {
    let with_nonce = |nonce: &'static str| {
        let headers = signed();
        verifier()
            .verify(
                &GENERATE,
                |name| if name == HEADER_NONCE { Some(nonce) } else { headers.get(name) },
                NOW,
            )
            .unwrap_err()
            .name()
    };
    assert_eq!(with_nonce("99999999999999999999999999999999999999999999"), "StaleRequest");
    assert_eq!(with_nonce("0"), "StaleRequest");
    for nonce in ["", "-1", "+1", "1.0", "01752076800000000000", " 1752076800000000000", "soon"] {
        assert_eq!(with_nonce(nonce), "MalformedAuth", "{nonce:?}");
    }
}

#[test]
fn nonces_never_repeat_when_the_clock_stands_still_or_steps_back() {
    let nonces = Nonces::default();
    assert_eq!([nonces.next(5), nonces.next(5), nonces.next(3), nonces.next(100)], [5, 6, 7, 100]);
}

proptest! {
    #[test]
    fn what_is_signed_is_accepted(
        method in "GET|POST|put",
        target in "/[a-z/]{0,20}(\\?[a-z=%&]{0,10})?",
        body in prop::collection::vec(any::<u8>(), 0..200),
        late in 0..10 * SECOND,
    ) {
        let request = Request { method: &method, target: &target, body: &body };
        let headers = sign(&request, &alice(), Some(&bob()), NOW);
        prop_assert!(verifier().verify(&request, |name| headers.get(name), NOW + late).is_ok());
    }

    #[test]
    fn any_changed_byte_of_the_request_is_refused(
        body in prop::collection::vec(any::<u8>(), 1..100),
        at: prop::sample::Index,
        flip in 1..=255u8,
    ) {
        let request = Request { body: &body, ..GENERATE };
        let headers = sign(&request, &alice(), Some(&bob()), NOW);
        let header = |name: &str| headers.get(name);
        let mut changed = body.clone();
        changed[at.index(body.len())] ^= flip;
        let refused = verifier().verify(&Request { body: &changed, ..request }, header, NOW);
        prop_assert_eq!(refused, Err(Rejection::BadSignature));

        let mut target = GENERATE.target.as_bytes().to_vec();
        let place = at.index(target.len());
        target[place] = if target[place] == b'x' { b'y' } else { b'x' };
        let target = String::from_utf8(target).unwrap();
        let refused = verifier().verify(&Request { target: &target, ..request }, header, NOW);
        prop_assert_eq!(refused, Err(Rejection::BadSignature));
    }

    #[test]
    fn any_changed_character_of_a_header_is_refused(which in 0..5usize, at: prop::sample::Index, to in "[0-9a-zA-Z]") {
        let mut headers = signed();
        let (_, value) = &mut headers.0[which];
        let place = at.index(value.len());
        let new = [&value[..place], &to, &value[place + 1..]].concat();
        // Hexadecimal digits mean the same in upper and lower case.
        prop_assume!(!new.eq_ignore_ascii_case(value));
        *value = new;
        prop_assert!(verifier().verify(&GENERATE, |name| headers.get(name), NOW).is_err());
    }

    #[test]
    fn no_header_makes_the_verifier_panic(values in prop::collection::vec(prop::option::of(".{0,140}"), 6)) {
        let names =
            [HEADER_VERSION, HEADER_HOTKEY, HEADER_RECEIVER, HEADER_NONCE, HEADER_CRYPTO, HEADER_SIGNATURE];
        let header = |name: &str| values[names.iter().position(|own| *own == name)?].as_deref();
        prop_assert!(verifier().verify(&GENERATE, header, NOW).is_err());
    }
}
