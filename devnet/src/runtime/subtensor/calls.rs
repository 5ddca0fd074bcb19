//! The calls that this chain takes, with their real indices and arguments; specs do not differ in them.

use frame_support::pallet_macros::pallet_section;

/// Defines the calls.
#[pallet_section]
mod calls {
    #[pallet::call]
    impl<T: Config> Pallet<T> {
        /// Sets the weights of the signing hotkey in a subnet without commit-reveal.
        #[pallet::call_index(0)]
        #[pallet::weight((CALL_WEIGHT, DispatchClass::Normal, Pays::No))]
        pub fn set_weights(
            origin: OriginFor<T>,
            netuid: u16,
            dests: Vec<u16>,
            weights: Vec<u16>,
            version_key: u64,
        ) -> DispatchResult {
            let hotkey = ensure_signed(origin)?;
            Self::do_set_weights(hotkey, netuid, 0, dests, weights, version_key)
        }

        /// Sets the weights of the signing hotkey for one of a subnet's mechanisms.
        #[pallet::call_index(119)]
        #[pallet::weight((CALL_WEIGHT, DispatchClass::Normal, Pays::No))]
        pub fn set_mechanism_weights(
            origin: OriginFor<T>,
            netuid: u16,
            mecid: u8,
            dests: Vec<u16>,
            weights: Vec<u16>,
            version_key: u64,
        ) -> DispatchResult {
            let hotkey = ensure_signed(origin)?;
            Self::do_set_weights(hotkey, netuid, mecid, dests, weights, version_key)
        }

        /// Sets weights in several subnets at once. It succeeds whatever fails in it: events tell.
        #[pallet::call_index(80)]
        #[pallet::weight((CALL_WEIGHT, DispatchClass::Normal, Pays::No))]
        pub fn batch_set_weights(
            origin: OriginFor<T>,
            netuids: Vec<Compact<u16>>,
            weights: Vec<Vec<(Compact<u16>, Compact<u16>)>>,
            version_keys: Vec<Compact<u64>>,
        ) -> DispatchResult {
            let hotkey = ensure_signed(origin)?;
            Self::do_batch_set_weights(hotkey, netuids, weights, &version_keys)
        }

        /// Commits to weights by their hash.
        #[pallet::call_index(96)]
        #[pallet::weight((CALL_WEIGHT, DispatchClass::Normal, Pays::No))]
        pub fn commit_weights(
            origin: OriginFor<T>,
            netuid: u16,
            commit_hash: H256,
        ) -> DispatchResult {
            let hotkey = ensure_signed(origin)?;
            Self::do_commit_weights(hotkey, netuid, 0, commit_hash)
        }

        /// Commits to weights for one of a subnet's mechanisms by their hash.
        #[pallet::call_index(115)]
        #[pallet::weight((CALL_WEIGHT, DispatchClass::Normal, Pays::No))]
        pub fn commit_mechanism_weights(
            origin: OriginFor<T>,
            netuid: u16,
            mecid: u8,
            commit_hash: H256,
        ) -> DispatchResult {
            let hotkey = ensure_signed(origin)?;
            Self::do_commit_weights(hotkey, netuid, mecid, commit_hash)
        }

        /// Commits to weights in several subnets at once. It succeeds whatever fails in it: events tell.
        #[pallet::call_index(100)]
        #[pallet::weight((CALL_WEIGHT, DispatchClass::Normal, Pays::No))]
        pub fn batch_commit_weights(
            origin: OriginFor<T>,
            netuids: Vec<Compact<u16>>,
            commit_hashes: Vec<H256>,
        ) -> DispatchResult {
            let hotkey = ensure_signed(origin)?;
            Self::do_batch_commit_weights(hotkey, netuids, &commit_hashes)
        }

        /// Reveals weights that were committed by their hash, in the one epoch where that is allowed.
        #[pallet::call_index(97)]
        #[pallet::weight((CALL_WEIGHT, DispatchClass::Normal, Pays::No))]
        pub fn reveal_weights(
            origin: OriginFor<T>,
            netuid: u16,
            uids: Vec<u16>,
            values: Vec<u16>,
            salt: Vec<u16>,
            version_key: u64,
        ) -> DispatchResult {
            let hotkey = ensure_signed(origin)?;
            let revealed = Revealed { uids, values, salt, version_key };
            Self::do_reveal_weights(hotkey, netuid, 0, revealed)
        }

        /// The same for one of a subnet's mechanisms.
        #[pallet::call_index(116)]
        #[pallet::weight((CALL_WEIGHT, DispatchClass::Normal, Pays::No))]
        pub fn reveal_mechanism_weights(
            origin: OriginFor<T>,
            netuid: u16,
            mecid: u8,
            uids: Vec<u16>,
            values: Vec<u16>,
            salt: Vec<u16>,
            version_key: u64,
        ) -> DispatchResult {
            let hotkey = ensure_signed(origin)?;
            let revealed = Revealed { uids, values, salt, version_key };
            Self::do_reveal_weights(hotkey, netuid, mecid, revealed)
        }

        /// Reveals several commitments of one subnet, all or none.
        #[pallet::call_index(98)]
        #[pallet::weight((CALL_WEIGHT, DispatchClass::Normal, Pays::No))]
        pub fn batch_reveal_weights(
            origin: OriginFor<T>,
            netuid: u16,
            uids_list: Vec<Vec<u16>>,
            values_list: Vec<Vec<u16>>,
            salts_list: Vec<Vec<u16>>,
            version_keys: Vec<u64>,
        ) -> DispatchResult {
            let hotkey = ensure_signed(origin)?;
            let lengths = [values_list.len(), salts_list.len(), version_keys.len()];
            ensure!(lengths == [uids_list.len(); 3], Error::<T>::InputLengthsUnequal);
            let weights = uids_list.into_iter().zip(values_list);
            let rest = salts_list.into_iter().zip(version_keys);
            let all = weights.zip(rest).map(|((uids, values), (salt, version_key))| Revealed {
                uids,
                values,
                salt,
                version_key,
            });
            Self::do_batch_reveal_weights(hotkey, netuid, all.collect())
        }

        /// Commits to weights that the chain opens by itself once the beacon has signed `reveal_round`.
        #[pallet::call_index(113)]
        #[pallet::weight((CALL_WEIGHT, DispatchClass::Normal, Pays::No))]
        pub fn commit_timelocked_weights(
            origin: OriginFor<T>,
            netuid: u16,
            commit: Ciphertext,
            reveal_round: u64,
            commit_reveal_version: u16,
        ) -> DispatchResult {
            let hotkey = ensure_signed(origin)?;
            Self::do_commit_timelocked_weights(
                hotkey,
                netuid,
                0,
                commit,
                reveal_round,
                commit_reveal_version,
            )
        }

        /// The same for one of a subnet's mechanisms, with version 4.
        #[pallet::call_index(117)]
        #[pallet::weight((CALL_WEIGHT, DispatchClass::Normal, Pays::No))]
        pub fn commit_crv3_mechanism_weights(
            origin: OriginFor<T>,
            netuid: u16,
            mecid: u8,
            commit: Ciphertext,
            reveal_round: u64,
        ) -> DispatchResult {
            let hotkey = ensure_signed(origin)?;
            Self::do_commit_timelocked_weights(hotkey, netuid, mecid, commit, reveal_round, 4)
        }

        /// The same for one of a subnet's mechanisms.
        #[pallet::call_index(118)]
        #[pallet::weight((CALL_WEIGHT, DispatchClass::Normal, Pays::No))]
        pub fn commit_timelocked_mechanism_weights(
            origin: OriginFor<T>,
            netuid: u16,
            mecid: u8,
            commit: Ciphertext,
            reveal_round: u64,
            commit_reveal_version: u16,
        ) -> DispatchResult {
            let hotkey = ensure_signed(origin)?;
            Self::do_commit_timelocked_weights(
                hotkey,
                netuid,
                mecid,
                commit,
                reveal_round,
                commit_reveal_version,
            )
        }

        /// Stakes rao of the signing coldkey on a hotkey: one rao becomes one rao of alpha.
        #[pallet::call_index(2)]
        #[pallet::weight(CALL_WEIGHT)]
        pub fn add_stake(
            origin: OriginFor<T>,
            hotkey: T::AccountId,
            netuid: u16,
            amount_staked: u64,
        ) -> DispatchResult {
            let coldkey = ensure_signed(origin)?;
            Self::do_add_stake(coldkey, hotkey, netuid, amount_staked)
        }

        /// Takes stake back: one rao of alpha becomes one rao.
        #[pallet::call_index(3)]
        #[pallet::weight(CALL_WEIGHT)]
        pub fn remove_stake(
            origin: OriginFor<T>,
            hotkey: T::AccountId,
            netuid: u16,
            amount_unstaked: u64,
        ) -> DispatchResult {
            let coldkey = ensure_signed(origin)?;
            Self::do_remove_stake(coldkey, hotkey, netuid, amount_unstaked)
        }

        /// Announces where the signing hotkey serves.
        #[pallet::call_index(4)]
        #[pallet::weight((CALL_WEIGHT, DispatchClass::Normal, Pays::No))]
        #[expect(clippy::too_many_arguments, reason = "the real call has as many")]
        pub fn serve_axon(
            origin: OriginFor<T>,
            netuid: u16,
            version: u32,
            ip: u128,
            port: u16,
            ip_type: u8,
            protocol: u8,
            placeholder1: u8,
            placeholder2: u8,
        ) -> DispatchResult {
            let hotkey = ensure_signed(origin)?;
            let axon = AxonInfo {
                block: Self::now(),
                version,
                ip,
                port,
                ip_type,
                protocol,
                placeholder1,
                placeholder2,
            };
            Self::do_serve_axon(hotkey, netuid, axon)
        }

        /// Announces where the signing hotkey's metrics are.
        #[pallet::call_index(5)]
        #[pallet::weight((CALL_WEIGHT, DispatchClass::Normal, Pays::No))]
        pub fn serve_prometheus(
            origin: OriginFor<T>,
            netuid: u16,
            version: u32,
            ip: u128,
            port: u16,
            ip_type: u8,
        ) -> DispatchResult {
            let hotkey = ensure_signed(origin)?;
            let info = PrometheusInfo { block: Self::now(), version, ip, port, ip_type };
            Self::do_serve_prometheus(hotkey, netuid, info)
        }

        /// Gives a hotkey of the signing coldkey a uid; the price is burned.
        #[pallet::call_index(7)]
        #[pallet::weight(CALL_WEIGHT)]
        pub fn burned_register(
            origin: OriginFor<T>,
            netuid: u16,
            hotkey: T::AccountId,
        ) -> DispatchResult {
            let coldkey = ensure_signed(origin)?;
            Self::do_burned_register(coldkey, netuid, hotkey)
        }

        /// Creates a subnet that the signing coldkey owns; its hotkey gets uid 0.
        #[pallet::call_index(59)]
        #[pallet::weight(CALL_WEIGHT)]
        pub fn register_network(origin: OriginFor<T>, hotkey: T::AccountId) -> DispatchResult {
            let coldkey = ensure_signed(origin)?;
            Self::do_register_network(coldkey, hotkey)
        }

        /// Stakes as `add_stake` does if alpha costs no more than `limit_price`, in rao. It always costs one TAO here.
        #[pallet::call_index(88)]
        #[pallet::weight(CALL_WEIGHT)]
        pub fn add_stake_limit(
            origin: OriginFor<T>,
            hotkey: T::AccountId,
            netuid: u16,
            amount_staked: u64,
            limit_price: u64,
            allow_partial: bool,
        ) -> DispatchResult {
            let coldkey = ensure_signed(origin)?;
            // The price does not move, so there is no part that could be exchanged below the limit.
            let _ = allow_partial;
            ensure!(limit_price >= Self::alpha_price(netuid), Error::<T>::SlippageTooHigh);
            Self::do_add_stake(coldkey, hotkey, netuid, amount_staked)
        }

        /// Gives a hotkey of the signing coldkey a place in the root network.
        #[pallet::call_index(62)]
        #[pallet::weight((CALL_WEIGHT, DispatchClass::Normal, Pays::No))]
        pub fn root_register(origin: OriginFor<T>, hotkey: T::AccountId) -> DispatchResult {
            let coldkey = ensure_signed(origin)?;
            Self::do_root_register(coldkey, hotkey)
        }

        /// Starts a subnet: from the next block on it takes stake and emits.
        #[pallet::call_index(92)]
        #[pallet::weight((CALL_WEIGHT, DispatchClass::Normal, Pays::No))]
        pub fn start_call(origin: OriginFor<T>, netuid: u16) -> DispatchResult {
            let coldkey = ensure_signed(origin)?;
            Self::do_start_call(coldkey, netuid)
        }
    }
}
