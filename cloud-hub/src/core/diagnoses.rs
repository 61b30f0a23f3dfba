//! What boxes said of themselves as somebody asked: the newest of each. It is for looking at while something is wrong, and ends with
//! the hub's process.

use std::collections::BTreeMap;

use shared::event::UnixMillis;
use shared::ids::AgentId;
use shared::wire::diagnosis::PackedDiagnosis;

/// Boxes whose diagnosis is kept: at most 16 MiB in all. The one that was asked first goes for another.
const KEPT_DIAGNOSES: usize = 64;

/// The newest of each box.
#[derive(Debug, Default)]
pub struct Diagnoses(BTreeMap<AgentId, Diagnosis>);

/// A box that was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnosis {
    request: u64,
    /// When it was asked.
    pub asked_ms: UnixMillis,
    /// Who asked.
    pub asked_by: String,
    /// What it said, and when.
    pub said: Option<(UnixMillis, PackedDiagnosis)>,
}

impl Diagnoses {
    /// A box is asked; gives the number of the question, which no earlier one had.
    pub fn ask(&mut self, now: UnixMillis, agent: AgentId, by: String) -> u64 {
        let newest = self.0.values().map(|known| known.request).max().unwrap_or(0);
        let request = newest.max(u64::try_from(now).unwrap_or(0)) + 1;
        if self.0.len() >= KEPT_DIAGNOSES && !self.0.contains_key(&agent) {
            let oldest = self.0.iter().min_by_key(|(_, known)| known.request).map(|(agent, _)| agent.clone());
            oldest.and_then(|oldest| self.0.remove(&oldest));
        }
        self.0.insert(agent, Diagnosis { request, asked_ms: now, asked_by: by, said: None });
        request
    }

    /// A box answers; gives whether it was asked that.
    pub fn hear(&mut self, now: UnixMillis, agent: &AgentId, request: u64, said: PackedDiagnosis) -> bool {
        let asked = self.0.get_mut(agent).filter(|known| known.request == request && known.said.is_none());
        asked.map(|known| known.said = Some((now, said))).is_some()
    }

    /// What is known of a box.
    #[must_use]
    pub fn of(&self, agent: &AgentId) -> Option<&Diagnosis> {
        self.0.get(agent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(number: usize) -> AgentId {
        AgentId::new(&format!("box-{number:03}")).expect("valid")
    }

    #[test]
    fn only_what_was_asked_is_kept_and_only_once() {
        let said = |text: &str| PackedDiagnosis::pack(text).expect("packs");
        let mut diagnoses = Diagnoses::default();
        assert!(!diagnoses.hear(1, &name(0), 0, said("{}")), "nobody asked");
        let first = diagnoses.ask(10, name(0), "ada".to_owned());
        let second = diagnoses.ask(10, name(0), "ada".to_owned());
        assert!(!diagnoses.hear(20, &name(0), first, said("{}")), "it was asked again");
        assert!(!diagnoses.hear(20, &name(1), second, said("{}")), "another box");
        assert!(diagnoses.hear(20, &name(0), second, said("{}")));
        assert!(!diagnoses.hear(30, &name(0), second, said("[]")), "it said so already");
        assert_eq!(diagnoses.of(&name(0)).and_then(|known| known.said.clone()), Some((20, said("{}"))));
    }

    #[test]
    fn there_is_a_bound_and_the_oldest_goes() {
        let mut diagnoses = Diagnoses::default();
        for number in 0..=KEPT_DIAGNOSES {
            diagnoses.ask(0, name(number), "ada".to_owned());
        }
        assert!(diagnoses.of(&name(0)).is_none() && diagnoses.of(&name(1)).is_some());
        assert_eq!(diagnoses.0.len(), KEPT_DIAGNOSES);
    }
}
