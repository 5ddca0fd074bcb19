//! The transaction extensions that are not the usual ones: same names, same bytes, same refusals as the real ones.

use frame_support::dispatch::{DispatchInfo, Pays, PostDispatchInfo};
use frame_support::traits::OriginTrait;
use parity_scale_codec::{Decode, DecodeWithMemTracking, Encode};
use scale_info::TypeInfo;
use sp_core::H256;
use sp_runtime::AccountId32;
use sp_runtime::DispatchResult;
use sp_runtime::Weight;
use sp_runtime::impl_tx_ext_default;
use sp_runtime::traits::{DispatchInfoOf, Implication, TransactionExtension, ValidateResult};
use sp_runtime::transaction_validity::{
    InvalidTransaction, TransactionLongevity, TransactionSource, TransactionValidityError,
    ValidTransaction,
};

use super::layout;
use super::subtensor::{self, Call, Error};
use super::{Runtime, RuntimeCall, RuntimeOrigin, SubtensorModule, commitments, drand, sudo};
use crate::specs::FEES_KEY;

/// The numbers of `InvalidTransaction::Custom`.
pub mod custom {
    /// Too little stake for weights, or too small an amount.
    pub const STAKE_AMOUNT_TOO_LOW: u8 = 1;
    /// The coldkey cannot pay.
    pub const BALANCE_TOO_LOW: u8 = 2;
    /// No such subnet.
    pub const SUBNET_NOT_EXISTS: u8 = 3;
    /// The hotkey was never registered.
    pub const HOTKEY_ACCOUNT_DOESNT_EXIST: u8 = 4;
    /// More was to be unstaked than is staked.
    pub const NOT_ENOUGH_STAKE_TO_WITHDRAW: u8 = 5;
    /// Too early after the last time.
    pub const RATE_LIMIT_EXCEEDED: u8 = 6;
    /// The hotkey has no uid where it wants to serve.
    pub const HOTKEY_NOT_REGISTERED_IN_NETWORK: u8 = 10;
    /// The address cannot be reached from outside.
    pub const INVALID_IP_ADDRESS: u8 = 11;
    /// The axon was announced too shortly before.
    pub const SERVING_RATE_LIMIT_EXCEEDED: u8 = 12;
    /// The port is 0.
    pub const INVALID_PORT: u8 = 13;
    /// The signature of the round is known already.
    pub const INVALID_REVEAL_ROUND: u8 = 15;
    /// Nothing was committed that this would reveal.
    pub const COMMIT_NOT_FOUND: u8 = 16;
    /// What was committed cannot be revealed in this epoch.
    pub const COMMIT_BLOCK_NOT_IN_REVEAL_RANGE: u8 = 17;
    /// The lists of a batch are not equally long.
    pub const INPUT_LENGTHS_UNEQUAL: u8 = 18;
    /// The hotkey has no uid where it wants to set weights.
    pub const UID_NOT_FOUND: u8 = 19;
    /// Anything else.
    pub const BAD_REQUEST: u8 = 255;
}

/// Counts an account's transactions. Accounts that hold nothing may send calls that cost nothing: so a hotkey
/// needs no balance. That is why the usual extension does not do.
#[derive(Encode, Decode, DecodeWithMemTracking, Clone, Eq, PartialEq, Debug, TypeInfo)]
pub struct CheckNonce(#[codec(compact)] pub u32);

impl TransactionExtension<RuntimeCall> for CheckNonce {
    const IDENTIFIER: &'static str = "CheckNonce";
    type Implicit = ();
    type Val = Option<AccountId32>;
    type Pre = ();

    impl_tx_ext_default!(RuntimeCall; weight);

    fn validate(
        &self,
        origin: RuntimeOrigin,
        _call: &RuntimeCall,
        info: &DispatchInfo,
        _len: usize,
        _implicit: (),
        _implication: &impl Encode,
        _source: TransactionSource,
    ) -> ValidateResult<Self::Val, RuntimeCall> {
        let Some(who) = origin.as_signer().cloned() else {
            return Ok((ValidTransaction::default(), None, origin));
        };
        let account = frame_system::Account::<Runtime>::get(&who);
        if info.pays_fee == Pays::Yes && account.providers == 0 && account.sufficients == 0 {
            return Err(InvalidTransaction::Payment.into());
        }
        if self.0 < account.nonce {
            return Err(InvalidTransaction::Stale.into());
        }
        let requires = if self.0 > account.nonce {
            vec![(who.clone(), self.0 - 1).encode()]
        } else {
            Vec::new()
        };
        let validity = ValidTransaction {
            priority: 0,
            requires,
            provides: vec![(who.clone(), self.0).encode()],
            longevity: TransactionLongevity::MAX,
            propagate: true,
        };
        Ok((validity, Some(who), origin))
    }

    fn prepare(
        self,
        who: Self::Val,
        _origin: &RuntimeOrigin,
        _call: &RuntimeCall,
        _info: &DispatchInfo,
        _len: usize,
    ) -> Result<(), TransactionValidityError> {
        let Some(who) = who else { return Ok(()) };
        frame_system::Account::<Runtime>::try_mutate(&who, |account| {
            if self.0 > account.nonce {
                return Err(InvalidTransaction::Future.into());
            }
            account.nonce = account.nonce.wrapping_add(1);
            Ok(())
        })
    }
}

/// Refuses sudo calls of others before they enter a block.
#[derive(Encode, Decode, DecodeWithMemTracking, Clone, Eq, PartialEq, Debug, Default, TypeInfo)]
pub struct SudoTransactionExtension;

impl TransactionExtension<RuntimeCall> for SudoTransactionExtension {
    const IDENTIFIER: &'static str = "SudoTransactionExtension";
    type Implicit = ();
    type Val = ();
    type Pre = ();

    impl_tx_ext_default!(RuntimeCall; weight prepare);

    fn validate(
        &self,
        origin: RuntimeOrigin,
        call: &RuntimeCall,
        _info: &DispatchInfoOf<RuntimeCall>,
        _len: usize,
        _implicit: (),
        _implication: &impl Encode,
        _source: TransactionSource,
    ) -> ValidateResult<(), RuntimeCall> {
        if matches!(call, RuntimeCall::Sudo(_))
            && origin.as_signer() != sudo::Key::<Runtime>::get().as_ref()
        {
            return Err(InvalidTransaction::BadSigner.into());
        }
        Ok((ValidTransaction::default(), (), origin))
    }
}

/// Refuses subnet calls that would fail before they enter a block, with the numbers of [`custom`].
#[derive(Encode, Decode, DecodeWithMemTracking, Clone, Eq, PartialEq, Debug, Default, TypeInfo)]
pub struct SubtensorTransactionExtension;

impl TransactionExtension<RuntimeCall> for SubtensorTransactionExtension {
    const IDENTIFIER: &'static str = "SubtensorTransactionExtension";
    type Implicit = ();
    type Val = ();
    type Pre = ();

    impl_tx_ext_default!(RuntimeCall; weight prepare);

    fn validate(
        &self,
        origin: RuntimeOrigin,
        call: &RuntimeCall,
        _info: &DispatchInfoOf<RuntimeCall>,
        _len: usize,
        _implicit: (),
        _implication: &impl Encode,
        _source: TransactionSource,
    ) -> ValidateResult<(), RuntimeCall> {
        if let (Some(who), RuntimeCall::SubtensorModule(call)) = (origin.as_signer(), call) {
            guard(who, call).map_err(InvalidTransaction::Custom)?;
        }
        Ok((ValidTransaction::default(), (), origin))
    }
}

/// The number with which a call is refused, if it is.
fn guard(who: &AccountId32, call: &Call<Runtime>) -> Result<(), u8> {
    match call {
        Call::set_weights { netuid, .. } => guard_weights(who, *netuid, 0, false),
        Call::set_mechanism_weights { netuid, mecid, .. } => {
            guard_weights(who, *netuid, *mecid, false)
        }
        Call::commit_weights { netuid, .. } => guard_weights(who, *netuid, 0, true),
        Call::commit_mechanism_weights { netuid, mecid, .. } => {
            guard_weights(who, *netuid, *mecid, true)
        }
        // Nobody looks at their rate limit: that fails in a block.
        Call::commit_timelocked_weights { netuid, reveal_round, .. }
        | Call::commit_timelocked_mechanism_weights { netuid, reveal_round, .. }
        | Call::commit_crv3_mechanism_weights { netuid, reveal_round, .. } => {
            guard_stake(who, *netuid)?;
            let known = *reveal_round < drand::LastStoredRound::<Runtime>::get();
            refuse(layout::REFUSES_KNOWN_ROUNDS && known, custom::INVALID_REVEAL_ROUND)
        }
        Call::reveal_weights { netuid, uids, values, salt, version_key } => {
            let index = *netuid;
            let hash =
                SubtensorModule::hash_of_weights(who, index, uids, values, salt, *version_key);
            guard_reveal(who, *netuid, 0, hash)
        }
        Call::reveal_mechanism_weights { netuid, mecid, uids, values, salt, version_key } => {
            let index = subtensor::storage_index(*netuid, *mecid).unwrap_or(u16::MAX);
            let hash =
                SubtensorModule::hash_of_weights(who, index, uids, values, salt, *version_key);
            guard_reveal(who, *netuid, *mecid, hash)
        }
        Call::batch_reveal_weights { netuid, uids_list, values_list, salts_list, version_keys } => {
            let lengths = [values_list.len(), salts_list.len(), version_keys.len()];
            refuse(lengths != [uids_list.len(); 3], custom::INPUT_LENGTHS_UNEQUAL)?;
            guard_stake(who, *netuid)?;
            let all = uids_list.iter().zip(values_list).zip(salts_list.iter().zip(version_keys));
            for ((uids, values), (salt, key)) in all {
                let hash = SubtensorModule::hash_of_weights(who, *netuid, uids, values, salt, *key);
                guard_reveal(who, *netuid, 0, hash)?;
            }
            Ok(())
        }
        Call::batch_set_weights { netuids, weights, version_keys } => {
            let lengths = [weights.len(), version_keys.len()];
            refuse(lengths != [netuids.len(); 2], custom::INPUT_LENGTHS_UNEQUAL)?;
            netuids.iter().try_for_each(|netuid| guard_stake(who, netuid.0))
        }
        Call::batch_commit_weights { netuids, commit_hashes } => {
            refuse(netuids.len() != commit_hashes.len(), custom::INPUT_LENGTHS_UNEQUAL)?;
            netuids.iter().try_for_each(|netuid| guard_stake(who, netuid.0))
        }
        Call::serve_axon { netuid, ip, port, ip_type, .. } => {
            SubtensorModule::check_axon(who, *netuid, *ip, *port, *ip_type).map_err(code_of)
        }
        Call::serve_prometheus { netuid, ip, port, ip_type, .. } => {
            SubtensorModule::check_prometheus(who, *netuid, *ip, *port, *ip_type).map_err(code_of)
        }
        Call::add_stake { hotkey, netuid, amount_staked } => {
            SubtensorModule::check_add_stake(who, hotkey, *netuid, *amount_staked).map_err(code_of)
        }
        Call::remove_stake { hotkey, netuid, amount_unstaked } => {
            SubtensorModule::check_remove_stake(who, hotkey, *netuid, *amount_unstaked)
                .map_err(code_of)
        }
        Call::burned_register { netuid, .. } => {
            refuse(!subtensor::NetworksAdded::<Runtime>::get(netuid), custom::SUBNET_NOT_EXISTS)?;
            refuse(SubtensorModule::interval_is_full(*netuid), custom::RATE_LIMIT_EXCEEDED)
        }
        Call::register_network { .. } => {
            refuse(!SubtensorModule::network_is_due(), custom::RATE_LIMIT_EXCEEDED)
        }
        _ => Ok(()),
    }
}

fn guard_stake(who: &AccountId32, netuid: u16) -> Result<(), u8> {
    refuse(!SubtensorModule::has_stake_for_weights(who, netuid), custom::STAKE_AMOUNT_TOO_LOW)
}

fn guard_weights(who: &AccountId32, netuid: u16, mecid: u8, commits: bool) -> Result<(), u8> {
    guard_stake(who, netuid)?;
    let uid = subtensor::Uids::<Runtime>::get(netuid, who).ok_or(custom::UID_NOT_FOUND)?;
    // Plain weights with commit-reveal on fail in a block, which says so by name.
    let limited = commits || !subtensor::CommitRevealWeightsEnabled::<Runtime>::get(netuid);
    let due = subtensor::storage_index(netuid, mecid).is_none_or(|index| {
        SubtensorModule::weights_are_due(netuid, index, uid, SubtensorModule::now())
    });
    refuse(limited && !due, custom::RATE_LIMIT_EXCEEDED)
}

fn guard_reveal(who: &AccountId32, netuid: u16, mecid: u8, hash: H256) -> Result<(), u8> {
    guard_stake(who, netuid)?;
    SubtensorModule::check_reveal(who, netuid, mecid, hash).map_err(code_of)
}

fn refuse(refused: bool, code: u8) -> Result<(), u8> {
    if refused { Err(code) } else { Ok(()) }
}

fn code_of(error: Error<Runtime>) -> u8 {
    match error {
        Error::AmountTooLow | Error::NotEnoughStakeToSetWeights => custom::STAKE_AMOUNT_TOO_LOW,
        Error::NotEnoughBalanceToStake => custom::BALANCE_TOO_LOW,
        Error::SubnetNotExists => custom::SUBNET_NOT_EXISTS,
        Error::HotKeyAccountNotExists => custom::HOTKEY_ACCOUNT_DOESNT_EXIST,
        Error::NotEnoughStakeToWithdraw => custom::NOT_ENOUGH_STAKE_TO_WITHDRAW,
        Error::HotKeyNotRegisteredInNetwork => custom::HOTKEY_NOT_REGISTERED_IN_NETWORK,
        Error::InvalidIpAddress => custom::INVALID_IP_ADDRESS,
        Error::ServingRateLimitExceeded => custom::SERVING_RATE_LIMIT_EXCEEDED,
        Error::InvalidPort => custom::INVALID_PORT,
        Error::HotKeyNotRegisteredInSubNet => custom::UID_NOT_FOUND,
        Error::NoWeightsCommitFound => custom::COMMIT_NOT_FOUND,
        Error::RevealTooEarly => custom::COMMIT_BLOCK_NOT_IN_REVEAL_RANGE,
        _ => custom::BAD_REQUEST,
    }
}

/// On the real chain this orders random beacon transactions; here it does nothing but exist.
#[derive(Encode, Decode, DecodeWithMemTracking, Clone, Eq, PartialEq, Debug, Default, TypeInfo)]
pub struct DrandPriority;

impl TransactionExtension<RuntimeCall> for DrandPriority {
    const IDENTIFIER: &'static str = "DrandPriority";
    type Implicit = ();
    type Val = ();
    type Pre = ();

    impl_tx_ext_default!(RuntimeCall; weight validate prepare);
}

/// Whether a transaction is bound to the metadata its signer saw.
#[derive(
    Encode, Decode, DecodeWithMemTracking, Clone, Copy, Eq, PartialEq, Debug, Default, TypeInfo,
)]
pub enum Mode {
    /// It is not.
    #[default]
    Disabled,
    /// It is. This chain knows no metadata hash and refuses.
    Enabled,
}

/// Binds a transaction to a metadata hash, if its signer wants that.
#[derive(Encode, Decode, DecodeWithMemTracking, Clone, Eq, PartialEq, Debug, Default, TypeInfo)]
pub struct CheckMetadataHash {
    /// Whether it is bound.
    pub mode: Mode,
}

impl TransactionExtension<RuntimeCall> for CheckMetadataHash {
    const IDENTIFIER: &'static str = "CheckMetadataHash";
    type Implicit = Option<[u8; 32]>;
    type Val = ();
    type Pre = ();

    impl_tx_ext_default!(RuntimeCall; weight validate prepare);

    fn implicit(&self) -> Result<Self::Implicit, TransactionValidityError> {
        match self.mode {
            Mode::Disabled => Ok(None),
            Mode::Enabled => Err(InvalidTransaction::Call.into()),
        }
    }
}

/// Checks transactions that are encrypted for the block's author; there are none here.
#[derive(Encode, Decode, DecodeWithMemTracking, Clone, Eq, PartialEq, Debug, Default, TypeInfo)]
pub struct CheckShieldedTxValidity;

impl TransactionExtension<RuntimeCall> for CheckShieldedTxValidity {
    const IDENTIFIER: &'static str = "CheckShieldedTxValidity";
    type Implicit = ();
    type Val = ();
    type Pre = ();

    impl_tx_ext_default!(RuntimeCall; weight validate prepare);
}

/// Takes the fee. Where the chain wants one for a hotkey's calls (`Fees::Owner`), the owning coldkey pays it, without a
/// tip.
#[derive(Encode, Decode, DecodeWithMemTracking, Clone, Eq, PartialEq, Debug, TypeInfo)]
pub struct ChargeTransactionPayment(#[codec(compact)] pub u64);

type Usual = pallet_transaction_payment::ChargeTransactionPayment<Runtime>;
type UsualPre = <Usual as TransactionExtension<RuntimeCall>>::Pre;

/// Who pays for a call in place of its signer.
fn payer(origin: &RuntimeOrigin, call: &RuntimeCall) -> Option<AccountId32> {
    let owners_pay = frame_support::storage::unhashed::get_or_default::<bool>(FEES_KEY);
    let hotkey = origin.as_signer()?;
    (owners_pay && is_paid_by_owner(call))
        .then(|| subtensor::Owner::<Runtime>::try_get(hotkey).unwrap_or_else(|()| hotkey.clone()))
}

fn is_paid_by_owner(call: &RuntimeCall) -> bool {
    match call {
        RuntimeCall::SubtensorModule(call) => matches!(
            call,
            Call::set_weights { .. }
                | Call::set_mechanism_weights { .. }
                | Call::batch_set_weights { .. }
                | Call::commit_weights { .. }
                | Call::commit_mechanism_weights { .. }
                | Call::batch_commit_weights { .. }
                | Call::commit_timelocked_weights { .. }
                | Call::commit_timelocked_mechanism_weights { .. }
                | Call::commit_crv3_mechanism_weights { .. }
                | Call::reveal_weights { .. }
                | Call::reveal_mechanism_weights { .. }
                | Call::batch_reveal_weights { .. }
                | Call::serve_axon { .. }
                | Call::serve_prometheus { .. }
        ),
        RuntimeCall::Commitments(call) => {
            matches!(call, commitments::Call::set_commitment { .. })
        }
        _ => false,
    }
}

fn paying(info: &DispatchInfo) -> DispatchInfo {
    DispatchInfo { pays_fee: Pays::Yes, ..*info }
}

impl TransactionExtension<RuntimeCall> for ChargeTransactionPayment {
    const IDENTIFIER: &'static str = "ChargeTransactionPayment";
    type Implicit = ();
    type Val = (bool, <Usual as TransactionExtension<RuntimeCall>>::Val);
    type Pre = (bool, UsualPre);

    fn weight(&self, call: &RuntimeCall) -> Weight {
        Usual::from(self.0).weight(call)
    }

    fn validate(
        &self,
        origin: RuntimeOrigin,
        call: &RuntimeCall,
        info: &DispatchInfo,
        len: usize,
        implicit: (),
        implication: &impl Implication,
        source: TransactionSource,
    ) -> ValidateResult<Self::Val, RuntimeCall> {
        let Some(payer) = payer(&origin, call) else {
            let (valid, value, origin) = Usual::from(self.0).validate(
                origin,
                call,
                info,
                len,
                implicit,
                implication,
                source,
            )?;
            return Ok((valid, (false, value), origin));
        };
        let (payer, info) = (RuntimeOrigin::signed(payer), paying(info));
        let (valid, value, _) =
            Usual::from(0).validate(payer, call, &info, len, implicit, implication, source)?;
        Ok((valid, (true, value), origin))
    }

    fn prepare(
        self,
        (by_owner, value): Self::Val,
        origin: &RuntimeOrigin,
        call: &RuntimeCall,
        info: &DispatchInfo,
        len: usize,
    ) -> Result<Self::Pre, TransactionValidityError> {
        let pre = if by_owner {
            Usual::from(0).prepare(value, origin, call, &paying(info), len)
        } else {
            Usual::from(self.0).prepare(value, origin, call, info, len)
        };
        Ok((by_owner, pre?))
    }

    fn post_dispatch_details(
        (by_owner, pre): Self::Pre,
        info: &DispatchInfo,
        post_info: &PostDispatchInfo,
        len: usize,
        result: &DispatchResult,
    ) -> Result<Weight, TransactionValidityError> {
        let info = if by_owner { paying(info) } else { *info };
        Usual::post_dispatch_details(pre, &info, post_info, len, result)
    }
}
