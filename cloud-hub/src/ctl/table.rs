//! Lists, as people and programs read them.

use std::fmt::Write as _;

use serde_json::Value;

use super::Format;
use crate::Failure;

/// A column: its head, and where its value lies.
pub(super) type Column<'a> = (&'a str, &'a str);

pub(super) const AGENTS: &[Column<'_>] = &[
    ("AGENT", "/agent"),
    ("HEALTH", "/health"),
    ("MODEL", "/serving/model"),
    ("VERSION", "/serving/version"),
    ("PINNED", "/pinned"),
    ("DEVICE", "/device"),
    ("PENDING", "/pending"),
    ("LAST SEEN", "/last_seen"),
];
pub(super) const STREAMS: &[Column<'_>] = &[
    ("AGENT", "/agent"),
    ("STREAM", "/stream"),
    ("READINGS", "/readings"),
    ("KNOWN NORMAL", "/known_normal"),
    ("LAST", "/last_time"),
    ("ANOMALY", "/newest/prediction/anomaly"),
    ("SCORE", "/newest/prediction/score"),
];
pub(super) const PROGRAMS: &[Column<'_>] = &[
    ("PROGRAM", "/file"),
    ("RELEASE", "/release"),
    ("NUMBER", "/number"),
    ("TARGET", "/target"),
    ("WAITING", "/boxes/waiting"),
    ("ON TRIAL", "/boxes/on_trial"),
    ("KEPT", "/boxes/kept"),
    ("REFUSED", "/boxes/refused"),
    ("RETURNED", "/boxes/returned"),
    ("HALTED", "/halted"),
];
pub(super) const BOX_PROGRAMS: &[Column<'_>] = &[
    ("AGENT", "/agent"),
    ("RELEASE", "/release"),
    ("NUMBER", "/number"),
    ("TARGET", "/target"),
    ("ACCEPTS", "/accepts"),
    ("WANTED", "/wanted"),
    ("OUTCOME", "/outcome"),
    ("REASON", "/reason"),
];
pub(super) const MODELS: &[Column<'_>] = &[("MODEL", "/model"), ("CHAMPION", "/champion")];
pub(super) const VERSIONS: &[Column<'_>] = &[
    ("VERSION", "/version"),
    ("CREATED", "/created"),
    ("BYTES", "/bytes"),
    ("PARENT", "/parent"),
    ("TRIGGER", "/trigger"),
];
pub(super) const RUNS: &[Column<'_>] = &[
    ("RUN", "/run"),
    ("MODEL", "/model"),
    ("STATE", "/state"),
    ("VERSION", "/version"),
    ("REQUESTED", "/requested"),
    ("FINISHED", "/finished"),
    ("TRIGGER", "/trigger"),
];
pub(super) const ROLLOUTS: &[Column<'_>] = &[
    ("ROLLOUT", "/rollout"),
    ("MODEL", "/model"),
    ("VERSION", "/version"),
    ("FROM", "/from"),
    ("STATE", "/state"),
    ("STAGE", "/stage"),
    ("BOXES", "/box_count"),
    ("FAILED", "/failed_count"),
    ("STARTED", "/started"),
    ("ENDED", "/ended"),
];
pub(super) const DRIFT: &[Column<'_>] = &[
    ("AGENT", "/agent"),
    ("STREAM", "/stream"),
    ("RAISED", "/raised"),
    ("CLEARED", "/cleared"),
    ("KIND", "/cause/kind"),
    ("BECAUSE", "/because"),
];
pub(super) const LEDGER: &[Column<'_>] = &[
    ("AGENT", "/agent"),
    ("STREAM", "/stream"),
    ("ACCEPTED", "/accepted"),
    ("DELIVERED", "/delivered"),
    ("PENDING", "/pending"),
    ("AT HUB", "/at_hub"),
];
pub(super) const HISTORY: &[Column<'_>] =
    &[("ROW", "/sequence"), ("AT", "/at"), ("KIND", "/kind"), ("WHO", "/body/who"), ("BODY", "/body")];
pub(super) const ALARMS: &[Column<'_>] = &[
    ("ALARM", "/id"),
    ("AGENT", "/agent"),
    ("STREAM", "/stream"),
    ("UP", "/is_up"),
    ("BEGAN", "/began"),
    ("LAST", "/last"),
    ("ANOMALOUS", "/anomalous"),
    ("VERDICT", "/review/verdict"),
    ("BY", "/review/by"),
];
pub(super) const LABELS: &[Column<'_>] = &[
    ("LABEL", "/id"),
    ("AGENT", "/agent"),
    ("STREAM", "/stream"),
    ("KIND", "/kind"),
    ("FROM", "/from"),
    ("TO", "/to"),
    ("READINGS", "/readings"),
    ("BY", "/by"),
    ("COMMENT", "/comment"),
];
pub(super) const IDENTITIES: &[Column<'_>] = &[
    ("AGENT", "/agent"),
    ("STATE", "/state"),
    ("CONNECTED", "/connected"),
    ("ENROLLED", "/enrolled"),
    ("CERTIFICATE EXPIRES", "/certificate_expires"),
    ("LABELS", "/labels"),
    ("REASON", "/reason"),
];
pub(super) const ENROLMENT_TOKENS: &[Column<'_>] = &[
    ("ID", "/id"),
    ("CLAIM", "/claim"),
    ("AGENT", "/agent"),
    ("LABELS", "/labels"),
    ("MADE BY", "/made_by"),
    ("EXPIRES", "/expires"),
    ("USED BY", "/used_by"),
];
pub(super) const ENROLMENT_ASKS: &[Column<'_>] = &[
    ("ID", "/id"),
    ("HARDWARE", "/hardware"),
    ("NAME", "/name"),
    ("FROM", "/from"),
    ("ASKED", "/asked"),
    ("CLAIM", "/claim"),
    ("APPROVED AS", "/approved_as"),
];
pub(super) const MADE_TOKENS: &[Column<'_>] =
    &[("ID", "/id"), ("AGENT", "/agent"), ("EXPIRES", "/expires"), ("TOKEN", "/token")];
pub(super) const INSTALL_COMMANDS: &[Column<'_>] =
    &[("ID", "/id"), ("AGENT", "/agent"), ("EXPIRES", "/expires"), ("COMMAND", "/install_command")];
pub(super) const USERS: &[Column<'_>] = &[("NAME", "/name"), ("ROLE", "/role"), ("CREATED", "/created")];
pub(super) const TOKENS: &[Column<'_>] =
    &[("ID", "/id"), ("NAME", "/name"), ("ROLE", "/role"), ("MADE BY", "/made_by"), ("EXPIRES", "/expires")];

/// The columns of an object, as it is.
pub(super) fn columns_of(value: &Value) -> Vec<Column<'_>> {
    value.as_object().into_iter().flat_map(|object| object.keys()).map(|key| (key.as_str(), "")).collect()
}

/// Prints a list.
pub(super) fn print(format: Format, columns: &[Column<'_>], items: &[Value]) -> Result<(), Failure> {
    let text = match format {
        Format::Json => serde_json::to_string_pretty(items).map_err(Failure::new)?,
        Format::Table => table(columns, items),
        Format::Csv => csv(columns, items),
    };
    crate::say(&text)
}

fn cell(item: &Value, (head, pointer): Column<'_>) -> String {
    let found = if pointer.is_empty() { item.get(head) } else { item.pointer(pointer) };
    match found {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

/// Columns as wide as their widest cell, two spaces apart; the last one as long as it is.
fn table(columns: &[Column<'_>], items: &[Value]) -> String {
    let rows: Vec<Vec<String>> = std::iter::once(columns.iter().map(|(head, _)| (*head).to_owned()).collect())
        .chain(items.iter().map(|item| columns.iter().map(|column| cell(item, *column)).collect()))
        .collect();
    let width = |index: usize| rows.iter().map(|row: &Vec<String>| row[index].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            // Writing to a string does not fail.
            write!(line, "{cell:<width$}  ").ok();
        }
        text += line.trim_end();
        text.push('\n');
    }
    text.pop();
    text
}

/// RFC 4180.
fn csv(columns: &[Column<'_>], items: &[Value]) -> String {
    let quoted = |text: String| {
        if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
    };
    let head: Vec<String> = columns.iter().map(|(head, _)| head.to_lowercase().replace(' ', "_")).collect();
    let rows = items.iter().map(|item| columns.iter().map(|column| quoted(cell(item, *column))).collect::<Vec<_>>());
    std::iter::once(head).chain(rows).map(|row| row.join(",")).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_list_is_read_by_people_and_by_spreadsheets() {
        let items = [
            json!({ "name": "Ada", "role": "admin", "created": "2026-11-28T00:00:00Z" }),
            json!({ "name": "Bob, the \"builder\"", "role": "viewer", "created": null }),
        ];
        let expected = "NAME                ROLE    CREATED\n\
                        Ada                 admin   2026-11-28T00:00:00Z\n\
                        Bob, the \"builder\"  viewer";
        assert_eq!(table(USERS, &items), expected);
        let expected = "name,role,created\nAda,admin,2026-11-28T00:00:00Z\n\"Bob, the \"\"builder\"\"\",viewer,";
        assert_eq!(csv(USERS, &items), expected);
        assert_eq!(csv(&columns_of(&items[0]), &items[..1]), "name,role,created\nAda,admin,2026-11-28T00:00:00Z");
    }
}
