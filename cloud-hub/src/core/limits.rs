//! The hub's own bounds, with their reasons.

/// Batches that may wait for compaction: about 130,000 readings, some ten MiB in memory while they are written.
pub const COMPACT_BATCHES: u64 = 512;
/// When a refused agent should try again.
pub const RETRY_AFTER_MS: u64 = 5_000;
/// When a copy of a box should try again: its original may have gone by then.
pub const TWIN_RETRY_AFTER_MS: u64 = 60_000;
/// An original that was not heard of for so long does not keep its copy away: somebody replaced the box.
pub const TWIN_FORGOTTEN_MS: i64 = 60 * 60 * 1_000;
/// Starts of one agent remembered: both of two boxes, and a restart of each.
pub const TWINS_KEPT: usize = 4;
/// Between two looks at rollouts, if nothing calls for one: each walks over all streams.
pub const ROLLOUT_INTERVAL_MS: i64 = 500;
/// Closed known-normal segments remembered per stream; older ones are only in the sample store.
pub const SEGMENTS_KEPT: usize = 256;
/// Times of the newest readings remembered per stream, to cut a segment where a drift began.
pub const RECENT_TIMES: usize = 1_024;
/// Streams of one agent whose newest reading is kept because of pictures alone: as many as an agent shows.
pub const LIVE_STREAMS_KEPT: usize = 1_024;
/// Drift alarms shown; all of them are in the database.
pub const ALARMS_KEPT: usize = 256;
/// Anomalous answers among the newest of a stream that make an alarm: a model that is wrong in one of a hundred then
/// raises one in a hundred million by chance.
pub const ALARM_RAISE: usize = 5;
/// The newest answers that are looked at for it.
pub const ALARM_OF: usize = 10;
/// Normal answers on end that end an alarm: a machine that comes and goes has one, and not dozens.
pub const ALARM_CLEAR: u32 = 10;
/// Alarms of machines in memory; all of them are in the database.
pub const MACHINE_ALARMS_KEPT: usize = 2_000;
/// Labels of one hub: a hundred a day for three years.
pub const MAX_LABELS: usize = 100_000;

/// From this share of a model's streams on that drift together, it is the world.
pub const COHORT_SHARE: f64 = 0.3;
/// Readings on end with the very same value, after which a sensor is stuck: two half-lives and more.
pub const STUCK_ROWS: u32 = 100;
/// How far a mean may be from where a change of unit would put it, as a share of how far that is.
pub const UNIT_MEAN_TOLERANCE: f64 = 0.1;
/// By what factor a spread may differ from what a change of unit would make of it: a machine varies.
pub const UNIT_SPREAD_TOLERANCE: f64 = 2.0;
/// Readings before a live histogram is judged: a half-full one differs from any reference.
pub const DRIFT_FILL_ROWS: u32 = 60;
/// Runs on end that the hub did not live to see the end of, after which what a person asked for is not taken up again by
/// itself: it may be the training that ends the hub.
pub const INTERRUPTIONS: u32 = 10;
/// Runs shown; all of them are in the database.
pub const RUNS_KEPT: usize = 200;
/// Points from which a model could be trained anew; each may cost a training. Older ones are given up.
pub const REGIMES_KEPT: usize = 4;

/// Boxes on either side of a comparison, at least: with fewer there is no telling how much boxes differ by themselves.
pub const AB_BOXES: usize = 3;
/// Answers of a box since a comparison began, before it counts: a share of fewer is mostly chance.
pub const AB_ANSWERS: u64 = 30;

/// People with a password of their own at one hub.
pub const MAX_USERS: usize = 1_000;
/// Tokens of programs.
pub const MAX_TOKENS: usize = 10_000;
/// Sessions of one person: a few browsers on a few machines.
pub const MAX_SESSIONS_OF_USER: usize = 16;
/// Wrong passwords from one place for one name before the next has to wait.
pub const LOGIN_ATTEMPTS: f64 = 10.0;
/// The same for all names: an office behind one address forgets more.
pub const LOGIN_ATTEMPTS_ANY_NAME: f64 = 40.0;
/// Milliseconds after which one wrong password counts no more: ten thousand guesses take a week.
pub const LOGIN_FADE_MS: i64 = 60_000;
/// Places and names that wrong passwords are remembered of: some 10 MiB.
pub const LOGIN_SOURCES: usize = 65_536;

/// Enrolment tokens that are kept: a few for each box of a large fleet, used ones among them.
pub const MAX_ENROL_TOKENS: usize = 10_000;
/// Milliseconds for which a token is shown after it expired: whoever looks why a box did not come in finds it.
pub const ENROL_TOKEN_KEPT_MS: i64 = 30 * 24 * 3_600_000;

/// Boxes that ask with one claim and were not answered: a large delivery. Who stole a claim cannot fill the database.
pub const MAX_ASKS_OF_CLAIM: usize = 1_000;
/// Milliseconds for which an ask is kept that nobody answers: a box that is still there asks again.
pub const ASK_KEPT_MS: i64 = 30 * 24 * 3_600_000;

/// Experiments, runs and registered models of programs that train elsewhere, of each kind: a run every five minutes for a month.
pub const MAX_TRACKED: usize = 10_000;
/// Parameters, tags, figures, aliases or versions of one of them.
pub const MAX_TRACKED_ENTRIES: usize = 1_000;
/// Bytes of a name or value, as MLflow's own server bounds them.
pub const MAX_TRACKED_TEXT_BYTES: usize = 8_000;
/// Points of all figures of one run: ten figures over a hundred thousand steps.
pub const MAX_POINTS: u64 = 1_000_000;
/// Points of a figure that are shown: the newest.
pub const MAX_POINTS_SHOWN: u64 = 25_000;
