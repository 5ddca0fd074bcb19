//! The errors of spec 425 that this chain can return, with their real indices.

use frame_support::pallet_macros::pallet_section;

/// Defines the errors.
#[pallet_section]
mod errors {
    /// Why a call failed. Indices are those of spec 425; clients resolve them by name.
    #[pallet::error]
    pub enum Error<T> {
        /// The ip type is neither 4 nor 6.
        #[codec(index = 1)]
        InvalidIpType,
        /// The address cannot be reached from outside, for example the loopback address.
        #[codec(index = 2)]
        InvalidIpAddress,
        /// The port is 0.
        #[codec(index = 3)]
        InvalidPort,
        /// The hotkey has no uid in the subnet.
        #[codec(index = 4)]
        HotKeyNotRegisteredInSubNet,
        /// The hotkey was never registered anywhere.
        #[codec(index = 5)]
        HotKeyAccountNotExists,
        /// The hotkey has no uid in the subnet (serving calls say it this way).
        #[codec(index = 6)]
        HotKeyNotRegisteredInNetwork,
        /// Another coldkey owns the hotkey.
        #[codec(index = 7)]
        NonAssociatedColdKey,
        /// More was to be unstaked than is staked.
        #[codec(index = 9)]
        NotEnoughStakeToWithdraw,
        /// The stake weight is below `StakeThreshold`.
        #[codec(index = 10)]
        NotEnoughStakeToSetWeights,
        /// The coldkey's balance is too low.
        #[codec(index = 12)]
        NotEnoughBalanceToStake,
        /// The last epoch gave this neuron no validator permit.
        #[codec(index = 15)]
        NeuronNoValidatorPermit,
        /// As many uids as weights are needed.
        #[codec(index = 16)]
        WeightVecNotEqualSize,
        /// A uid occurs twice.
        #[codec(index = 17)]
        DuplicateUids,
        /// A uid that the subnet does not have.
        #[codec(index = 18)]
        UidVecContainInvalidOne,
        /// Fewer weights than `MinAllowedWeights`.
        #[codec(index = 19)]
        WeightVecLengthIsLow,
        /// `MaxRegistrationsPerBlock` is reached.
        #[codec(index = 20)]
        TooManyRegistrationsThisBlock,
        /// The hotkey has a uid already.
        #[codec(index = 21)]
        HotKeyAlreadyRegisteredInSubNet,
        /// One weight's share is above `MaxWeightsLimit`.
        #[codec(index = 27)]
        MaxWeightExceeded,
        /// `WeightsSetRateLimit` blocks have not passed.
        #[codec(index = 29)]
        SettingWeightsTooFast,
        /// The version key is older than `WeightsVersionKey`.
        #[codec(index = 30)]
        IncorrectWeightVersionKey,
        /// `ServingRateLimit` blocks have not passed.
        #[codec(index = 31)]
        ServingRateLimitExceeded,
        /// More weights than the subnet has uids.
        #[codec(index = 32)]
        UidsLengthExceedUidsInSubNet,
        /// `NetworkRateLimit` blocks have not passed.
        #[codec(index = 33)]
        NetworkTxRateLimitExceeded,
        /// The subnet takes no registrations.
        #[codec(index = 37)]
        SubNetRegistrationDisabled,
        /// Three times `TargetRegistrationsPerInterval` is reached.
        #[codec(index = 38)]
        TooManyRegistrationsThisInterval,
        /// Only the subnet's owner may do this.
        #[codec(index = 41)]
        NotSubnetOwner,
        /// The root subnet has its own registration call.
        #[codec(index = 42)]
        RegistrationNotPermittedOnRootSubnet,
        /// Every root slot is held by a hotkey with more stake.
        #[codec(index = 43)]
        StakeTooLowForRoot,
        /// Weights of the root network cannot be set.
        #[codec(index = 47)]
        CanNotSetRootNetworkWeights,
        /// No slot is free and nobody can be replaced.
        #[codec(index = 48)]
        NoNeuronIdAvailable,
        /// Nothing that was committed is left to reveal.
        #[codec(index = 51)]
        NoWeightsCommitFound,
        /// What is revealed is not what was committed.
        #[codec(index = 52)]
        InvalidRevealCommitHashNotMatch,
        /// The subnet wants commitments, not plain weights.
        #[codec(index = 53)]
        CommitRevealEnabled,
        /// The subnet takes plain weights, no commitments.
        #[codec(index = 54)]
        CommitRevealDisabled,
        /// The subnet has no such mechanism.
        #[codec(index = 74)]
        MechanismDoesNotExist,
        /// There is no such subnet.
        #[codec(index = 76)]
        SubnetNotExists,
        /// Ten commitments of the hotkey wait already.
        #[codec(index = 77)]
        TooManyUnrevealedCommits,
        /// The epoch in which this could be revealed is over.
        #[codec(index = 78)]
        ExpiredWeightCommit,
        /// The epoch in which this can be revealed has not begun.
        #[codec(index = 79)]
        RevealTooEarly,
        /// The lists of a batch are not equally long.
        #[codec(index = 80)]
        InputLengthsUnequal,
        /// `WeightsSetRateLimit` blocks have not passed.
        #[codec(index = 81)]
        CommittingWeightsTooFast,
        /// Below the smallest stake.
        #[codec(index = 82)]
        AmountTooLow,
        /// Alpha costs more than the limit.
        #[codec(index = 84)]
        SlippageTooHigh,
        /// The subnet was started already.
        #[codec(index = 88)]
        FirstEmissionBlockNumberAlreadySet,
        /// `DurationOfStartCall` blocks have not passed since the subnet was registered.
        #[codec(index = 89)]
        NeedWaitingMoreBlocksToStarCall,
        /// The subnet was not started yet.
        #[codec(index = 94)]
        SubtokenDisabled,
        /// A number ran over.
        #[codec(index = 104)]
        Overflow,
        /// The version is not `CommitRevealWeightsVersion`.
        #[codec(index = 110)]
        IncorrectCommitRevealVersion,
        /// The round's signature is known already: the weights would be open at once.
        #[codec(index = 111)]
        InvalidRevealRound,
        /// More than 100 epochs.
        #[codec(index = 112)]
        RevealPeriodTooLarge,
        /// Less than one epoch.
        #[codec(index = 113)]
        RevealPeriodTooSmall,
        /// A value out of its range.
        #[codec(index = 114)]
        InvalidValue,
        /// `SubnetLimit` is reached.
        #[codec(index = 115)]
        SubnetLimitReached,
        /// The coldkey cannot pay for a network.
        #[codec(index = 116)]
        CannotAffordLockCost,
        /// More uids in all mechanisms together than a subnet may have.
        #[codec(index = 125)]
        TooManyUIDsPerMechanism,
    }
}
