//! The programs that are compared, each as a process of its own on one core, and what the kernel knows of them.

use std::collections::BTreeMap;
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

/// One of the programs that are part of this one. Each prints its address when it is ready.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Role {
    Mock {
        miners: u16,
    },
    /// Of miners' answers, or of plain ones.
    Proxy {
        upstream: SocketAddr,
        #[arg(long)]
        miners: bool,
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
            Self::Proxy { upstream, miners } => {
                println!("{address}");
                proxy::serve(listener, upstream, miners).await
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
        let mut command = pinned(program.as_os_str(), core);
        command.arg("role").args(arguments).stdout(Stdio::piped());
        let mut child = command.spawn().context("a program cannot be started")?;
        let out = child.stdout.take().context("a program has no output")?;
        let line = BufReader::new(out).lines().next_line().await?;
        let Some(line) = line else { bail!("{arguments:?} ended before it was ready") };
        let (address, key) = line.split_once(' ').unwrap_or((&line, ""));
        let key = (!key.is_empty()).then(|| key.to_owned());
        Ok(Self { child, address: address.parse()?, key })
    }

    /// A program that is not ours and listens at this address.
    pub(crate) fn of(child: Child, address: SocketAddr) -> Self {
        Self { child, address, key: None }
    }

    /// Whether it has ended by itself.
    pub(crate) fn has_ended(&mut self) -> anyhow::Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// CPU time that it and the processes that it started have used, in microseconds.
    pub(crate) fn cpu_us(&self) -> anyhow::Result<f64> {
        let mut nanoseconds = 0.0;
        for pid in self.tree()? {
            let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { continue };
            for thread in threads.flatten() {
                // Time on the CPU, time waiting for one, and how often.
                let stat = std::fs::read_to_string(thread.path().join("schedstat"));
                let own = stat.ok().and_then(|stat| stat.split(' ').next()?.parse::<f64>().ok());
                nanoseconds += own.unwrap_or_default();
            }
        }
        Ok(nanoseconds / 1e3)
    }

    /// Memory in use by all of its processes, in KiB.
    pub(crate) fn rss_kib(&self) -> anyhow::Result<f64> {
        let mut kib = 0.0;
        for pid in self.tree()? {
            let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/status")) else {
                continue;
            };
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
            let own = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
            kib += own.unwrap_or_default();
        }
        Ok(kib)
    }

    /// The process and all that descend from it.
    fn tree(&self) -> anyhow::Result<Vec<u32>> {
        let root = self.child.id().context("a program has ended")?;
        let mut of_parent: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        let all = std::fs::read_dir("/proc").context("the benchmark reads /proc, as on Linux")?;
        for entry in all.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            // Behind the name, which may have spaces: the state, then the parent.
            let rest = stat.rsplit(')').next().unwrap_or_default();
            if let Some(parent) = rest.split_whitespace().nth(1).and_then(|ppid| ppid.parse().ok())
            {
                of_parent.entry(parent).or_default().push(pid);
            }
        }
        let (mut tree, mut next) = (vec![root], 0);
        while let Some(pid) = tree.get(next) {
            tree.extend(of_parent.remove(pid).unwrap_or_default());
            next += 1;
        }
        Ok(tree)
    }
}

/// A command on one core, where `taskset` is there; ended when its handle is dropped.
pub(crate) fn pinned(program: &std::ffi::OsStr, core: usize) -> Command {
    let mut command = match found("taskset") {
        Some(taskset) => {
            let mut command = Command::new(taskset);
            command.args(["-c", &core.to_string()]).arg(program);
            command
        }
        None => Command::new(program),
    };
    command.kill_on_drop(true);
    command
}

/// A program in `PATH`.
pub(crate) fn found(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}
