//! `devnet`: a local Bittensor chain, and the commands that set a subnet up on it.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    service::run::main(cli::run())
}
