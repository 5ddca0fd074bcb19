//! Making a new hotkey file, for development.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use bip39::{Language, Mnemonic};
use common::Keypair;
use rand::RngCore as _;
use schnorrkel::{ExpansionMode, MiniSecretKey};
use serde::Serialize;
use zeroize::Zeroizing;

use super::{WalletError, WalletPaths, keyfile};

/// The fields that btcli writes, so that other tools can read the file.
#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
struct NewKeyFile<'a> {
    account_id: &'a str,
    public_key: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    private_key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    secret_phrase: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    secret_seed: Option<&'a str>,
    ss58_address: &'a str,
    crypto_type: u8,
}

/// Makes a new random hotkey with a mnemonic of 12 words and writes its file and, beside it, its public part
/// (`<hotkey>pub.txt`). The file can be read by its owner only. Nothing is ever overwritten.
pub fn create_hotkey(paths: &WalletPaths) -> Result<Keypair, WalletError> {
    let path = paths.file()?;
    if path.exists() {
        return Err(WalletError::Exists(path));
    }
    let mut entropy = Zeroizing::new([0; 16]);
    rand::rng().fill_bytes(entropy.as_mut());
    let phrase = Mnemonic::from_entropy_in(Language::English, entropy.as_ref())
        .map(|mnemonic| mnemonic.to_string());
    let no_key = || unwritable(&path, io::Error::other("no key could be made"));
    let phrase = Zeroizing::new(phrase.map_err(|_| no_key())?);
    let seed = keyfile::seed_of(&phrase).ok_or_else(no_key)?;
    let secret = MiniSecretKey::from_bytes(seed.as_ref())
        .map_err(|_| no_key())?
        .expand(ExpansionMode::Ed25519);
    let keypair = Keypair::from_seed(&seed).ok_or_else(no_key)?;

    let public = format!("0x{}", hex::encode(keypair.hotkey().as_bytes()));
    let address = keypair.hotkey().to_string();
    let private_key =
        Zeroizing::new(format!("0x{}", hex::encode(*Zeroizing::new(secret.to_bytes()))));
    let secret_seed = Zeroizing::new(format!("0x{}", hex::encode(*seed)));
    let public_part = NewKeyFile {
        account_id: &public,
        public_key: &public,
        private_key: None,
        secret_phrase: None,
        secret_seed: None,
        ss58_address: &address,
        crypto_type: 1,
    };
    let whole = NewKeyFile {
        private_key: Some(&private_key),
        secret_phrase: Some(&phrase),
        secret_seed: Some(&secret_seed),
        ..public_part
    };
    if let Some(folder) = path.parent() {
        private_folder(folder).map_err(|source| unwritable(folder, source))?;
    }
    write_new(&path, &whole)?;
    let mut public_path = path.into_os_string();
    public_path.push("pub.txt");
    match write_new(Path::new(&public_path), &public_part) {
        // Left over from a hotkey that was removed; nothing reads it.
        Ok(()) | Err(WalletError::Exists(_)) => Ok(keypair),
        Err(error) => Err(error),
    }
}

fn private_folder(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::DirBuilderExt as _;
        builder.mode(0o700);
    }
    builder.create(path)
}

/// Writes `content` to a new file, whole or not at all.
fn write_new(path: &Path, content: &NewKeyFile<'_>) -> Result<(), WalletError> {
    let text = serde_json::to_string(content).map_err(|error| unwritable(path, error.into()))?;
    let text = Zeroizing::new(text);
    let draft = draft_path(path);
    let written = write_draft(&draft, text.as_bytes()).and_then(|()| {
        // Unlike a rename, a link never replaces what is there.
        fs::hard_link(&draft, path)
    });
    let removed = fs::remove_file(&draft);
    match written {
        Ok(()) => removed.map_err(|source| unwritable(&draft, source)),
        Err(source) if source.kind() == io::ErrorKind::AlreadyExists => {
            Err(WalletError::Exists(path.to_owned()))
        }
        Err(source) => Err(unwritable(path, source)),
    }
}

fn draft_path(path: &Path) -> PathBuf {
    let mut draft = path.as_os_str().to_owned();
    draft.push(format!(".{:016x}.new", rand::rng().next_u64()));
    draft.into()
}

fn write_draft(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        options.mode(0o600);
    }
    let mut file: File = options.open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

fn unwritable(path: &Path, source: io::Error) -> WalletError {
    WalletError::Unwritable { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wallet::load_hotkey;

    fn paths(folder: &tempfile::TempDir) -> WalletPaths {
        WalletPaths { path: folder.path().join("wallets"), ..WalletPaths::new("cold", "hot") }
    }

    #[test]
    fn a_new_hotkey_can_be_read_again_and_is_private() {
        let folder = tempfile::tempdir().unwrap();
        let made = create_hotkey(&paths(&folder)).unwrap();
        assert_eq!(load_hotkey(&paths(&folder)).unwrap().hotkey(), made.hotkey());
        let hotkeys = folder.path().join("wallets/cold/hotkeys");
        let names: Vec<_> =
            fs::read_dir(&hotkeys).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names.len(), 2, "no draft is left: {names:?}");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode(&hotkeys.join("hot")), 0o600);
            assert_eq!(mode(&hotkeys), 0o700);
        }
    }

    #[test]
    fn the_public_part_holds_no_secret() {
        let folder = tempfile::tempdir().unwrap();
        create_hotkey(&paths(&folder)).unwrap();
        let public = WalletPaths { hotkey: "hotpub.txt".to_owned(), ..paths(&folder) };
        assert!(matches!(load_hotkey(&public), Err(WalletError::PublicOnly(_))));
    }

    #[test]
    fn an_existing_hotkey_is_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let first = create_hotkey(&paths(&folder)).unwrap();
        assert!(matches!(create_hotkey(&paths(&folder)), Err(WalletError::Exists(_))));
        assert_eq!(load_hotkey(&paths(&folder)).unwrap().hotkey(), first.hotkey());
    }
}
