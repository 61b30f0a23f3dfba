//! What stages in shadow and A/B stages must find.

use serde_json::Value;

/// By how many points of a hundred the share of readings that a version saw may miss what the stage says.
const MIRROR_TOLERANCE: f64 = 2.0;

/// What the stages of a rollout found.
pub(super) struct Found<'a> {
    evidence: &'a [Value],
}

/// What a rollout found, if it has stages that look for something.
pub(super) fn found(evidence: &Value) -> Option<Found<'_>> {
    let evidence = evidence.as_array().filter(|evidence| !evidence.is_empty())?;
    Some(Found { evidence })
}

impl Found<'_> {
    /// Whether shares were kept to, and the right version was called better.
    pub(super) fn is_as_planned(&self, better: Option<&str>) -> bool {
        let is_kept = self.of("mirror").all(|found| {
            let number = |key: &str| found[key].as_f64().unwrap_or(f64::NAN);
            let share = 100.0 * number("mirrored") / number("readings");
            (share - number("wanted_percent")).abs() <= MIRROR_TOLERANCE
        });
        let Some(better) = better else {
            return is_kept;
        };
        is_kept
            && self.of("ab").last().is_some_and(|found| {
                let called = &found["better"];
                match better {
                    "new" => *called == found["new"]["version"],
                    "before" => *called == found["before"]["version"],
                    _ => called.is_null(),
                }
            })
    }

    fn of(&self, kind: &str) -> impl Iterator<Item = &Value> {
        self.evidence.iter().filter(move |found| found["kind"] == kind)
    }
}
