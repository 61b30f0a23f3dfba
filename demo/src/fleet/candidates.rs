//! Versions to bring to a hub: a good one, and nineteen kinds of bad ones, each made from the package in service.

use anyhow::Context;
use serde::{Deserialize, Serialize};
use shared::device::DeviceKind;
use shared::ids::{ModelName, ModelVersion};
use shared::package::Package;
use shared::package::signature::{NEVER, ReleaseKey};
use shared::pipeline::weights::{WeightFormat, Weights};
use shared::pipeline::{Decision, Pipeline, Step, Threshold};

/// What is wrong with a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Nothing: it says what the version in service says.
    Good,
    /// Half of the file.
    Truncated,
    /// A bit of the weights is another.
    FlippedBit,
    /// No package at all.
    NoPackage,
    /// Signed by nobody.
    Unsigned,
    /// Signed by somebody else.
    ForgedSignature,
    /// It is of another model.
    OtherModel,
    /// Its version is one that was there before.
    OlderVersion,
    /// Weights that are no numbers.
    NanWeights,
    /// A layer without its weights.
    MissingWeights,
    /// A layer whose weights have another shape.
    WrongShape,
    /// Its golden answers are not its own.
    TamperedGolden,
    /// It has no golden answers.
    NoGolden,
    /// Larger than a package may be.
    Oversized,
    /// It never alarms.
    Blind,
    /// It always alarms.
    Noisy,
    /// It takes a few normal readings in a hundred for anomalies.
    Touchy,
    /// It takes a channel for another unit.
    WrongScale,
    /// Its answers are numbers on its golden readings alone.
    NoNumbers,
    /// It wants a channel that no box has.
    RenamedChannel,
    /// It is blind in one channel and sees the rest.
    BlindInOne,
}

impl Kind {
    /// The package's file, from the one in service.
    ///
    /// # Errors
    /// If the one in service is not what it should be.
    pub fn make(self, champion: &[u8], version: ModelVersion, key: &ReleaseKey) -> anyhow::Result<Vec<u8>> {
        let (mut package, _) = Package::open(champion, None)?;
        package.manifest.lineage.parent = Some(package.manifest.version);
        package.manifest.floor = package.manifest.version;
        package.manifest.version = version;
        self.spoil(&mut package)?;
        let other = ReleaseKey::from_seed(&[9; 32])?;
        let keys: &[&ReleaseKey] = if self == Self::Unsigned {
            &[]
        } else if self == Self::ForgedSignature {
            &[&other]
        } else {
            &[key]
        };
        let mut bytes = package.seal(keys, NEVER)?.bytes;
        if self == Self::Truncated {
            bytes.truncate(bytes.len() / 2);
        } else if self == Self::FlippedBit {
            let at = bytes.len() - 200;
            bytes[at] ^= 1;
        } else if self == Self::NoPackage {
            bytes.iter_mut().for_each(|byte| *byte = byte.wrapping_mul(31).wrapping_add(7));
        } else if self == Self::Oversized {
            bytes.resize(shared::limits::MAX_PACKAGE_BYTES as usize + 1, 0);
        }
        Ok(bytes)
    }

    fn spoil(self, package: &mut Package) -> anyhow::Result<()> {
        match self {
            Self::OtherModel => package.manifest.model = ModelName::new("another-model")?,
            Self::OlderVersion => package.manifest.version = ModelVersion(1),
            Self::NanWeights => edit_weights(package, |weights| {
                weights.0.values_mut().for_each(|tensor| tensor.values[0] = f32::NAN);
            })?,
            Self::MissingWeights => edit_weights(package, |weights| drop(weights.0.pop_last()))?,
            Self::WrongShape => edit_weights(package, |weights| {
                if let Some(mut last) = weights.0.last_entry() {
                    let tensor = last.get_mut();
                    tensor.values.push(0.0);
                    tensor.shape = vec![tensor.values.len()];
                }
            })?,
            Self::TamperedGolden => {
                let answered = package.golden.outcomes.iter_mut().flatten().next().context("a golden answer")?;
                if let shared::event::Outcome::Anomaly(verdict) = answered {
                    verdict.score += 1.0;
                }
            }
            Self::NoGolden => {
                package.golden.readings.clear();
                package.golden.outcomes.clear();
            }
            Self::Blind => scale_threshold(package, 1e6)?,
            Self::Noisy => scale_threshold(package, 1e-6)?,
            Self::Touchy => {
                // Without smoothing its alarms come one by one, not in a row on one box.
                if let Decision::Anomaly { smooth, .. } = &mut package.manifest.pipeline.decision {
                    *smooth = 1.0;
                }
                scale_threshold(package, 0.18)?;
            }
            Self::WrongScale => {
                edit_scale(package, |mean, std| mean[0] = mean[0] * 1.8 + 32.0 + 8.0 * std[0])?;
            }
            Self::NoNumbers => {
                let (mut means, channels) = (Vec::new(), package.manifest.pipeline.input.channels.len());
                edit_scale(package, |mean, std| {
                    means.extend_from_slice(mean);
                    std.fill(1e-300);
                })?;
                anyhow::ensure!(means.len() == channels, "the demo's model scales its channels");
                package.golden.readings.iter_mut().for_each(|(_, values)| values.clone_from(&means));
                answer_again(package)?;
            }
            Self::RenamedChannel => {
                let name = shared::ids::ChannelName::new("flow_rate")?;
                package.golden.schema.channels[0] = name.clone();
                package.manifest.pipeline.input.channels[0].name = name;
            }
            Self::BlindInOne => {
                edit_scale(package, |_, std| std.iter_mut().take(2).for_each(|std| *std *= 1e6))?;
            }
            Self::Good
            | Self::Truncated
            | Self::FlippedBit
            | Self::NoPackage
            | Self::Unsigned
            | Self::ForgedSignature
            | Self::Oversized => {}
        }
        Ok(())
    }
}

fn edit_weights(package: &mut Package, edit: impl FnOnce(&mut Weights)) -> anyhow::Result<()> {
    let mut weights = Weights::from_safetensors(&package.weights)?;
    edit(&mut weights);
    package.weights = weights.to_safetensors(WeightFormat::F32)?;
    Ok(())
}

fn scale_threshold(package: &mut Package, factor: f64) -> anyhow::Result<()> {
    let Pipeline { decision, .. } = &mut package.manifest.pipeline;
    match decision {
        Decision::Anomaly { threshold: Threshold::Package { value }, .. } => *value *= factor,
        Decision::Anomaly { .. } | Decision::Classify { .. } | Decision::Forecast { .. } => {
            anyhow::bail!("the demo's model has one threshold for all streams")
        }
    }
    answer_again(package)
}

fn edit_scale(package: &mut Package, edit: impl FnOnce(&mut Vec<f64>, &mut Vec<f64>)) -> anyhow::Result<()> {
    let scale = package
        .manifest
        .pipeline
        .preprocess
        .iter_mut()
        .find_map(|step| if let Step::Zscore { mean, std, .. } = step { Some((mean, std)) } else { None });
    let (mean, std) = scale.context("the demo's model scales its channels")?;
    edit(mean, std);
    answer_again(package)
}

/// Golden answers that the spoiled model itself gives: nothing of the file says that it is spoiled.
fn answer_again(package: &mut Package) -> anyhow::Result<()> {
    let mut runner = package.rebuild(&DeviceKind::Flex.open()?)?;
    package.golden.outcomes = package.golden.answer(&mut runner);
    Ok(())
}
