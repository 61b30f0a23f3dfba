//! Lists in pages: a cursor names the last item that was shown, so that what comes and goes meanwhile shifts nothing.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::error::Problem;

/// Items of a page, unless it is said.
const DEFAULT_LIMIT: u32 = 100;
/// Items of a page at most.
pub(super) const MAX_LIMIT: u32 = 1_000;

/// Which page of a list.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct PageQuery {
    /// Items of a page.
    #[param(minimum = 1, maximum = 1000)]
    pub(super) limit: Option<u32>,
    /// Where the page before ended.
    #[param(pattern = "^([0-9a-f]{2})*$")]
    pub(super) cursor: Option<String>,
}

/// A page of a list.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Page<T> {
    /// The items.
    pub(super) items: Vec<T>,
    /// What to ask for as `cursor` to get the next page; null at the end.
    pub(super) next_cursor: Option<String>,
}

impl<T> Page<T> {
    /// The whole list.
    pub(super) fn whole(items: Vec<T>) -> Self {
        Self { items, next_cursor: None }
    }
}

/// How many items a page has.
pub(super) fn limit(wanted: Option<u32>) -> Result<usize, Problem> {
    match wanted.unwrap_or(DEFAULT_LIMIT) {
        limit @ 1..=MAX_LIMIT => Ok(limit as usize),
        other => Err(Problem::bad_query(format!("limit must be 1 to {MAX_LIMIT}, not {other}"))),
    }
}

/// The page after a cursor, of items in order of their keys.
pub(super) fn page<'a, T: Clone + 'a>(
    items: impl Iterator<Item = &'a T>,
    key: impl Fn(&T) -> String,
    wanted: Option<u32>,
    cursor: Option<&str>,
) -> Result<Page<T>, Problem> {
    let limit = limit(wanted)?;
    let after = cursor.map(read).transpose()?;
    let mut keyed: Vec<(String, &T)> = items.map(|item| (key(item), item)).collect();
    keyed.sort_by(|(a, _), (b, _)| a.cmp(b));
    let first = after.map_or(0, |after| keyed.partition_point(|(key, _)| key.as_bytes() <= after.as_slice()));
    let rest = keyed.get(first..).unwrap_or_default();
    let shown = rest.get(..limit).unwrap_or(rest);
    let next_cursor = shown.last().filter(|_| rest.len() > shown.len()).map(|(key, _)| write(key));
    Ok(Page { items: shown.iter().map(|(_, item)| (*item).clone()).collect(), next_cursor })
}

/// A key as a cursor. What is in it is nobody's business, so that it can change.
fn write(key: &str) -> String {
    key.bytes().map(|byte| format!("{byte:02x}")).collect()
}

fn read(cursor: &str) -> Result<Vec<u8>, Problem> {
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let bytes: Option<Vec<u8>> = cursor.as_bytes().chunks(2).map(byte).collect();
    let is_whole = cursor.len().is_multiple_of(2) && cursor.bytes().all(|byte| byte.is_ascii_hexdigit());
    bytes
        .filter(|_| is_whole)
        .ok_or_else(|| Problem::bad_query(format!("cursor {cursor:?} is none that this hub gave")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_follow_each_other_and_miss_nothing_that_stays() {
        let all: Vec<u32> = vec![5, 3, 1, 4, 2];
        let key = |number: &u32| format!("{number:04}");
        let first = page(all.iter(), key, Some(2), None).expect("a page");
        assert_eq!(first.items, [1, 2]);
        // What was shown goes, and the rest is where it was.
        let later: Vec<u32> = vec![5, 3, 4];
        let second = page(later.iter(), key, Some(2), first.next_cursor.as_deref()).expect("a page");
        assert_eq!(second.items, [3, 4]);
        let last = page(later.iter(), key, Some(2), second.next_cursor.as_deref()).expect("a page");
        assert_eq!((last.items, last.next_cursor), (vec![5], None));
    }

    #[test]
    fn a_cursor_from_elsewhere_and_a_limit_out_of_range_are_refused() {
        for cursor in ["x", "zz", "f", "ü1", "+1"] {
            assert!(page([1_u32].iter(), u32::to_string, None, Some(cursor)).is_err(), "{cursor}");
        }
        assert!(limit(Some(0)).is_err() && limit(Some(MAX_LIMIT + 1)).is_err());
    }
}
