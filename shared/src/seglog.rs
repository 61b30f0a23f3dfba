//! The segment log: a durable queue of records, deleted a whole segment at a time.
//!
//! ```text
//! <first position, 20 digits>.seg
//!   header   "TLSG" | u16 format = 1 | u16 zero | u64 first position | u32 crc32c(all before)
//!   record   "TLRC" | u32 length | u32 crc32c(all after) | u64 first | u32 count | u32 unsynced | payload
//!   record   ...
//! ```
//!
//! Little-endian. A record covers the positions `first .. first + count`; positions have no gaps. `unsynced` says how many
//! positions before `first` were not known to be on the disk when the record was written. A record without a payload stands
//! for positions that are left out. A segment ends where the next one begins, whatever else is in its file. What the log
//! promises:
//!
//! * What [`SegmentLog::sync`] has returned for is on the disk: file contents by fdatasync, file names by syncing the
//!   directory when a segment is created.
//! * After a crash, [`SegmentLog::open`] takes what is sound of the last group commit over into a new segment, and leaves
//!   the rest where it is. So what it found is on the disk, also if it only read it back from a cache that a failed sync
//!   had left behind. A disk may have written later records of the tail and not the earlier ones: no later record says that
//!   these were synced, and all of them are left.
//! * Damage costs the records it touches and no others: a damaged record is passed over to the next sound one, a missing
//!   segment to the next one there is. The positions that are lost are named when the log is opened and where they are
//!   read: nothing is passed over in silence, and nothing stops.
//! * Positions are never given twice. The newest segment is always kept, so that they go on when every record was deleted;
//!   and since damage to the newest records cannot be told from a torn write, the log goes on behind every position that
//!   the torn bytes could hold. What lies between counts as lost, though perhaps nothing was there. Only where a program
//!   was killed while it wrote, and the machine ran on, it is known that nothing was: the file ends within the record.

#[cfg(any(test, feature = "fake"))]
pub mod fake;
pub mod file;
mod log;
pub mod record;
mod scan;
mod storage;

pub use log::{Cursor, Found, LogError, OpenReport, SegmentLog};
pub use record::Record;
pub use storage::{SegmentFile, Storage};
