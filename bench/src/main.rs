//! Benchmarks that compare several programs in one run.

mod gateway;
mod load;
mod mock;
mod others;
mod process;
mod proxy;
mod report;

use clap::{Parser, Subcommand};

/// The same for all that are compared.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Benchmarks. What they print is relative to a plain program that is measured in the same run.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The organic API against a plain hyper proxy: CPU per request, latency, streams, memory, and the choice of a miner.
    Gateway(gateway::Options),
    /// One of the programs that are compared, as a process of its own.
    #[command(hide = true)]
    Role {
        #[command(subcommand)]
        role: process::Role,
    },
}

fn main() -> anyhow::Result<()> {
    // Each stream takes two files in a program that is measured. Where the limit stays, the run says what failed.
    let _ = rlimit::increase_nofile_limit(u64::MAX);
    // One thread for each program, so that it can be pinned to one core.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match Cli::parse().command {
            Command::Gateway(options) => gateway::run(&options).await,
            Command::Role { role } => role.serve().await,
        }
    })
}
