//! A runtime: FRAME compiled natively, with the pallets and indices of Bittensor's. It is compiled once for each spec;
//! what specs do not have alike is in the module `layout` beside it.

pub mod admin;
pub mod aura;
pub mod commitments;
pub mod drand;
pub mod extensions;
pub mod genesis;
pub mod mev_shield;
pub mod read;
pub mod sdk_apis;
pub mod subtensor;
pub mod sudo;
pub mod yuma;

use std::collections::BTreeMap;

use frame_support::derive_impl;
use frame_support::dispatch::DispatchClass;
use frame_support::traits::{ConstU8, ConstU16, ConstU32, ConstU64, VariantCountOf};
use frame_support::weights::{Weight, WeightToFee};
use frame_system::limits::{BlockLength, BlockWeights};
use pallet_transaction_payment::{FeeDetails, FungibleAdapter, RuntimeDispatchInfo};
use sp_api::impl_runtime_apis;
use sp_core::{H256, OpaqueMetadata};
use sp_inherents::{CheckInherentsResult, InherentData};
use sp_runtime::traits::{BlakeTwo256, Block as BlockT};
use sp_runtime::transaction_validity::{TransactionSource, TransactionValidity};
use sp_runtime::{
    AccountId32, ApplyExtrinsicResult, ExtrinsicInclusionMode, MultiAddress, MultiSignature,
    Perbill, generic,
};
use sp_version::RuntimeVersion;

pub use super::layout::{self, SPEC_VERSION, TxExtensions};

use self::subtensor::info::{
    HyperparamEntry, Metagraph, NeuronInfoLite, SelectiveMetagraph, SimSwapResult,
    StakeAvailability, StakeInfo, SubnetHyperparamsV2, SubnetPrice,
};

/// How accounts are named.
pub type AccountId = AccountId32;
/// Rao: 10^-9 TAO.
pub type Balance = u64;
/// A block's header.
pub type Header = generic::Header<u32, BlakeTwo256>;
/// A block.
pub type Block = generic::Block<Header, UncheckedExtrinsic>;
/// A transaction as it is submitted.
pub type UncheckedExtrinsic = generic::UncheckedExtrinsic<
    MultiAddress<AccountId, ()>,
    RuntimeCall,
    MultiSignature,
    TxExtensions,
>;
type Executive = frame_executive::Executive<
    Runtime,
    Block,
    frame_system::ChainContext<Runtime>,
    Runtime,
    AllPalletsWithSystem,
>;

/// The runtime's version before any upgrade.
pub const VERSION: RuntimeVersion = RuntimeVersion {
    spec_name: alloc::borrow::Cow::Borrowed("node-subtensor"),
    impl_name: alloc::borrow::Cow::Borrowed("node-subtensor"),
    authoring_version: 1,
    spec_version: SPEC_VERSION,
    impl_version: 1,
    apis: RUNTIME_API_VERSIONS,
    transaction_version: 1,
    system_version: 1,
};

#[frame_support::runtime]
mod runtime {
    /// Everything together.
    #[runtime::runtime]
    #[runtime::derive(
        RuntimeCall,
        RuntimeEvent,
        RuntimeError,
        RuntimeOrigin,
        RuntimeFreezeReason,
        RuntimeHoldReason,
        RuntimeSlashReason,
        RuntimeLockId,
        RuntimeTask,
        RuntimeViewFunction
    )]
    pub struct Runtime;

    #[runtime::pallet_index(0)]
    pub type System = frame_system;
    #[runtime::pallet_index(2)]
    pub type Timestamp = pallet_timestamp;
    #[runtime::pallet_index(3)]
    pub type Aura = aura;
    #[runtime::pallet_index(5)]
    pub type Balances = pallet_balances;
    #[runtime::pallet_index(6)]
    pub type TransactionPayment = pallet_transaction_payment;
    #[runtime::pallet_index(7)]
    pub type SubtensorModule = subtensor;
    #[runtime::pallet_index(12)]
    pub type Sudo = sudo;
    #[runtime::pallet_index(18)]
    pub type Commitments = commitments;
    #[runtime::pallet_index(19)]
    pub type AdminUtils = admin;
    #[runtime::pallet_index(26)]
    pub type Drand = drand;
    #[runtime::pallet_index(30)]
    pub type MevShield = mev_shield;
}

frame_support::parameter_types! {
    /// 4 s of work, three quarters of it for transactions.
    pub Weights: BlockWeights =
        BlockWeights::with_sensible_defaults(Weight::from_parts(4_000_000_000_000, u64::MAX), Perbill::from_percent(75));
    /// 10 MiB, three quarters of it for transactions.
    pub Length: BlockLength = BlockLength::builder()
        .max_length(10 * 1024 * 1024)
        .modify_max_length_for_class(DispatchClass::Normal, |length| *length = 7_864_320)
        .build();
}

/// The storage key of how many times the runtime was upgraded; each raises the spec's number by one.
pub const UPGRADES_KEY: &[u8] = b":touchstone:upgrades";

/// The runtime's version at the present block.
#[derive(Debug)]
pub struct Version;

impl frame_support::traits::Get<RuntimeVersion> for Version {
    fn get() -> RuntimeVersion {
        let upgrades = frame_support::storage::unhashed::get_or_default::<u32>(UPGRADES_KEY);
        RuntimeVersion { spec_version: SPEC_VERSION.saturating_add(upgrades), ..VERSION }
    }
}

#[derive_impl(frame_system::config_preludes::SolochainDefaultConfig)]
impl frame_system::Config for Runtime {
    type Block = Block;
    type Lookup = sp_runtime::traits::AccountIdLookup<AccountId, ()>;
    type AccountData = pallet_balances::AccountData<Balance>;
    type Version = Version;
    type BlockHashCount = ConstU32<2400>;
    type BlockWeights = Weights;
    type BlockLength = Length;
    type SS58Prefix = ConstU16<42>;
}

#[derive_impl(pallet_timestamp::config_preludes::TestDefaultConfig)]
impl pallet_timestamp::Config for Runtime {}

impl aura::Config for Runtime {
    type SlotDuration = aura::SlotDuration;
}

#[derive_impl(pallet_balances::config_preludes::TestDefaultConfig)]
impl pallet_balances::Config for Runtime {
    type AccountStore = System;
    type Balance = Balance;
    type ExistentialDeposit = ConstU64<500>;
    type ReserveIdentifier = [u8; 8];
    type MaxFreezes = VariantCountOf<RuntimeFreezeReason>;
}

/// A fee of 5000 rao for a call, whatever it does.
#[derive(Debug)]
pub struct Fee;

impl WeightToFee for Fee {
    type Balance = Balance;

    fn weight_to_fee(weight: &Weight) -> Balance {
        weight.ref_time() / 20_000
    }
}

/// One rao per byte.
#[derive(Debug)]
pub struct LengthFee;

impl WeightToFee for LengthFee {
    type Balance = Balance;

    fn weight_to_fee(length: &Weight) -> Balance {
        length.ref_time()
    }
}

#[derive_impl(pallet_transaction_payment::config_preludes::TestDefaultConfig)]
impl pallet_transaction_payment::Config for Runtime {
    type OnChargeTransaction = FungibleAdapter<Balances, ()>;
    type WeightToFee = Fee;
    type LengthToFee = LengthFee;
    type OperationalFeeMultiplier = ConstU8<5>;
}

impl subtensor::Config for Runtime {
    // What the official local chain with fast blocks has; 50400 on mainnet.
    type DurationOfStartCall = ConstU64<10>;
}

impl sudo::Config for Runtime {
    type AnyCall = RuntimeCall;
}

impl commitments::Config for Runtime {}

impl drand::Config for Runtime {}
impl mev_shield::Config for Runtime {}

impl admin::Config for Runtime {}

sp_api::decl_runtime_apis! {
    /// Neurons, one by one.
    pub trait NeuronInfoRuntimeApi {
        /// All neurons of a subnet, without weights and bonds.
        fn get_neurons_lite(netuid: u16) -> Vec<NeuronInfoLite<AccountId32>>;
        /// One neuron, without weights and bonds.
        fn get_neuron_lite(netuid: u16, uid: u16) -> Option<NeuronInfoLite<AccountId32>>;
    }

    /// What a subnet costs.
    pub trait SubnetRegistrationRuntimeApi {
        /// In rao, now.
        fn get_network_registration_cost() -> u64;
    }
}

/// Implements all functions; `more` are those of `SubnetInfoRuntimeApi` that only some specs have.
macro_rules! implement {
    ($($more:tt)*) => {
impl_runtime_apis! {
    impl sp_api::Core<Block> for Runtime {
        fn version() -> RuntimeVersion {
            <Version as frame_support::traits::Get<_>>::get()
        }

        fn execute_block(block: <Block as BlockT>::LazyBlock) {
            Executive::execute_block(block)
        }

        fn initialize_block(header: &Header) -> ExtrinsicInclusionMode {
            Executive::initialize_block(header)
        }
    }

    impl sp_api::Metadata<Block> for Runtime {
        fn metadata() -> OpaqueMetadata {
            OpaqueMetadata::new(Runtime::metadata().into())
        }

        fn metadata_at_version(version: u32) -> Option<OpaqueMetadata> {
            Runtime::metadata_at_version(version)
        }

        fn metadata_versions() -> Vec<u32> {
            Runtime::metadata_versions()
        }
    }

    impl sp_block_builder::BlockBuilder<Block> for Runtime {
        fn apply_extrinsic(extrinsic: UncheckedExtrinsic) -> ApplyExtrinsicResult {
            Executive::apply_extrinsic(extrinsic)
        }

        fn finalize_block() -> Header {
            Executive::finalize_block()
        }

        fn inherent_extrinsics(data: InherentData) -> Vec<UncheckedExtrinsic> {
            data.create_extrinsics()
        }

        fn check_inherents(block: <Block as BlockT>::LazyBlock, data: InherentData) -> CheckInherentsResult {
            data.check_extrinsics(&block)
        }
    }

    impl sp_transaction_pool::runtime_api::TaggedTransactionQueue<Block> for Runtime {
        fn validate_transaction(
            source: TransactionSource,
            tx: UncheckedExtrinsic,
            block_hash: H256,
        ) -> TransactionValidity {
            Executive::validate_transaction(source, tx, block_hash)
        }
    }

    impl frame_system_rpc_runtime_api::AccountNonceApi<Block, AccountId32, u32> for Runtime {
        fn account_nonce(account: AccountId32) -> u32 {
            System::account_nonce(account)
        }
    }

    impl pallet_transaction_payment_rpc_runtime_api::TransactionPaymentApi<Block, Balance> for Runtime {
        fn query_info(uxt: UncheckedExtrinsic, len: u32) -> RuntimeDispatchInfo<Balance> {
            TransactionPayment::query_info(uxt, len)
        }

        fn query_fee_details(uxt: UncheckedExtrinsic, len: u32) -> FeeDetails<Balance> {
            TransactionPayment::query_fee_details(uxt, len)
        }

        fn query_weight_to_fee(weight: Weight) -> Balance {
            TransactionPayment::weight_to_fee(weight)
        }

        fn query_length_to_fee(length: u32) -> Balance {
            TransactionPayment::length_to_fee(length)
        }
    }

    impl layout::api::SubnetInfoRuntimeApi<Block> for Runtime {
        fn get_metagraph(netuid: u16) -> Option<Metagraph<AccountId32>> {
            SubtensorModule::metagraph(netuid)
        }

        fn get_selective_metagraph(netuid: u16, metagraph_indexes: Vec<u16>) -> Option<SelectiveMetagraph<AccountId32>> {
            SubtensorModule::metagraph(netuid).map(|whole| whole.select(&metagraph_indexes))
        }

        fn get_subnet_hyperparams_v2(netuid: u16) -> Option<SubnetHyperparamsV2> {
            SubtensorModule::hyperparams(netuid)
        }

        fn get_subnet_hyperparams_v3(netuid: u16) -> Option<Vec<HyperparamEntry>> {
            SubtensorModule::named_hyperparams(netuid)
        }

        $($more)*
    }

    impl self::NeuronInfoRuntimeApi<Block> for Runtime {
        fn get_neurons_lite(netuid: u16) -> Vec<NeuronInfoLite<AccountId32>> {
            SubtensorModule::neurons_lite(netuid)
        }

        fn get_neuron_lite(netuid: u16, uid: u16) -> Option<NeuronInfoLite<AccountId32>> {
            SubtensorModule::neuron_lite(netuid, uid)
        }
    }

    impl self::sdk_apis::StakeInfoRuntimeApi<Block> for Runtime {
        fn get_stake_info_for_coldkey(coldkey_account: AccountId32) -> Vec<StakeInfo<AccountId32>> {
            SubtensorModule::stakes_of_coldkey(&coldkey_account)
        }

        fn get_stake_info_for_coldkeys(
            coldkey_accounts: Vec<AccountId32>,
        ) -> Vec<(AccountId32, Vec<StakeInfo<AccountId32>>)> {
            let of = |coldkey: AccountId32| (coldkey.clone(), SubtensorModule::stakes_of_coldkey(&coldkey));
            coldkey_accounts.into_iter().map(of).collect()
        }

        fn get_stake_info_for_hotkey_coldkey_netuid(
            hotkey_account: AccountId32,
            coldkey_account: AccountId32,
            netuid: u16,
        ) -> Option<StakeInfo<AccountId32>> {
            SubtensorModule::stake_at(&hotkey_account, &coldkey_account, netuid)
        }

        fn get_stake_fee(
            _origin: Option<(AccountId32, u16)>,
            _origin_coldkey_account: AccountId32,
            _destination: Option<(AccountId32, u16)>,
            _destination_coldkey_account: AccountId32,
            _amount: u64,
        ) -> u64 {
            0
        }

        fn get_stake_availability_for_coldkeys(
            coldkey_accounts: Vec<AccountId32>,
            netuids: Vec<u16>,
        ) -> BTreeMap<AccountId32, BTreeMap<u16, StakeAvailability>> {
            SubtensorModule::stake_availability(coldkey_accounts, &netuids)
        }
    }

    impl self::sdk_apis::SwapRuntimeApi<Block> for Runtime {
        fn current_alpha_price(netuid: u16) -> u64 {
            SubtensorModule::alpha_price(netuid)
        }

        fn current_alpha_price_all() -> Vec<SubnetPrice> {
            SubtensorModule::alpha_prices()
        }

        fn sim_swap_tao_for_alpha(_netuid: u16, tao: u64) -> SimSwapResult {
            SimSwapResult::even(tao)
        }

        fn sim_swap_alpha_for_tao(_netuid: u16, alpha: u64) -> SimSwapResult {
            SimSwapResult::even(alpha)
        }
    }

    impl self::sdk_apis::ShieldApi<Block> for Runtime {
        fn carried(uxt: UncheckedExtrinsic) -> Option<Vec<u8>> {
            match uxt.function {
                RuntimeCall::MevShield(mev_shield::Call::submit_encrypted { ciphertext }) => Some(ciphertext.into_inner()),
                _ => None,
            }
        }
    }

    impl self::sdk_apis::BetaBasketRuntimeApi<Block> for Runtime {
        fn get_root_basket_owed(_coldkey: AccountId32) -> u64 {
            0
        }

        fn get_root_basket_positions(_coldkey: AccountId32) -> Vec<(AccountId32, u128, u64)> {
            Vec::new()
        }
    }

    impl self::SubnetRegistrationRuntimeApi<Block> for Runtime {
        fn get_network_registration_cost() -> u64 {
            SubtensorModule::network_price()
        }
    }
}
    };
}

layout::api::more_subnet_functions!(implement);
