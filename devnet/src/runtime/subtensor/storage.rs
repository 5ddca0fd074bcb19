//! The storage that all specs have alike: names, hashers, types and defaults are the real ones.

use frame_support::pallet_macros::pallet_section;

/// Defines the storage.
#[pallet_section]
mod storage {
    // One value for the whole chain.

    /// Stake weight below which nobody sets weights and nobody gets a permit, in rao.
    #[pallet::storage]
    pub type StakeThreshold<T> = StorageValue<_, u64, ValueQuery>;

    /// What root stake counts for: a share of 2^64 - 1.
    #[pallet::storage]
    pub type TaoWeight<T> = StorageValue<_, u64, ValueQuery, ConstU64<971_718_665_099_567_868>>;

    /// Blocks before an epoch in which owners change nothing; not enforced here.
    #[pallet::storage]
    pub type AdminFreezeWindow<T> = StorageValue<_, u16, ValueQuery, ConstU16<10>>;

    /// The version of time-locked commitments.
    #[pallet::storage]
    pub type CommitRevealWeightsVersion<T> = StorageValue<_, u16, ValueQuery, ConstU16<4>>;

    /// How many subnets there are, the root included.
    #[pallet::storage]
    pub type TotalNetworks<T> = StorageValue<_, u16, ValueQuery>;

    /// Rao in existence, as this pallet counts it.
    #[pallet::storage]
    pub type TotalIssuance<T> = StorageValue<_, u64, ValueQuery>;

    /// Rao staked over all subnets.
    #[pallet::storage]
    pub type TotalStake<T> = StorageValue<_, u64, ValueQuery>;

    /// Rao that a block emits.
    #[pallet::storage]
    pub type BlockEmission<T> = StorageValue<_, u64, ValueQuery, ConstU64<1_000_000_000>>;

    /// The most subnets there may be.
    #[pallet::storage]
    pub type SubnetLimit<T> = StorageValue<_, u16, ValueQuery, ConstU16<128>>;

    /// The lowest price of a subnet, in rao.
    #[pallet::storage]
    pub type NetworkMinLockCost<T> = StorageValue<_, u64, ValueQuery, ConstU64<1_000_000_000_000>>;

    /// What the last subnet cost, in rao.
    #[pallet::storage]
    pub type NetworkLastLockCost<T> = StorageValue<_, u64, ValueQuery, ConstU64<1_000_000_000_000>>;

    /// Blocks over which the price of a subnet falls.
    #[pallet::storage]
    pub type NetworkLockReductionInterval<T> = StorageValue<_, u64, ValueQuery, ConstU64<100_800>>;

    /// Blocks between two registrations of subnets.
    #[pallet::storage]
    pub type NetworkRateLimit<T> = StorageValue<_, u64, ValueQuery, ConstU64<7_200>>;

    /// Blocks for which a new subnet is not removed.
    #[pallet::storage]
    pub type NetworkImmunityPeriod<T> = StorageValue<_, u64, ValueQuery, ConstU64<1_296_000>>;

    /// The owner's part of a subnet's emission, of 65535.
    #[pallet::storage]
    pub type SubnetOwnerCut<T> = StorageValue<_, u16, ValueQuery, ConstU16<11_796>>;

    /// Blocks between two key swaps.
    #[pallet::storage]
    pub type TxRateLimit<T> = StorageValue<_, u64, ValueQuery, ConstU64<1_000>>;

    // One value for each subnet.

    /// Blocks between two epochs, less one. 0 never runs one.
    #[pallet::storage]
    pub type Tempo<T> = StorageMap<_, Identity, u16, u16, ValueQuery, ConstU16<360>>;

    /// How many uids are taken.
    #[pallet::storage]
    pub type SubnetworkN<T> = StorageMap<_, Identity, u16, u16, ValueQuery>;

    /// Whether the subnet exists.
    #[pallet::storage]
    pub type NetworksAdded<T> = StorageMap<_, Identity, u16, bool, ValueQuery>;

    /// Whether burned registrations are taken.
    #[pallet::storage]
    pub type NetworkRegistrationAllowed<T> =
        StorageMap<_, Identity, u16, bool, ValueQuery, ConstBool<true>>;

    /// Whether registrations by proof of work are taken; they do not exist here.
    #[pallet::storage]
    pub type NetworkPowRegistrationAllowed<T> =
        StorageMap<_, Identity, u16, bool, ValueQuery, ConstBool<true>>;

    /// The block the subnet was created in.
    #[pallet::storage]
    pub type NetworkRegisteredAt<T> = StorageMap<_, Identity, u16, u64, ValueQuery>;

    /// 0 stable, 1 dynamic.
    #[pallet::storage]
    pub type SubnetMechanism<T> = StorageMap<_, Identity, u16, u16, ValueQuery>;

    /// Rao staked on the subnet.
    #[pallet::storage]
    pub type SubnetTAO<T> = StorageMap<_, Identity, u16, u64, ValueQuery>;

    /// Alpha in the pool; this chain has no pools.
    #[pallet::storage]
    pub type SubnetAlphaIn<T> = StorageMap<_, Identity, u16, u64, ValueQuery>;

    /// Alpha outside the pool.
    #[pallet::storage]
    pub type SubnetAlphaOut<T> = StorageMap<_, Identity, u16, u64, ValueQuery>;

    /// Rao ever traded.
    #[pallet::storage]
    pub type SubnetVolume<T> = StorageMap<_, Identity, u16, u128, ValueQuery>;

    /// Alpha emitted per block.
    #[pallet::storage]
    pub type SubnetAlphaOutEmission<T> = StorageMap<_, Identity, u16, u64, ValueQuery>;

    /// Alpha put into the pool per block.
    #[pallet::storage]
    pub type SubnetAlphaInEmission<T> = StorageMap<_, Identity, u16, u64, ValueQuery>;

    /// Rao put into the pool per block.
    #[pallet::storage]
    pub type SubnetTaoInEmission<T> = StorageMap<_, Identity, u16, u64, ValueQuery>;

    /// The alpha's averaged price.
    #[pallet::storage]
    pub type SubnetMovingPrice<T> = StorageMap<_, Identity, u16, I96F32, ValueQuery>;

    /// The miners' part of what the next epoch pays, in rao of alpha.
    #[pallet::storage]
    pub type PendingServerEmission<T> = StorageMap<_, Identity, u16, u64, ValueQuery>;

    /// The validators' part of what the next epoch pays, in rao of alpha.
    #[pallet::storage]
    pub type PendingValidatorEmission<T> = StorageMap<_, Identity, u16, u64, ValueQuery>;

    /// The owner's part of what the next epoch pays, in rao of alpha.
    #[pallet::storage]
    pub type PendingOwnerCut<T> = StorageMap<_, Identity, u16, u64, ValueQuery>;

    /// Blocks since the last epoch.
    #[pallet::storage]
    pub type BlocksSinceLastStep<T> = StorageMap<_, Identity, u16, u64, ValueQuery>;

    /// The block of the last epoch. (The name is misspelt on the real chain too.)
    #[pallet::storage]
    pub type LastMechansimStepBlock<T> = StorageMap<_, Identity, u16, u64, ValueQuery>;

    /// Whether stake may be added: after `start_call`.
    #[pallet::storage]
    pub type SubtokenEnabled<T> = StorageMap<_, Identity, u16, bool, ValueQuery>;

    /// Whether stake may be moved between coldkeys.
    #[pallet::storage]
    pub type TransferToggle<T> = StorageMap<_, Identity, u16, bool, ValueQuery, ConstBool<true>>;

    /// Blocks between two announcements of one axon; 0 is off.
    #[pallet::storage]
    pub type ServingRateLimit<T> = StorageMap<_, Identity, u16, u64, ValueQuery, ConstU64<50>>;

    /// Not used by the present consensus.
    #[pallet::storage]
    pub type Rho<T> = StorageMap<_, Identity, u16, u16, ValueQuery, ConstU16<10>>;

    /// The share of stake, of 65535, that must support a weight.
    #[pallet::storage]
    pub type Kappa<T> = StorageMap<_, Identity, u16, u16, ValueQuery, ConstU16<32_767>>;

    /// Not used here: liquid alpha.
    #[pallet::storage]
    pub type AlphaSigmoidSteepness<T> =
        StorageMap<_, Identity, u16, i16, ValueQuery, ConstI16<1000>>;

    /// Registrations that one block takes.
    #[pallet::storage]
    pub type MaxRegistrationsPerBlock<T> =
        StorageMap<_, Identity, u16, u16, ValueQuery, ConstU16<1>>;

    /// Registrations of this block so far.
    #[pallet::storage]
    pub type RegistrationsThisBlock<T> = StorageMap<_, Identity, u16, u16, ValueQuery>;

    /// Registrations of this interval so far.
    #[pallet::storage]
    pub type RegistrationsThisInterval<T> = StorageMap<_, Identity, u16, u16, ValueQuery>;

    /// The same, burned ones only.
    #[pallet::storage]
    pub type BurnRegistrationsThisInterval<T> = StorageMap<_, Identity, u16, u16, ValueQuery>;

    /// Registrations at which the price stays; three times as many are the limit.
    #[pallet::storage]
    pub type TargetRegistrationsPerInterval<T> =
        StorageMap<_, Identity, u16, u16, ValueQuery, ConstU16<2>>;

    /// Blocks between two adjustments of the price.
    #[pallet::storage]
    pub type AdjustmentInterval<T> = StorageMap<_, Identity, u16, u16, ValueQuery, ConstU16<100>>;

    /// How much of the old price an adjustment keeps, of 2^64 - 1.
    #[pallet::storage]
    pub type AdjustmentAlpha<T> = StorageMap<_, Identity, u16, u64, ValueQuery>;

    /// The block of the last adjustment.
    #[pallet::storage]
    pub type LastAdjustmentBlock<T> = StorageMap<_, Identity, u16, u64, ValueQuery>;

    /// Rao burned for registrations.
    #[pallet::storage]
    pub type RAORecycledForRegistration<T> = StorageMap<_, Identity, u16, u64, ValueQuery>;

    /// The least `MaxAllowedUids` may be.
    #[pallet::storage]
    pub type MinAllowedUids<T> = StorageMap<_, Identity, u16, u16, ValueQuery, ConstU16<64>>;

    /// Slots of the subnet.
    #[pallet::storage]
    pub type MaxAllowedUids<T> = StorageMap<_, Identity, u16, u16, ValueQuery, ConstU16<4_096>>;

    /// Blocks for which a new neuron is not replaced.
    #[pallet::storage]
    pub type ImmunityPeriod<T> = StorageMap<_, Identity, u16, u16, ValueQuery, ConstU16<4_096>>;

    /// How many of the owner's neurons are never replaced.
    #[pallet::storage]
    pub type ImmuneOwnerUidsLimit<T> = StorageMap<_, Identity, u16, u16, ValueQuery, ConstU16<1>>;

    /// The fewest weights to set, or the number of uids if that is less.
    #[pallet::storage]
    pub type MinAllowedWeights<T> = StorageMap<_, Identity, u16, u16, ValueQuery, ConstU16<1_024>>;

    /// The largest share of one weight, of 65535; 65535 is off.
    #[pallet::storage]
    pub type MaxWeightsLimit<T> = StorageMap<_, Identity, u16, u16, ValueQuery, ConstU16<65_535>>;

    /// The oldest version key whose weights are taken; 0 takes all.
    #[pallet::storage]
    pub type WeightsVersionKey<T> = StorageMap<_, Identity, u16, u64, ValueQuery>;

    /// Blocks between two settings of weights.
    #[pallet::storage]
    pub type WeightsSetRateLimit<T> = StorageMap<_, Identity, u16, u64, ValueQuery, ConstU64<100>>;

    /// Validator permits per epoch.
    #[pallet::storage]
    pub type MaxAllowedValidators<T> = StorageMap<_, Identity, u16, u16, ValueQuery, ConstU16<128>>;

    /// How much of the old bonds an epoch keeps, of 1000000.
    #[pallet::storage]
    pub type BondsMovingAverage<T> =
        StorageMap<_, Identity, u16, u64, ValueQuery, ConstU64<900_000>>;

    /// How much clipping costs bonds, of 65535.
    #[pallet::storage]
    pub type BondsPenalty<T> = StorageMap<_, Identity, u16, u16, ValueQuery, ConstU16<65_535>>;

    /// Not used here.
    #[pallet::storage]
    pub type BondsResetOn<T> = StorageMap<_, Identity, u16, bool, ValueQuery>;

    /// Whether weights must be committed first.
    #[pallet::storage]
    pub type CommitRevealWeightsEnabled<T> =
        StorageMap<_, Identity, u16, bool, ValueQuery, ConstBool<true>>;

    /// The price of a registration, in rao.
    #[pallet::storage]
    pub type Burn<T> = StorageMap<_, Identity, u16, u64, ValueQuery, ConstU64<100_000_000>>;

    /// Its lower bound.
    #[pallet::storage]
    pub type MinBurn<T> = StorageMap<_, Identity, u16, u64, ValueQuery, ConstU64<500_000>>;

    /// Its upper bound.
    #[pallet::storage]
    pub type MaxBurn<T> = StorageMap<_, Identity, u16, u64, ValueQuery, ConstU64<100_000_000_000>>;

    /// Of proof of work, which does not exist here.
    #[pallet::storage]
    pub type Difficulty<T> = StorageMap<_, Identity, u16, u64, ValueQuery, ConstU64<10_000_000>>;

    /// Its lower bound.
    #[pallet::storage]
    pub type MinDifficulty<T> = StorageMap<_, Identity, u16, u64, ValueQuery, ConstU64<10_000_000>>;

    /// Its upper bound.
    #[pallet::storage]
    pub type MaxDifficulty<T> =
        StorageMap<_, Identity, u16, u64, ValueQuery, ConstU64<4_611_686_018_427_387_903>>;

    /// The block from which the subnet emits; none before `start_call`.
    #[pallet::storage]
    pub type FirstEmissionBlockNumber<T> = StorageMap<_, Identity, u16, u64, OptionQuery>;

    /// Not used here: liquid alpha.
    #[pallet::storage]
    pub type LiquidAlphaOn<T> = StorageMap<_, Blake2_128Concat, u16, bool, ValueQuery>;

    /// Whether bonds follow the third version of Yuma; this chain implements the second.
    #[pallet::storage]
    pub type Yuma3On<T> = StorageMap<_, Blake2_128Concat, u16, bool, ValueQuery>;

    /// Not used here: liquid alpha's bounds.
    #[pallet::storage]
    pub type AlphaValues<T> =
        StorageMap<_, Identity, u16, (u16, u16), ValueQuery, DefaultAlphaValues>;

    /// Epochs between a commitment and its reveal.
    #[pallet::storage]
    pub type RevealPeriodEpochs<T> = StorageMap<_, Twox64Concat, u16, u64, ValueQuery, ConstU64<1>>;

    /// How many sets of weights the subnet has.
    #[pallet::storage]
    pub type MechanismCountCurrent<T> =
        StorageMap<_, Twox64Concat, u16, u8, ValueQuery, ConstU8<1>>;

    /// How a subnet's emission is split between its mechanisms, in parts of 65535; equally if nothing is set.
    #[pallet::storage]
    pub type MechanismEmissionSplit<T> = StorageMap<_, Twox64Concat, u16, Vec<u16>, OptionQuery>;

    /// Hashes of weights that wait to be revealed, by storage index and hotkey, the oldest first. What is kept beside a
    /// hash differs between specs.
    #[pallet::storage]
    pub type WeightCommits<T: Config> = StorageDoubleMap<
        _,
        Twox64Concat,
        u16,
        Twox64Concat,
        T::AccountId,
        VecDeque<(H256, u64, u64, u64)>,
        OptionQuery,
    >;

    /// Time-locked weights, by storage index and the epoch of the commitment: hotkey, block, ciphertext, round.
    #[pallet::storage]
    pub type TimelockedWeightCommits<T: Config> = StorageDoubleMap<
        _,
        Twox64Concat,
        u16,
        Twox64Concat,
        u64,
        VecDeque<(T::AccountId, u64, Ciphertext, u64)>,
        ValueQuery,
    >;

    /// The token's sign.
    #[pallet::storage]
    pub type TokenSymbol<T> = StorageMap<_, Identity, u16, Vec<u8>, ValueQuery, DefaultTokenSymbol>;

    /// The coldkey that owns the subnet.
    #[pallet::storage]
    pub type SubnetOwner<T: Config> =
        StorageMap<_, Identity, u16, T::AccountId, ValueQuery, DefaultAccount<T>>;

    /// The owner's hotkey.
    #[pallet::storage]
    pub type SubnetOwnerHotkey<T: Config> =
        StorageMap<_, Identity, u16, T::AccountId, ValueQuery, DefaultAccount<T>>;

    /// When something that is rate limited was done last.
    #[pallet::storage]
    pub type LastRateLimitedBlock<T: Config> =
        StorageMap<_, Identity, RateLimitKey<T::AccountId>, u64, ValueQuery>;

    // Accounts and stake.

    /// The coldkey that owns a hotkey.
    #[pallet::storage]
    pub type Owner<T: Config> =
        StorageMap<_, Blake2_128Concat, T::AccountId, T::AccountId, ValueQuery, DefaultAccount<T>>;

    /// The hotkeys of a coldkey.
    #[pallet::storage]
    pub type OwnedHotkeys<T: Config> =
        StorageMap<_, Blake2_128Concat, T::AccountId, Vec<T::AccountId>, ValueQuery>;

    /// The hotkeys a coldkey has stake on.
    #[pallet::storage]
    pub type StakingHotkeys<T: Config> =
        StorageMap<_, Blake2_128Concat, T::AccountId, Vec<T::AccountId>, ValueQuery>;

    /// Alpha on a hotkey, in rao, of all coldkeys together.
    #[pallet::storage]
    pub type TotalHotkeyAlpha<T: Config> =
        StorageDoubleMap<_, Blake2_128Concat, T::AccountId, Identity, u16, u64, ValueQuery>;

    // Neurons.

    /// Whether a hotkey has a uid.
    #[pallet::storage]
    pub type IsNetworkMember<T: Config> =
        StorageDoubleMap<_, Blake2_128Concat, T::AccountId, Identity, u16, bool, ValueQuery>;

    /// The uid of a hotkey.
    #[pallet::storage]
    pub type Uids<T: Config> =
        StorageDoubleMap<_, Identity, u16, Blake2_128Concat, T::AccountId, u16, OptionQuery>;

    /// The hotkey of a uid.
    #[pallet::storage]
    pub type Keys<T: Config> = StorageDoubleMap<
        _,
        Identity,
        u16,
        Identity,
        u16,
        T::AccountId,
        ValueQuery,
        DefaultAccount<T>,
    >;

    /// The block in which a uid was taken.
    #[pallet::storage]
    pub type BlockAtRegistration<T> =
        StorageDoubleMap<_, Identity, u16, Identity, u16, u64, ValueQuery>;

    /// Where a hotkey serves.
    #[pallet::storage]
    pub type Axons<T: Config> =
        StorageDoubleMap<_, Identity, u16, Blake2_128Concat, T::AccountId, AxonInfo, OptionQuery>;

    /// Where a hotkey's metrics are.
    #[pallet::storage]
    pub type Prometheus<T: Config> = StorageDoubleMap<
        _,
        Identity,
        u16,
        Blake2_128Concat,
        T::AccountId,
        PrometheusInfo,
        OptionQuery,
    >;

    /// A hotkey's TLS key; nothing sets it here.
    #[pallet::storage]
    pub type NeuronCertificates<T: Config> = StorageDoubleMap<
        _,
        Identity,
        u16,
        Blake2_128Concat,
        T::AccountId,
        NeuronCertificate,
        OptionQuery,
    >;

    /// What a coldkey says about itself; nothing sets it here.
    #[pallet::storage]
    pub type IdentitiesV2<T: Config> =
        StorageMap<_, Blake2_128Concat, T::AccountId, ChainIdentityV2, OptionQuery>;

    /// What a subnet's owner says about it; nothing sets it here.
    #[pallet::storage]
    pub type SubnetIdentitiesV3<T> =
        StorageMap<_, Blake2_128Concat, u16, SubnetIdentityV3, OptionQuery>;

    // Results of an epoch, by uid. `Incentive`, `LastUpdate`, `Weights` and `Bonds` are kept by storage index, which
    // is the netuid for mechanism 0.

    /// Who set weights lately.
    #[pallet::storage]
    pub type Active<T> = StorageMap<_, Identity, u16, Vec<bool>, ValueQuery>;

    /// The weight that enough stake supports.
    #[pallet::storage]
    pub type Consensus<T> = StorageMap<_, Identity, u16, Vec<u16>, ValueQuery>;

    /// What a miner earns, as a share of 65535.
    #[pallet::storage]
    pub type Incentive<T> = StorageMap<_, Identity, u16, Vec<u16>, ValueQuery>;

    /// What a validator earns, as a share of 65535.
    #[pallet::storage]
    pub type Dividends<T> = StorageMap<_, Identity, u16, Vec<u16>, ValueQuery>;

    /// What the last epoch paid, in rao of alpha.
    #[pallet::storage]
    pub type Emission<T> = StorageMap<_, Identity, u16, Vec<u64>, ValueQuery>;

    /// The block of the last weights.
    #[pallet::storage]
    pub type LastUpdate<T> = StorageMap<_, Identity, u16, Vec<u64>, ValueQuery>;

    /// How much of a validator's weights agreed with the consensus.
    #[pallet::storage]
    pub type ValidatorTrust<T> = StorageMap<_, Identity, u16, Vec<u16>, ValueQuery>;

    /// Who may set weights.
    #[pallet::storage]
    pub type ValidatorPermit<T> = StorageMap<_, Identity, u16, Vec<bool>, ValueQuery>;

    /// What a uid set: uids and weights.
    #[pallet::storage]
    pub type Weights<T> =
        StorageDoubleMap<_, Identity, u16, Identity, u16, Vec<(u16, u16)>, ValueQuery>;

    /// What a validator holds in miners.
    #[pallet::storage]
    pub type Bonds<T> =
        StorageDoubleMap<_, Identity, u16, Identity, u16, Vec<(u16, u16)>, ValueQuery>;
}
