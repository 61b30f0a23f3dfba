//! The little a segment log needs from a disk.

use std::io;

/// A place that holds segments by name.
pub trait Storage: Send + 'static {
    /// One segment open for appending.
    type File: SegmentFile;

    /// Whether the machine is known to have run on since [`Self::mark_boot`]. Whatever was written since is there then,
    /// synced or not.
    fn is_same_boot(&self) -> bool;

    /// Remembers which start of the machine this is. Where that fails, [`Self::is_same_boot`] stays false.
    fn mark_boot(&self);

    /// The names of all segments, in any order.
    ///
    /// # Errors
    /// As the disk gives them; so for every method that may fail.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Makes a new segment that holds `bytes`, in the place of one of this name if need be. Name and bytes are durable when
    /// this returns. It may use space kept in reserve, because an agent must be able to start on a full disk.
    ///
    /// # Errors
    /// As the disk gives them.
    fn create(&self, name: &str, bytes: &[u8]) -> io::Result<()>;

    /// Opens a segment for appending after `length` bytes; whatever follows them is cut off, durably.
    ///
    /// # Errors
    /// Also if it does not exist.
    fn open_at(&self, name: &str, length: u64) -> io::Result<Self::File>;

    /// Puts `bytes` in the place of what a segment held: after a crash it holds the one or the other, whole. Durable
    /// when this returns. It may use space kept in reserve, because it is how a full disk is emptied.
    ///
    /// # Errors
    /// As the disk gives them; the segment then holds what it held.
    fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()>;

    /// Reads up to `buffer.len()` bytes from `offset`; fewer only at the end.
    ///
    /// # Errors
    /// Also if it does not exist.
    fn read(&self, name: &str, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;

    /// Deletes a segment.
    ///
    /// # Errors
    /// Also if it does not exist.
    fn remove(&self, name: &str) -> io::Result<()>;
}

/// One segment open for appending.
pub trait SegmentFile: Send + 'static {
    /// Writes all of `bytes` at the end. Not durable before [`Self::sync`].
    ///
    /// # Errors
    /// After one, some of the bytes may be there.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Makes everything appended durable.
    ///
    /// # Errors
    /// After one, nothing may be assumed of what was appended since the last sync.
    fn sync(&mut self) -> io::Result<()>;
}
