//! Hotkeys in the wallet files that Bittensor's tools write: `<path>/<name>/hotkeys/<hotkey>`.
//!
//! A hotkey file is plain text, so one that others can read is refused. Coldkeys are never opened: a server has no
//! use for them.

mod create;
mod keyfile;

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use common::{Hotkey, Keypair};
use zeroize::Zeroizing;

pub use create::create_hotkey;

/// Where the ecosystem's tools keep wallets.
pub const DEFAULT_PATH: &str = "~/.bittensor/wallets";

/// Key files have under 2 kB; the bound keeps a wrong path from filling the memory.
const MAX_FILE_BYTES: u64 = 64 * 1024;

/// Names a hotkey file as the flags `--wallet.name`, `--wallet.hotkey` and `--wallet.path` do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalletPaths {
    /// The wallet, a folder named after its coldkey.
    pub name: String,
    /// The file in the wallet's folder `hotkeys`.
    pub hotkey: String,
    /// The folder of all wallets; `~` at its start means the home folder.
    pub path: PathBuf,
}

/// Why a hotkey could not be read or made. No message contains key material.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WalletError {
    #[error("`{0}` is no name of a wallet or hotkey: it must be one plain file name")]
    BadName(String),
    #[error("{0} is a coldkey: this program needs a hotkey only, and never opens a coldkey")]
    Coldkey(PathBuf),
    #[error("the path {0} starts with `~`, but the home folder is not known: give the whole path")]
    NoHome(PathBuf),
    #[error(
        "there is no hotkey file {0}: check --wallet.name, --wallet.hotkey and --wallet.path, or copy the file here"
    )]
    Missing(PathBuf),
    #[error(
        "{path} can be read by other users of this machine (mode {mode:03o}): run `chmod 600 '{path}'`"
    )]
    OpenToOthers { path: PathBuf, mode: u32 },
    #[error("cannot read {path}")]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("{0} is no hotkey file: it is longer than 64 kB or not text")]
    NotAKeyFile(PathBuf),
    #[error("{path} is no hotkey file: {why}")]
    Malformed { path: PathBuf, why: String },
    #[error(
        "{path} is encrypted ({how}): a server cannot ask for a password. Hotkeys are kept unencrypted; was this made \
         as a coldkey?"
    )]
    Encrypted { path: PathBuf, how: &'static str },
    #[error("{0} is a polkadot.js export: make the hotkey again from its mnemonic with btcli")]
    PolkadotJs(PathBuf),
    #[error("{0} holds only a public key: signing needs the file without `pub` in its name")]
    PublicOnly(PathBuf),
    #[error(
        "{0} holds an ed25519 key: hotkeys of this program must be sr25519, the default of btcli"
    )]
    Ed25519(PathBuf),
    #[error(
        "the key in {path} belongs to {derived}, but the file says {stored}: it was edited or damaged"
    )]
    WrongAddress { path: PathBuf, stored: String, derived: Hotkey },
    #[error("{0} exists already and is not overwritten")]
    Exists(PathBuf),
    #[error("cannot write {path}")]
    Unwritable { path: PathBuf, source: io::Error },
}

impl WalletPaths {
    /// The hotkey `hotkey` of the wallet `name` in the folder where the ecosystem's tools keep wallets.
    pub fn new(name: impl Into<String>, hotkey: impl Into<String>) -> Self {
        Self { name: name.into(), hotkey: hotkey.into(), path: DEFAULT_PATH.into() }
    }

    /// The hotkey file that these names mean.
    pub fn file(&self) -> Result<PathBuf, WalletError> {
        for name in [&self.name, &self.hotkey] {
            let plain =
                !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\\', '\0']);
            if !plain {
                return Err(WalletError::BadName(name.chars().take(80).collect()));
            }
        }
        let file = expand_home(&self.path)?.join(&self.name).join("hotkeys").join(&self.hotkey);
        if is_coldkey(&file) { Err(WalletError::Coldkey(file)) } else { Ok(file) }
    }
}

/// Reads the key pair of a hotkey.
///
/// Tries the file's mnemonic, seed and private key in this order, and checks that the result is the address that the
/// file states.
pub fn load_hotkey(paths: &WalletPaths) -> Result<Keypair, WalletError> {
    load_file(&paths.file()?)
}

/// Reads the key pair in one file, for callers that know its path; the same rules as [`load_hotkey`].
pub fn load_file(path: &Path) -> Result<Keypair, WalletError> {
    let path = expand_home(path)?;
    if is_coldkey(&path) {
        return Err(WalletError::Coldkey(path));
    }
    // A link may have an innocent name.
    let target = path.canonicalize().map_err(|source| unreadable(&path, source))?;
    if is_coldkey(&target) {
        return Err(WalletError::Coldkey(target));
    }
    let text = read_private(&target)?;
    keyfile::parse(&target, &text)
}

fn read_private(path: &Path) -> Result<Zeroizing<String>, WalletError> {
    let file = File::open(path).map_err(|source| unreadable(path, source))?;
    // Asked of the open file, so that it cannot be exchanged in between.
    let metadata = file.metadata().map_err(|source| unreadable(path, source))?;
    if !metadata.is_file() || metadata.len() > MAX_FILE_BYTES {
        return Err(WalletError::NotAKeyFile(path.to_owned()));
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = metadata.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(WalletError::OpenToOthers { path: path.to_owned(), mode });
        }
    }
    // Large enough that reading never re-allocates, which would leave copies behind.
    let mut text = Zeroizing::new(String::with_capacity(MAX_FILE_BYTES as usize + 1));
    match file.take(MAX_FILE_BYTES).read_to_string(&mut text) {
        Ok(_) => Ok(text),
        Err(source) if source.kind() == io::ErrorKind::InvalidData => {
            Err(WalletError::NotAKeyFile(path.to_owned()))
        }
        Err(source) => Err(unreadable(path, source)),
    }
}

fn unreadable(path: &Path, source: io::Error) -> WalletError {
    if source.kind() == io::ErrorKind::NotFound {
        WalletError::Missing(path.to_owned())
    } else {
        WalletError::Unreadable { path: path.to_owned(), source }
    }
}

fn is_coldkey(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("coldkey"))
}

fn expand_home(path: &Path) -> Result<PathBuf, WalletError> {
    match path.strip_prefix("~") {
        Err(_) => Ok(path.to_owned()),
        Ok(rest) => {
            let home = std::env::home_dir().filter(|home| !home.as_os_str().is_empty());
            Ok(home.ok_or_else(|| WalletError::NoHome(path.to_owned()))?.join(rest))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(name: &str, hotkey: &str) -> WalletPaths {
        WalletPaths { name: name.into(), hotkey: hotkey.into(), path: "/wallets".into() }
    }

    #[test]
    fn names_form_the_path_that_btcli_uses() {
        assert_eq!(paths("cold", "hot").file().unwrap(), Path::new("/wallets/cold/hotkeys/hot"));
        let home = WalletPaths::new("default", "default").file().unwrap();
        assert!(home.ends_with(".bittensor/wallets/default/hotkeys/default"));
        assert!(home.is_absolute(), "{}", home.display());
    }

    #[test]
    fn names_cannot_leave_the_wallet() {
        for name in ["", "..", ".hidden", "a/b", "../coldkey", "a\\b"] {
            assert!(matches!(paths("cold", name).file(), Err(WalletError::BadName(_))), "{name:?}");
            assert!(matches!(paths(name, "hot").file(), Err(WalletError::BadName(_))), "{name:?}");
        }
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = load_hotkey(&paths("cold", "hot")).unwrap_err();
        assert!(matches!(error, WalletError::Missing(_)));
        assert!(error.to_string().contains("/wallets/cold/hotkeys/hot"));
    }

    #[cfg(unix)]
    mod on_unix {
        use std::fs::{self, Permissions};
        use std::os::unix::fs::{PermissionsExt as _, symlink};

        use super::*;

        const SEED: &str = "0xe5be9a5092b81bca64be81d212e7f2f9eba183bb7a90954f7b76361f6edb5c0a";

        fn file(folder: &tempfile::TempDir, name: &str, text: &str, mode: u32) -> PathBuf {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            path
        }

        #[test]
        fn a_file_that_others_can_read_is_refused_with_the_remedy() {
            let folder = tempfile::tempdir().unwrap();
            for mode in [0o640, 0o604, 0o620, 0o644, 0o666, 0o601] {
                let path = file(&folder, "hot", SEED, mode);
                let error = load_file(&path).unwrap_err();
                assert!(matches!(error, WalletError::OpenToOthers { .. }), "{mode:o}: {error}");
                assert!(error.to_string().contains("chmod 600"), "{error}");
                fs::remove_file(path).unwrap();
            }
            for mode in [0o600, 0o400] {
                let path = file(&folder, "hot", SEED, mode);
                assert_eq!(
                    load_file(&path).unwrap().hotkey(),
                    Keypair::development("Alice").hotkey()
                );
                fs::remove_file(path).unwrap();
            }
        }

        #[test]
        fn a_coldkey_is_never_opened_not_even_through_a_link() {
            let folder = tempfile::tempdir().unwrap();
            let coldkey = file(&folder, "coldkey", SEED, 0o600);
            assert!(matches!(load_file(&coldkey), Err(WalletError::Coldkey(_))));
            let link = folder.path().join("hot");
            symlink(&coldkey, &link).unwrap();
            assert!(matches!(load_file(&link), Err(WalletError::Coldkey(_))));
            assert!(matches!(paths("cold", "coldkeypub.txt").file(), Err(WalletError::Coldkey(_))));
        }

        #[test]
        fn folders_and_files_that_are_no_text_are_refused() {
            let folder = tempfile::tempdir().unwrap();
            assert!(matches!(load_file(folder.path()), Err(WalletError::NotAKeyFile(_))));
            let path = folder.path().join("bytes");
            fs::write(&path, [0xff, 0xfe, 0x00]).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
            assert!(matches!(load_file(&path), Err(WalletError::NotAKeyFile(_))));
            let long = file(&folder, "long", &"a".repeat(100_000), 0o600);
            assert!(matches!(load_file(&long), Err(WalletError::NotAKeyFile(_))));
        }
    }
}
