//! The messages of `tideline/1`. New variants are added at the end and need a new protocol version.

use serde::{Deserialize, Serialize};

use crate::event::{ModelRef, UnixMillis};
use crate::ids::{Digest, Epoch, ModelName, ModelVersion, Sequence};
use crate::limits::MAX_BATCH_BYTES;
use crate::wire::diagnosis::PackedDiagnosis;
use crate::wire::live::LivePicture;
use crate::wire::part::PackedPart;

/// From agent to hub.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum EdgeToHub {
    /// The first message of a connection.
    Hello(Hello),
    /// One entry of the spool: an event batch, or a gap.
    Entry(PackedEntry),
    /// Asks for the chunk of a package that starts at `offset`.
    Fetch {
        /// The package.
        digest: Digest,
        /// Where the chunk starts.
        offset: u64,
        /// The package that the agent has and that may serve as a dictionary.
        base: Option<Digest>,
    },
    /// What became of an offered model.
    ModelReport(ModelReport),
    /// How the agent is, every few seconds.
    Status(AgentStatus),
    /// What comes in, ahead of the backlog. Over QUIC it has a stream of its own.
    Live(LivePicture),
    /// What the box says of itself, as it was asked.
    Examined {
        /// What asked for it.
        request: u64,
        /// What it says.
        document: PackedDiagnosis,
    },
}

/// From hub to agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum HubToEdge {
    /// The answer to `Hello`.
    Welcome {
        /// The first sequence of the agent's epoch that the hub does not have.
        next: Sequence,
        /// [`crate::event::SpoolEntry::mark`] of what the hub has just before `next`. A box whose own differs was restored
        /// or copied, and went on elsewhere.
        mark: Option<u32>,
        /// The newest epoch of the agent that the hub has anything of.
        newest_epoch: Epoch,
        /// The hub's time, for boxes whose clock is wrong.
        time_ms: UnixMillis,
    },
    /// Everything before `next` is durable at the hub.
    Acked {
        /// The epoch it is said of.
        epoch: Epoch,
        /// The first sequence the hub does not have.
        next: Sequence,
    },
    /// A version the agent should serve.
    Offer(ModelOffer),
    /// A part of a package.
    Chunk {
        /// The package.
        digest: Digest,
        /// Where these bytes belong.
        offset: u64,
        /// The package whose bytes are the dictionary, if the hub has it too.
        base: Option<Digest>,
        /// At most [`crate::limits::CHUNK_BYTES`] bytes; fewer only at the end.
        part: PackedPart,
    },
    /// The hub will not go on with this connection.
    Refused {
        /// Why, in words.
        reason: String,
        /// When it is worth trying again.
        retry_after_ms: u64,
    },
    /// A version the agent should run beside the one it serves; nothing: none any more.
    Shadow(Option<ShadowOffer>),
    /// Somebody wants to know everything about the box.
    Examine {
        /// Numbers such questions.
        request: u64,
    },
}

/// What an agent says of itself when it connects. Its name is not in here: that comes from its certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`crate::wire::PROTOCOL_VERSION`] of the agent.
    pub protocol: u16,
    /// The agent's release.
    pub agent_version: String,
    /// The epoch of its spool.
    pub epoch: Epoch,
    /// Random, made anew at each start: two boxes with one identity differ in it.
    pub boot_nonce: u64,
    /// The first sequence of the epoch: a hub that has nothing of it begins there.
    pub base: Sequence,
    /// What it serves.
    pub serving: Option<ServedModel>,
    /// The version it is pinned to by its own configuration.
    pub pinned: Option<ModelVersion>,
    /// The device it runs models on: `flex`, `ndarray` or `wgpu`.
    pub device: String,
}

/// A model in service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServedModel {
    /// Name and version.
    pub model: ModelRef,
    /// The package.
    pub digest: Digest,
}

/// A spool entry on the wire: its encoding, compressed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackedEntry {
    raw_bytes: u32,
    zstd: Vec<u8>,
}

/// A model on offer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelOffer {
    /// Its name.
    pub model: ModelName,
    /// Its version.
    pub version: ModelVersion,
    /// The package.
    pub digest: Digest,
    /// The package's size, known before its first byte.
    pub bytes: u64,
}

impl ModelOffer {
    /// The offered model as one that serves.
    #[must_use]
    pub fn served(&self) -> ServedModel {
        ServedModel { model: ModelRef { name: self.model.clone(), version: self.version }, digest: self.digest }
    }
}

/// A version that is to see live readings on a box while another one answers them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShadowOffer {
    /// The version.
    pub offer: ModelOffer,
    /// How many of a hundred readings it sees, 1 to 100.
    pub percent: u8,
}

/// What became of an offered model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelReport {
    /// Name and version.
    pub model: ModelRef,
    /// The package.
    pub digest: Digest,
    /// What became of it.
    pub outcome: ModelOutcome,
}

/// What became of an offered model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ModelOutcome {
    /// The box served a prediction with it.
    Serving,
    /// The box will not serve it.
    Refused {
        /// Why, in words.
        reason: String,
    },
    /// The box served it, and went back to the one before.
    RolledBack {
        /// Why, in words.
        reason: String,
    },
}

/// How an agent is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct AgentStatus {
    /// Per stream: what was taken in and what became of it.
    pub ledger: Vec<StreamLedger>,
    /// Bytes in the spool.
    pub spool_bytes: u64,
    /// Readings that got no prediction, by reason.
    pub unanswered: Vec<(String, u64)>,
    /// Messages that were no readings, by reason.
    pub rejected: Vec<(String, u64)>,
    /// Sequences whose events are gone, by reason, whatever they were.
    pub gone: Vec<(String, u64)>,
    /// The package in service, once its trial on the box is over.
    pub kept: Option<Digest>,
    /// How the version does that runs in its shadow, if one does.
    pub shadow: Option<ShadowCounts>,
}

/// What a version said of readings that another one answered, since the agent began to run it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShadowCounts {
    /// The package.
    pub digest: Digest,
    /// Readings that were answered meanwhile.
    pub readings: u64,
    /// Those of them that the version saw.
    pub mirrored: u64,
    /// Those of them of which both versions said something.
    pub compared: u64,
    /// Those of them of which both said the same: anomalous or not, or which label. Forecasts count as the same.
    pub agreed: u64,
    /// Those of which the version said that they are anomalous.
    pub anomalous: u64,
    /// Those of which the version in service did.
    pub served_anomalous: u64,
    /// Microseconds that the version took for what it saw.
    pub busy_us: u64,
}

impl ShadowCounts {
    /// Of a version that saw nothing yet.
    #[must_use]
    pub const fn of(digest: Digest) -> Self {
        let (readings, mirrored, compared, agreed) = (0, 0, 0, 0);
        Self { digest, readings, mirrored, compared, agreed, anomalous: 0, served_anomalous: 0, busy_us: 0 }
    }

    /// Adds what the same version said of other readings.
    pub const fn add(&mut self, other: &Self) {
        self.readings += other.readings;
        self.mirrored += other.mirrored;
        self.compared += other.compared;
        self.agreed += other.agreed;
        self.anomalous += other.anomalous;
        self.served_anomalous += other.served_anomalous;
        self.busy_us += other.busy_us;
    }
}

impl StreamLedger {
    /// Readings that are neither delivered nor gone.
    #[must_use]
    pub fn pending(&self) -> u64 {
        let dropped: u64 = self.dropped.iter().map(|(_, count)| count).sum();
        self.accepted.saturating_sub(self.delivered + dropped)
    }
}

/// A stream's ledger on the box, in readings: `accepted = delivered + pending + dropped`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamLedger {
    /// The stream.
    pub stream: crate::ids::StreamId,
    /// Readings appended to the spool.
    pub accepted: u64,
    /// Readings the hub acknowledged.
    pub delivered: u64,
    /// Readings that are gone, by reason.
    pub dropped: Vec<(String, u64)>,
    /// Messages that repeated a reading already accepted; not part of `accepted`.
    pub duplicates: u64,
}

/// Why a packed entry or part cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// It declares more bytes than there may be.
    #[error("packed bytes are declared as {bytes}, at most {limit} are allowed")]
    TooLarge {
        /// What it declares.
        bytes: u32,
        /// The limit.
        limit: usize,
    },
    /// The bytes do not decompress, or not to what was declared.
    #[error("packed bytes do not decompress to the {declared} they declare")]
    Corrupt {
        /// What it declares.
        declared: u32,
    },
}

impl PackedEntry {
    /// zstd level for entries on the wire: above it small boxes pay more time than they save bytes.
    const ZSTD_LEVEL: i32 = 1;

    /// Compresses an encoded entry.
    ///
    /// # Errors
    /// If zstd fails, which it does only when memory runs out.
    pub fn pack(encoded: &[u8]) -> std::io::Result<Self> {
        let zstd = zstd::bulk::compress(encoded, Self::ZSTD_LEVEL)?;
        Ok(Self { raw_bytes: u32::try_from(encoded.len()).unwrap_or(u32::MAX), zstd })
    }

    /// The encoded entry.
    ///
    /// # Errors
    /// If it is larger than an entry may be, or corrupt. The declared size bounds what is allocated.
    pub fn unpack(&self) -> Result<Vec<u8>, UnpackError> {
        unpack(self.raw_bytes, MAX_BATCH_BYTES, |bytes| zstd::bulk::decompress(&self.zstd, bytes))
    }
}

/// What `decompress` makes of packed bytes, which declare their size before memory is taken for them.
pub(super) fn unpack(
    declared: u32,
    limit: usize,
    decompress: impl FnOnce(usize) -> std::io::Result<Vec<u8>>,
) -> Result<Vec<u8>, UnpackError> {
    if declared as usize > limit {
        return Err(UnpackError::TooLarge { bytes: declared, limit });
    }
    match decompress(declared as usize) {
        Ok(bytes) if bytes.len() == declared as usize => Ok(bytes),
        Ok(_) | Err(_) => Err(UnpackError::Corrupt { declared }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_survives_packing() {
        let encoded = vec![7_u8; 10_000];
        let packed = PackedEntry::pack(&encoded).expect("packs");
        assert!(packed.zstd.len() < 100);
        assert_eq!(packed.unpack().expect("unpacks"), encoded);
    }

    #[test]
    fn a_bomb_is_refused_by_its_declared_size_and_by_its_real_one() {
        let bomb = zstd::bulk::compress(&vec![0_u8; 50_000_000], 1).expect("compresses");
        let packed = |raw_bytes| PackedEntry { raw_bytes, zstd: bomb.clone() };
        assert!(matches!(packed(50_000_000).unpack(), Err(UnpackError::TooLarge { .. })));
        assert!(matches!(packed(1_000).unpack(), Err(UnpackError::Corrupt { declared: 1_000 })));
    }
}
