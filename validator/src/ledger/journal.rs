//! Append-only files that a request's cost is written to before its answer ends.
//!
//! What was written survives the end of the process at any moment: it is in the system's page cache. Nothing is synced, so
//! a power cut can lose the last seconds; they are not charged then.
//!
//! That a request has begun is written a little later, if it is not over by then: most are, and need one record, not two.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tracing::{error, info, warn};

use super::record::{Entry, Record, decode};

/// A file that is longer is followed by another.
const ROTATE_AT: u64 = 8 << 20;
/// Read at once.
const CHUNK: u64 = 1 << 20;
/// Records that are kept in memory until they are taken. Of half of them [`Journal::filled`] tells.
const MAX_UNREAD: usize = 4_096;
const SUFFIX: &str = ".journal";

/// The journals of one process, in a folder of their own.
#[derive(Debug)]
pub struct Journal {
    folder: PathBuf,
    /// The folder's name among those of all processes on one database.
    node: String,
    inner: Mutex<Inner>,
    /// Rung when many records wait to be taken.
    filled: Notify,
    failing: AtomicBool,
    /// Locked while the process lives.
    _lock: File,
}

#[derive(Debug)]
struct Inner {
    /// `None`: to be made by the next record.
    open: Option<Open>,
    /// The next file's number.
    next: u64,
    /// Requests that have begun, by their ids, of which that is not written.
    begun: HashMap<String, Arc<str>>,
}

#[derive(Debug)]
struct Open {
    file: File,
    name: String,
    length: u64,
    /// The file's last records, which need not be read from it.
    unread: Vec<Record>,
    /// Where the first of them begins.
    unread_from: u64,
}

impl Open {
    fn appended(&mut self, bytes: usize, records: impl ExactSizeIterator<Item = Record>) {
        self.length += bytes as u64;
        if self.unread.len() + records.len() > MAX_UNREAD {
            self.unread.clear();
            self.unread_from = self.length;
        } else {
            self.unread.extend(records);
        }
    }
}

/// What lies in a file behind a position.
#[derive(Debug)]
pub struct Chunk {
    pub records: Vec<Record>,
    /// Behind the last of them.
    pub position: u64,
    pub rest: Rest,
}

/// What lies in a file behind a [`Chunk`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rest {
    More,
    /// Nothing yet.
    Growing,
    /// No whole record, nor will there be one.
    Nothing,
}

impl Journal {
    /// Takes a folder, and makes it if there is none. `fresh` names a new one; it is random.
    ///
    /// # Errors
    /// If it cannot be written, or another process has it.
    pub fn open(folder: &Path, fresh: u64, now_ms: i64) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(folder.join("lock"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(io::Error::other("another process writes its journals there"));
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let mut node = String::new();
        lock.read_to_string(&mut node)?;
        if node.len() != 16 || !node.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            node = format!("{fresh:016x}");
            lock.set_len(0)?;
            lock.seek(SeekFrom::Start(0))?;
            lock.write_all(node.as_bytes())?;
        }
        let newest = names(folder)?.last().and_then(|name| number(name)).unwrap_or(0);
        // Never a number that a file had whose import may still be noted.
        let next = newest.max(u64::try_from(now_ms).unwrap_or(0)) + 1;
        Ok(Self {
            folder: folder.to_owned(),
            node,
            inner: Mutex::new(Inner { open: None, next, begun: HashMap::new() }),
            filled: Notify::new(),
            failing: AtomicBool::new(false),
            _lock: lock,
        })
    }

    /// Which folder this is.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// A request begins. While the journal can be written, that is only noted.
    ///
    /// # Errors
    /// If the disk is full or fails, and did so before.
    pub fn begin(&self, id: &str, key: &Arc<str>) -> io::Result<()> {
        if self.failing.load(Ordering::Relaxed) {
            return self.append(Record::Opened { id: id.to_owned(), key: Arc::clone(key) });
        }
        self.inner().begun.insert(id.to_owned(), Arc::clone(key));
        Ok(())
    }

    /// Writes that requests have begun that are not over.
    ///
    /// # Errors
    /// If the disk is full or fails.
    pub fn write_begun(&self) -> io::Result<()> {
        // One lock for all of it: none of them may end in between.
        let mut inner = self.inner();
        if inner.begun.is_empty() {
            return Ok(());
        }
        let opened = |(id, key): (&String, &Arc<str>)| Record::Opened {
            id: id.clone(),
            key: Arc::clone(key),
        };
        let records: Vec<_> = inner.begun.iter().map(opened).collect();
        let mut bytes = Vec::new();
        for record in &records {
            bytes.extend(record.encode()?);
        }
        self.write(&mut inner, &bytes, records.into_iter())?;
        inner.begun.clear();
        Ok(())
    }

    /// A request is over and charged: written, all or nothing. Once this has returned, it survives the end of the process.
    ///
    /// # Errors
    /// If the disk is full or fails; said in the log when it begins and when it is over.
    pub fn settle(&self, entry: Entry) -> io::Result<()> {
        let was_noted = self.inner().begun.remove(&entry.id).is_some();
        self.append(if was_noted { Record::Whole(entry) } else { Record::Settled(entry) })
    }

    /// A request is over and not charged.
    pub fn release(&self, id: &str) {
        if self.inner().begun.remove(id).is_none() {
            // What is lost here is counted as cut off, and the log has said why.
            let _ = self.append(Record::Released { id: id.to_owned() });
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn append(&self, record: Record) -> io::Result<()> {
        let written = record
            .encode()
            .and_then(|bytes| self.write(&mut self.inner(), &bytes, [record].into_iter()));
        let failing = written.is_err();
        if self.failing.load(Ordering::Relaxed) != failing
            && self.failing.swap(failing, Ordering::Relaxed) != failing
        {
            let folder = self.folder.display();
            match &written {
                Err(error) => error!(
                    "the journal in {folder} cannot be written, so requests that cost something are refused: {error}"
                ),
                Ok(()) => info!("the journal in {folder} can be written again"),
            }
        }
        written
    }

    /// Appends records, of which these are the bytes.
    fn write(
        &self,
        inner: &mut Inner,
        bytes: &[u8],
        records: impl ExactSizeIterator<Item = Record>,
    ) -> io::Result<()> {
        if inner.open.as_ref().is_some_and(|open| open.length >= ROTATE_AT) {
            inner.open = None;
        }
        let open = match &mut inner.open {
            Some(open) => open,
            None => {
                let name = format!("{}-{:020}{SUFFIX}", self.node, inner.next);
                let path = self.folder.join(&name);
                let file = OpenOptions::new().append(true).create_new(true).open(path)?;
                inner.next += 1;
                inner.open.insert(Open {
                    file,
                    name,
                    length: 0,
                    unread: Vec::new(),
                    unread_from: 0,
                })
            }
        };
        // One call: what a kill leaves is the whole record or a part at the very end.
        let written = match open.file.write(bytes) {
            Ok(written) if written == bytes.len() => Ok(()),
            Ok(_) => Err(io::Error::from(io::ErrorKind::StorageFull)),
            Err(error) => Err(error),
        };
        match written {
            Ok(()) => {
                open.appended(bytes.len(), records);
                if open.unread.len() >= MAX_UNREAD / 2 {
                    self.filled.notify_one();
                }
            }
            // A part of a record may only be at a file's end.
            Err(_) if open.file.set_len(open.length).is_err() => inner.open = None,
            Err(_) => {}
        }
        written
    }

    /// The files, oldest first.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn files(&self) -> io::Result<Vec<String>> {
        names(&self.folder)
    }

    /// Waits until many records wait to be taken.
    pub async fn filled(&self) {
        self.filled.notified().await;
    }

    /// Takes all records of a file behind a position, if they are in memory still.
    pub fn take(&self, name: &str, position: u64) -> Option<Chunk> {
        let mut inner = self.inner();
        let open = inner.open.as_mut().filter(|open| open.name == name)?;
        if open.unread_from != position {
            return None;
        }
        open.unread_from = open.length;
        let records = std::mem::take(&mut open.unread);
        Some(Chunk { records, position: open.length, rest: Rest::Growing })
    }

    /// Reads the next records of a file, up to those that can be taken.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn read(&self, name: &str, position: u64) -> io::Result<Chunk> {
        // Asked before it is read: what is appended meanwhile is only looked at the next time.
        let until = {
            let inner = self.inner();
            inner.open.as_ref().filter(|open| open.name == name).map(|open| open.unread_from)
        };
        let mut file = File::open(self.folder.join(name))?;
        file.seek(SeekFrom::Start(position))?;
        let most = until.map_or(CHUNK, |until| until.saturating_sub(position).min(CHUNK));
        let mut bytes = Vec::new();
        file.take(most).read_to_end(&mut bytes)?;
        let (records, read) = decode(&bytes);
        let rest = match until {
            None if (bytes.len() as u64) < CHUNK || read == 0 => Rest::Nothing,
            Some(_) if read == 0 => Rest::Growing,
            None | Some(_) => Rest::More,
        };
        Ok(Chunk { records, position: position + read as u64, rest })
    }

    /// Deletes a file whose records are all in the database. What is behind them is a torn record; it is kept aside if it is
    /// not just the last one.
    ///
    /// # Errors
    /// If it cannot be deleted.
    pub fn delete(&self, name: &str, position: u64) -> io::Result<()> {
        let path = self.folder.join(name);
        let behind = fs::metadata(&path)?.len().saturating_sub(position);
        if behind == 0 {
            return fs::remove_file(path);
        }
        let aside = self.folder.join(format!("{name}.torn"));
        warn!("{behind} bytes of a torn record at the end of a journal are in {}", aside.display());
        fs::rename(path, aside)
    }
}

fn number(name: &str) -> Option<u64> {
    name.strip_suffix(SUFFIX)?.rsplit_once('-')?.1.parse().ok()
}

fn names(folder: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        if let Ok(name) = entry?.file_name().into_string()
            && number(&name).is_some()
        {
            names.push(name);
        }
    }
    names.sort_unstable_by_key(|name| number(name));
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Pico;

    fn entry(number: usize) -> Entry {
        Entry {
            id: format!("{number:08}"),
            at_ms: 1,
            key: "key".into(),
            task: "chat-demo".parse().unwrap(),
            prompt_tokens: 2,
            completion_tokens: 3,
            amount: Pico(4),
            uid: Some(5),
            hotkey: Some("5Ghost".into()),
            attempts: 1,
            streamed: false,
        }
    }

    fn ids(chunk: &Chunk) -> Vec<String> {
        let id = |record: &Record| match record {
            Record::Settled(entry) | Record::Whole(entry) => entry.id.clone(),
            Record::Opened { id, .. } | Record::Released { id } => id.clone(),
        };
        chunk.records.iter().map(id).collect()
    }

    fn numbered(numbers: std::ops::Range<usize>) -> Vec<String> {
        numbers.map(|number| entry(number).id).collect()
    }

    /// A journal with so many records, and the name of its file.
    fn journal(folder: &Path, records: usize) -> (Journal, String) {
        let journal = Journal::open(folder, 1, 0).unwrap();
        (0..records).for_each(|number| journal.settle(entry(number)).unwrap());
        let name = journal.files().unwrap().pop().unwrap();
        (journal, name)
    }

    #[test]
    fn what_was_taken_and_did_not_get_into_the_database_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let (journal, name) = journal(folder.path(), 3);
        let taken = journal.take(&name, 0).unwrap();
        assert_eq!((ids(&taken), taken.rest), (numbered(0..3), Rest::Growing));
        journal.settle(entry(3)).unwrap();
        assert!(journal.take(&name, 0).is_none(), "what lies before was taken");
        let read = journal.read(&name, 0).unwrap();
        assert_eq!((ids(&read), read.rest), (numbered(0..3), Rest::More));
        assert_eq!(ids(&journal.take(&name, read.position).unwrap()), numbered(3..4));
        assert!(journal.take("another", 0).is_none());
    }

    #[test]
    fn more_than_is_kept_in_memory_is_read_from_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let (journal, name) = journal(folder.path(), MAX_UNREAD + 1);
        journal.settle(entry(MAX_UNREAD + 1)).unwrap();
        assert!(journal.take(&name, 0).is_none());
        let (mut all, mut position) = (Vec::new(), 0);
        loop {
            let chunk = journal.take(&name, position);
            let chunk = chunk.unwrap_or_else(|| journal.read(&name, position).unwrap());
            all.extend(ids(&chunk));
            position = chunk.position;
            if chunk.rest != Rest::More {
                break;
            }
        }
        assert_eq!(all, numbered(0..MAX_UNREAD + 2));
    }

    #[test]
    fn a_file_of_an_earlier_process_has_an_end() {
        let folder = tempfile::tempdir().unwrap();
        let (earlier, name) = journal(folder.path(), 2);
        drop(earlier);
        let journal = Journal::open(folder.path(), 1, 0).unwrap();
        assert!(journal.take(&name, 0).is_none());
        let read = journal.read(&name, 0).unwrap();
        assert_eq!((ids(&read), read.rest), (numbered(0..2), Rest::Nothing));
    }
}
