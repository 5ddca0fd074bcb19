//! Programs of others in front of the same mock, where they are installed: as their documentation has it, on one core, without
//! keys, limits or logs.

use std::ffi::OsStr;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use tokio::process::Command;
use tokio::time::{Instant, sleep};

use crate::load::Callers;
use crate::process::{MEASURED, Running, found, pinned};

/// The slowest of them imports Python modules for half a minute.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Other {
    Nginx,
    Smg,
    VllmRouter,
    LiteLlm,
}

impl Other {
    pub(crate) const ALL: [Self; 4] = [Self::Nginx, Self::Smg, Self::VllmRouter, Self::LiteLlm];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Smg => "smg",
            Self::VllmRouter => "vllm-router",
            Self::LiteLlm => "litellm",
        }
    }

    /// Whether it is so much slower that a tenth of the requests tells as much.
    pub(crate) fn is_slow(self) -> bool {
        self == Self::LiteLlm
    }

    /// Starts it, if it is installed, and waits until it answers.
    ///
    /// # Errors
    /// If it is installed and does not answer.
    pub(crate) async fn start(
        self,
        upstream: SocketAddr,
        folder: &Path,
    ) -> anyhow::Result<Option<Running>> {
        let Some(program) = found(self.name()) else { return Ok(None) };
        let address = free_address()?;
        let mut command = pinned(program.as_os_str(), MEASURED);
        self.arguments(&mut command, address, upstream, folder)?;
        command.current_dir(folder).stdout(Stdio::null()).stderr(Stdio::null());
        let child =
            command.spawn().with_context(|| format!("{} cannot be started", self.name()))?;
        let mut running = Running::of(child, address);
        let (callers, began) = (Callers::of(&running), Instant::now());
        while let Err(error) = callers.ask().await {
            if running.has_ended()? || began.elapsed() > PATIENCE {
                return Err(error.context(format!("{} does not answer", self.name())));
            }
            sleep(Duration::from_millis(200)).await;
        }
        Ok(Some(running))
    }

    fn arguments(
        self,
        command: &mut Command,
        address: SocketAddr,
        upstream: SocketAddr,
        folder: &Path,
    ) -> anyhow::Result<()> {
        let (port, metrics) = (address.port().to_string(), free_address()?.port().to_string());
        let worker = format!("http://{upstream}");
        let file = |name: &str, text: String| -> anyhow::Result<std::path::PathBuf> {
            let file = folder.join(name);
            std::fs::write(&file, text)?;
            Ok(file)
        };
        match self {
            Self::Nginx => {
                let config = file("nginx.conf", nginx(address, upstream, folder))?;
                command.arg("-c").arg(config).arg("-p").arg(folder);
            }
            Self::Smg | Self::VllmRouter => {
                if self == Self::Smg {
                    command.arg("launch");
                }
                let level = if self == Self::Smg { "warn" } else { "warning" };
                let own = ["--host", "127.0.0.1", "--port", &port, "--worker-urls", &worker];
                command.args(own).args(["--policy", "round_robin", "--log-level", level]);
                command.args(["--prometheus-port", &metrics]);
            }
            Self::LiteLlm => {
                let config = file("litellm.yaml", litellm(upstream))?;
                command.arg("--config").arg(config);
                command.args(["--host", "127.0.0.1", "--port", &port, "--num_workers", "1"]);
                command.envs([
                    (OsStr::new("LITELLM_LOCAL_MODEL_COST_MAP"), OsStr::new("True")),
                    (OsStr::new("LITELLM_TELEMETRY"), OsStr::new("False")),
                    (OsStr::new("LITELLM_LOG"), OsStr::new("ERROR")),
                    (
                        OsStr::new("LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY"),
                        OsStr::new("true"),
                    ),
                ]);
            }
        }
        Ok(())
    }
}

/// One that nobody listens at. Somebody else may take it in between; the program says so then.
fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

fn nginx(address: SocketAddr, upstream: SocketAddr, folder: &Path) -> String {
    let folder = folder.display();
    format!(
        "daemon off; master_process off; pid {folder}/nginx.pid; error_log /dev/null;
events {{ worker_connections 16384; }}
http {{
    access_log off;
    client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
    uwsgi_temp_path {folder}; scgi_temp_path {folder};
    upstream mock {{ server {upstream}; keepalive 64; keepalive_requests 1000000; }}
    server {{
        listen {address}; keepalive_requests 1000000;
        location / {{
            proxy_pass http://mock; proxy_http_version 1.1; proxy_set_header Connection \"\";
            proxy_buffering off;
        }}
    }}
}}
"
    )
}

fn litellm(upstream: SocketAddr) -> String {
    format!(
        "model_list:
  - model_name: chat-demo
    litellm_params: {{model: openai/chat-demo, api_base: \"http://{upstream}/v1\", api_key: none}}
"
    )
}
