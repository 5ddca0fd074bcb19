//! Where a miner listens, as the chain stores it, and whether it is safe to call.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use subxt::ext::scale_decode::DecodeAsType;
use url::Url;

/// The `protocol` value that the ecosystem's tools write; nothing reads it.
pub const PROTOCOL: u8 = 4;
/// The `version` value that the ecosystem's tools write.
pub const VERSION: u32 = 1;

/// The stand-in for 127.0.0.1 on local chains: the chain refuses to store the real one (a convention of fiber).
const LOCALHOST_ON_CHAIN: Ipv4Addr = Ipv4Addr::new(0, 0, 0, 1);

/// The address under which a neuron serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Axon {
    pub ip: IpAddr,
    pub port: u16,
    pub protocol: u8,
    pub version: u32,
}

/// The fields of an axon in the chain's storage and in the `serve_axon` call. The address is its integer value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, DecodeAsType)]
#[decode_as_type(crate_path = "subxt::ext::scale_decode")]
pub struct AxonFields {
    pub version: u32,
    pub ip: u128,
    pub port: u16,
    pub ip_type: u8,
    pub protocol: u8,
}

/// Why an axon is not called. A stranger chose its address, so only public addresses may be reached through it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AxonRefused {
    #[error("its address is 0")]
    NoAddress,
    #[error("its port is 0")]
    NoPort,
    #[error("{ip} is {what}, which nobody outside that network can reach")]
    NotPublic { ip: IpAddr, what: &'static str },
    #[error("{0} is this service itself")]
    Own(SocketAddr),
}

impl Axon {
    /// An axon at `address` with the protocol and version that other tools write.
    pub fn at(address: SocketAddr) -> Self {
        Self {
            ip: address.ip().to_canonical(),
            port: address.port(),
            protocol: PROTOCOL,
            version: VERSION,
        }
    }

    /// An axon on this machine, for local chains: stored as 0.0.0.1, since the chain refuses 127.0.0.1.
    pub fn local(port: u16) -> Self {
        Self::at(SocketAddr::new(LOCALHOST_ON_CHAIN.into(), port))
    }

    /// The axon that the chain's fields describe. `None` when nothing is served: address or port 0, or an address
    /// type that does not fit the address.
    pub fn from_fields(fields: &AxonFields) -> Option<Self> {
        if fields.ip == 0 || fields.port == 0 {
            return None;
        }
        let ip = match fields.ip_type {
            4 => IpAddr::V4(Ipv4Addr::from(u32::try_from(fields.ip).ok()?)),
            6 => IpAddr::V6(Ipv6Addr::from(fields.ip)),
            _ => return None,
        };
        Some(Self { ip, port: fields.port, protocol: fields.protocol, version: fields.version })
    }

    /// The fields of the call that announces this axon.
    pub fn to_fields(self) -> AxonFields {
        let (ip, ip_type) = match self.ip {
            IpAddr::V4(ip) => (u128::from(u32::from(ip)), 4),
            IpAddr::V6(ip) => (u128::from(ip), 6),
        };
        AxonFields { version: self.version, ip, port: self.port, ip_type, protocol: self.protocol }
    }
}

/// The base URL of an axon that may be called, or why it may not.
///
/// `own` is the address under which the caller itself can be reached. `allow_local` is for local chains: it admits
/// private and loopback addresses and reads 0.0.0.1 as 127.0.0.1.
pub fn check_reachable(
    axon: &Axon,
    own: Option<SocketAddr>,
    allow_local: bool,
) -> Result<Url, AxonRefused> {
    if axon.ip.is_unspecified() {
        return Err(AxonRefused::NoAddress);
    }
    if axon.port == 0 {
        return Err(AxonRefused::NoPort);
    }
    let ip = if allow_local && axon.ip == IpAddr::V4(LOCALHOST_ON_CHAIN) {
        IpAddr::V4(Ipv4Addr::LOCALHOST)
    } else {
        axon.ip
    };
    let address = SocketAddr::new(ip, axon.port);
    if own.is_some_and(|own| is_own(address, own)) {
        return Err(AxonRefused::Own(address));
    }
    let not_public = match ip {
        IpAddr::V4(ip) => special_v4(ip),
        IpAddr::V6(ip) => special_v6(ip),
    };
    if let Some((what, local)) = not_public
        && !(local && allow_local)
    {
        return Err(AxonRefused::NotPublic { ip, what });
    }
    // An address and a port always form a URL; the error only satisfies the type.
    Url::parse(&format!("http://{address}/")).map_err(|_| AxonRefused::NoAddress)
}

/// A service that listens on all addresses is met under any address of its own machine; loopback is one for sure.
fn is_own(address: SocketAddr, own: SocketAddr) -> bool {
    let (ip, own_ip) = (address.ip().to_canonical(), own.ip().to_canonical());
    let same_machine =
        ip == own_ip || ip.is_loopback() && (own_ip.is_unspecified() || own_ip.is_loopback());
    same_machine && address.port() == own.port()
}

/// What kind of special address it is, and whether a local chain may use it.
fn special_v4(ip: Ipv4Addr) -> Option<(&'static str, bool)> {
    let [a, b, c, _] = ip.octets();
    Some(match (a, b, c) {
        (0, ..) => ("an address of \"this network\"", false),
        (10, ..) | (192, 168, _) => ("a private address", true),
        (172, 16..=31, _) => ("a private address", true),
        (127, ..) => ("a loopback address", true),
        (169, 254, _) => ("a link-local address", false),
        (100, 64..=127, _) => ("an address inside a provider's network", true),
        (192, 0, 0) | (192, 88, 99) => ("reserved for protocols", false),
        (192, 0, 2) | (198, 51, 100) | (203, 0, 113) => ("a documentation address", false),
        (198, 18..=19, _) => ("a benchmarking address", false),
        (224..=239, ..) => ("a multicast address", false),
        (240.., ..) => ("a reserved address", false),
        _ => return None,
    })
}

/// Only global unicast (2000::/3) is public, and of it not the blocks that wrap IPv4 or belong to documents.
fn special_v6(ip: Ipv6Addr) -> Option<(&'static str, bool)> {
    let [a, b, ..] = ip.segments();
    Some(match (a, b) {
        _ if ip.is_loopback() => ("a loopback address", true),
        _ if ip.to_ipv4().is_some() => ("an IPv4 address written as IPv6", false),
        (0xfc00..=0xfdff, _) => ("a private address", true),
        (0xfe80..=0xfebf, _) => ("a link-local address", false),
        (0xff00.., _) => ("a multicast address", false),
        (0x2001, 0x0db8) | (0x3fff, 0..=0x0fff) => ("a documentation address", false),
        (0x2001, 0..=0x01ff) => ("reserved for protocols", false),
        (0x2002, _) => ("an IPv4 address written as IPv6", false),
        (0x2000..=0x3fff, _) => return None,
        _ => ("a reserved address", false),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn axon(ip: &str) -> Axon {
        Axon::at(SocketAddr::new(ip.parse().unwrap(), 8091))
    }

    #[test]
    fn a_public_address_becomes_a_url() {
        let url = |ip: &str| check_reachable(&axon(ip), None, false).unwrap().to_string();
        assert_eq!(url("8.8.4.4"), "http://8.8.4.4:8091/");
        assert_eq!(url("2a00:1450:4001:81b::200e"), "http://[2a00:1450:4001:81b::200e]:8091/");
    }

    #[test]
    fn no_special_address_is_called_on_a_public_network() {
        for ip in [
            "0.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "127.0.0.1",
            "127.9.9.9",
            "169.254.169.254",
            "100.64.0.1",
            "192.0.0.8",
            "192.0.2.1",
            "198.51.100.7",
            "203.0.113.9",
            "198.18.0.1",
            "192.88.99.1",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "::1",
            "fe80::1",
            "fc00::1",
            "fdff::1",
            "ff02::1",
            "2001:db8::1",
            "2001::1",
            "2002:0a00:0001::1",
            "64:ff9b::a00:1",
            "fec0::1",
            "3fff::1",
            "::10.0.0.1",
            "100::1",
        ] {
            let refused = check_reachable(&axon(ip), None, false);
            assert!(matches!(refused, Err(AxonRefused::NotPublic { .. })), "{ip}: {refused:?}");
        }
    }

    #[test]
    fn an_ipv4_address_in_ipv6_clothes_is_refused_even_locally() {
        let mapped = Axon { ip: "::ffff:10.0.0.1".parse().unwrap(), ..axon("8.8.8.8") };
        for allow_local in [false, true] {
            assert!(matches!(
                check_reachable(&mapped, None, allow_local),
                Err(AxonRefused::NotPublic { .. })
            ));
        }
    }

    #[test]
    fn nothing_is_served_at_address_or_port_zero() {
        assert_eq!(check_reachable(&axon("0.0.0.0"), None, true), Err(AxonRefused::NoAddress));
        assert_eq!(check_reachable(&axon("::"), None, true), Err(AxonRefused::NoAddress));
        let portless = Axon { port: 0, ..axon("8.8.8.8") };
        assert_eq!(check_reachable(&portless, None, true), Err(AxonRefused::NoPort));
    }

    #[test]
    fn a_local_chain_maps_its_stand_in_to_loopback_and_admits_private_networks() {
        let url = |axon: &Axon| check_reachable(axon, None, true).map(|url| url.to_string());
        assert_eq!(url(&Axon::local(9000)), Ok("http://127.0.0.1:9000/".to_owned()));
        assert_eq!(url(&axon("192.168.7.7")), Ok("http://192.168.7.7:8091/".to_owned()));
        assert!(
            url(&axon("169.254.169.254")).is_err(),
            "cloud metadata services stay out of reach"
        );
        assert!(url(&axon("224.0.0.1")).is_err());
    }

    #[test]
    fn the_caller_itself_is_refused_however_it_is_written() {
        let refused = |axon: Axon, own: &str| {
            matches!(
                check_reachable(&axon, Some(own.parse().unwrap()), true),
                Err(AxonRefused::Own(_))
            )
        };
        assert!(refused(axon("8.8.8.8"), "8.8.8.8:8091"));
        assert!(refused(Axon::local(8091), "127.0.0.1:8091"));
        assert!(refused(Axon::local(8091), "0.0.0.0:8091"));
        assert!(refused(axon("127.0.0.9"), "[::]:8091"));
        assert!(
            !refused(axon("8.8.8.8"), "8.8.8.8:8092"),
            "another service of the same machine is not itself"
        );
    }

    proptest! {
        #[test]
        fn every_axon_survives_the_chain(ip: IpAddr, port in 1_u16.., protocol: u8, version: u32) {
            let axon = Axon { ip, port, protocol, version };
            let back = Axon::from_fields(&axon.to_fields());
            prop_assert_eq!(back, (!ip.is_unspecified()).then_some(axon));
        }

        #[test]
        fn no_fields_on_chain_make_the_parser_panic(
            ip: u128, port: u16, ip_type: u8, protocol: u8, version: u32, allow_local: bool,
        ) {
            let fields = AxonFields { version, ip, port, ip_type, protocol };
            if let Some(axon) = Axon::from_fields(&fields) {
                let _ = check_reachable(&axon, None, allow_local);
            }
        }
    }
}
