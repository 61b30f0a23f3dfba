//! Packages that are brought by hand: what they must prove before they are a version.

use std::panic::{AssertUnwindSafe, catch_unwind};

use shared::device::DeviceKind;
use shared::ids::{Digest, ModelName, ModelVersion};
use shared::package::Package;
use shared::package::signature::{self, PublicKey};

use super::records::release;
use super::work::known_normal;
use crate::artifacts::Artifacts;
use crate::clock;
use crate::core::labels::Vouched;
use crate::core::registry::Release;
use crate::recipe::Recipe;
use crate::samples::SampleStore;
use crate::train::dataset::Dataset;
use crate::train::gate;

/// Segments that a package is proven on: enough to tell, and done in seconds.
const MAX_SEGMENTS: usize = 16;

/// Takes packages in.
#[derive(Debug, Clone)]
pub(super) struct Intake {
    /// Where they are kept.
    pub(super) artifacts: Artifacts,
    /// Readings to prove them on.
    pub(super) samples: SampleStore,
    /// What the model must prove.
    pub(super) recipe: Recipe,
    /// What people said of readings.
    pub(super) vouched: Vec<Vouched>,
    /// Whose signature they must have.
    pub(super) trusted: Vec<PublicKey>,
}

/// A package that is brought.
#[derive(Debug)]
pub(super) struct Brought {
    /// The model it is for.
    pub(super) model: ModelName,
    /// The versions there are and their packages, oldest first.
    pub(super) known: Vec<(ModelVersion, Digest)>,
    /// The package of the version in service.
    pub(super) champion: Option<Digest>,
    /// Who brings it.
    pub(super) by: String,
    /// Whether it need not prove itself on this hub's readings.
    pub(super) skip_proof: bool,
}

/// What came of it.
#[derive(Debug)]
pub(super) enum Taken {
    /// A new version.
    New(Box<Release>),
    /// A version that is here, with signatures that it did not have: of people whose key is elsewhere, or for longer.
    Signed {
        /// The version.
        version: ModelVersion,
        /// Its package.
        digest: Digest,
        /// The size of its file now.
        bytes: u64,
    },
}

impl Intake {
    /// Checks a package and keeps it: signature, hashes, shapes, its own golden answers on this machine's CPU, the model's name,
    /// that it is newer than the newest, and what it does on the readings that the version in service was trained on.
    ///
    /// # Errors
    /// Says in words what does not hold.
    pub(super) async fn take(self, brought: Brought, bytes: Vec<u8>) -> Result<Taken, String> {
        let dataset = match brought.champion.filter(|_| !brought.skip_proof) {
            Some(champion) => self.proving_ground(champion).await?,
            None => None,
        };
        let checked = tokio::task::spawn_blocking(move || {
            catch_unwind(AssertUnwindSafe(|| self.check(&brought, dataset.as_ref(), &bytes)))
                .unwrap_or_else(|_| Err("it breaks off as it is checked".to_owned()))
        });
        checked.await.map_err(|error| error.to_string())?
    }

    fn check(&self, brought: &Brought, dataset: Option<&Dataset>, bytes: &[u8]) -> Result<Taken, String> {
        let vouched = signature::verify(bytes, &self.trusted).map_err(|error| error.to_string())?;
        vouched.at(clock::unix_ms()).map_err(|error| error.to_string())?;
        let (package, digest) = Package::open(bytes, None).map_err(|error| error.to_string())?;
        let (name, version) = (&package.manifest.model, package.manifest.version);
        if *name != brought.model {
            return Err(format!("it is a package of {name}, not of {}", brought.model));
        }
        if brought.known.contains(&(version, digest)) {
            return self.add_signatures(version, digest, bytes);
        }
        let newest = brought.known.last().map(|(newest, _)| *newest);
        if let Some(newest) = newest.filter(|newest| version <= *newest) {
            return Err(format!("it is version {version}, and there is a version {newest}: a new one must be newer"));
        }
        let device = DeviceKind::Flex.open().map_err(|error| error.to_string())?;
        package.load(&device).map_err(|error| error.to_string())?;
        let mut proof =
            if brought.skip_proof { "without proof".to_owned() } else { "with nothing to prove it on".to_owned() };
        if let Some(dataset) = dataset {
            let verdicts = gate::of_brought(&package, dataset, &self.recipe).map_err(|error| error.to_string())?;
            let refusals: Vec<String> = verdicts.iter().filter_map(|verdict| verdict.clone().err()).collect();
            if !refusals.is_empty() {
                return Err(refusals.join("; "));
            }
            proof = verdicts.into_iter().filter_map(Result::ok).take(2).collect::<Vec<_>>().join("; ");
        }
        self.artifacts.store(digest, bytes).map_err(|error| error.to_string())?;
        let mut release = release(&package, digest, bytes.len() as u64);
        release.trigger = format!("brought by {}: {proof}", brought.by);
        Ok(Taken::New(Box::new(release)))
    }

    fn add_signatures(&self, version: ModelVersion, digest: Digest, bytes: &[u8]) -> Result<Taken, String> {
        let kept = self.artifacts.load(digest).map_err(|error| error.to_string())?;
        let merged = signature::merge(&kept, bytes).map_err(|error| error.to_string())?;
        self.artifacts.store(digest, &merged).map_err(|error| error.to_string())?;
        Ok(Taken::Signed { version, digest, bytes: merged.len() as u64 })
    }

    /// What the version in service was trained on, as far as the hub has it.
    async fn proving_ground(&self, champion: Digest) -> Result<Option<Dataset>, String> {
        let bytes = self.artifacts.load(champion).map_err(|error| error.to_string())?;
        let (package, _) = Package::open(&bytes, Some(champion)).map_err(|error| error.to_string())?;
        let ranges = &package.manifest.lineage.trained_on;
        let mut segments = Vec::new();
        for range in ranges.iter().rev().take(MAX_SEGMENTS) {
            let series = self.samples.read(range).await.map_err(|error| error.to_string())?;
            segments.push(known_normal(range, series, &self.vouched));
        }
        segments.retain(|segment| !segment.is_empty());
        Ok((!segments.is_empty()).then_some(Dataset { segments }))
    }
}
