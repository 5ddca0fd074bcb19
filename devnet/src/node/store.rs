//! The file that a chain is kept in: a snapshot of one block's state, then what each block after it changed. The
//! snapshot's block is final, so that another branch can only begin after it.
//!
//! Records are length, checksums, payload. They are only ever appended; from time to time the file is written anew with
//! a fresh snapshot under another name and renamed. So a crash costs at most the record that was being written.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use blake2::digest::consts::U8;
use blake2::{Blake2b, Digest};
use parity_scale_codec::{Decode, Encode};
use sp_core::H256;

use super::state::Change;
use crate::runtime::Header;

const FILE: &str = "chain.log";
const LOCK: &str = "lock";
const MAGIC: &[u8] = b"touchstone devnet, format 1\n";

/// After so many bytes of changes the file starts anew with a snapshot.
const SNAPSHOT_AFTER: u64 = 16 << 20;

/// A length, the checksum of the length, the checksum of the payload.
const HEAD: usize = 8 + 8 + 8;

/// Why a chain cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file system refused.
    #[error("{} cannot be {what}", .path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// The file is not what was written.
    #[error("{} is damaged: {why}. Move it away to start a new chain.", .path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// Another devnet uses the folder.
    #[error("{} is in use by another devnet", .0.display())]
    InUse(PathBuf),
}

/// A block as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct StoredBlock {
    /// Its header.
    pub header: Header,
    /// Its transactions, each with a length prefix.
    pub extrinsics: Vec<Vec<u8>>,
}

/// One record.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
enum Record {
    Snapshot {
        genesis: H256,
        block: StoredBlock,
        pairs: Vec<(Vec<u8>, Vec<u8>)>,
    },
    Block {
        block: StoredBlock,
        changes: Vec<Change>,
    },
    /// Another branch takes the place of everything above a height. One record, so that a crash leaves the one branch
    /// or the other and never a mixture.
    Fork {
        above: u32,
        blocks: Vec<(StoredBlock, Vec<Change>)>,
    },
}

/// What a file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// The hash of the chain's first block.
    pub genesis: H256,
    /// The block of the snapshot.
    pub block: StoredBlock,
    /// Its state.
    pub pairs: Vec<(Vec<u8>, Vec<u8>)>,
    /// The blocks after it and what they changed.
    pub blocks: Vec<(StoredBlock, Vec<Change>)>,
}

/// An open file.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    file: File,
    /// Bytes since the snapshot.
    grown: u64,
    /// Held as long as the store is open.
    _lock: File,
}

impl Store {
    /// Opens the chain in a folder, creating the folder. The chain is `None` if there is none yet: then
    /// [`Store::start_anew`] must come first.
    ///
    /// # Errors
    /// If the folder is in use or the file cannot be read.
    pub fn open(folder: &Path) -> Result<(Self, Option<Loaded>), StoreError> {
        fs::create_dir_all(folder).map_err(failed(folder, "created"))?;
        let lock_path = folder.join(LOCK);
        let lock = File::create(&lock_path).map_err(failed(&lock_path, "created"))?;
        lock.try_lock().map_err(|error| match error {
            fs::TryLockError::WouldBlock => StoreError::InUse(folder.to_owned()),
            fs::TryLockError::Error(source) => failed(&lock_path, "locked")(source),
        })?;
        let path = folder.join(FILE);
        let existed = path.exists();
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .append(true)
            .open(&path)
            .map_err(failed(&path, "opened"))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(failed(&path, "read"))?;
        let mut store = Self { path, file, grown: 0, _lock: lock };
        if !existed {
            return Ok((store, None));
        }
        let (loaded, whole) = parse(&bytes).map_err(|why| store.damaged(why))?;
        if whole < bytes.len() {
            tracing::warn!(
                file = %store.path.display(),
                bytes = bytes.len() - whole,
                "the last record was not written to its end and is dropped"
            );
            store.file.set_len(whole as u64).map_err(failed(&store.path, "shortened"))?;
        }
        store.grown = whole as u64;
        Ok((store, Some(loaded)))
    }

    /// An error that names the file.
    pub fn damaged(&self, why: impl Into<String>) -> StoreError {
        StoreError::Damaged { path: self.path.clone(), why: why.into() }
    }

    /// Replaces the file by a snapshot of a final block and the blocks after it.
    ///
    /// # Errors
    /// If the file system refuses.
    pub fn start_anew(
        &mut self,
        genesis: H256,
        block: StoredBlock,
        pairs: Vec<(Vec<u8>, Vec<u8>)>,
        tail: Vec<(StoredBlock, Vec<Change>)>,
    ) -> Result<(), StoreError> {
        let new = self.path.with_extension("new");
        let mut record = framed(&Record::Snapshot { genesis, block, pairs });
        for (block, changes) in tail {
            record.extend(framed(&Record::Block { block, changes }));
        }
        let write = || -> io::Result<()> {
            let mut file = File::create(&new)?;
            file.write_all(MAGIC)?;
            file.write_all(&record)?;
            file.sync_all()?;
            fs::rename(&new, &self.path)
        };
        write().map_err(failed(&new, "written"))?;
        self.file = OpenOptions::new()
            .append(true)
            .open(&self.path)
            .map_err(failed(&self.path, "opened"))?;
        self.grown = 0;
        Ok(())
    }

    /// Adds a block. Returns whether it is time for a snapshot.
    ///
    /// # Errors
    /// If the file system refuses.
    pub fn append(&mut self, block: StoredBlock, changes: Vec<Change>) -> Result<bool, StoreError> {
        self.write(&Record::Block { block, changes })
    }

    /// Puts other blocks in the place of everything above a height. Returns whether it is time for a snapshot.
    ///
    /// # Errors
    /// If the file system refuses.
    pub fn fork(
        &mut self,
        above: u32,
        blocks: Vec<(StoredBlock, Vec<Change>)>,
    ) -> Result<bool, StoreError> {
        self.write(&Record::Fork { above, blocks })
    }

    fn write(&mut self, record: &Record) -> Result<bool, StoreError> {
        let record = framed(record);
        self.file.write_all(&record).map_err(failed(&self.path, "written"))?;
        self.grown += record.len() as u64;
        Ok(self.grown > SNAPSHOT_AFTER)
    }

    /// Makes sure that everything is on the disk.
    ///
    /// # Errors
    /// If the file system refuses.
    pub fn sync(&self) -> Result<(), StoreError> {
        self.file.sync_all().map_err(failed(&self.path, "written"))
    }
}

fn failed(path: &Path, what: &'static str) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Io { path, what, source }
}

fn checksum(payload: &[u8]) -> [u8; 8] {
    Blake2b::<U8>::digest(payload).into()
}

fn framed(record: &Record) -> Vec<u8> {
    let payload = record.encode();
    let mut bytes = Vec::with_capacity(HEAD + payload.len());
    let length = (payload.len() as u64).to_le_bytes();
    bytes.extend(length);
    bytes.extend(checksum(&length));
    bytes.extend(checksum(&payload));
    bytes.extend(payload);
    bytes
}

/// Reads a file's bytes. Also returns how many of them are whole records.
fn parse(bytes: &[u8]) -> Result<(Loaded, usize), String> {
    if !bytes.starts_with(MAGIC) {
        return Err("it does not begin like a chain".to_owned());
    }
    let mut at = MAGIC.len();
    let mut next = || -> Result<Option<(Record, usize)>, String> {
        let rest = &bytes[at..];
        let Some((head, rest)) = rest.split_at_checked(HEAD) else { return Ok(None) };
        let (length, sums) = head.split_at(8);
        if sums[..8] != checksum(length) {
            return Err(format!("the length at byte {at} is wrong"));
        }
        let length = u64::from_le_bytes(length.try_into().unwrap_or_default());
        let length =
            usize::try_from(length).map_err(|_| format!("an absurd length at byte {at}"))?;
        let Some(payload) = rest.get(..length) else { return Ok(None) };
        if sums[8..] != checksum(payload) {
            return Err(format!("the checksum at byte {at} is wrong"));
        }
        let record = Record::decode(&mut &payload[..])
            .map_err(|_| format!("the record at byte {at} makes no sense"))?;
        at += HEAD + length;
        Ok(Some((record, at)))
    };
    let Some((Record::Snapshot { genesis, block, pairs }, mut whole)) = next()? else {
        return Err("its snapshot is missing or not whole".to_owned());
    };
    let mut loaded = Loaded { genesis, block, pairs, blocks: Vec::new() };
    while let Some((record, end)) = next()? {
        match record {
            Record::Snapshot { .. } => return Err("it has a second snapshot".to_owned()),
            Record::Block { block, changes } => loaded.blocks.push((block, changes)),
            Record::Fork { above, blocks } => {
                if above < loaded.block.header.number {
                    return Err(format!("a branch begins at block {above}, before its snapshot"));
                }
                loaded.blocks.retain(|(block, _)| block.header.number <= above);
                loaded.blocks.extend(blocks);
            }
        }
        whole = end;
    }
    Ok((loaded, whole))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(number: u32) -> StoredBlock {
        let zero = H256::zero();
        let header = Header {
            parent_hash: zero,
            number,
            state_root: zero,
            extrinsics_root: zero,
            digest: Default::default(),
        };
        StoredBlock { header, extrinsics: vec![vec![1, 2, 3]] }
    }

    fn written(folder: &Path) -> PathBuf {
        let (mut store, loaded) = Store::open(folder).unwrap();
        assert_eq!(loaded, None);
        store.start_anew(H256::zero(), block(0), vec![(vec![1], vec![2])], Vec::new()).unwrap();
        for number in 1..4 {
            store.append(block(number), vec![(vec![1], None)]).unwrap();
        }
        folder.join(FILE)
    }

    #[test]
    fn what_was_written_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        written(folder.path());
        let (_store, loaded) = Store::open(folder.path()).unwrap();
        let loaded = loaded.unwrap();
        assert_eq!(loaded.block, block(0));
        assert_eq!(
            loaded.blocks.iter().map(|(block, _)| block.header.number).collect::<Vec<_>>(),
            [1, 2, 3]
        );
    }

    fn numbers(folder: &Path) -> Vec<(u32, usize)> {
        let (_store, loaded) = Store::open(folder).unwrap();
        let blocks = loaded.unwrap().blocks.into_iter();
        blocks.map(|(block, changes)| (block.header.number, changes.len())).collect()
    }

    #[test]
    fn another_branch_takes_the_place_of_the_old_one_wholly_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = written(folder.path());
        let before = fs::read(&path).unwrap().len();
        let (mut store, _) = Store::open(folder.path()).unwrap();
        store.fork(1, (2..5).map(|number| (block(number), Vec::new())).collect()).unwrap();
        drop(store);
        let bytes = fs::read(&path).unwrap();
        assert_eq!(numbers(folder.path()), [(1, 1), (2, 0), (3, 0), (4, 0)]);
        // Killed at any byte of the record, the file holds the old branch.
        for length in before..bytes.len() {
            fs::write(&path, &bytes[..length]).unwrap();
            assert_eq!(numbers(folder.path()), [(1, 1), (2, 1), (3, 1)], "{length} bytes");
        }
    }

    #[test]
    fn a_snapshot_comes_with_what_is_not_final() {
        let folder = tempfile::tempdir().unwrap();
        let (mut store, _) = Store::open(folder.path()).unwrap();
        let tail = vec![(block(8), Vec::new()), (block(9), Vec::new())];
        store.start_anew(H256::zero(), block(7), Vec::new(), tail).unwrap();
        store.fork(8, vec![(block(9), vec![(vec![1], None)])]).unwrap();
        drop(store);
        assert_eq!(numbers(folder.path()), [(8, 0), (9, 1)]);
        let (mut store, _) = Store::open(folder.path()).unwrap();
        store.fork(6, vec![(block(7), Vec::new())]).unwrap();
        drop(store);
        let error = Store::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("before its snapshot"), "{error}");
    }

    #[test]
    fn a_folder_is_used_by_one_devnet_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let _first = Store::open(folder.path()).unwrap();
        assert!(matches!(Store::open(folder.path()), Err(StoreError::InUse(_))));
    }

    #[test]
    fn a_record_that_was_not_finished_is_dropped_and_the_next_one_fits() {
        let folder = tempfile::tempdir().unwrap();
        let path = written(folder.path());
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() - 3]).unwrap();
        let (mut store, loaded) = Store::open(folder.path()).unwrap();
        assert_eq!(loaded.unwrap().blocks.len(), 2);
        store.append(block(3), Vec::new()).unwrap();
        drop(store);
        assert_eq!(Store::open(folder.path()).unwrap().1.unwrap().blocks.len(), 3);
    }

    #[test]
    fn a_damaged_file_is_an_error_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = written(folder.path());
        let bytes = fs::read(&path).unwrap();
        for at in [0, MAGIC.len(), MAGIC.len() + HEAD + 1, bytes.len() - 1] {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            fs::write(&path, damaged).unwrap();
            let error = Store::open(folder.path()).unwrap_err().to_string();
            assert!(error.contains("chain.log is damaged"), "{error}");
        }
        fs::write(&path, b"").unwrap();
        assert!(matches!(Store::open(folder.path()), Err(StoreError::Damaged { .. })));
    }
}
