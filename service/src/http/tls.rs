//! HTTPS: a certificate from files, read again when they change.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;
use tracing::{info, warn};

/// How often the files are looked at: certificates are renewed while services run.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Why HTTPS cannot be served. The text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("the certificate {0} cannot be read: {1}; it must be a PEM file with the whole chain")]
    Certificate(PathBuf, rustls::pki_types::pem::Error),
    #[error("{0} holds no certificate; it must be a PEM file with the whole chain")]
    Empty(PathBuf),
    #[error("the key {0} cannot be read: {1}; it must be a PEM file with one private key")]
    Key(PathBuf, rustls::pki_types::pem::Error),
    #[error("certificate and key cannot be used: {0}; they must belong together")]
    Unusable(#[from] rustls::Error),
}

/// A certificate and its key.
pub struct Tls {
    certificate: PathBuf,
    key: PathBuf,
    current: Mutex<Current>,
}

struct Current {
    acceptor: TlsAcceptor,
    looked: Instant,
    changed: [Option<SystemTime>; 2],
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

impl Tls {
    /// Reads both PEM files.
    ///
    /// # Errors
    /// If one cannot be read or they do not belong together.
    pub fn open(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        let changed = [certificate, key].map(changed);
        let current =
            Current { acceptor: acceptor(certificate, key)?, looked: Instant::now(), changed };
        Ok(Self {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            current: Mutex::new(current),
        })
    }

    /// What takes new connections, with the certificate that is in the files at `now`, give or take a minute.
    pub(super) fn acceptor(&self, now: Instant) -> TlsAcceptor {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_duration_since(current.looked) >= LOOK_EVERY {
            current.looked = now;
            let changed = [&self.certificate, &self.key].map(|file| changed(file));
            if changed != current.changed {
                match acceptor(&self.certificate, &self.key) {
                    Ok(acceptor) => {
                        info!("the certificate has been renewed");
                        (current.acceptor, current.changed) = (acceptor, changed);
                    }
                    // Perhaps only one of the two is written yet.
                    Err(error) => warn!("the old certificate stays in use: {error}"),
                }
            }
        }
        current.acceptor.clone()
    }
}

fn changed(file: &Path) -> Option<SystemTime> {
    file.metadata().and_then(|metadata| metadata.modified()).ok()
}

fn acceptor(certificate: &Path, key: &Path) -> Result<TlsAcceptor, TlsError> {
    let unreadable = |error| TlsError::Certificate(certificate.to_owned(), error);
    let chain = CertificateDer::pem_file_iter(certificate)
        .map_err(unreadable)?
        .collect::<Result<Vec<_>, _>>()
        .map_err(unreadable)?;
    if chain.is_empty() {
        return Err(TlsError::Empty(certificate.to_owned()));
    }
    let private = PrivateKeyDer::from_pem_file(key);
    let private = private.map_err(|error| TlsError::Key(key.to_owned(), error))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, private)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CERTIFICATE: &str = include_str!("server/test-cert.pem");
    const KEY: &str = include_str!("server/test-key.pem");

    fn open(certificate: &str, key: &str) -> (tempfile::TempDir, Result<Tls, TlsError>) {
        let folder = tempfile::tempdir().unwrap();
        let [certificate_file, key_file] = ["cert.pem", "key.pem"].map(|n| folder.path().join(n));
        std::fs::write(&certificate_file, certificate).unwrap();
        std::fs::write(&key_file, key).unwrap();
        let tls = Tls::open(&certificate_file, &key_file);
        (folder, tls)
    }

    #[test]
    fn files_that_are_no_certificate_or_key_are_named() {
        assert!(open(CERTIFICATE, KEY).1.is_ok());
        let why = |certificate, key| open(certificate, key).1.unwrap_err().to_string();
        assert!(why("", KEY).contains("cert.pem holds no certificate"));
        assert!(why(CERTIFICATE, "").contains("key.pem cannot be read"));
        assert!(why(KEY, KEY).contains("cert.pem holds no certificate"));
        assert!(Tls::open(Path::new("nowhere.pem"), Path::new("nowhere.pem")).is_err());
    }

    #[test]
    fn a_renewed_certificate_is_taken_over_and_a_broken_one_is_not() {
        let (folder, tls) = open(CERTIFICATE, KEY);
        let tls = tls.unwrap();
        let in_use = |later: u32| {
            let acceptor = tls.acceptor(Instant::now() + LOOK_EVERY * later);
            Arc::as_ptr(acceptor.config())
        };
        let first = in_use(0);
        assert_eq!(in_use(2), first);
        let write = |text: &str, seconds: u64| {
            let path = folder.path().join("cert.pem");
            std::fs::write(&path, text).unwrap();
            let file = std::fs::File::options().write(true).open(path).unwrap();
            file.set_modified(SystemTime::now() + Duration::from_secs(seconds)).unwrap();
        };
        write("", 10);
        assert_eq!(in_use(4), first);
        write(CERTIFICATE, 20);
        assert_ne!(in_use(6), first);
    }
}
