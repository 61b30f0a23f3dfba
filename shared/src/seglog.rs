//! The segment log: a durable queue of records, deleted a whole segment at a time.
//!
//! ```text
//! <first position, 20 digits>.seg
//!   header   "TLSG" | u16 format = 1 | u16 zero | u64 first position | u32 crc32c(all before)
//!   record   u32 length | u32 crc32c(first, count, payload) | u64 first | u32 count | payload
//!   record   ...
//! ```
//!
//! Little-endian. A record covers the positions `first .. first + count`; positions have no gaps. What the log promises:
//!
//! * What [`SegmentLog::sync`] has returned for is on the disk: file contents by fdatasync, file names by syncing the
//!   directory when a segment is created.
//! * After a crash, [`SegmentLog::open`] cuts off a torn tail, which was never promised to anyone, and goes on. Damage
//!   anywhere else is an error that names the segment and the offset: nothing is passed over in silence.
//! * Positions are never given twice, also when every record was deleted: the newest segment is always kept.

pub mod file;
mod log;
pub mod record;
mod storage;

pub use log::{Cursor, LogError, OpenReport, SegmentLog};
pub use record::Record;
pub use storage::{SegmentFile, Storage};
