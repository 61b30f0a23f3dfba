//! Steps of a training whose results are kept, each under the hash of all that it is made of: a training that is run again, or
//! after it was broken off, computes only what its inputs changed.

use serde::Serialize;
use serde::de::DeserializeOwned;
use shared::ids::Digest;

use super::TrainError;
use crate::core::retrain::StepReport;

/// The release, and a number to be raised when a step comes to something else from the same inputs within one: what was kept
/// before is then not found any more.
const CODE: (&str, u32) = (env!("CARGO_PKG_VERSION"), 1);

/// Keeps results of steps.
pub trait StepResults {
    /// The result that was kept under `key`; `None` if there is none, or it is damaged.
    fn load(&mut self, key: Digest) -> Option<Vec<u8>>;
    /// Keeps a result. One that cannot be kept is computed again when it is next needed.
    fn save(&mut self, key: Digest, bytes: &[u8]);
}

/// Steps done so far, and where their results are kept.
#[derive(Default)]
pub struct Steps<'a> {
    results: Option<&'a mut dyn StepResults>,
    done: Vec<StepReport>,
}

impl<'a> Steps<'a> {
    /// Steps whose results are kept.
    #[must_use]
    pub fn kept(results: &'a mut dyn StepResults) -> Self {
        Self { results: Some(results), done: Vec::new() }
    }

    /// What was done since this was last asked.
    pub(super) fn take(&mut self) -> Vec<StepReport> {
        std::mem::take(&mut self.done)
    }

    /// What a step of this `kind` came to with these inputs, if it is kept; and the key to keep it under.
    pub(super) fn find<T: DeserializeOwned>(
        &mut self,
        (kind, name): (&'static str, &str),
        inputs: &impl Serialize,
    ) -> Result<(Digest, Option<T>), TrainError> {
        let key = name_of(&(CODE, kind, inputs))?;
        let kept = self.results.as_mut().and_then(|results| results.load(key));
        let found = kept.and_then(|bytes| postcard::from_bytes(&bytes).ok());
        self.done.push(StepReport { step: name.to_owned(), cached: found.is_some() });
        Ok((key, found))
    }

    /// Keeps what a step came to.
    pub(super) fn keep(&mut self, key: Digest, result: &impl Serialize) -> Result<(), TrainError> {
        if let Some(results) = &mut self.results {
            results.save(key, &encoded(result)?);
        }
        Ok(())
    }
}

/// A name of all that `value` holds.
pub(super) fn name_of(value: &impl Serialize) -> Result<Digest, TrainError> {
    Ok(Digest::of(&encoded(value)?))
}

fn encoded(value: &impl Serialize) -> Result<Vec<u8>, TrainError> {
    postcard::to_allocvec(value).map_err(|error| TrainError::Checkpoint(error.to_string()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::atomic::AtomicBool;

    use shared::device::DeviceKind;
    use shared::ids::{ModelName, ModelVersion};
    use shared::package::Package;

    use super::super::dataset::Dataset;
    use super::super::dataset::tests::segment;
    use super::super::fit::tests::recipe;
    use super::super::{Made, Material, Order, Watch, run};
    use super::*;
    use crate::recipe::Recipe;

    #[derive(Default)]
    struct Memory(BTreeMap<Digest, Vec<u8>>);

    impl StepResults for Memory {
        fn load(&mut self, key: Digest) -> Option<Vec<u8>> {
            self.0.get(&key).cloned()
        }

        fn save(&mut self, key: Digest, bytes: &[u8]) {
            self.0.insert(key, bytes.to_vec());
        }
    }

    fn dataset() -> Dataset {
        Dataset { segments: [5.0, 5.05, 4.95, 5.0].iter().zip(0..).map(|(at, i)| segment(i, *at, 300)).collect() }
    }

    fn train(memory: &mut Memory, recipe: &Recipe, dataset: Dataset, champion: Option<Package>) -> Made {
        let order = Order {
            model: ModelName::new("pump").expect("valid"),
            version: ModelVersion(2),
            champion: champion.map(|package| (ModelVersion(1), package)),
            trigger: "a test".to_owned(),
            recipe,
            device: DeviceKind::Flex,
            now_ms: 0,
            keys: Vec::new(),
            signed_until_ms: 0,
        };
        let materials = [Material { name: "all".to_owned(), since_position: 0, dataset }];
        let cancelled = AtomicBool::new(false);
        let (progress, steps) = (&mut |_| {}, Steps::kept(memory));
        let mut watch = Watch { progress, cancelled: &cancelled, checkpoint: None, steps };
        run(&order, &materials, &mut watch).expect("trains")
    }

    /// A candidate may be a little worse than one that was trained on the same readings.
    fn lenient() -> Recipe {
        let mut lenient = recipe();
        lenient.gate.margin = 0.1;
        lenient
    }

    /// What was computed.
    fn computed(made: &Made) -> Vec<&str> {
        made.candidates[0].steps.iter().filter(|step| !step.cached).map(|step| step.step.as_str()).collect()
    }

    #[test]
    fn the_same_training_again_computes_nothing_and_a_changed_input_only_what_depends_on_it() {
        let mut memory = Memory::default();
        let first = train(&mut memory, &lenient(), dataset(), None);
        assert_eq!(computed(&first), ["training", "planted faults"]);
        let (champion, ..) = first.blessed.expect("the first is taken");
        // Another champion than what the same readings made: it was trained elsewhere.
        let mut elsewhere = champion.clone();
        elsewhere.manifest.lineage.trained_on.clear();

        let once = train(&mut memory, &lenient(), dataset(), Some(elsewhere.clone()));
        assert_eq!(once.candidates[0].steps.len(), 11);
        assert_eq!(computed(&once).len(), 9, "{:?}", once.candidates[0].steps);
        let again = train(&mut memory, &lenient(), dataset(), Some(elsewhere.clone()));
        assert_eq!(computed(&again), [""; 0]);
        let (one, other) = (&once.candidates[0], &again.candidates[0]);
        assert_eq!((&one.reasons, &one.metrics), (&other.reasons, &other.metrics));
        let weights = |made: &Made| made.blessed.as_ref().expect("blessed").0.weights.clone();
        assert_eq!(weights(&once), weights(&again));

        let mut stricter = lenient();
        stricter.gate.max_held_out_far *= 0.5;
        assert_eq!(computed(&train(&mut memory, &stricter, dataset(), Some(elsewhere.clone()))), [""; 0]);
        let mut smaller = lenient();
        smaller.gate.fault_size *= 0.9;
        assert_eq!(
            computed(&train(&mut memory, &smaller, dataset(), Some(elsewhere.clone()))),
            ["planted faults", "comparison with version 1"]
        );

        let mut changed = dataset();
        changed.segments[0].values[0] += 0.001;
        let steps = train(&mut memory, &lenient(), changed, Some(elsewhere)).candidates.remove(0).steps;
        let cached: Vec<&str> = steps.iter().filter(|step| step.cached).map(|step| step.step.as_str()).collect();
        assert_eq!(cached, ["cross-validation 1 of 4"], "it was trained without what changed");
    }
}
