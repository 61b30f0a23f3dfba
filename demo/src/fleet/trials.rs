//! What stages in shadow and A/B stages must find.

use serde::Deserialize;
use serde_json::Value;

/// By how many points of a hundred the share of readings that a version saw may miss what the stage says.
const MIRROR_TOLERANCE: f64 = 2.0;

/// Which version an A/B stage must call better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Better {
    /// The one that is rolled out.
    New,
    /// The one before.
    Before,
    /// None of them.
    Neither,
}

/// Whether shares were kept to, and an A/B stage called the right version better, if one must.
pub(super) fn are_as_planned(evidence: &Value, better: Option<Better>) -> bool {
    let found = |kind: &'static str| {
        let all = evidence.as_array().into_iter().flatten();
        all.filter(move |found| found["kind"] == kind)
    };
    let is_kept = found("mirror").all(|found| {
        let number = |key: &str| found[key].as_f64().unwrap_or(f64::NAN);
        let share = 100.0 * number("mirrored") / number("readings");
        (share - number("wanted_percent")).abs() <= MIRROR_TOLERANCE
    });
    let is_called = better.is_none_or(|better| {
        found("ab").next_back().is_some_and(|found| match better {
            Better::New => found["better"] == found["new"]["version"],
            Better::Before => found["better"] == found["before"]["version"],
            Better::Neither => found["better"].is_null(),
        })
    });
    is_kept && is_called
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_missed_share_the_wrong_version_and_no_comparison_at_all_are_not_as_planned() {
        let evidence = |mirrored: u64, better: Value| {
            json!([
                { "kind": "mirror", "readings": 1_000, "mirrored": mirrored, "wanted_percent": 30 },
                { "kind": "ab", "new": { "version": 3 }, "before": { "version": 2 }, "better": better },
            ])
        };
        assert!(are_as_planned(&evidence(310, json!(2)), Some(Better::Before)));
        assert!(are_as_planned(&evidence(310, json!(3)), Some(Better::New)));
        assert!(are_as_planned(&evidence(310, Value::Null), Some(Better::Neither)));
        assert!(!are_as_planned(&evidence(330, json!(2)), Some(Better::Before)));
        assert!(!are_as_planned(&evidence(310, json!(3)), Some(Better::Before)));
        assert!(!are_as_planned(&json!([]), Some(Better::Before)) && !are_as_planned(&Value::Null, Some(Better::New)));
        assert!(are_as_planned(&json!([]), None));
    }
}
