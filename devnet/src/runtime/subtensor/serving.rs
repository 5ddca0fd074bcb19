//! Announcing axons and metrics endpoints: the checks of the real chain in their order.

use frame_support::ensure;
use frame_support::pallet_prelude::DispatchResult;
use sp_runtime::AccountId32;

use super::types::{AxonInfo, PrometheusInfo};
use super::{Axons, Config, Error, Event, Pallet, Prometheus, ServingRateLimit, Uids};

const LOOPBACK_V4: u128 = 0x7f00_0001;
const LOOPBACK_V6: u128 = 1;

impl<T: Config> Pallet<T> {
    pub(super) fn do_serve_axon(
        hotkey: AccountId32,
        netuid: u16,
        axon: AxonInfo,
    ) -> DispatchResult {
        Self::check_axon(&hotkey, netuid, axon.ip, axon.port, axon.ip_type)?;
        Axons::<T>::insert(netuid, &hotkey, axon);
        Self::deposit_event(Event::AxonServed(netuid, hotkey));
        Ok(())
    }

    pub(super) fn do_serve_prometheus(
        hotkey: AccountId32,
        netuid: u16,
        info: PrometheusInfo,
    ) -> DispatchResult {
        Self::check_prometheus(&hotkey, netuid, info.ip, info.port, info.ip_type)?;
        Prometheus::<T>::insert(netuid, &hotkey, info);
        Self::deposit_event(Event::PrometheusServed(netuid, hotkey));
        Ok(())
    }

    /// Whether the hotkey may announce this axon now.
    ///
    /// # Errors
    /// The first check that fails.
    pub fn check_axon(
        hotkey: &AccountId32,
        netuid: u16,
        ip: u128,
        port: u16,
        ip_type: u8,
    ) -> Result<(), Error<T>> {
        // A zero address is allowed: it takes an axon off the chain.
        let last = Axons::<T>::get(netuid, hotkey).map(|axon| axon.block);
        Self::check_endpoint(hotkey, netuid, ip, port, ip_type, last)
    }

    /// Whether the hotkey may announce this metrics endpoint now.
    ///
    /// # Errors
    /// The first check that fails.
    pub fn check_prometheus(
        hotkey: &AccountId32,
        netuid: u16,
        ip: u128,
        port: u16,
        ip_type: u8,
    ) -> Result<(), Error<T>> {
        let last = Prometheus::<T>::get(netuid, hotkey).map(|info| info.block);
        let checked = Self::check_endpoint(hotkey, netuid, ip, port, ip_type, last);
        let address_is_reached = !matches!(
            checked,
            Err(Error::HotKeyNotRegisteredInNetwork
                | Error::InvalidIpType
                | Error::InvalidIpAddress)
        );
        if ip == 0 && address_is_reached { Err(Error::InvalidIpAddress) } else { checked }
    }

    fn check_endpoint(
        hotkey: &AccountId32,
        netuid: u16,
        ip: u128,
        port: u16,
        ip_type: u8,
        last: Option<u64>,
    ) -> Result<(), Error<T>> {
        ensure!(Uids::<T>::contains_key(netuid, hotkey), Error::HotKeyNotRegisteredInNetwork);
        ensure!(matches!(ip_type, 4 | 6), Error::InvalidIpType);
        ensure!(is_reachable(ip, ip_type), Error::InvalidIpAddress);
        ensure!(port != 0, Error::InvalidPort);
        let limit = ServingRateLimit::<T>::get(netuid);
        let due = match last {
            None | Some(0) => true,
            Some(last) => limit == 0 || Self::now().saturating_sub(last) >= limit,
        };
        ensure!(due, Error::ServingRateLimitExceeded);
        Ok(())
    }
}

fn is_reachable(ip: u128, ip_type: u8) -> bool {
    match ip_type {
        4 => ip < u128::from(u32::MAX) && ip != LOOPBACK_V4,
        _ => ip != u128::MAX && ip != LOOPBACK_V6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_and_broadcast_addresses_are_refused() {
        assert!(is_reachable(u128::from(u32::from_be_bytes([10, 0, 0, 1])), 4));
        assert!(is_reachable(1, 4), "0.0.0.1 is what local tools use");
        assert!(!is_reachable(LOOPBACK_V4, 4));
        assert!(!is_reachable(u128::from(u32::MAX), 4));
        assert!(!is_reachable(u128::from(u32::MAX) + 1, 4));
        assert!(!is_reachable(1, 6));
        assert!(!is_reachable(u128::MAX, 6));
        assert!(is_reachable(0x2001_0db8 << 96, 6));
    }
}
