//! Recorded signatures of drand quicknet: a file with one JSON object per line.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use timelock::{Beacon, TimelockError};

/// Why a recording cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PulsesError {
    /// The file system refused.
    #[error("{} cannot be read", .path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A line is not what it should be.
    #[error(
        "line {line} of {} is no pulse: it must be like {{\"round\": 1000, \"signature\": \"b446…\"}}",
        .path.display()
    )]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Which line, counted from 1.
        line: usize,
    },
    /// A signature is not quicknet's.
    #[error("line {line} of {} is not quicknet's: take the pulse from one of drand's servers", .path.display())]
    NotQuicknets {
        /// Which file.
        path: PathBuf,
        /// Which line, counted from 1.
        line: usize,
        /// What is wrong with it.
        source: TimelockError,
    },
}

#[derive(Deserialize)]
struct Line {
    round: u64,
    signature: String,
}

/// Reads a recording and verifies every signature. The result is sorted by round; other fields than round and signature
/// are ignored.
///
/// # Errors
/// If the file cannot be read or a line is not a pulse of quicknet.
pub fn read(path: &Path) -> Result<Vec<(u64, [u8; 48])>, PulsesError> {
    let path = || path.to_owned();
    let text = std::fs::read_to_string(path())
        .map_err(|source| PulsesError::Io { path: path(), source })?;
    let mut pulses = Vec::new();
    let quicknet = Beacon::quicknet();
    for (line, text) in (1..).zip(text.lines()) {
        if text.trim().is_empty() {
            continue;
        }
        let unreadable = || PulsesError::Unreadable { path: path(), line };
        let pulse: Line = serde_json::from_str(text).map_err(|_| unreadable())?;
        let mut signature = [0; 48];
        hex::decode_to_slice(pulse.signature.trim_start_matches("0x"), &mut signature)
            .map_err(|_| unreadable())?;
        quicknet.verify(pulse.round, &signature).map_err(|source| PulsesError::NotQuicknets {
            path: path(),
            line,
            source,
        })?;
        pulses.push((pulse.round, signature));
    }
    pulses.sort_unstable();
    pulses.dedup();
    Ok(pulses)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUND_1000: &str = "b44679b9a59af2ec876b1a6b1ad52ea9b1615fc3982b19576350f93447cb1125e342b73a8dd2bacbe47e4b6b63ed5e39";

    fn read_text(text: &str) -> Result<Vec<(u64, [u8; 48])>, PulsesError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pulses");
        std::fs::write(&path, text).unwrap();
        read(&path)
    }

    #[test]
    fn quicknets_pulses_are_taken_and_others_refused_by_line() {
        let pulse =
            |round: u64| format!("{{\"round\":{round},\"signature\":\"{ROUND_1000}\"}}\n\n");
        assert_eq!(read_text(&(pulse(1000) + &pulse(1000))).unwrap().len(), 1);
        let wrong = read_text(&(pulse(1000) + &pulse(1001))).unwrap_err().to_string();
        assert!(wrong.contains("line 3 of") && wrong.contains("not quicknet's"), "{wrong}");
        let nonsense = read_text("{}").unwrap_err().to_string();
        assert!(nonsense.contains("line 1 of") && nonsense.contains("no pulse"), "{nonsense}");
        assert!(matches!(read(Path::new("/no/such")), Err(PulsesError::Io { .. })));
    }
}
