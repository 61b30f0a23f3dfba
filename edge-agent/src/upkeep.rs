//! Keeps the agent's own program up to date: asks the hub now and then, fetches what it offers, proves it, and watches a new one until it is
//! kept or gone back from. The order is: verify, check the floor, make durable, start.

use std::sync::Arc;
use std::time::Duration;

use shared::limits::MAX_PROGRAM_FILE_BYTES;
use shared::package::signature::PublicKey;
use shared::program::ProgramFile;
use shared::wire::upkeep::{PROGRAM_PART_BYTES, ProgramOffer, ProgramState, UPKEEP_ALPN, UpkeepAnswer, UpkeepRequest};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::clock::{Clock, WallClock};
use crate::core::programs::{BoxHealth, ProgramBook, Proving, Verdict};
use crate::credentials::Credentials;
use crate::program::{ProgramFolder, Running, TARGET};
use crate::talk::{Talk, TalkError};

/// The first question, after a start: what is there to be said of the last program is said soon.
const FIRST_ASK_MS: u64 = 5_000;
/// How often a program on trial is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// Bytes of an answer: a part of a file and its envelope.
const MAX_ANSWER_BYTES: usize = PROGRAM_PART_BYTES + 64;
/// Parts of one file: a hub that gives less than a part at a time is not listened to for ever.
const MAX_PARTS: u64 = 2 * MAX_PROGRAM_FILE_BYTES / PROGRAM_PART_BYTES as u64;

/// What is needed for it.
pub struct Upkeep {
    /// Where hubs are, `host:port` for TCP, the best first.
    pub hubs: Vec<String>,
    /// What a hub's certificate must say.
    pub server_name: String,
    /// What is shown to it.
    pub credentials: Arc<Credentials>,
    /// Where programs are.
    pub folder: ProgramFolder,
    /// Whose programs are taken; none: none are.
    pub trusted: Vec<PublicKey>,
    /// The program that runs.
    pub running: Running,
    /// Milliseconds between two questions.
    pub interval_ms: u64,
    /// Milliseconds for which all must be well before a program is kept.
    pub settle_ms: u64,
    /// The box's clocks.
    pub clock: Clock,
    /// The same.
    pub wall: WallClock,
    /// How the box is.
    pub health: watch::Receiver<BoxHealth>,
    /// Cancelled when the agent should end and start over, as another program.
    pub start_over: CancellationToken,
}

/// Why a question came to nothing.
#[derive(Debug, thiserror::Error)]
enum UpkeepError {
    #[error("{0}")]
    Talk(#[from] TalkError),
    #[error("ask for a program: the hub refused: {0}")]
    Refused(String),
    #[error("understand the hub: it answered something else")]
    Odd,
    #[error("keep a program: {0}")]
    Disk(#[from] std::io::Error),
}

impl Upkeep {
    /// Runs until it is aborted, or asks for another program to be started.
    pub async fn run(self) {
        let mut book = self.folder.book();
        if let Some(trial) = book.trial() {
            let mut proving = Proving::new(trial, self.settle_ms);
            if !self.prove(&mut proving, &mut book).await {
                return;
            }
        }
        let mut wait_ms = FIRST_ASK_MS.min(self.interval_ms);
        let mut told = false;
        loop {
            tokio::time::sleep(Duration::from_millis(wait_ms)).await;
            // Boxes that got their power back together do not ask together for ever.
            wait_ms = (self.interval_ms as f64 * rand::random_range(0.75..1.25)) as u64;
            match self.ask_any(&mut book).await {
                Ok(false) => told = false,
                Ok(true) => {
                    info!("another program is here; starting over");
                    return self.start_over.cancel();
                }
                Err(error) if told => debug!("still failed to {error}"),
                Err(error) => {
                    warn!("failed to {error}; the box goes on asking for programs");
                    told = true;
                }
            }
        }
    }

    /// Watches a program on trial; gives whether it runs on.
    async fn prove(&self, proving: &mut Proving, book: &mut ProgramBook) -> bool {
        info!(number = self.running.number, "this program must prove itself");
        loop {
            let health = *self.health.borrow();
            match proving.look(self.clock.monotonic(), health) {
                Verdict::Wait => tokio::time::sleep(LOOK).await,
                Verdict::Keep => {
                    book.keep();
                    self.save(book);
                    self.folder.prune(book);
                    info!(number = self.running.number, "this program is kept");
                    return true;
                }
                Verdict::GoBack(reason) => {
                    error!("this program is none to keep: {reason}; going back to the one before");
                    book.go_back(reason);
                    self.save(book);
                    self.folder.prune(book);
                    self.start_over.cancel();
                    return false;
                }
            }
        }
    }

    /// Asks the first hub that answers; gives whether there is another program to start.
    async fn ask_any(&self, book: &mut ProgramBook) -> Result<bool, UpkeepError> {
        let mut trouble = UpkeepError::Odd;
        for address in &self.hubs {
            match Talk::open(address, &self.server_name, &self.credentials, UPKEEP_ALPN).await {
                Ok(mut talk) => {
                    let asked = self.ask(&mut talk, book).await;
                    talk.close().await;
                    return asked;
                }
                Err(error) => trouble = error.into(),
            }
        }
        Err(trouble)
    }

    async fn ask(&self, talk: &mut Talk, book: &mut ProgramBook) -> Result<bool, UpkeepError> {
        let runs = |book: &ProgramBook| {
            UpkeepRequest::Runs(ProgramState {
                release: env!("CARGO_PKG_VERSION").to_owned(),
                number: self.running.number,
                target: TARGET.to_owned(),
                accepts: !self.trusted.is_empty(),
                outcome: book.newest().cloned(),
            })
        };
        let offer = match talk.ask(&runs(book), MAX_ANSWER_BYTES).await? {
            UpkeepAnswer::Nothing { time_ms } => {
                self.wall.hear(time_ms);
                return Ok(false);
            }
            UpkeepAnswer::Program(offer) => offer,
            UpkeepAnswer::Refused { reason } => return Err(UpkeepError::Refused(reason)),
            UpkeepAnswer::Part(_) => return Err(UpkeepError::Odd),
        };
        if self.trusted.is_empty() || book.is_settled(offer.offer) {
            return Ok(false);
        }
        let limit = MAX_PROGRAM_FILE_BYTES;
        let begun = if offer.bytes > limit {
            Err(format!("its file has {} bytes, at most {limit} are allowed", offer.bytes))
        } else {
            match self.fetch(talk, offer).await? {
                Some(bytes) => self.begin(book, offer, bytes).await,
                // It would be the same the next time, and a flash card bears only so much.
                None => Err("the hub gave a file with another hash than it said".to_owned()),
            }
        };
        if let Err(reason) = &begun {
            warn!("a program was refused: {reason}");
            book.refuse(offer.offer, reason.clone());
        }
        self.folder.save(book)?;
        // The hub hears of it now rather than at the next question.
        talk.ask::<UpkeepAnswer>(&runs(book), MAX_ANSWER_BYTES).await?;
        Ok(begun.is_ok())
    }

    /// Fetches a file, from where it broke off before; nothing if it is not the one that was offered.
    async fn fetch(&self, talk: &mut Talk, offer: ProgramOffer) -> Result<Option<Vec<u8>>, UpkeepError> {
        let ProgramOffer { file, bytes, .. } = offer;
        let mut there = self.folder.fetched(file).min(bytes);
        for _ in 0..MAX_PARTS {
            if there >= bytes {
                break;
            }
            let part = match talk.ask(&UpkeepRequest::Part { file, offset: there }, MAX_ANSWER_BYTES).await? {
                UpkeepAnswer::Part(part) if !part.is_empty() => part,
                UpkeepAnswer::Refused { reason } => return Err(UpkeepError::Refused(reason)),
                UpkeepAnswer::Part(_) | UpkeepAnswer::Nothing { .. } | UpkeepAnswer::Program(_) => {
                    return Err(UpkeepError::Odd);
                }
            };
            let folder = self.folder.clone();
            let length = part.len() as u64;
            on_disk(move || folder.add_part(file, there, &part)).await?;
            there += length;
        }
        let folder = self.folder.clone();
        Ok(on_disk(move || folder.take_fetched(file)).await?)
    }

    /// Proves a file and makes its program the one that is started next.
    async fn begin(&self, book: &mut ProgramBook, offer: ProgramOffer, bytes: Vec<u8>) -> Result<(), String> {
        let (trusted, now, running) = (self.trusted.clone(), self.wall.unix_ms(), self.running.number);
        let (folder, known) = (self.folder.clone(), book.clone());
        let prove = move || -> Result<_, String> {
            let file = ProgramFile::read(&bytes).map_err(|error| error.to_string())?;
            file.verify(&trusted).map_err(|error| error.to_string())?;
            known.check(file.header(), TARGET, running, now).map_err(|unfit| unfit.to_string())?;
            let program = file.unpack().map_err(|error| error.to_string())?;
            let header = file.header().clone();
            let failed = |error: std::io::Error| format!("it cannot be kept: {error}");
            folder.install(header.program, &program).map_err(failed)?;
            Ok(header)
        };
        let header = tokio::task::spawn_blocking(prove).await.map_err(|error| error.to_string())??;
        info!(release = header.release, number = header.number, "a program was proven and is here");
        book.begin(offer.offer, &header, self.health.borrow().has_model);
        Ok(())
    }

    fn save(&self, book: &ProgramBook) {
        if let Err(failure) = self.folder.save(book) {
            error!("failed to note what became of a program: {failure}");
        }
    }
}

async fn on_disk<T: Send + 'static>(act: impl FnOnce() -> std::io::Result<T> + Send + 'static) -> std::io::Result<T> {
    tokio::task::spawn_blocking(act).await.map_err(std::io::Error::other)?
}
