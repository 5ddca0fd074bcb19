//! The chain as its users meet it: calls at the runtime, transactions through the RPC, restarts, and the comparison with
//! mainnet's metadata.

mod conformance;
mod crowd;
mod dispatch;
mod epochs;
mod faults;
mod new;
mod old;
mod rpc;

use std::time::Duration;

use common::{Hotkey, Keypair};
use sp_io::TestExternalities;
use sp_runtime::AccountId32;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::runtime::{RuntimeOrigin, SubtensorModule, System, genesis};
use crate::specs::{Genesis, Source, Spec};
use crate::{App, Config, Controls, DevnetError};

/// More than anything here takes, also on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn account(name: &str) -> AccountId32 {
    genesis::development_account(name)
}

fn hotkey(name: &str) -> Hotkey {
    Keypair::development(name).hotkey()
}

fn signed(name: &str) -> RuntimeOrigin {
    RuntimeOrigin::signed(account(name))
}

/// The first state of the chain, at block 1.
fn first_state() -> TestExternalities {
    let mut state = TestExternalities::new(Genesis::default().storage().unwrap());
    state.execute_with(|| System::set_block_number(1));
    state
}

/// `//Alice`'s subnet 1: the hotkey `//owner` has uid 0, then come those named.
fn subnet(hotkeys: &[&str]) {
    SubtensorModule::register_network(signed("Alice"), account("owner")).unwrap();
    for name in hotkeys {
        SubtensorModule::burned_register(signed("Alice"), 1, account(name)).unwrap();
    }
}

/// A devnet that runs beside a test, with a block every 20 ms.
struct Running {
    url: String,
    controls: Controls,
    stop: oneshot::Sender<()>,
    app: JoinHandle<Result<(), DevnetError>>,
}

fn quick(data: Option<&std::path::Path>) -> Config {
    Config {
        listen: ([127, 0, 0, 1], 0).into(),
        block_time: Duration::from_millis(20),
        data: data.map(Into::into),
        ..Config::default()
    }
}

impl Running {
    async fn start(config: Config, prepare: impl FnOnce(&Controls)) -> Self {
        let app = App::build(config).await.unwrap();
        let (url, controls) = (app.url(), app.controls());
        prepare(&controls);
        let (stop, stopped) = oneshot::channel();
        let app = tokio::spawn(app.run_until(async {
            let _ = stopped.await;
        }));
        Self { url, controls, stop, app }
    }

    async fn stop(self) {
        let _ = self.stop.send(());
        tokio::time::timeout(PATIENCE, self.app).await.unwrap().unwrap().unwrap();
    }
}
