//! The package: one content-addressed file that holds a model.
//!
//! ```text
//! "TIDE" | u16 format = 3 | u16 signatures | u32 manifest length | signatures | manifest | section 0 | section 1 | ...
//! ```
//!
//! Little-endian. The manifest is postcard; it holds the pipeline, the lineage and, for each section, its name, length
//! and BLAKE3 hash. The package's [`Digest`] is the hash of the magic, the format, the manifest's length and the manifest,
//! so one digest vouches for every byte but the signatures, and a signature vouches for the digest: see [`signature`].
//! Sections of format 3 are `weights` (safetensors) and `golden` (postcard [`Golden`]).

pub mod signature;

#[cfg(feature = "model")]
mod choose;
#[cfg(feature = "model")]
mod load;

use serde::{Deserialize, Serialize};

use crate::drift::DriftReference;
use crate::event::{Outcome, StreamSchema, UnixMillis};
use crate::ids::{AgentId, Digest, ModelName, ModelVersion, StreamId};
use crate::limits::{MAX_MANIFEST_BYTES, MAX_PACKAGE_BYTES};
use crate::pipeline::{Pipeline, PipelineError, Stage};

use signature::{ReleaseKey, SIGNATURE_BYTES, Signature};

#[cfg(feature = "model")]
pub use choose::{Chosen, NoDevice};
#[cfg(feature = "model")]
pub use load::LoadError;

const MAGIC: [u8; 4] = *b"TIDE";
const FORMAT: u16 = 3;
const PREFIX_BYTES: usize = 12;
/// Signatures of one package: a hub's, a person's, and those of a change of keys.
const MAX_SIGNATURES: usize = 8;
const MAX_SECTIONS: usize = 16;

/// A model: everything that makes predictions, what it was made from and how good it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Package {
    /// Name, version, pipeline, lineage, metrics.
    pub manifest: Manifest,
    /// The network's weights in the safetensors format.
    pub weights: Vec<u8>,
    /// Inputs with the outputs every device must reproduce.
    pub golden: Golden,
}

/// What a package says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The model's name.
    pub model: ModelName,
    /// The version.
    pub version: ModelVersion,
    /// Who has served this version takes none below this one any more.
    pub floor: ModelVersion,
    /// When it was made.
    pub created_ms: UnixMillis,
    /// What turns readings into predictions.
    pub pipeline: Pipeline,
    /// What it was made from.
    pub lineage: Lineage,
    /// What its training data looked like, for watching for drift.
    pub drift_reference: DriftReference,
    /// Figures measured when it was made, by name.
    pub metrics: Vec<(String, f64)>,
    sections: Vec<Section>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Section {
    name: String,
    bytes: u64,
    hash: [u8; 32],
}

/// What a model was made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lineage {
    /// The readings it was trained on.
    pub trained_on: Vec<DataRange>,
    /// The hash of those readings' values, in order.
    pub data: Digest,
    /// The hash of the recipe.
    pub recipe: Digest,
    /// The seed of everything random.
    pub seed: u64,
    /// The version that served when this one was made.
    pub parent: Option<ModelVersion>,
    /// Why it was made, in words.
    pub trigger: String,
    /// The release of the program that made it.
    pub code_version: String,
}

/// A run of readings of one stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataRange {
    /// The agent that took them in.
    pub agent: AgentId,
    /// Their stream.
    pub stream: StreamId,
    /// The time of the first.
    pub from_ms: UnixMillis,
    /// The time of the last.
    pub to_ms: UnixMillis,
    /// How many.
    pub rows: u64,
}

/// Inputs with the outputs every device must reproduce before it may serve the package.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Golden {
    /// The stream the readings pretend to come from.
    pub schema: StreamSchema,
    /// Readings in order: time and values.
    pub readings: Vec<(UnixMillis, Vec<f64>)>,
    /// What is said of each reading; `None` while there is nothing to say.
    pub outcomes: Vec<Option<Outcome>>,
    /// A number may differ by this much of itself, and by this much absolutely.
    pub tolerance: f32,
}

/// Why bytes are not a package, or not one to use.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    /// The file is larger than a package may be.
    #[error("package has {bytes} bytes, at most {MAX_PACKAGE_BYTES} are allowed")]
    TooLarge {
        /// Its size.
        bytes: u64,
    },
    /// It does not begin as a package does.
    #[error("this is no package: it does not begin with \"TIDE\"")]
    NotAPackage,
    /// It is of a format this program does not know.
    #[error("package format is {found}, this program reads format {FORMAT}")]
    Format {
        /// The file's format.
        found: u16,
    },
    /// It ends too early, or goes on too long.
    #[error("package has {found} bytes, its manifest accounts for {expected}")]
    Length {
        /// What is there.
        found: u64,
        /// What should be.
        expected: u64,
    },
    /// The whole is not what its name says.
    #[error("package digest is {found}, expected {expected}")]
    Digest {
        /// What it is.
        found: Digest,
        /// What it should be.
        expected: Digest,
    },
    /// A section was changed after the manifest was made.
    #[error("section {0} does not match the hash in the manifest")]
    Section(String),
    /// The manifest or the golden vectors cannot be read.
    #[error("{place} of the package is malformed: {source}")]
    Malformed {
        /// Which part.
        place: &'static str,
        /// Why.
        source: postcard::Error,
    },
    /// It has more signatures than allowed.
    #[error("package has {found} signatures, at most {MAX_SIGNATURES} are allowed")]
    Signatures {
        /// How many.
        found: usize,
    },
    /// No signature is by a trusted key.
    #[error("package {digest} is not signed by a trusted key; it has {found}, trusted are {trusted}")]
    Untrusted {
        /// The package.
        digest: Digest,
        /// Whose signatures it has.
        found: String,
        /// Whose signatures would do.
        trusted: String,
    },
    /// The signature is too old to begin with it.
    #[error(
        "package {digest} was signed until {hours} hours ago; sign it again with 'cloud-hub package sign', or another"
    )]
    Expired {
        /// The package.
        digest: Digest,
        /// How long ago.
        hours: i64,
    },
    /// The pipeline does not fit together.
    #[error("pipeline of the package does not fit: {0}")]
    Pipeline(#[from] PipelineError),
}

/// A package's file: its bytes and their digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// The package's name by content.
    pub digest: Digest,
    /// The file.
    pub bytes: Vec<u8>,
}

impl Manifest {
    /// A manifest for sections that are still to be sealed.
    #[must_use]
    pub fn new(
        model: ModelRefParts,
        created_ms: UnixMillis,
        pipeline: Pipeline,
        lineage: Lineage,
        drift_reference: DriftReference,
        metrics: Vec<(String, f64)>,
    ) -> Self {
        let (model, version) = model;
        // One step back stays possible.
        let floor = lineage.parent.unwrap_or(version);
        Self { model, version, floor, created_ms, pipeline, lineage, drift_reference, metrics, sections: Vec::new() }
    }
}

/// A model's name and version.
pub type ModelRefParts = (ModelName, ModelVersion);

impl Package {
    /// Writes the package as a file, signed with `keys` until `until_ms`.
    ///
    /// # Errors
    /// If a part is too large.
    pub fn seal(&self, keys: &[&ReleaseKey], until_ms: UnixMillis) -> Result<Sealed, PackageError> {
        let malformed = |place| move |source| PackageError::Malformed { place, source };
        let golden = postcard::to_allocvec(&self.golden).map_err(malformed("the golden section"))?;
        let section = |name: &str, bytes: &[u8]| Section {
            name: name.to_owned(),
            bytes: bytes.len() as u64,
            hash: Digest::of(bytes).0,
        };
        let mut manifest = self.manifest.clone();
        manifest.sections = vec![section("weights", &self.weights), section("golden", &golden)];
        let manifest = postcard::to_allocvec(&manifest).map_err(malformed("the manifest"))?;
        let digest = root(&manifest);
        let signatures: Vec<Signature> = keys.iter().map(|key| key.sign(digest, until_ms)).collect();
        let bytes = assemble(&manifest, &signatures, &[&self.weights, &golden]);
        if bytes.len() as u64 > MAX_PACKAGE_BYTES || manifest.len() > MAX_MANIFEST_BYTES {
            return Err(PackageError::TooLarge { bytes: bytes.len() as u64 });
        }
        Ok(Sealed { digest, bytes })
    }

    /// Reads a package's file, checks every hash in it and the pipeline's shapes, and, if given, that it is the one
    /// with the digest `expected`. The hashes are checked before anything but the manifest is parsed.
    ///
    /// # Errors
    /// Says what does not hold.
    pub fn open(bytes: &[u8], expected: Option<Digest>) -> Result<(Self, Digest), PackageError> {
        let Parts { manifest: manifest_bytes, sections: sections_bytes, digest, .. } = Parts::of(bytes)?;
        if let Some(expected) = expected.filter(|expected| *expected != digest) {
            return Err(PackageError::Digest { found: digest, expected });
        }
        let malformed = |place| move |source| PackageError::Malformed { place, source };
        let manifest: Manifest = postcard::from_bytes(manifest_bytes).map_err(malformed("the manifest"))?;
        if manifest.sections.len() > MAX_SECTIONS {
            return Err(PackageError::Section(format!("{MAX_SECTIONS} and more")));
        }
        let declared = manifest.sections.iter().try_fold(0_u64, |sum, section| sum.checked_add(section.bytes));
        if declared != Some(sections_bytes.len() as u64) {
            return Err(PackageError::Length {
                found: bytes.len() as u64,
                expected: (bytes.len() - sections_bytes.len()) as u64 + declared.unwrap_or(u64::MAX >> 1),
            });
        }
        let mut weights = None;
        let mut golden = None;
        let mut rest = sections_bytes;
        for section in &manifest.sections {
            let (content, after) = rest.split_at(section.bytes as usize);
            rest = after;
            if Digest::of(content).0 != section.hash {
                return Err(PackageError::Section(section.name.clone()));
            }
            match section.name.as_str() {
                "weights" => weights = Some(content.to_vec()),
                "golden" => golden = Some(postcard::from_bytes(content).map_err(malformed("the golden section"))?),
                _ => return Err(PackageError::Section(section.name.clone())),
            }
        }
        manifest.pipeline.check(Stage::Fitted)?;
        let missing = |name: &str| PackageError::Section(name.to_owned());
        let package = Self {
            weights: weights.ok_or_else(|| missing("weights"))?,
            golden: golden.ok_or_else(|| missing("golden"))?,
            manifest,
        };
        Ok((package, digest))
    }
}

/// The parts of a package's file, before any of them is parsed.
struct Parts<'a> {
    signatures: Vec<Signature>,
    manifest: &'a [u8],
    sections: &'a [u8],
    digest: Digest,
}

impl<'a> Parts<'a> {
    fn of(bytes: &'a [u8]) -> Result<Self, PackageError> {
        if bytes.len() as u64 > MAX_PACKAGE_BYTES {
            return Err(PackageError::TooLarge { bytes: bytes.len() as u64 });
        }
        let prefix: &[u8; PREFIX_BYTES] = bytes.first_chunk().ok_or(PackageError::NotAPackage)?;
        let [m0, m1, m2, m3, f0, f1, s0, s1, l0, l1, l2, l3] = *prefix;
        if [m0, m1, m2, m3] != MAGIC {
            return Err(PackageError::NotAPackage);
        }
        let format = u16::from_le_bytes([f0, f1]);
        if format != FORMAT {
            return Err(PackageError::Format { found: format });
        }
        let found = usize::from(u16::from_le_bytes([s0, s1]));
        if found > MAX_SIGNATURES {
            return Err(PackageError::Signatures { found });
        }
        let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        if length > MAX_MANIFEST_BYTES {
            return Err(PackageError::TooLarge { bytes: length as u64 });
        }
        let start = PREFIX_BYTES + found * SIGNATURE_BYTES;
        let end = start + length;
        if bytes.len() < end {
            return Err(PackageError::Length { found: bytes.len() as u64, expected: end as u64 });
        }
        let signatures = bytes[PREFIX_BYTES..start].chunks_exact(SIGNATURE_BYTES).filter_map(Signature::from_bytes);
        let manifest = &bytes[start..end];
        Ok(Self { signatures: signatures.collect(), manifest, sections: &bytes[end..], digest: root(manifest) })
    }
}

/// The hash that all bytes but the signatures hang off.
fn root(manifest: &[u8]) -> Digest {
    let mut rooted = Vec::with_capacity(MAGIC.len() + 6 + manifest.len());
    rooted.extend_from_slice(&MAGIC);
    rooted.extend_from_slice(&FORMAT.to_le_bytes());
    rooted.extend_from_slice(&u32::try_from(manifest.len()).unwrap_or(u32::MAX).to_le_bytes());
    rooted.extend_from_slice(manifest);
    Digest::of(&rooted)
}

fn assemble(manifest: &[u8], signatures: &[Signature], sections: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&FORMAT.to_le_bytes());
    bytes.extend_from_slice(&u16::try_from(signatures.len()).unwrap_or(u16::MAX).to_le_bytes());
    bytes.extend_from_slice(&u32::try_from(manifest.len()).unwrap_or(u32::MAX).to_le_bytes());
    signatures.iter().for_each(|signature| bytes.extend_from_slice(&signature.to_bytes()));
    bytes.extend_from_slice(manifest);
    sections.iter().for_each(|section| bytes.extend_from_slice(section));
    bytes
}

#[cfg(test)]
mod tests {
    use super::signature::{NEVER, Vouched};
    use super::*;
    use crate::pipeline::tests::{names, sample};

    fn package() -> Package {
        let pipeline = sample();
        Package {
            manifest: Manifest::new(
                (ModelName::new("pump").expect("valid"), ModelVersion(1)),
                1_000,
                pipeline,
                Lineage {
                    trained_on: vec![],
                    data: Digest::of(b"data"),
                    recipe: Digest::of(b"recipe"),
                    seed: 7,
                    parent: None,
                    trigger: "a test".into(),
                    code_version: "0".into(),
                },
                DriftReference { channels: vec![], half_life: 40.0 },
                vec![("far".into(), 0.01)],
            ),
            weights: vec![1, 2, 3],
            golden: Golden {
                schema: StreamSchema { stream: StreamId::new("golden").expect("valid"), channels: names(&["a", "b"]) },
                readings: vec![(0, vec![1.0, 2.0])],
                outcomes: vec![None],
                tolerance: 1e-3,
            },
        }
    }

    fn key(seed: u8) -> ReleaseKey {
        ReleaseKey::from_seed(&[seed; 32]).expect("a key")
    }

    #[test]
    fn a_package_survives_its_file_and_has_one_digest() {
        let sealed = package().seal(&[&key(1)], NEVER).expect("seals");
        assert_eq!(sealed, package().seal(&[&key(1)], NEVER).expect("seals"));
        let (opened, digest) = Package::open(&sealed.bytes, Some(sealed.digest)).expect("opens");
        assert_eq!(digest, sealed.digest);
        assert_eq!((opened.weights, opened.golden), (package().weights, package().golden));
        assert!(matches!(Package::open(&sealed.bytes, Some(Digest::of(b"another"))), Err(PackageError::Digest { .. })));
    }

    #[test]
    fn every_changed_byte_and_every_cut_is_found() {
        let sealed = package().seal(&[&key(1)], NEVER).expect("seals");
        for position in 0..sealed.bytes.len() {
            let mut changed = sealed.bytes.clone();
            changed[position] ^= 1;
            let trusted = [key(1).public()];
            let vouched = signature::verify(&changed, &trusted).and_then(|vouched| vouched.at(0));
            let opened = vouched.and_then(|digest| Package::open(&changed, Some(digest)));
            assert!(opened.is_err(), "byte {position}");
            assert!(Package::open(&sealed.bytes[..position], None).is_err(), "cut at {position}");
        }
    }

    #[test]
    fn only_a_trusted_key_signs_and_a_signature_can_be_added_later() {
        let sealed = package().seal(&[&key(1)], NEVER).expect("seals");
        let vouched = signature::verify(&sealed.bytes, &[key(2).public(), key(1).public()]).expect("trusted");
        assert_eq!(vouched, Vouched { digest: sealed.digest, expires_ms: NEVER });
        let refusal = signature::verify(&sealed.bytes, &[key(2).public()]).expect_err("another").to_string();
        assert!(refusal.contains("is not signed by a trusted key; it has ed25519:"), "{refusal}");
        let unsigned = package().seal(&[], NEVER).expect("seals");
        assert!(signature::verify(&unsigned.bytes, &[key(1).public()]).is_err());
        assert_eq!(unsigned.digest, sealed.digest);
        let signed = signature::add(&sealed.bytes, &key(2), 1_000).expect("signs");
        let vouched = signature::verify(&signed, &[key(2).public()]).expect("trusted");
        assert_eq!(vouched.digest, sealed.digest);
        assert_eq!(Package::open(&signed, Some(sealed.digest)).expect("opens").1, sealed.digest);
    }

    #[test]
    fn a_signature_holds_until_it_says_and_is_renewed_by_signing_again() {
        let sealed = package().seal(&[], NEVER).expect("seals");
        let signed = signature::add(&sealed.bytes, &key(1), 7_200_000).expect("signs");
        let vouched = signature::verify(&signed, &[key(1).public()]).expect("trusted");
        assert_eq!(vouched.at(7_199_999).expect("in time"), sealed.digest);
        let refusal = vouched.at(14_400_000).expect_err("expired").to_string();
        assert!(refusal.contains("was signed until 2 hours ago"), "{refusal}");
        let other = signature::add(&sealed.bytes, &key(2), NEVER).expect("signs");
        let both = signature::merge(&signed, &other).expect("one package");
        assert_eq!(signature::verify(&both, &[key(1).public()]).expect("trusted"), vouched);
        assert_eq!(signature::signers(&both).expect("a package").len(), 2);
        let again = signature::add(&signed, &key(1), 20_000_000).expect("signs");
        assert_eq!(again.len(), signed.len(), "in the place of the one before");
        let vouched = signature::verify(&again, &[key(1).public()]).expect("trusted");
        assert_eq!(vouched.at(14_400_000).expect("in time"), sealed.digest);
    }
}

#[cfg(all(test, feature = "model"))]
mod load_tests {
    use super::*;
    use crate::device::{DeviceChoice, DeviceKind};
    use crate::pipeline::runner::Runner;
    use crate::pipeline::tests::{names, sample};
    use crate::pipeline::weights::WeightFormat;
    use crate::pipeline::weights::tests::sample_weights;

    #[test]
    fn a_device_that_computes_something_else_is_refused() {
        let device = DeviceKind::Flex.open().expect("built in");
        let mut golden = Golden {
            schema: StreamSchema { stream: StreamId::new("golden").expect("valid"), channels: names(&["a", "b"]) },
            readings: (0..20).map(|i| (i * 1_000, vec![i as f64, 2.0])).collect(),
            outcomes: vec![],
            tolerance: 1e-4,
        };
        let mut runner = Runner::new(sample(), &sample_weights(), device.clone()).expect("builds");
        golden.outcomes = golden.answer(&mut runner);
        let mut package = Package {
            manifest: Manifest::new(
                (ModelName::new("pump").expect("valid"), ModelVersion(1)),
                0,
                sample(),
                Lineage {
                    trained_on: vec![],
                    data: Digest::of(b""),
                    recipe: Digest::of(b""),
                    seed: 0,
                    parent: None,
                    trigger: String::new(),
                    code_version: String::new(),
                },
                DriftReference { channels: vec![], half_life: 40.0 },
                vec![],
            ),
            weights: sample_weights().to_safetensors(WeightFormat::F32).expect("encodes"),
            golden,
        };
        package.load(&device).expect("the golden vectors hold");
        let chosen = package.load_on(DeviceChoice::Auto, &|| 0).expect("one runs it");
        assert!(chosen.reason.starts_with("20 golden readings take flex 0 us; "), "{}", chosen.reason);
        package.golden.outcomes[7] = Some(Outcome::Forecast { values: vec![1.0] });
        let error = package.load(&device).expect_err("differs");
        assert!(error.to_string().starts_with("golden vector 7 differs"), "{error}");
        let error = package.load_on(DeviceChoice::Auto, &|| 0).expect_err("differs everywhere").to_string();
        assert!(error.starts_with("no device runs it: flex: golden vector 7 differs"), "{error}");
    }
}
