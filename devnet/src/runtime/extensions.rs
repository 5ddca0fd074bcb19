//! The transaction extensions that are not the usual ones: same names, same bytes, same refusals as spec 365.

use frame_support::dispatch::{DispatchInfo, Pays};
use frame_support::traits::OriginTrait;
use parity_scale_codec::{Decode, DecodeWithMemTracking, Encode};
use scale_info::TypeInfo;
use sp_runtime::AccountId32;
use sp_runtime::impl_tx_ext_default;
use sp_runtime::traits::{DispatchInfoOf, TransactionExtension, ValidateResult};
use sp_runtime::transaction_validity::{
    InvalidTransaction, TransactionLongevity, TransactionSource, TransactionValidityError,
    ValidTransaction,
};

use super::subtensor::{self, Call, Error};
use super::{Runtime, RuntimeCall, RuntimeOrigin, SubtensorModule, sudo};

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
        Call::set_weights { netuid, .. } => guard_weights(who, *netuid, 0),
        Call::set_mechanism_weights { netuid, mecid, .. } => guard_weights(who, *netuid, *mecid),
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

fn guard_weights(who: &AccountId32, netuid: u16, mecid: u8) -> Result<(), u8> {
    refuse(!SubtensorModule::has_stake_for_weights(who, netuid), custom::STAKE_AMOUNT_TOO_LOW)?;
    let uid = subtensor::Uids::<Runtime>::get(netuid, who).ok_or(custom::UID_NOT_FOUND)?;
    // With commit-reveal on, the call fails in a block and says so by name.
    let plain = !subtensor::CommitRevealWeightsEnabled::<Runtime>::get(netuid);
    let due = subtensor::storage_index(netuid, mecid).is_none_or(|index| {
        SubtensorModule::weights_are_due(netuid, index, uid, SubtensorModule::now())
    });
    refuse(plain && !due, custom::RATE_LIMIT_EXCEEDED)
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
