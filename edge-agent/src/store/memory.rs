//! The memory of the pipeline in service, in a file of its own: it is larger than what the keyed store is for, and written
//! whole.
//!
//! `"TMEM" | BLAKE3 of the rest | postcard PipelineMemory`. A file that is damaged counts as absent: the pipeline then
//! starts anew from the newest readings in the spool.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use shared::ids::Digest;
use tracing::warn;

use crate::core::memory::PipelineMemory;

const MAGIC: [u8; 4] = *b"TMEM";
/// Bytes of a memory: thousands of streams with windows of hundreds of readings. A larger one is not kept.
const MAX_BYTES: u64 = 64 * 1024 * 1024;

/// The file.
#[derive(Debug, Clone)]
pub struct MemoryFile(PathBuf);

impl MemoryFile {
    /// The file in an agent's folder.
    #[must_use]
    pub fn in_directory(directory: &Path) -> Self {
        Self(directory.join("pipeline.memory"))
    }

    /// What was written last, if it is whole.
    #[must_use]
    pub fn load(&self) -> Option<PipelineMemory> {
        let mut bytes = Vec::new();
        File::open(&self.0).ok()?.take(MAX_BYTES).read_to_end(&mut bytes).ok()?;
        let memory = decode(&bytes);
        if memory.is_none() {
            warn!(file = %self.0.display(), "the pipeline's memory is damaged; it starts from the newest readings");
        }
        memory
    }

    /// Replaces what was written before, durably.
    ///
    /// # Errors
    /// If the disk fails, or it is too large.
    pub fn save(&self, memory: &PipelineMemory) -> io::Result<()> {
        let content = postcard::to_allocvec(memory).map_err(io::Error::other)?;
        if content.len() as u64 + 36 > MAX_BYTES {
            return Err(io::Error::other(format!("{} bytes, at most {MAX_BYTES} are kept", content.len())));
        }
        let new = self.0.with_extension("memory.new");
        let mut file = File::create(&new)?;
        file.write_all(&MAGIC)?;
        file.write_all(&Digest::of(&content).0)?;
        file.write_all(&content)?;
        file.sync_all()?;
        fs::rename(&new, &self.0)?;
        match self.0.parent() {
            Some(directory) => File::open(directory)?.sync_all(),
            None => Ok(()),
        }
    }
}

fn decode(bytes: &[u8]) -> Option<PipelineMemory> {
    let content = bytes.strip_prefix(&MAGIC)?;
    let (hash, content) = content.split_at_checked(32)?;
    (Digest::of(content).0 == hash).then(|| postcard::from_bytes(content).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::ids::{Epoch, Sequence};

    #[test]
    fn a_memory_is_read_back_and_every_changed_byte_makes_it_absent() {
        let dir = tempfile::tempdir().expect("dir");
        let file = MemoryFile::in_directory(dir.path());
        assert_eq!(file.load(), None);
        let memory =
            PipelineMemory { digest: Digest::of(b"m"), epoch: Epoch(3), through: Sequence(9), bytes: vec![1, 2, 3] };
        file.save(&memory).expect("saves");
        assert_eq!(file.load(), Some(memory));
        let whole = fs::read(&file.0).expect("reads");
        for position in 0..whole.len() {
            let mut changed = whole.clone();
            changed[position] ^= 1;
            assert_eq!(decode(&changed), None, "byte {position}");
            assert_eq!(decode(&whole[..position]), None, "cut at {position}");
        }
    }
}
