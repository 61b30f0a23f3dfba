//! The little a segment log needs from a disk.

use std::io;

/// A place that holds segments by name.
pub trait Storage: Send + Sync + 'static {
    /// One segment open for appending.
    type File: SegmentFile;

    /// The names of all segments, in any order.
    ///
    /// # Errors
    /// As the disk gives them; so for every method here.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Makes a new segment. Its name is durable when this returns.
    ///
    /// # Errors
    /// Also if it is there already.
    fn create(&self, name: &str) -> io::Result<Self::File>;

    /// Opens a segment for appending after `length` bytes; whatever follows them is cut off, durably.
    ///
    /// # Errors
    /// Also if it does not exist.
    fn open_at(&self, name: &str, length: u64) -> io::Result<Self::File>;

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
