//! The hyperparameters that the sudo key sets. The real chain lets owners set some of them, within windows and limits.

pub use pallet::*;

/// Defines the pallet.
#[frame_support::pallet]
pub mod pallet {
    use frame_support::pallet_prelude::*;
    use frame_support::weights::Weight;
    use frame_system::pallet_prelude::*;

    use super::super::subtensor;

    const CALL_WEIGHT: Weight = Weight::from_parts(100_000_000, 0);

    /// What the pallet needs of the runtime.
    #[pallet::config]
    pub trait Config: frame_system::Config + subtensor::Config {}

    /// The pallet.
    #[pallet::pallet]
    pub struct Pallet<T>(_);

    /// Why a call failed.
    #[pallet::error]
    pub enum Error<T> {
        /// There is no such subnet.
        SubnetDoesNotExist,
    }

    impl<T: Config> Pallet<T> {
        fn root_for(origin: OriginFor<T>, netuid: u16) -> DispatchResult {
            ensure_root(origin)?;
            ensure!(subtensor::NetworksAdded::<T>::get(netuid), Error::<T>::SubnetDoesNotExist);
            Ok(())
        }
    }

    #[pallet::call]
    impl<T: Config> Pallet<T> {
        /// Sets `TxRateLimit`.
        #[pallet::call_index(2)]
        #[pallet::weight((CALL_WEIGHT, DispatchClass::Operational, Pays::No))]
        pub fn sudo_set_tx_rate_limit(origin: OriginFor<T>, tx_rate_limit: u64) -> DispatchResult {
            ensure_root(origin)?;
            subtensor::TxRateLimit::<T>::put(tx_rate_limit);
            Ok(())
        }

        /// Sets `ServingRateLimit`.
        #[pallet::call_index(3)]
        #[pallet::weight((CALL_WEIGHT, DispatchClass::Operational, Pays::No))]
        pub fn sudo_set_serving_rate_limit(
            origin: OriginFor<T>,
            netuid: u16,
            serving_rate_limit: u64,
        ) -> DispatchResult {
            Self::root_for(origin, netuid)?;
            subtensor::ServingRateLimit::<T>::insert(netuid, serving_rate_limit);
            Ok(())
        }

        /// Sets `WeightsVersionKey`.
        #[pallet::call_index(6)]
        #[pallet::weight((CALL_WEIGHT, DispatchClass::Operational, Pays::No))]
        pub fn sudo_set_weights_version_key(
            origin: OriginFor<T>,
            netuid: u16,
            weights_version_key: u64,
        ) -> DispatchResult {
            Self::root_for(origin, netuid)?;
            subtensor::WeightsVersionKey::<T>::insert(netuid, weights_version_key);
            Ok(())
        }

        /// Sets `WeightsSetRateLimit`.
        #[pallet::call_index(7)]
        #[pallet::weight((CALL_WEIGHT, DispatchClass::Operational, Pays::No))]
        pub fn sudo_set_weights_set_rate_limit(
            origin: OriginFor<T>,
            netuid: u16,
            weights_set_rate_limit: u64,
        ) -> DispatchResult {
            Self::root_for(origin, netuid)?;
            subtensor::WeightsSetRateLimit::<T>::insert(netuid, weights_set_rate_limit);
            Ok(())
        }

        /// Sets `AdjustmentInterval`.
        #[pallet::call_index(8)]
        #[pallet::weight((CALL_WEIGHT, DispatchClass::Operational, Pays::No))]
        pub fn sudo_set_adjustment_interval(
            origin: OriginFor<T>,
            netuid: u16,
            adjustment_interval: u16,
        ) -> DispatchResult {
            Self::root_for(origin, netuid)?;
            subtensor::AdjustmentInterval::<T>::insert(netuid, adjustment_interval);
            Ok(())
        }

        /// Sets `AdjustmentAlpha`.
        #[pallet::call_index(9)]
        #[pallet::weight((CALL_WEIGHT, DispatchClass::Operational, Pays::No))]
        pub fn sudo_set_adjustment_alpha(
            origin: OriginFor<T>,
            netuid: u16,
            adjustment_alpha: u64,
        ) -> DispatchResult {
            Self::root_for(origin, netuid)?;
            subtensor::AdjustmentAlpha::<T>::insert(netuid, adjustment_alpha);
            Ok(())
        }

        /// Sets `ImmunityPeriod`.
        #[pallet::call_index(13)]
        #[pallet::weight((CALL_WEIGHT, DispatchClass::Operational, Pays::No))]
        pub fn sudo_set_immunity_period(
            origin: OriginFor<T>,
            netuid: u16,
            immunity_period: u16,
        ) -> DispatchResult {
            Self::root_for(origin, netuid)?;
            subtensor::ImmunityPeriod::<T>::insert(netuid, immunity_period);
            Ok(())
        }

        /// Sets `MinAllowedWeights`.
        #[pallet::call_index(14)]
        #[pallet::weight((CALL_WEIGHT, DispatchClass::Operational, Pays::No))]
        pub fn sudo_set_min_allowed_weights(
            origin: OriginFor<T>,
            netuid: u16,
            min_allowed_weights: u16,
        ) -> DispatchResult {
            Self::root_for(origin, netuid)?;
            subtensor::MinAllowedWeights::<T>::insert(netuid, min_allowed_weights);
            Ok(())
        }

        /// Sets `MaxAllowedUids`.
        #[pallet::call_index(15)]
        #[pallet::weight((CALL_WEIGHT, DispatchClass::Operational, Pays::No))]
        pub fn sudo_set_max_allowed_uids(
            origin: OriginFor<T>,
            netuid: u16,
            max_allowed_uids: u16,
        ) -> DispatchResult {
            Self::root_for(origin, netuid)?;
            subtensor::MaxAllowedUids::<T>::insert(netuid, max_allowed_uids);
            Ok(())
        }

        /// Sets `Kappa`.
        #[pallet::call_index(16)]
        #[pallet::weight((CALL_WEIGHT, DispatchClass::Operational, Pays::No))]
        pub fn sudo_set_kappa(origin: OriginFor<T>, netuid: u16, kappa: u16) -> DispatchResult {
            Self::root_for(origin, netuid)?;
            subtensor::Kappa::<T>::insert(netuid, kappa);
            Ok(())
        }

        /// Sets the activity cutoff.
        #[pallet::call_index(18)]
        #[pallet::weight((CALL_WEIGHT, DispatchClass::Operational, Pays::No))]
        pub fn sudo_set_activity_cutoff(
            origin: OriginFor<T>,
            netuid: u16,
            activity_cutoff: u16,
        ) -> DispatchResult {
            Self::root_for(origin, netuid)?;
            subtensor::Pallet::<T>::put_activity_cutoff(netuid, activity_cutoff);
            Ok(())
        }

        /// Sets `NetworkRegistrationAllowed`.
        #[pallet::call_index(19)]
        #[pallet::weight((CALL_WEIGHT, DispatchClass::Operational, Pays::No))]
        pub fn sudo_set_network_registration_allowed(
            origin: OriginFor<T>,
            netuid: u16,
            registration_allowed: bool,
        ) -> DispatchResult {
            Self::root_for(origin, netuid)?;
            subtensor::NetworkRegistrationAllowed::<T>::insert(netuid, registration_allowed);
            Ok(())
        }

        /// Sets `TargetRegistrationsPerInterval`.
        #[pallet::call_index(21)]
        #[pallet::weight((CALL_WEIGHT, DispatchClass::Operational, Pays::No))]
        pub fn sudo_set_target_registrations_per_interval(
            origin: OriginFor<T>,
            netuid: u16,
            target_registrations_per_interval: u16,
        ) -> DispatchResult {
            Self::root_for(origin, netuid)?;
            subtensor::TargetRegistrationsPerInterval::<T>::insert(
                netuid,
                target_registrations_per_interval,
            );
            Ok(())
        }

        /// Sets `MinBurn`.
        #[pallet::call_index(22)]
        #[pallet::weight((CALL_WEIGHT, DispatchClass::Operational, Pays::No))]
        pub fn sudo_set_min_burn(
            origin: OriginFor<T>,
            netuid: u16,
            min_burn: u64,
        ) -> DispatchResult {
            Self::root_for(origin, netuid)?;
            subtensor::MinBurn::<T>::insert(netuid, min_burn);
            Ok(())
        }

        /// Sets `MaxBurn`.
        #[pallet::call_index(23)]
        #[pallet::weight((CALL_WEIGHT, DispatchClass::Operational, Pays::No))]
        pub fn sudo_set_max_burn(
            origin: OriginFor<T>,
            netuid: u16,
            max_burn: u64,
        ) -> DispatchResult {
            Self::root_for(origin, netuid)?;
            subtensor::MaxBurn::<T>::insert(netuid, max_burn);
            Ok(())
        }

        /// Sets `MaxAllowedValidators`.
        #[pallet::call_index(25)]
        #[pallet::weight((CALL_WEIGHT, DispatchClass::Operational, Pays::No))]
        pub fn sudo_set_max_allowed_validators(
            origin: OriginFor<T>,
            netuid: u16,
            max_allowed_validators: u16,
        ) -> DispatchResult {
            Self::root_for(origin, netuid)?;
            subtensor::MaxAllowedValidators::<T>::insert(netuid, max_allowed_validators);
            Ok(())
        }

        /// Sets `BondsMovingAverage`.
        #[pallet::call_index(26)]
        #[pallet::weight((CALL_WEIGHT, DispatchClass::Operational, Pays::No))]
        pub fn sudo_set_bonds_moving_average(
            origin: OriginFor<T>,
            netuid: u16,
            bonds_moving_average: u64,
        ) -> DispatchResult {
            Self::root_for(origin, netuid)?;
            subtensor::BondsMovingAverage::<T>::insert(netuid, bonds_moving_average);
            Ok(())
        }

        /// Sets `MaxRegistrationsPerBlock`.
        #[pallet::call_index(27)]
        #[pallet::weight((CALL_WEIGHT, DispatchClass::Operational, Pays::No))]
        pub fn sudo_set_max_registrations_per_block(
            origin: OriginFor<T>,
            netuid: u16,
            max_registrations_per_block: u16,
        ) -> DispatchResult {
            Self::root_for(origin, netuid)?;
            subtensor::MaxRegistrationsPerBlock::<T>::insert(netuid, max_registrations_per_block);
            Ok(())
        }

        /// Sets `SubnetOwnerCut`.
        #[pallet::call_index(28)]
        #[pallet::weight((CALL_WEIGHT, DispatchClass::Operational, Pays::No))]
        pub fn sudo_set_subnet_owner_cut(
            origin: OriginFor<T>,
            subnet_owner_cut: u16,
        ) -> DispatchResult {
            ensure_root(origin)?;
            subtensor::SubnetOwnerCut::<T>::put(subnet_owner_cut);
            Ok(())
        }

        /// Sets `NetworkRateLimit`.
        #[pallet::call_index(29)]
        #[pallet::weight((CALL_WEIGHT, DispatchClass::Operational, Pays::No))]
        pub fn sudo_set_network_rate_limit(
            origin: OriginFor<T>,
            rate_limit: u64,
        ) -> DispatchResult {
            ensure_root(origin)?;
            subtensor::NetworkRateLimit::<T>::put(rate_limit);
            Ok(())
        }

        /// Sets `Tempo`.
        #[pallet::call_index(30)]
        #[pallet::weight((CALL_WEIGHT, DispatchClass::Operational, Pays::No))]
        pub fn sudo_set_tempo(origin: OriginFor<T>, netuid: u16, tempo: u16) -> DispatchResult {
            Self::root_for(origin, netuid)?;
            subtensor::Pallet::<T>::put_tempo(netuid, tempo);
            Ok(())
        }

        /// Sets `NetworkMinLockCost`.
        #[pallet::call_index(36)]
        #[pallet::weight((CALL_WEIGHT, DispatchClass::Operational, Pays::No))]
        pub fn sudo_set_network_min_lock_cost(
            origin: OriginFor<T>,
            lock_cost: u64,
        ) -> DispatchResult {
            ensure_root(origin)?;
            subtensor::NetworkMinLockCost::<T>::put(lock_cost);
            Ok(())
        }

        /// Sets `SubnetLimit`.
        #[pallet::call_index(37)]
        #[pallet::weight((CALL_WEIGHT, DispatchClass::Operational, Pays::No))]
        pub fn sudo_set_subnet_limit(origin: OriginFor<T>, max_subnets: u16) -> DispatchResult {
            ensure_root(origin)?;
            subtensor::SubnetLimit::<T>::put(max_subnets);
            Ok(())
        }

        /// Sets `NetworkLockReductionInterval`.
        #[pallet::call_index(38)]
        #[pallet::weight((CALL_WEIGHT, DispatchClass::Operational, Pays::No))]
        pub fn sudo_set_lock_reduction_interval(
            origin: OriginFor<T>,
            interval: u64,
        ) -> DispatchResult {
            ensure_root(origin)?;
            subtensor::NetworkLockReductionInterval::<T>::put(interval);
            Ok(())
        }

        /// Sets `StakeThreshold`.
        #[pallet::call_index(42)]
        #[pallet::weight((CALL_WEIGHT, DispatchClass::Operational, Pays::No))]
        pub fn sudo_set_stake_threshold(origin: OriginFor<T>, min_stake: u64) -> DispatchResult {
            ensure_root(origin)?;
            subtensor::StakeThreshold::<T>::put(min_stake);
            Ok(())
        }

        /// Sets `CommitRevealWeightsEnabled`.
        #[pallet::call_index(49)]
        #[pallet::weight((CALL_WEIGHT, DispatchClass::Operational, Pays::No))]
        pub fn sudo_set_commit_reveal_weights_enabled(
            origin: OriginFor<T>,
            netuid: u16,
            enabled: bool,
        ) -> DispatchResult {
            Self::root_for(origin, netuid)?;
            subtensor::CommitRevealWeightsEnabled::<T>::insert(netuid, enabled);
            Ok(())
        }

        /// Sets `RevealPeriodEpochs`.
        #[pallet::call_index(57)]
        #[pallet::weight((CALL_WEIGHT, DispatchClass::Operational, Pays::No))]
        pub fn sudo_set_commit_reveal_weights_interval(
            origin: OriginFor<T>,
            netuid: u16,
            interval: u64,
        ) -> DispatchResult {
            Self::root_for(origin, netuid)?;
            subtensor::Pallet::<T>::do_set_reveal_period(netuid, interval)
        }

        /// Sets `BondsPenalty`.
        #[pallet::call_index(60)]
        #[pallet::weight((CALL_WEIGHT, DispatchClass::Operational, Pays::No))]
        pub fn sudo_set_bonds_penalty(
            origin: OriginFor<T>,
            netuid: u16,
            bonds_penalty: u16,
        ) -> DispatchResult {
            Self::root_for(origin, netuid)?;
            subtensor::BondsPenalty::<T>::insert(netuid, bonds_penalty);
            Ok(())
        }

        /// Sets `SubtokenEnabled`.
        #[pallet::call_index(66)]
        #[pallet::weight((CALL_WEIGHT, DispatchClass::Operational, Pays::No))]
        pub fn sudo_set_subtoken_enabled(
            origin: OriginFor<T>,
            netuid: u16,
            subtoken_enabled: bool,
        ) -> DispatchResult {
            Self::root_for(origin, netuid)?;
            subtensor::SubtokenEnabled::<T>::insert(netuid, subtoken_enabled);
            Ok(())
        }

        /// Sets `AdminFreezeWindow`.
        #[pallet::call_index(74)]
        #[pallet::weight((CALL_WEIGHT, DispatchClass::Operational, Pays::No))]
        pub fn sudo_set_admin_freeze_window(origin: OriginFor<T>, window: u16) -> DispatchResult {
            ensure_root(origin)?;
            subtensor::AdminFreezeWindow::<T>::put(window);
            Ok(())
        }

        /// Sets `CommitRevealWeightsVersion`.
        #[pallet::call_index(71)]
        #[pallet::weight((CALL_WEIGHT, DispatchClass::Operational, Pays::No))]
        pub fn sudo_set_commit_reveal_version(
            origin: OriginFor<T>,
            version: u16,
        ) -> DispatchResult {
            ensure_root(origin)?;
            subtensor::CommitRevealWeightsVersion::<T>::put(version);
            subtensor::Pallet::<T>::deposit_event(subtensor::Event::CommitRevealVersionSet(
                version,
            ));
            Ok(())
        }

        /// Sets how many mechanisms a subnet has; those that are taken away are wiped.
        #[pallet::call_index(76)]
        #[pallet::weight((CALL_WEIGHT, DispatchClass::Operational, Pays::No))]
        pub fn sudo_set_mechanism_count(
            origin: OriginFor<T>,
            netuid: u16,
            mechanism_count: u8,
        ) -> DispatchResult {
            ensure_root(origin)?;
            subtensor::Pallet::<T>::do_set_mechanism_count(netuid, mechanism_count)
        }

        /// Sets how the emission is split between a subnet's mechanisms: parts that sum up to 65535, or equally.
        #[pallet::call_index(77)]
        #[pallet::weight((CALL_WEIGHT, DispatchClass::Operational, Pays::No))]
        pub fn sudo_set_mechanism_emission_split(
            origin: OriginFor<T>,
            netuid: u16,
            maybe_split: Option<Vec<u16>>,
        ) -> DispatchResult {
            ensure_root(origin)?;
            subtensor::Pallet::<T>::do_set_emission_split(netuid, maybe_split)
        }
    }
}
