//! What the pipeline in service remembers of its streams, on its way to the disk.

use serde::{Deserialize, Serialize};
use shared::ids::{Digest, Epoch, Sequence};

/// What a pipeline remembers of its streams after a reading: averages, windows, baselines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PipelineMemory {
    /// The package.
    pub digest: Digest,
    /// The epoch of the spool.
    pub epoch: Epoch,
    /// The last reading it has seen.
    pub through: Sequence,
    /// The memory, in the pipeline's own encoding.
    pub bytes: Vec<u8>,
}

/// Holds a memory back until every answer that led to it is durable: a restart goes on behind the memory, so an answer that
/// is lost then is lost for good.
#[derive(Debug, Default)]
pub(super) struct HeldMemory(Option<(Sequence, PipelineMemory)>);

impl HeldMemory {
    /// Holds `memory` until everything before `end` is durable. While one is held, newer ones are left out.
    pub(super) fn hold(&mut self, end: Sequence, memory: PipelineMemory) {
        self.0.get_or_insert((end, memory));
    }

    /// The memory that may go to the disk now that everything before `durable` is.
    pub(super) fn release(&mut self, durable: Sequence) -> Option<PipelineMemory> {
        self.0.take_if(|(end, _)| *end <= durable).map(|(_, memory)| memory)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_memory_waits_for_the_answers_that_led_to_it() {
        let memory = |through| PipelineMemory {
            digest: Digest::of(b"x"),
            epoch: Epoch(1),
            through: Sequence(through),
            bytes: vec![],
        };
        let mut held = HeldMemory::default();
        held.hold(Sequence(10), memory(5));
        held.hold(Sequence(20), memory(15));
        assert_eq!(held.release(Sequence(9)), None);
        assert_eq!(held.release(Sequence(10)), Some(memory(5)));
        assert_eq!(held.release(Sequence(99)), None);
    }
}
