//! The agent's own bounds, with their reasons.

use shared::limits::{MAX_BATCH_BYTES, RESERVE_BYTES};

/// Group commits handed to the disk and not yet durable: enough that the disk never waits for the core.
pub const COMMITS_IN_FLIGHT: usize = 4;
/// A commit ends with this share of the receive maximum, so that the broker always has some of its window left while the
/// disk works on the others.
pub const WINDOW_SHARES: usize = 4;
/// Questions of one inference call: as many as go through a network at once, four times over.
pub const INFER_BATCH: usize = 256;
/// Inference calls under way: one working, one waiting, so that the inference thread is never idle.
pub const ANSWERS_IN_FLIGHT: usize = 2;
/// Readings waiting for inference. Beyond, they are delivered without a prediction and counted: acknowledging must
/// not wait for a slow model. 16,384 readings of 8 channels are about 2 MiB.
pub const INFER_QUEUE: usize = 16_384;
/// Events kept in the spool after the hub has them, at least: from them a restarted agent knows which messages are
/// redeliveries, and what the pipelines had seen.
pub const RECENT_EVENTS: u64 = 65_536;
/// Message ids remembered for telling redeliveries. A broker that is killed and remembers the state of a second ago
/// delivers a second's messages again, which may be tens of thousands. They take some 2 MiB.
pub const RECENT_IDS: usize = 65_536;
/// Events between two checkpoints: bounds what is counted again after a restart, and how often the store is written.
pub const CHECKPOINT_EVENTS: u64 = 2_048;
/// Readings that bring the pipelines up to date after a restart where their memory is gone, and a new model after a swap.
pub const WARM_UP_READINGS: usize = 512;
/// Readings between two writes of the pipelines' memory: they are gone through again after a restart, which takes a tenth of
/// a second, and the spool must still hold them. Each write is a sync of a file of its own, which the spool's syncs wait for.
pub const MEMORY_READINGS: usize = 8_192;
/// Readings that may be gone through again after a restart: those since the memory was written, while a full queue of
/// answers was waiting to become durable.
pub const REPLAYED_READINGS: usize = 2 * MEMORY_READINGS + INFER_QUEUE;

/// The first wait before dialling the hub again.
pub const BACKOFF_FIRST_MS: u64 = 500;
/// The longest wait before dialling the hub again.
pub const BACKOFF_LONGEST_MS: u64 = 60_000;
/// A connection that lasted this long makes the next wait short again.
pub const STABLE_AFTER_MS: u64 = 30_000;
/// The hub must greet within this time.
pub const GREETING_TIMEOUT_MS: u64 = 10_000;
/// An unacknowledged batch for this long means the connection is dead in the water.
pub const ACK_TIMEOUT_MS: u64 = 30_000;
/// Entries read from the spool at once: they are held decoded until they are packed.
pub const ENTRIES_AT_ONCE: usize = 8;
/// Time between two status messages to the hub, where something changed.
pub const STATUS_INTERVAL_MS: u64 = 1_000;
/// Time after which a status is said again though nothing changed: the hub takes an agent for gone after a minute of
/// silence, and ten thousand idle ones must not keep it busy.
pub const STATUS_REPEAT_MS: u64 = 15_000;
/// Events that wait for longer than this are a backlog, and what comes in is shown ahead of it: a link that keeps up
/// acknowledges within a round trip and two syncs.
pub const LIVE_LAG_MS: u64 = 1_000;
/// Time between two pictures of what comes in: a person who watches sees it as it is.
pub const LIVE_INTERVAL_MS: u64 = 250;
/// Bytes that pictures may take of the link: a few percent of a 4G uplink, because all of it is sent again in its place.
pub const LIVE_BYTES_PER_S: u64 = 16 * 1024;
/// Bytes after which a picture ends: what the lane may take in two seconds.
pub const LIVE_PICTURE_BYTES: u64 = 2 * LIVE_BYTES_PER_S;
/// Streams that are shown ahead of a backlog: thousands more on one box would each be shown too seldom to be of use.
pub const LIVE_STREAMS: usize = 1_024;
/// Time before a batch that the disk would not take is tried again.
pub const APPEND_RETRY_MS: u64 = 500;
/// Time before the spool is read again where it gave nothing of what is in it: a disk that fails to read is asked again,
/// but not without a pause.
pub const READ_RETRY_MS: u64 = 500;
/// Below the spool's limit by so much it counts as full, so that the limit holds for what is on its way as well: the
/// commits under way, the answers to what was taken in, and the reserve.
pub const SPOOL_MARGIN_BYTES: u64 = (COMMITS_IN_FLIGHT * MAX_BATCH_BYTES) as u64 + 2 * 1024 * 1024 + RESERVE_BYTES;

/// From here on, in percent of what makes the spool full, an input whose rule is `drop-newest` lets go what comes in: the
/// rest is for the others, and for the names of what is let go.
pub const SHED_PERCENT: u64 = 90;
/// An input whose rule is `downsample` keeps one reading of so many from so many percent on. Each step halves the rate at
/// which the rest fills, so that what is left lasts many times longer than it took to fill the first three quarters.
pub const KEEP_ONE_OF: [(u64, u64); 4] = [(75, 2), (80, 4), (85, 8), (90, 16)];

/// Answers after which a new model's trial is over: enough to tell one alarm in five from one in twenty.
pub const TRIAL_ANSWERS: u64 = 200;
/// A trial is over after this time also where readings are seldom, if there was an answer.
pub const TRIAL_LONGEST_MS: u64 = 10 * 60_000;
/// Answers on end that are no numbers, after which a model is given up: a single one may be a broken sensor's.
pub const TRIAL_NO_NUMBERS: u64 = 3;
/// Readings without an answer, after which a model that mostly has none is given up.
pub const TRIAL_FAULTS: u64 = 20;
/// Answers before their time and their share of alarms are judged.
pub const TRIAL_TIMED_ANSWERS: u64 = 50;
/// By how much the share of anomalous answers may exceed that of the model before.
pub const TRIAL_ALARM_MARGIN: f64 = 0.25;
/// Starts of the agent within one trial, after which the model is taken for what ends it.
pub const TRIAL_STARTS: u32 = 3;
/// Readings on end that a version in shadow answers of a stream, or does not, where it answers only a share: as long as alarms
/// often stand, and short enough that the share holds within minutes.
pub const SHADOW_SPAN_READINGS: u64 = 20;
/// Readings that a version in shadow works on first: if each takes a second, what comes in waits for a quarter of a minute
/// before it is given up.
pub const SHADOW_FIRST_READINGS: usize = 16;
/// Streams whose spans a version in shadow keeps count of.
pub const SHADOW_STREAMS: usize = 4_096;
/// Packages that a box remembers to have gone back from.
pub const RULED_OUT_KEPT: usize = 32;
/// Words on models that wait for the hub: what a box can go through in one outage, and still matters.
pub const REPORTS_KEPT: usize = 8;
