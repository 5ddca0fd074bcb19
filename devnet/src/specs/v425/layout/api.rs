//! Functions of the runtime that differ between specs.

use sp_runtime::AccountId32;

use super::super::runtime::subtensor::info::{
    HyperparamEntry, Metagraph, SelectiveMetagraph, SubnetHyperparamsV2,
};

sp_api::decl_runtime_apis! {
    /// Subnets as a whole.
    #[api_version(2)]
    pub trait SubnetInfoRuntimeApi {
        /// Everything about a subnet, at once.
        fn get_metagraph(netuid: u16) -> Option<Metagraph<AccountId32>>;
        /// The parts of a metagraph that are asked for.
        fn get_selective_metagraph(netuid: u16, metagraph_indexes: Vec<u16>) -> Option<SelectiveMetagraph<AccountId32>>;
        /// A subnet's hyperparameters.
        fn get_subnet_hyperparams_v2(netuid: u16) -> Option<SubnetHyperparamsV2>;
        /// The same by name.
        fn get_subnet_hyperparams_v3(netuid: u16) -> Option<Vec<HyperparamEntry>>;
        /// The block in which the next epoch should run.
        fn get_next_epoch_start_block(netuid: u16) -> Option<u64>;
    }
}

/// Gives a macro the bodies of those functions of `SubnetInfoRuntimeApi` that not all specs have.
macro_rules! more_subnet_functions {
    ($with:ident) => {
        $with! {
            fn get_next_epoch_start_block(netuid: u16) -> Option<u64> {
                SubtensorModule::next_epoch_start(netuid)
            }
        }
    };
}
pub(crate) use more_subnet_functions;
