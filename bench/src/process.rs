//! The programs that are compared, each as a process of its own on one core, and what the kernel knows of them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, bail};
use clap::Subcommand;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use validator::gateway;

use crate::{mock, proxy};

/// The core of what is measured, and the one of everything else.
pub(crate) const MEASURED: usize = 1;
pub(crate) const REST: usize = 0;

/// One of the programs. Each prints its address when it is ready.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Role {
    Mock {
        miners: u16,
    },
    Proxy {
        upstream: SocketAddr,
    },
    /// The API: with `miners` at the address `upstream`, and with a key that has limits and a budget.
    Api {
        upstream: SocketAddr,
        miners: u16,
        #[arg(long)]
        governed: bool,
        #[arg(long)]
        folder: PathBuf,
    },
}

impl Role {
    /// Serves until the process is ended.
    #[expect(clippy::print_stdout, reason = "the address goes to who started the process")]
    pub(crate) async fn serve(self) -> anyhow::Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        match self {
            Self::Mock { miners } => {
                println!("{address}");
                mock::serve(listener, miners).await
            }
            Self::Proxy { upstream } => {
                println!("{address}");
                proxy::serve(listener, upstream).await
            }
            Self::Api { upstream, miners, governed, folder } => {
                let setup = gateway::Setup { upstream, miners, governed, folder };
                let api = gateway::Gateway::build(setup).await?;
                println!("{address} {}", api.key().unwrap_or_default());
                api.serve(listener).await;
                Ok(())
            }
        }
    }
}

/// A running program.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    pub(crate) address: SocketAddr,
    /// The API key that it takes.
    pub(crate) key: Option<String>,
}

impl Running {
    /// Starts a role, pinned to a core where `taskset` is there.
    pub(crate) async fn start(arguments: &[&str], core: usize) -> anyhow::Result<Self> {
        let program = std::env::current_exe()?;
        let core = core.to_string();
        let mut command = if has_taskset() {
            let mut command = Command::new("taskset");
            command.args(["-c", &core]).arg(program);
            command
        } else {
            Command::new(program)
        };
        command.arg("role").args(arguments).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().context("a program cannot be started")?;
        let out = child.stdout.take().context("a program has no output")?;
        let line = BufReader::new(out).lines().next_line().await?;
        let Some(line) = line else { bail!("{arguments:?} ended before it was ready") };
        let (address, key) = line.split_once(' ').unwrap_or((&line, ""));
        let key = (!key.is_empty()).then(|| key.to_owned());
        Ok(Self { child, address: address.parse()?, key })
    }

    /// CPU time that it has used, in microseconds.
    pub(crate) fn cpu_us(&self) -> anyhow::Result<f64> {
        // Linux counts in hundredths of a second, whatever the kernel's own tick.
        const TICK_US: f64 = 10_000.0;
        let stat = self.proc("stat")?;
        let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
        let times: Vec<f64> =
            fields.skip(11).take(2).filter_map(|time| time.parse().ok()).collect();
        Ok(times.iter().sum::<f64>() * TICK_US)
    }

    /// Memory in use, in KiB.
    pub(crate) fn rss_kib(&self) -> anyhow::Result<f64> {
        let status = self.proc("status")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        kib.context("the kernel does not tell a process's memory")
    }

    fn proc(&self, file: &str) -> anyhow::Result<String> {
        let pid = self.child.id().context("a program has ended")?;
        std::fs::read_to_string(format!("/proc/{pid}/{file}"))
            .context("the benchmark reads /proc, which is Linux's")
    }
}

pub(crate) fn has_taskset() -> bool {
    std::env::var_os("PATH").is_some_and(|path| {
        std::env::split_paths(&path).any(|folder| folder.join("taskset").is_file())
    })
}
