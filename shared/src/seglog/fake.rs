//! A disk that does what disks do: forgets what was not synced, tears and reorders what was on its way, fills up, fails
//! and rots. For tests and simulations; everything random comes from the seed.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::storage::{SegmentFile, Storage};

/// The unit a disk writes whole or not at all (ALICE: T. Pillai et al., "All File Systems Are Not Created Equal", OSDI
/// 2014).
const SECTOR_BYTES: usize = 512;

/// How often what goes wrong, in percent of the calls, while the disk is troubled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Trouble {
    /// Appends that write only a part and fail.
    pub failed_appends: u8,
    /// Syncs that fail, after which what was written is lost, though it still reads back.
    pub failed_syncs: u8,
    /// Reads that fail.
    pub failed_reads: u8,
    /// Creations, replacements and removals that fail.
    pub failed_names: u8,
}

/// A disk; clones are the same disk.
#[derive(Debug, Clone)]
pub struct FakeDisk(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    files: BTreeMap<String, Content>,
    capacity: usize,
    trouble: Trouble,
    random: u64,
    faults: u64,
    /// The log was opened since the power last came.
    is_same_boot: bool,
    dying: Dying,
}

/// Whether the program that uses the disk is about to be killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dying {
    No,
    /// Within its next append.
    InAppend,
    /// It was: nothing it still does happens.
    Dead,
}

/// A file as programs see it, and what a crash would leave of it.
#[derive(Debug, Clone)]
struct Content {
    seen: Vec<u8>,
    durable: Vec<u8>,
    /// Bytes from here to there read back and will never be written: their sync failed.
    ghosts: Vec<Range<usize>>,
}

impl Content {
    fn holding(bytes: &[u8]) -> Self {
        Self { seen: bytes.to_vec(), durable: bytes.to_vec(), ghosts: Vec::new() }
    }

    fn sync(&mut self) {
        let synced = self.durable.len();
        self.durable.extend_from_slice(&self.seen[synced..]);
        self.ghosts.iter().for_each(|ghost| self.durable[ghost.clone()].fill(0));
    }

    fn truncate(&mut self, length: usize) {
        self.ghosts.retain(|ghost| ghost.end <= length);
        self.durable.truncate(length);
        self.seen.resize(length, 0);
        self.sync();
    }

    /// What a crash leaves: any part of what was not synced, sector by sector.
    fn tear(&mut self, random: &mut u64) {
        let synced = self.durable.len();
        let end = synced + below(random, self.seen.len() - synced + 1);
        self.durable.extend_from_slice(&self.seen[synced..end]);
        let mut sector = synced;
        while sector < end {
            let until = end.min(sector - sector % SECTOR_BYTES + SECTOR_BYTES);
            if below(random, 4) == 0 {
                self.durable[sector..until].fill(0);
            }
            sector = until;
        }
        self.seen.clone_from(&self.durable);
        self.ghosts.clear();
    }
}

impl FakeDisk {
    /// An empty disk of `capacity` bytes.
    #[must_use]
    pub fn new(seed: u64, capacity: usize) -> Self {
        Self::with_files(BTreeMap::new(), seed, capacity)
    }

    fn with_files(files: BTreeMap<String, Content>, seed: u64, capacity: usize) -> Self {
        let trouble = Trouble::default();
        let state = State { files, capacity, trouble, random: seed, faults: 0, is_same_boot: false, dying: Dying::No };
        Self(Arc::new(Mutex::new(state)))
    }

    /// From now on this goes wrong.
    pub fn trouble(&self, trouble: Trouble) {
        self.lock().trouble = trouble;
    }

    /// From now on the disk holds so many bytes.
    pub fn set_capacity(&self, bytes: usize) {
        self.lock().capacity = bytes;
    }

    /// The power goes: of what was not synced, each sector is there, or not, or zero.
    pub fn crash(&self) {
        let mut state = self.lock();
        let state = &mut *state;
        state.is_same_boot = false;
        state.files.values_mut().for_each(|content| content.tear(&mut state.random));
    }

    /// The program is killed within its next append: of that a part is written, and nothing happens after it until
    /// [`Self::restart`].
    pub fn kill_in_append(&self) {
        self.lock().dying = Dying::InAppend;
    }

    /// The program that was killed is started again.
    pub fn restart(&self) {
        self.lock().dying = Dying::No;
    }

    /// Flips a bit somewhere; where there is one, says in which file and at which byte.
    pub fn rot(&self) -> Option<(String, usize)> {
        let mut state = self.lock();
        let total: usize = state.files.values().map(|content| content.durable.len()).sum();
        let mut at = state.below(total);
        let bit = state.below(8);
        state.faults += u64::from(total > 0);
        let (name, content) = state.files.iter_mut().find(|(_, content)| {
            let is_here = at < content.durable.len();
            at -= if is_here { 0 } else { content.durable.len() };
            is_here
        })?;
        content.durable[at] ^= 1 << bit;
        if let Some(seen) = content.seen.get_mut(at) {
            *seen ^= 1 << bit;
        }
        Some((name.clone(), at))
    }

    /// Loses a file; false if it is not there.
    pub fn lose(&self, name: &str) -> bool {
        let mut state = self.lock();
        let is_lost = state.files.remove(name).is_some();
        state.faults += u64::from(is_lost);
        is_lost
    }

    /// What a file holds.
    #[must_use]
    pub fn contents(&self, name: &str) -> Option<Vec<u8>> {
        self.lock().files.get(name).map(|content| content.seen.clone())
    }

    /// Makes a file hold this, durably.
    pub fn put(&self, name: &str, bytes: &[u8]) {
        self.lock().files.insert(name.to_owned(), Content::holding(bytes));
    }

    /// A disk with the same durable contents, as a restored backup or a copied card has them.
    #[must_use]
    pub fn image(&self, seed: u64) -> Self {
        let state = self.lock();
        let files = state.files.iter().map(|(name, content)| (name.clone(), Content::holding(&content.durable)));
        Self::with_files(files.collect(), seed, state.capacity)
    }

    /// Calls that failed, and damage done, so far.
    #[must_use]
    pub fn faults(&self) -> u64 {
        self.lock().faults
    }

    /// Bytes in use.
    #[must_use]
    pub fn used(&self) -> usize {
        self.lock().used()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn used(&self) -> usize {
        self.files.values().map(|content| content.seen.len()).sum()
    }

    fn below(&mut self, end: usize) -> usize {
        below(&mut self.random, end)
    }

    fn fails(&mut self, percent: u8) -> bool {
        if self.dying == Dying::Dead {
            return true;
        }
        let fails = percent > 0 && self.below(100) < usize::from(percent);
        self.faults += u64::from(fails);
        fails
    }

    fn name_fails(&mut self) -> io::Result<()> {
        let percent = self.trouble.failed_names;
        if self.fails(percent) { Err(broken("change the directory")) } else { Ok(()) }
    }

    fn content(&mut self, name: &str) -> io::Result<&mut Content> {
        self.files.get_mut(name).ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, name.to_owned()))
    }

    /// Appends as much as there is room for.
    fn append(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let room = self.capacity.saturating_sub(self.used());
        let percent = self.trouble.failed_appends;
        let (taken, result) = if self.dying == Dying::InAppend {
            self.dying = Dying::Dead;
            (self.below(bytes.len().min(room) + 1), Err(broken("append")))
        } else if self.dying == Dying::Dead {
            (0, Err(broken("append")))
        } else if bytes.len() > room {
            self.faults += 1;
            (room, Err(io::Error::from(io::ErrorKind::StorageFull)))
        } else if self.fails(percent) {
            (self.below(bytes.len() + 1), Err(broken("append")))
        } else {
            (bytes.len(), Ok(()))
        };
        self.content(name)?.seen.extend_from_slice(&bytes[..taken]);
        result
    }
}

impl Storage for FakeDisk {
    type File = FakeFile;

    fn is_same_boot(&self) -> bool {
        self.lock().is_same_boot
    }

    fn mark_boot(&self) {
        self.lock().is_same_boot = true;
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.lock().files.keys().cloned().collect())
    }

    fn create(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.lock();
        state.name_fails()?;
        state.files.insert(name.to_owned(), Content::holding(bytes));
        Ok(())
    }

    fn open_at(&self, name: &str, length: u64) -> io::Result<FakeFile> {
        let mut state = self.lock();
        state.name_fails()?;
        state.content(name)?.truncate(length as usize);
        drop(state);
        Ok(FakeFile { disk: self.clone(), name: name.to_owned() })
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.lock();
        state.name_fails()?;
        state.content(name)?;
        state.files.insert(name.to_owned(), Content::holding(bytes));
        Ok(())
    }

    fn read(&self, name: &str, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut state = self.lock();
        let percent = state.trouble.failed_reads;
        if state.fails(percent) {
            return Err(broken("read"));
        }
        let content = state.content(name)?;
        let found = content.seen.get(offset as usize..).unwrap_or_default();
        let count = found.len().min(buffer.len());
        buffer[..count].copy_from_slice(&found[..count]);
        Ok(count)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.lock();
        state.name_fails()?;
        state.content(name)?;
        state.files.remove(name);
        Ok(())
    }
}

/// A file of a [`FakeDisk`].
#[derive(Debug)]
pub struct FakeFile {
    disk: FakeDisk,
    name: String,
}

impl SegmentFile for FakeFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.disk.lock().append(&self.name, bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut state = self.disk.lock();
        let percent = state.trouble.failed_syncs;
        let fails = state.fails(percent);
        let content = state.content(&self.name)?;
        if fails {
            content.ghosts.push(content.durable.len()..content.seen.len());
            return Err(broken("sync"));
        }
        content.sync();
        Ok(())
    }
}

fn broken(what: &str) -> io::Error {
    io::Error::other(format!("the disk failed to {what}"))
}

/// splitmix64 (G. Steele et al., "Fast splittable pseudorandom number generators", 2014).
fn below(random: &mut u64, end: usize) -> usize {
    *random = random.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *random;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) % (end as u64).max(1)) as usize
}
