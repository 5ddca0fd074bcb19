//! Runtime APIs that the official Python SDK and `btcli` call besides.

use std::collections::BTreeMap;

use sp_runtime::AccountId32;

use super::subtensor::info::{SimSwapResult, StakeAvailability, StakeInfo, SubnetPrice};

sp_api::decl_runtime_apis! {
    /// Who has staked what.
    pub trait StakeInfoRuntimeApi {
        /// All that a coldkey has staked.
        fn get_stake_info_for_coldkey(coldkey_account: AccountId32) -> Vec<StakeInfo<AccountId32>>;
        /// The same for several coldkeys.
        fn get_stake_info_for_coldkeys(coldkey_accounts: Vec<AccountId32>) -> Vec<(AccountId32, Vec<StakeInfo<AccountId32>>)>;
        /// What a coldkey has on a hotkey in a subnet.
        fn get_stake_info_for_hotkey_coldkey_netuid(hotkey_account: AccountId32, coldkey_account: AccountId32, netuid: u16) -> Option<StakeInfo<AccountId32>>;
        /// What moving stake costs; nothing here.
        fn get_stake_fee(origin: Option<(AccountId32, u16)>, origin_coldkey_account: AccountId32, destination: Option<(AccountId32, u16)>, destination_coldkey_account: AccountId32, amount: u64) -> u64;
        /// How much stake is free. Of newer runtimes.
        fn get_stake_availability_for_coldkeys(coldkey_accounts: Vec<AccountId32>, netuids: Vec<u16>) -> BTreeMap<AccountId32, BTreeMap<u16, StakeAvailability>>;
    }

    /// What alpha costs.
    pub trait SwapRuntimeApi {
        /// In rao per alpha.
        fn current_alpha_price(netuid: u16) -> u64;
        /// Of every subnet. Of newer runtimes.
        fn current_alpha_price_all() -> Vec<SubnetPrice>;
        /// What a payment would bring.
        fn sim_swap_tao_for_alpha(netuid: u16, tao: u64) -> SimSwapResult;
        /// What a sale would bring.
        fn sim_swap_alpha_for_tao(netuid: u16, alpha: u64) -> SimSwapResult;
    }

    /// For the block producer: transactions that are sealed inside others.
    pub trait ShieldApi {
        /// What a transaction carries, if it is a carrier.
        fn carried(uxt: Block::Extrinsic) -> Option<Vec<u8>>;
    }

    /// Baskets of root stakers, of newer runtimes. This chain has none.
    pub trait BetaBasketRuntimeApi {
        /// What a coldkey could claim, in rao.
        fn get_root_basket_owed(coldkey: AccountId32) -> u64;
        /// By hotkey: tokens and what they would pay, in rao.
        fn get_root_basket_positions(coldkey: AccountId32) -> Vec<(AccountId32, u128, u64)>;
    }
}
