//! What can become of a query, and whose doing it is.

use std::error::Error;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::time::Duration;
use std::{fmt, io};

use common::openai::BadRequest;
use common::receipt::Receipt;
use url::{Host, Url};

use crate::tally::FailureKind;

/// An answer that came whole, with a receipt that the miner signed for this request.
#[derive(Debug, Clone, PartialEq)]
pub struct Served {
    pub text: String,
    pub receipt: Receipt,
    /// Of the receipt: what the miner has signed.
    pub digest: [u8; 32],
    pub first_token: Duration,
    /// The mean time at which the text arrived, each byte counting alike, from when the request was sent.
    pub mean_arrival: Duration,
    pub total: Duration,
    /// This process was held up for so long meanwhile that the times say more about it than about the miner.
    pub distorted: bool,
}

impl Served {
    /// Tokens of the answer, by its receipt; the checking server finds out whether that is true.
    pub fn tokens(&self) -> u32 {
        u32::try_from(self.receipt.generated.tokens.len()).unwrap_or(u32::MAX)
    }

    /// Tokens divided by twice the mean arrival time: tokens per second for a stream that is even from the first moment
    /// on, less for one that begins late or stalls, and nothing but earlier delivery raises it. Finite, at least 0.
    pub fn speed(&self) -> f64 {
        f64::from(self.tokens()) / (2.0 * self.mean_arrival.as_secs_f64()).max(1e-6)
    }
}

/// What became of a query.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    Served(Box<Served>),
    /// The miner said that it is busy (429).
    Refused,
    Failed(Failure),
    /// It came to nothing on our own side and says nothing about the miner.
    Void(Ours),
}

impl Outcome {
    /// One word for logs and metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Served(_) => "served",
            Self::Refused => "refused",
            Self::Failed(failure) => failure.label(),
            Self::Void(ours) => ours.label(),
        }
    }
}

/// Why there is no usable answer, the miner being at fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    Unreachable(String),
    Status(u16),
    NoFirstToken(Duration),
    NoEnd(Duration),
    Broken(String),
    Garbage(String),
    TooMuch { bytes: usize },
    NoReceipt,
    ForeignReceipt(&'static str),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(why) => write!(f, "cannot be reached: {why}"),
            Self::Status(status) => write!(f, "answered with status {status}"),
            Self::NoFirstToken(limit) => write!(f, "sent no token within {limit:?}"),
            Self::NoEnd(limit) => write!(f, "did not finish within {limit:?}"),
            Self::Broken(why) => write!(f, "broke the stream off: {why}"),
            Self::Garbage(what) => write!(f, "sent something that is no answer: {what}"),
            Self::TooMuch { bytes } => {
                write!(f, "sent more than {bytes} bytes, which no answer of this length needs")
            }
            Self::NoReceipt => write!(f, "sent no receipt"),
            Self::ForeignReceipt(why) => write!(f, "sent a receipt that {why}"),
        }
    }
}

impl Failure {
    /// One word for logs and metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "unreachable",
            Self::Status(_) => "status",
            Self::NoFirstToken(_) => "no_first_token",
            Self::NoEnd(_) => "no_end",
            Self::Broken(_) => "broken",
            Self::Garbage(_) => "garbage",
            Self::TooMuch { .. } => "too_much",
            Self::NoReceipt => "no_receipt",
            Self::ForeignReceipt(_) => "foreign_receipt",
        }
    }

    /// As which kind it is counted.
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::Unreachable(_) => FailureKind::Unreachable,
            Self::Status(_) => FailureKind::BadStatus,
            Self::NoFirstToken(_) | Self::NoEnd(_) => FailureKind::TooLate,
            Self::Broken(_) => FailureKind::Broken,
            Self::Garbage(_) | Self::TooMuch { .. } | Self::NoReceipt | Self::ForeignReceipt(_) => {
                FailureKind::Unusable
            }
        }
    }
}

/// Why a query came to nothing on our own side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ours {
    /// The time that the miner should have had was spent on another one before.
    Budget,
    /// Our sockets or our network.
    Network(String),
    /// The process was held up for so long in one go.
    Stalled(Duration),
    /// Another miner, which was asked as well, has answered first.
    Outrun,
    /// The user did not take what had come.
    SlowUser,
    /// It was not sent: too many of our queries are under way, or we came to it far too late.
    Crowded,
}

impl fmt::Display for Ours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Budget => write!(f, "was given less time than it is due"),
            Self::Network(why) => write!(f, "could not be asked, because of our side: {why}"),
            Self::Stalled(held_up) => {
                write!(f, "was not listened to, because this process was held up for {held_up:?}")
            }
            Self::Outrun => write!(f, "was called off, because another one answered first"),
            Self::SlowUser => write!(f, "was not listened to, because the user is slow"),
            Self::Crowded => write!(f, "was not asked, because we have too much to do"),
        }
    }
}

impl Ours {
    /// One word for logs and metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Budget => "void_budget",
            Self::Network(_) => "void_network",
            Self::Stalled(_) => "void_stalled",
            Self::Outrun => "void_outrun",
            Self::SlowUser => "void_slow_user",
            Self::Crowded => "void_crowded",
        }
    }
}

/// Why there is no answer: the miner's doing or ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    Theirs(Failure),
    Ours(Ours),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Theirs(failure) => failure.fmt(f),
            Self::Ours(ours) => ours.fmt(f),
        }
    }
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Self::Theirs(failure)
    }
}

impl From<Trouble> for Outcome {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Theirs(failure) => Self::Failed(failure),
            Trouble::Ours(ours) => Self::Void(ours),
        }
    }
}

/// Why a stream did not open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotOpened {
    Refused,
    /// The miner says that the request itself is wrong (400 or 413), and why.
    Unacceptable(BadRequest),
    Trouble(Trouble),
}

impl From<NotOpened> for Outcome {
    fn from(not_opened: NotOpened) -> Self {
        match not_opened {
            NotOpened::Refused => Self::Refused,
            NotOpened::Unacceptable(_) => Self::Failed(Failure::Status(400)),
            NotOpened::Trouble(trouble) => trouble.into(),
        }
    }
}

/// What an error of the HTTP client means; `else_theirs` makes it the miner's if it is not ours.
pub(super) fn whose(
    error: &(dyn Error + 'static),
    miner: &Url,
    else_theirs: impl FnOnce(String) -> Failure,
) -> Trouble {
    let why = root_cause(error);
    let ours = match suspect(error) {
        Suspect::We => true,
        Suspect::Either => !has_route(miner),
        Suspect::They => false,
    };
    if ours { Trouble::Ours(Ours::Network(why)) } else { else_theirs(why).into() }
}

/// Who may have caused an error of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Suspect {
    /// Our own machine could not do it: no sockets, no memory for them, no network, no address, or our own packet
    /// filter.
    We,
    /// No way to the miner: our routes say so, or a message from its side, which any firewall can send.
    Either,
    They,
}

fn suspect(error: &(dyn Error + 'static)) -> Suspect {
    // ENFILE, EMFILE and Linux's ENOBUFS have no kind of their own. EPERM shares one with EACCES, but nothing that
    // comes from outside turns into it.
    const CODES: [i32; 4] = [1, 23, 24, 105];
    const KINDS: [io::ErrorKind; 3] =
        [io::ErrorKind::NetworkDown, io::ErrorKind::AddrNotAvailable, io::ErrorKind::OutOfMemory];
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            if let Some(inner) = error.get_ref() {
                // An io error may wrap another one, which is not among the sources.
                return suspect(inner);
            }
            let kind = error.kind();
            let ours = error.raw_os_error().is_some_and(|code| CODES.contains(&code));
            return match kind {
                _ if ours || KINDS.contains(&kind) => Suspect::We,
                io::ErrorKind::NetworkUnreachable | io::ErrorKind::PermissionDenied => {
                    Suspect::Either
                }
                _ => Suspect::They,
            };
        }
        cause = error.source();
    }
    Suspect::They
}

/// Whether this machine knows a way to the miner. Connecting a UDP socket looks it up and sends nothing, so the miner
/// has no say in it. False for a name, which no miner has: only addresses are on chain.
fn has_route(miner: &Url) -> bool {
    let (to, any) = match miner.host() {
        Some(Host::Ipv4(ip)) => (IpAddr::V4(ip), IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        Some(Host::Ipv6(ip)) => (IpAddr::V6(ip), IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
        Some(Host::Domain(_)) | None => return false,
    };
    let port = miner.port_or_known_default().unwrap_or(80);
    UdpSocket::bind((any, 0)).and_then(|socket| socket.connect((to, port))).is_ok()
}

/// The innermost message of an error: reqwest's outer one only repeats the address.
fn root_cause(error: &(dyn Error + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use common::Keypair;
    use common::generation::FinishReason;
    use common::receipt::{Generated, Timings, request_digest};

    use super::*;

    fn served(tokens: usize, mean_arrival: Duration) -> Served {
        let generated = Generated {
            task: "chat-demo".parse().unwrap(),
            request_digest: request_digest(b""),
            prompt_tokens: 1,
            tokens: vec![7; tokens],
            logprobs: vec![-1.0; tokens],
            finish_reason: FinishReason::Stop,
            timings: Timings::default(),
        };
        let receipt = generated.sign(&Keypair::development("Bob"));
        let text = String::new();
        Served {
            text,
            digest: receipt.generated.digest(),
            receipt,
            first_token: mean_arrival,
            mean_arrival,
            total: mean_arrival,
            distorted: false,
        }
    }

    #[test]
    fn an_even_streams_speed_is_its_tokens_per_second_and_every_speed_is_a_number() {
        // 40 tokens, one every 50 ms.
        assert_eq!(served(40, Duration::from_secs(1)).speed(), 20.0);
        assert!(served(40, Duration::from_secs(2)).speed() < 20.0, "it came later");
        assert_eq!(served(0, Duration::from_secs(1)).speed(), 0.0);
        for tokens in [0, 1, 1_000] {
            assert!(served(tokens, Duration::ZERO).speed().is_finite());
            assert!(served(tokens, Duration::MAX).speed().is_finite());
        }
    }

    /// An error as HTTP clients nest them.
    #[derive(Debug)]
    struct Outer(io::Error);

    impl fmt::Display for Outer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "error sending a request")
        }
    }

    impl Error for Outer {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            Some(&self.0)
        }
    }

    /// There is always a way to this machine itself, and never one for a plain socket to everybody in the network.
    const REACHABLE: [&str; 2] = ["http://127.0.0.1:9", "http://127.0.0.1"];
    const NO_ROUTE: &str = "http://255.255.255.255:9";

    fn blamed(error: io::Error) -> FailureKind {
        match whose(&Outer(error), &REACHABLE[0].parse().unwrap(), Failure::Unreachable) {
            Trouble::Theirs(failure) => failure.kind(),
            Trouble::Ours(ours) => panic!("{ours}"),
        }
    }

    fn excused_at(miner: &str, error: io::Error) {
        let trouble = whose(&Outer(error), &miner.parse().unwrap(), Failure::Unreachable);
        assert!(matches!(trouble, Trouble::Ours(Ours::Network(_))), "{trouble}");
    }

    fn excused(error: io::Error) {
        excused_at(REACHABLE[0], error);
    }

    #[test]
    fn a_miners_firewall_cannot_make_its_absence_look_like_ours() {
        assert!(REACHABLE.iter().all(|url| has_route(&url.parse().unwrap())));
        assert!(!has_route(&NO_ROUTE.parse().unwrap()));
        // Network unreachable and EACCES, which ICMP messages turn into.
        for code in [101, 13] {
            assert_eq!(blamed(io::Error::from_raw_os_error(code)), FailureKind::Unreachable);
            excused_at(NO_ROUTE, io::Error::from_raw_os_error(code));
        }
    }

    #[test]
    fn what_our_own_machine_cannot_do_is_not_blamed_on_miners() {
        // Our packet filter, too many files in the system, in the process, address not available, network down, no
        // buffers.
        for code in [1, 23, 24, 99, 100, 105] {
            excused(io::Error::from_raw_os_error(code));
        }
        excused(io::Error::other(io::Error::from_raw_os_error(24)));
        excused(io::Error::other(Outer(io::Error::from(io::ErrorKind::NetworkDown))));
    }

    #[test]
    fn what_miners_do_to_connections_is_blamed_on_them() {
        // Reset, refused, timed out, no such host.
        for code in [104, 111, 110, 113] {
            assert_eq!(blamed(io::Error::from_raw_os_error(code)), FailureKind::Unreachable);
        }
        assert_eq!(blamed(io::ErrorKind::UnexpectedEof.into()), FailureKind::Unreachable);
    }
}
