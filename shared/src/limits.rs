//! Every bound both sides agree on, with its reason.

/// Bytes of an agent's or a model's name: it must fit a certificate's common name (64, RFC 5280 appendix A.1).
pub const MAX_ID_BYTES: usize = 64;
/// Bytes of a stream's name: a deep plant hierarchy fits, and a topic made from it stays far below MQTT's 65,535.
pub const MAX_STREAM_BYTES: usize = 240;
/// Bytes of a channel's name: it becomes a column name that people read.
pub const MAX_CHANNEL_NAME_BYTES: usize = 120;
/// Channels of one stream: a reading stays far below one group commit.
pub const MAX_CHANNELS: usize = 256;

/// Events of one group commit: as many typical readings as its bytes allow. Each sync writes the last page of the one before
/// again, which is a third of what 256 events take, and a tenth of what 1,024 take.
pub const COMMIT_MAX_EVENTS: usize = 1024;
/// Bytes of one group commit: the unit an SD card writes well.
pub const COMMIT_MAX_BYTES: usize = 64 * 1024;
/// The longest an event waits for its group commit.
pub const COMMIT_MAX_DELAY_MS: u64 = 20;

/// Parts of one gap record. The hub's last word lies within so many entries of what a box may have dropped: a checkpoint
/// and a full window of batches, were each to hold one event.
pub const MAX_GAP_PARTS: usize = 4_096;

/// Encoded bytes of one event batch: a full commit and the largest single event after it.
pub const MAX_BATCH_BYTES: usize = 256 * 1024;
/// Payload bytes of one segment log record. A batch must fit with room for the hub's own header.
pub const MAX_RECORD_BYTES: usize = MAX_BATCH_BYTES + 1024;
/// Bytes of one segment of a log: small enough to be given back soon, large enough that creating one is rare.
pub const SEGMENT_BYTES: u64 = 4 * 1024 * 1024;
/// Bytes of disk kept free for what empties a full disk: many times what a gap record and the state store take.
pub const RESERVE_BYTES: u64 = 2 * 1024 * 1024;

/// Body bytes of one frame: the largest batch or model chunk and its envelope.
pub const MAX_FRAME_BYTES: usize = 300 * 1024;
/// Bytes of a model that travel in one frame: one round trip each at a few hundred KiB of bandwidth-delay product.
pub const CHUNK_BYTES: usize = 64 * 1024;
/// Batches that may be under way without an ack: with full commits, 16,384 events in one round trip, however long it is. It
/// bounds what is sent again; what they may take at the hub is bounded by the windows of the connection.
pub const MAX_BATCHES_IN_FLIGHT: usize = 64;

/// Bytes of a package file: "small models"; the largest thing an agent ever takes from the hub.
pub const MAX_PACKAGE_BYTES: u64 = 64 * 1024 * 1024;
/// Bytes of an agent's program: one with GPU support has 47 MB.
pub const MAX_PROGRAM_BYTES: u64 = 128 * 1024 * 1024;
/// Bytes of a program's file, which is compressed.
pub const MAX_PROGRAM_FILE_BYTES: u64 = 64 * 1024 * 1024;
/// Bytes of a package's manifest: it is parsed whole, in memory.
pub const MAX_MANIFEST_BYTES: usize = 1024 * 1024;
/// Inputs of a network, channels times window length, and what goes from layer to layer.
pub const MAX_FEATURES: usize = 65_536;
/// Layers of a network.
pub const MAX_LAYERS: usize = 256;
/// Weights of a network: they must fit into a package.
pub const MAX_WEIGHTS: usize = (MAX_PACKAGE_BYTES / 4) as usize;
/// Preprocessing steps of a pipeline.
pub const MAX_STEPS: usize = 64;
/// Readings a window may span, and a lag may reach back: they are kept in memory for each stream.
pub const MAX_WINDOW_ROWS: u32 = 16_384;
/// Readings of a stream's calibration: they are kept in memory until it is done.
pub const MAX_CALIBRATION_ROWS: u32 = 16_384;
/// Labels of a classifier, and bytes of one.
pub const MAX_LABELS: usize = 256;
/// Bytes of a label.
pub const MAX_LABEL_BYTES: usize = 64;
/// Numbers of one forecast, horizon times channels: it must fit into an event.
pub const MAX_FORECAST_VALUES: usize = 4_096;

const _: () = assert!(COMMIT_MAX_BYTES < MAX_BATCH_BYTES);
const _: () = assert!(MAX_BATCH_BYTES + 1024 <= MAX_RECORD_BYTES);
const _: () = assert!(MAX_RECORD_BYTES < MAX_FRAME_BYTES);
const _: () = assert!((MAX_RECORD_BYTES as u64) < SEGMENT_BYTES);
const _: () = assert!(CHUNK_BYTES < MAX_FRAME_BYTES);
const _: () = assert!(crate::wire::upkeep::PROGRAM_PART_BYTES + 16 < MAX_FRAME_BYTES);
