//! What the `main` of a service is made of.

use std::error::Error;
use std::fmt;
use std::io::{ErrorKind, Write};
use std::process::ExitCode;

use tokio::runtime;
use tokio::signal::unix::{SignalKind, signal};
use tracing::warn;

use crate::settings::{LoadError, Problems};

/// Exit code of a program whose configuration is wrong; restarting it does not help.
const CONFIGURATION: u8 = 2;

/// Runs a service to its end. A failure is shown once, with all its causes, on standard error; a wrong configuration
/// ends with the exit code 2, everything else with 1.
pub fn main(service: impl Future<Output = anyhow::Result<()>>) -> ExitCode {
    // Shells and systemd start programs with 1,024 open files, too few for a server's connections, and let them raise it.
    // Where they do not, the limit stays, and what it costs is reported when it is reached.
    let _ = rlimit::increase_nofile_limit(u64::MAX);
    let result = match runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(service),
        Err(error) => Err(error.into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", Chain(error.as_ref()));
            let configuration = error.is::<Problems>() || error.is::<LoadError>();
            ExitCode::from(if configuration { CONFIGURATION } else { 1 })
        }
    }
}

/// Writes the result of a command to standard output. Who reads no further, as `head` does, is no failure.
pub fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let written = writeln!(out, "{}", text.trim_end()).and_then(|()| out.flush());
    match written {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            eprintln!("error: the result cannot be written: {error}");
        }
        Ok(()) | Err(_) => {}
    }
}

/// Resolves when the process is asked to stop: Ctrl-C, or SIGTERM as sent by systemd, docker and pm2.
pub async fn shutdown() {
    let terminated = async {
        match signal(SignalKind::terminate()) {
            Ok(mut signals) => {
                signals.recv().await;
            }
            Err(error) => {
                warn!(%error, "SIGTERM cannot be listened for");
                std::future::pending().await
            }
        }
    };
    let interrupted = async {
        if let Err(error) = tokio::signal::ctrl_c().await {
            warn!(%error, "Ctrl-C cannot be listened for");
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        () = terminated => {}
        () = interrupted => {}
    }
}

/// Shows an error and every cause below it, on one line.
#[derive(Debug)]
pub struct Chain<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}
