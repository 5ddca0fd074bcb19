//! Values that the pallet stores, with their real layouts.

use frame_support::pallet_prelude::*;
use sp_runtime::AccountId32;

/// A fixed-point number with 64 integer and 64 fractional bits; its metadata is that of `substrate_fixed`.
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Default,
    Debug,
    Encode,
    Decode,
    TypeInfo,
    MaxEncodedLen,
)]
pub struct U64F64 {
    /// The number times 2^64.
    pub bits: u128,
}

/// A signed fixed-point number with 96 integer and 32 fractional bits.
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Default,
    Debug,
    Encode,
    Decode,
    TypeInfo,
    MaxEncodedLen,
)]
pub struct I96F32 {
    /// The number times 2^32.
    pub bits: i128,
}

/// A signed fixed-point number with 32 integer and 32 fractional bits.
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Default,
    Debug,
    Encode,
    Decode,
    TypeInfo,
    MaxEncodedLen,
)]
pub struct I32F32 {
    /// The number times 2^32.
    pub bits: i64,
}

/// A decimal number; only newer specs store any.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Encode, Decode, TypeInfo)]
pub struct SafeFloat {
    /// The digits.
    pub mantissa: u128,
    /// The power of ten that they count.
    pub exponent: i64,
}

/// Weights that a round's signature opens.
pub type Ciphertext = BoundedVec<u8, ConstU32<5000>>;

/// Where a neuron is reached.
#[derive(Clone, PartialEq, Eq, Default, Debug, Encode, Decode, TypeInfo)]
pub struct AxonInfo {
    /// The block of the last change.
    pub block: u64,
    /// The version the neuron states.
    pub version: u32,
    /// The address as a number: IPv4 in the lower 32 bits.
    pub ip: u128,
    /// Never 0 for an axon that was served.
    pub port: u16,
    /// 4 or 6.
    pub ip_type: u8,
    /// Free to use: the SDK writes 4.
    pub protocol: u8,
    /// Unused.
    pub placeholder1: u8,
    /// Unused.
    pub placeholder2: u8,
}

/// Where a neuron's metrics are reached.
#[derive(Clone, PartialEq, Eq, Default, Debug, Encode, Decode, TypeInfo)]
pub struct PrometheusInfo {
    /// The block of the last change.
    pub block: u64,
    /// The version the neuron states.
    pub version: u32,
    /// The address as a number.
    pub ip: u128,
    /// Never 0.
    pub port: u16,
    /// 4 or 6.
    pub ip_type: u8,
}

/// A neuron's TLS key.
#[derive(Clone, PartialEq, Eq, Default, Debug, Encode, Decode, TypeInfo)]
pub struct NeuronCertificate {
    /// The key itself.
    pub public_key: BoundedVec<u8, ConstU32<64>>,
    /// Which scheme the key is of.
    pub algorithm: u8,
}

/// What an account says about itself.
#[derive(Clone, PartialEq, Eq, Default, Debug, Encode, Decode, TypeInfo)]
pub struct ChainIdentityV2 {
    pub name: Vec<u8>,
    pub url: Vec<u8>,
    pub github_repo: Vec<u8>,
    pub image: Vec<u8>,
    pub discord: Vec<u8>,
    pub description: Vec<u8>,
    pub additional: Vec<u8>,
}

/// What a subnet's owner says about it.
#[derive(Clone, PartialEq, Eq, Default, Debug, Encode, Decode, TypeInfo)]
pub struct SubnetIdentityV3 {
    pub subnet_name: Vec<u8>,
    pub github_repo: Vec<u8>,
    pub subnet_contact: Vec<u8>,
    pub subnet_url: Vec<u8>,
    pub discord: Vec<u8>,
    pub description: Vec<u8>,
    pub logo_url: Vec<u8>,
    pub additional: Vec<u8>,
}

/// Hyperparameters whose changes by a subnet's owner are rate limited. The devnet keeps no such limits.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode, TypeInfo)]
pub enum Hyperparameter {
    #[codec(index = 0)]
    Unknown,
    #[codec(index = 1)]
    ServingRateLimit,
    #[codec(index = 2)]
    MaxDifficulty,
    #[codec(index = 3)]
    AdjustmentAlpha,
    #[codec(index = 4)]
    MaxWeightLimit,
    #[codec(index = 5)]
    ImmunityPeriod,
    #[codec(index = 6)]
    MinAllowedWeights,
    #[codec(index = 7)]
    Kappa,
    #[codec(index = 8)]
    Rho,
    #[codec(index = 9)]
    ActivityCutoff,
    #[codec(index = 10)]
    PowRegistrationAllowed,
    #[codec(index = 11)]
    MinBurn,
    #[codec(index = 12)]
    MaxBurn,
    #[codec(index = 13)]
    BondsMovingAverage,
    #[codec(index = 14)]
    BondsPenalty,
    #[codec(index = 15)]
    CommitRevealEnabled,
    #[codec(index = 16)]
    LiquidAlphaEnabled,
    #[codec(index = 17)]
    AlphaValues,
    #[codec(index = 18)]
    WeightCommitInterval,
    #[codec(index = 19)]
    TransferEnabled,
    #[codec(index = 20)]
    AlphaSigmoidSteepness,
    #[codec(index = 21)]
    Yuma3Enabled,
    #[codec(index = 22)]
    BondsResetEnabled,
    #[codec(index = 23)]
    ImmuneNeuronLimit,
    #[codec(index = 24)]
    RecycleOrBurn,
    #[codec(index = 25)]
    MaxAllowedUids,
}

/// What a rate limit is kept for.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode, TypeInfo)]
pub enum RateLimitKey<AccountId> {
    /// Changing a subnet's owner hotkey.
    #[codec(index = 0)]
    SetSNOwnerHotkey(u16),
    /// An owner changing a hyperparameter.
    #[codec(index = 1)]
    OwnerHyperparamUpdate(u16, Hyperparameter),
    /// Registering a network.
    #[codec(index = 2)]
    NetworkLastRegistered,
    /// Any rate-limited call of an account.
    #[codec(index = 3)]
    LastTxBlock(AccountId),
    /// A change of a child key's take.
    #[codec(index = 4)]
    LastTxBlockChildKeyTake(AccountId),
    /// A change of a delegate's take.
    #[codec(index = 5)]
    LastTxBlockDelegateTake(AccountId),
}

/// The account that stands for "nobody": 32 zero bytes.
pub const NOBODY: AccountId32 = AccountId32::new([0; 32]);
