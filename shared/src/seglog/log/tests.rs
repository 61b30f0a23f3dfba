//! Tests of the log: one per way a disk can lie, and every byte of a spool flipped.

use std::path::Path;

use super::super::fake::{FakeDisk, Trouble};
use super::super::file::Directory;
use super::*;
use crate::limits::SEGMENT_BYTES;
use proptest::prelude::*;

const PLENTY: usize = 1 << 30;
/// Small, so that a few records make several segments.
const SMALL: u64 = 1_024;

fn disk() -> FakeDisk {
    FakeDisk::new(1, PLENTY)
}

fn open<S: Storage>(storage: S) -> (SegmentLog<S>, OpenReport) {
    SegmentLog::open(storage, 0, SMALL).expect("opens")
}

fn all<S: Storage>(log: &mut SegmentLog<S>, from: u64) -> Vec<Found> {
    let mut cursor = log.cursor(from);
    std::iter::from_fn(|| log.read(&mut cursor).expect("reads")).collect()
}

fn records(found: &[Found]) -> Vec<&Record> {
    found.iter().filter_map(|found| if let Found::Record(record) = found { Some(record) } else { None }).collect()
}

fn lost(found: &[Found]) -> Vec<Range<u64>> {
    found.iter().filter_map(|found| if let Found::Lost(range) = found { Some(range.clone()) } else { None }).collect()
}

/// A payload that says where it belongs.
fn payload(first: u64, bytes: usize) -> Vec<u8> {
    first.to_le_bytes().iter().copied().cycle().take(bytes).collect()
}

/// `count` records of three positions each.
fn fill<S: Storage>(log: &mut SegmentLog<S>, count: usize, bytes: usize) {
    for _ in 0..count {
        let payload = payload(log.next(), bytes);
        log.append(3, &payload).expect("appends");
        log.sync().expect("syncs");
    }
}

fn filled(records: usize, bytes: usize) -> (FakeDisk, SegmentLog<FakeDisk>) {
    let disk = disk();
    let (mut log, _) = open(disk.clone());
    fill(&mut log, records, bytes);
    (disk, log)
}

#[test]
fn what_was_synced_is_read_back_from_any_position_after_reopening() {
    let dir = tempfile::tempdir().expect("dir");
    let directory = |path: &Path| Directory::open(path, 0).expect("directory");
    let open = || SegmentLog::open(directory(dir.path()), 0, SEGMENT_BYTES).expect("opens");
    let (mut log, report) = open();
    assert!(report.created);
    fill(&mut log, 100, 200_000);
    drop(log);
    let (mut log, report) = open();
    assert_eq!(report, OpenReport::default());
    assert!(log.segments.len() > 3);
    for from in [0, 1, 2, 3, 150, 299] {
        let found = all(&mut log, from);
        let records = records(&found);
        assert_eq!(records.len() as u64, 100 - from / 3);
        assert!(records[0].first <= from && records[0].end() > from);
    }
    assert!(all(&mut log, 300).is_empty());
    assert_eq!(log.next(), 300);
}

#[test]
fn records_are_readable_only_once_durable() {
    let (mut log, report) = open(disk());
    assert!(report.created);
    log.append(1, b"x").expect("appends");
    assert!(all(&mut log, 0).is_empty());
    assert_eq!(log.sync().expect("syncs"), 1);
    assert_eq!(all(&mut log, 0).len(), 1);
}

#[test]
fn whole_segments_are_deleted_and_positions_go_on_after_all_is_gone() {
    let (disk, mut log) = filled(100, 50);
    let before = log.bytes();
    log.delete_before(150).expect("deletes");
    assert!(log.bytes() < before && log.first() <= 150 && log.first() > 60);
    log.delete_before(300).expect("deletes");
    assert_eq!(log.segments.len(), 1);
    let (mut log, _) = open(disk);
    assert_eq!(log.next(), 300);
    assert_eq!(log.append(1, b"x").expect("appends"), 300);
}

#[test]
fn behind_a_tail_torn_at_any_byte_the_log_goes_on_and_no_position_is_given_again() {
    let (disk, log) = filled(4, 50);
    let name = log.segments[0].name.clone();
    let whole = disk.contents(&name).expect("there");
    let record = RECORD_HEADER_BYTES + 50;
    let template = disk;
    for cut in SEGMENT_HEADER_BYTES..whole.len() {
        let disk = template.image(0);
        disk.put(&name, &whole[..cut]);
        let (mut log, report) = open(disk.clone());
        let kept = (cut - SEGMENT_HEADER_BYTES) / record;
        let (end, torn) = (kept as u64 * 3, ((cut - SEGMENT_HEADER_BYTES) % record) as u64);
        let after = if torn > 0 { end + u64::from(LEFT_OUT) } else { end };
        assert_eq!((log.next(), report.torn_bytes), (after, torn), "cut at {cut}");
        assert_eq!(log.append(1, b"after").expect("appends"), after);
        log.sync().expect("syncs");
        let gone: Vec<Range<u64>> = (torn > 0).then_some(end..after).into_iter().collect();
        for _ in 0..2 {
            let found = all(&mut log, 0);
            assert_eq!((records(&found).len(), lost(&found)), (kept + 1, gone.clone()));
            log = open(disk.clone()).0;
        }
    }
}

#[test]
fn a_segment_whose_header_was_never_finished_is_made_anew() {
    let (disk, _) = filled(4, 50);
    disk.put(&scan::segment_name(12), &[7; 9]);
    let (log, report) = open(disk);
    assert_eq!((log.next(), report), (12, OpenReport::default()));
}

#[test]
fn damage_costs_the_record_it_touches_and_its_positions_are_named() {
    let (disk, log) = filled(40, 50);
    let segment = log.segments[1].clone();
    let mut bytes = disk.contents(&segment.name).expect("there");
    let record = RECORD_HEADER_BYTES + 50;
    bytes[SEGMENT_HEADER_BYTES + record + 30] ^= 1;
    disk.put(&segment.name, &bytes);
    let gone = segment.first + 3..segment.first + 6;
    let (mut log, report) = open(disk);
    assert_eq!((report.lost, report.torn_bytes), (vec![gone.clone()], 0));
    let found = all(&mut log, 0);
    assert_eq!((records(&found).len(), lost(&found)), (39, vec![gone.clone()]));
    let position = found.iter().position(|found| matches!(found, Found::Lost(_))).expect("named");
    assert!(matches!(&found[position + 1], Found::Record(record) if record.first == gone.end), "in its place");
    let from_within = lost(&all(&mut log, gone.start + 1));
    assert_eq!((from_within.len(), from_within[0].clone()), (1, gone.start + 1..gone.end));
}

#[test]
fn damage_that_comes_while_the_log_is_open_costs_the_same() {
    let (disk, mut log) = filled(40, 50);
    for index in [0, log.segments.len() - 1] {
        let segment = log.segments[index].clone();
        let mut bytes = disk.contents(&segment.name).expect("there");
        bytes[SEGMENT_HEADER_BYTES + 5] ^= 1;
        disk.put(&segment.name, &bytes);
        for _ in 0..2 {
            assert!(lost(&all(&mut log, 0)).contains(&(segment.first..segment.first + 3)), "{index}");
        }
    }
    assert_eq!(records(&all(&mut log, 0)).len(), 38);
    assert_eq!(log.append(1, b"on it goes").expect("appends"), 120);
}

#[test]
fn a_segment_that_is_missing_costs_its_positions() {
    let (disk, log) = filled(40, 50);
    let (missing, after) = (log.segments[1].clone(), log.segments[2].first);
    assert!(disk.lose(&missing.name));
    let (mut log, report) = open(disk);
    assert_eq!(report.lost, vec![missing.first..after]);
    let found = all(&mut log, 0);
    assert_eq!(lost(&found), vec![missing.first..after]);
    assert_eq!(records(&found).len() as u64 * 3 + after - missing.first, 120);
}

#[test]
fn the_end_of_the_newest_segment_may_be_gone_with_the_segment_after_it_unborn() {
    let (disk, log) = filled(24, 50);
    let first = log.segments[0].clone();
    let whole = disk.contents(&first.name).expect("there");
    let newest = log.segments.back().cloned().expect("never empty");
    disk.put(&newest.name, &[0; 3]);
    disk.put(&first.name, &whole[..whole.len() - 100]);
    let (mut log, report) = open(disk.clone());
    assert_eq!(report.lost, vec![newest.first - 6..newest.first]);
    assert_eq!(log.append(1, b"x").expect("appends"), newest.first);
    log.sync().expect("syncs");
    for _ in 0..2 {
        let found = all(&mut log, 0);
        assert_eq!(lost(&found), vec![newest.first - 6..newest.first]);
        assert!(matches!(found.last(), Some(Found::Record(record)) if record.first == newest.first));
        log = open(disk.clone()).0;
    }
}

#[test]
fn the_oldest_segments_are_replaced_by_one_record_that_covers_the_same() {
    let (disk, mut log) = filled(60, 50);
    assert_eq!(log.oldest(log.segments.len()), None, "the newest stays");
    let covered = log.oldest(2).expect("there are more");
    let before = log.bytes();
    let names: Vec<String> = log.segments.iter().take(2).map(|segment| segment.name.clone()).collect();
    let second = disk.contents(&names[1]).expect("there");
    log.replace_oldest(2, b"gone").expect("replaces");
    assert!(log.bytes() < before);
    let expected = Record { first: 0, count: covered.end as u32, payload: b"gone".to_vec() };
    let is_replaced = |log: &mut SegmentLog<FakeDisk>| {
        let found = all(log, 0);
        assert_eq!(found[0], Found::Record(expected.clone()));
        assert!(lost(&found).is_empty());
        assert_eq!(records(&found).len() as u64, 1 + 60 - covered.end / 3);
    };
    is_replaced(&mut log);
    // A crash may come before the other segment is deleted.
    disk.put(&names[1], &second);
    let (mut log, report) = open(disk.clone());
    assert_eq!(report, OpenReport::default());
    is_replaced(&mut log);
    assert!(disk.contents(&names[1]).is_none());
    log.replace_oldest(2, b"gone").expect("replaces what was replaced");
    assert!(log.replace_oldest(1_000, b"gone").is_err());
}

#[test]
fn a_program_killed_while_it_wrote_leaves_nothing_out_unless_the_machine_went_down() {
    for power_goes in [false, true] {
        let (disk, mut log) = filled(3, 50);
        let mut left_out = 0;
        for kill in 0..40 {
            let before = log.next();
            disk.kill_in_append();
            assert!(log.append(3, &payload(before, 50)).is_err());
            assert!(log.sync().is_err() || log.durable() == before, "it is dead");
            disk.restart();
            if power_goes {
                disk.crash();
            }
            let (opened, report) = open(disk.clone());
            log = opened;
            left_out += report.lost.len();
            assert!(power_goes || log.next() == before, "kill {kill}");
            assert_eq!(log.append(3, &payload(log.next(), 50)).expect("appends"), log.next() - 3);
            log.sync().expect("syncs");
        }
        assert_eq!(left_out > 0, power_goes);
        assert_eq!(records(&all(&mut log, 0)).len(), 43);
    }
}

#[test]
fn damage_to_the_newest_record_is_not_taken_for_a_record_that_was_never_written() {
    for bit in 0..8 * RECORD_HEADER_BYTES {
        let (disk, log) = filled(3, 50);
        let name = log.segments[0].name.clone();
        let mut bytes = disk.contents(&name).expect("there");
        let at = bytes.len() - RECORD_HEADER_BYTES - 50;
        bytes[at + bit / 8] ^= 1 << (bit % 8);
        disk.put(&name, &bytes);
        let (log, _) = open(disk);
        assert!(log.next() > 9, "bit {bit}: goes on at {}", log.next());
    }
}

#[test]
fn what_a_failed_sync_left_behind_is_written_again_and_not_trusted() {
    let (disk, mut log) = filled(3, 50);
    log.append(3, &payload(9, 50)).expect("appends");
    disk.trouble(Trouble { failed_syncs: 100, ..Trouble::default() });
    assert!(log.sync().is_err());
    assert_eq!((log.durable(), log.next()), (9, 9), "it is not in the log any more");
    disk.trouble(Trouble::default());
    assert_eq!(log.append(3, &payload(9, 50)).expect("appends"), 9);
    assert_eq!(log.sync().expect("syncs"), 12);
    disk.crash();
    let (mut log, report) = open(disk);
    assert_eq!(report, OpenReport::default());
    assert_eq!(records(&all(&mut log, 0)).len(), 4);
}

#[test]
fn a_segment_that_was_begun_and_could_not_be_opened_is_gone_on_with() {
    let (disk, mut log) = filled(12, 50);
    for percent in [100, 50] {
        // Beginning a segment takes two changes of the directory, and either may fail.
        disk.trouble(Trouble { failed_names: percent, ..Trouble::default() });
        (0..20).for_each(|_| drop(log.append(3, &payload(log.next(), 200))));
        (0..20).for_each(|_| drop(log.append(3, &payload(log.next(), 1))));
        disk.trouble(Trouble::default());
        let end = log.append(3, &payload(log.next(), 1)).expect("appends") + 3;
        assert_eq!(log.sync().expect("syncs"), end);
        assert_eq!(open(disk.clone()).0.next(), end);
    }
}

#[test]
fn a_full_disk_refuses_and_takes_again_when_there_is_room() {
    let (disk, mut log) = filled(3, 50);
    disk.set_capacity(disk.used() + 10);
    assert!(log.append(3, &payload(9, 50)).is_err());
    assert_eq!(records(&all(&mut log, 0)).len(), 3);
    disk.set_capacity(PLENTY);
    assert_eq!(log.append(3, &payload(9, 50)).expect("appends"), 9);
    log.sync().expect("syncs");
    let (mut log, report) = open(disk);
    assert_eq!((records(&all(&mut log, 0)).len(), report), (4, OpenReport::default()));
}

#[test]
fn a_segment_of_another_format_is_refused_and_not_taken_for_damage() {
    let disk = disk();
    let mut header = record::segment_header(0);
    header[4] = 9;
    let checksum = crc32c::crc32c(&header[..16]);
    header[16..].copy_from_slice(&checksum.to_le_bytes());
    disk.put(&scan::segment_name(0), &header);
    let error = SegmentLog::open(disk, 0, SMALL).err().expect("refused");
    assert_eq!(error.to_string(), "segment 00000000000000000000.seg: the segment has format 9, this release reads 1");
}

/// Opens a log that was damaged and checks that whatever it gives is what was put in.
fn check_what_is_left(disk: &FakeDisk, end: u64) -> (u64, u64) {
    let (mut log, report) = open(disk.clone());
    let (mut sound, mut position) = (0, log.first());
    for found in all(&mut log, 0) {
        match found {
            // Where nothing follows, it may be that there never was anything.
            Found::Lost(range) if range.end == log.next() => {}
            Found::Lost(range) => {
                assert_eq!(range.start, position);
                position = range.end;
            }
            Found::Record(record) => {
                assert_eq!(record.first, position);
                assert_eq!(record.payload, payload(record.first, record.payload.len()));
                (sound, position) = (sound + 1, record.end());
            }
        }
    }
    assert!(position <= end && report.lost.iter().all(|range| range.start <= end));
    (sound, position)
}

#[test]
fn every_byte_of_a_spool_may_flip_and_costs_one_record_at_most() {
    // 4 MiB in segments of 4 KiB: a segment is checked by itself, because that is all that one flipped byte touches.
    const BYTES: u64 = 4 * 1024 * 1024;
    const SEGMENT: u64 = 4 * 1024;
    let disk = FakeDisk::new(1, PLENTY);
    let (mut log, _) = SegmentLog::open(disk.clone(), 0, SEGMENT).expect("opens");
    while log.bytes() < BYTES {
        let bytes = 100 + log.next() as usize % 700;
        fill(&mut log, 1, bytes);
    }
    let segments: Vec<Segment> = log.segments.iter().cloned().collect();
    let halves = segments.split_at(segments.len() / 2);
    let flip = |segments: &[Segment]| segments.iter().map(|segment| flip_every_byte(&disk, segment)).sum::<u64>();
    let flipped = std::thread::scope(|scope| {
        let other = scope.spawn(|| flip(halves.0));
        flip(halves.1) + other.join().expect("no panic")
    });
    assert!(flipped >= BYTES, "{flipped}");
}

/// Returns how many bytes were flipped.
fn flip_every_byte(disk: &FakeDisk, segment: &Segment) -> u64 {
    let whole = disk.contents(&segment.name).expect("there");
    let alone = FakeDisk::new(2, PLENTY);
    let mut buffer = vec![0; whole.len()];
    let mut bytes = whole.clone();
    alone.put(&segment.name, &bytes);
    let mut place = scan::Place { first: segment.first, expected: segment.first, until: None };
    let sound = scan::scan(&alone, &segment.name, place, &mut buffer).expect("reads");
    let end = sound.expect("of this format").expect("whole").next;
    place.until = Some(end);
    for at in 0..bytes.len() {
        bytes[at] ^= 1 << (at % 8);
        let mut walk = scan::Walk::new(&bytes, place);
        walk.run();
        let scan::Walk { offset, next, damages, .. } = walk;
        let lost: u64 = damages.iter().map(|damage| damage.positions.end - damage.positions.start).sum();
        assert!(lost + (end - next) <= 3, "byte {at} of {} costs {lost} and {}", segment.name, end - next);
        let mut position = SEGMENT_HEADER_BYTES;
        while position < offset {
            match damages.iter().find(|damage| damage.offset == position as u64) {
                Some(damage) => position = damage.resume as usize,
                None => {
                    let record = record::decode(&bytes[position..]).expect("sound");
                    assert_eq!(record.payload, payload(record.first, record.payload.len()));
                    position += RECORD_HEADER_BYTES + record.payload.len();
                }
            }
        }
        bytes[at] = whole[at];
    }
    whole.len() as u64
}

#[test]
fn a_spool_may_be_cut_at_thousands_of_places_and_loses_what_is_behind_them() {
    const CUTS: u64 = 4_096;
    let (disk, log) = filled(12_000, 300);
    let (end, bytes) = (log.next(), log.bytes());
    assert!(bytes > 3 * 1024 * 1024);
    let segments = log.segments.clone();
    drop(log);
    for cut in 0..CUTS {
        // Within one segment, which is then the newest: what was made after the cut is gone.
        let place = cut * bytes / CUTS;
        let mut before = 0;
        let index = segments.iter().position(|segment| {
            let is_here = place < before + segment.bytes;
            before += if is_here { 0 } else { segment.bytes };
            is_here
        });
        let segment = &segments[index.expect("within the spool")];
        let whole = disk.contents(&segment.name).expect("there");
        let alone = FakeDisk::new(cut, PLENTY);
        alone.put(&segment.name, &whole[..(place - before) as usize]);
        let (sound, next) = check_what_is_left(&alone, end);
        let expected =
            (place - before).saturating_sub(SEGMENT_HEADER_BYTES as u64) / (RECORD_HEADER_BYTES as u64 + 300);
        assert_eq!((sound, next), (expected, segment.first + expected * 3), "cut at {place}");
    }
}

proptest! {
    #[test]
    fn whatever_a_disk_does_nothing_synced_is_lost_and_nothing_is_made_up(
        seed: u64, steps in proptest::collection::vec((0_u8..12, 1_usize..400), 1..80),
    ) {
        let disk = FakeDisk::new(seed, 60_000);
        let (mut log, _) = open(disk.clone());
        let mut promised = 0;
        // What a crash tore, and what was passed over behind it.
        let mut torn: Vec<Range<u64>> = Vec::new();
        for (step, bytes) in steps {
            match step {
                0..6 => drop(log.append(3, &payload(log.next(), bytes))),
                6..8 => promised = log.sync().unwrap_or(promised),
                8 => disk.trouble(Trouble { failed_appends: 30, failed_syncs: 30, failed_reads: 0, failed_names: 30 }),
                9 => disk.trouble(Trouble::default()),
                10 => drop(log.delete_before(promised.saturating_sub(60))),
                _ => {
                    disk.crash();
                    disk.trouble(Trouble::default());
                    let (opened, report) = open(disk.clone());
                    log = opened;
                    let is_known = |lost: &Range<u64>| {
                        torn.iter().any(|torn| torn.start <= lost.start && promised.min(lost.end) <= torn.end)
                    };
                    let is_new = |lost: &Range<u64>| lost.start >= promised;
                    let lost = &report.lost;
                    prop_assert!(lost.iter().all(|lost| is_new(lost) || is_known(lost)), "{lost:?} of {promised}");
                    prop_assert!(log.next() >= promised, "{} of {promised}", log.next());
                    promised = log.durable();
                    torn.extend(report.lost);
                }
            }
            let mut cursor = log.cursor(0);
            while let Some(found) = log.read(&mut cursor).expect("reads do not fail here") {
                match found {
                    Found::Record(record) => {
                        prop_assert_eq!(&record.payload, &payload(record.first, record.payload.len()));
                    }
                    Found::Lost(lost) => {
                        prop_assert!(torn.iter().any(|torn| torn.start <= lost.start && lost.end <= torn.end));
                    }
                }
            }
            prop_assert_eq!(cursor.position(), log.durable());
        }
    }

    #[test]
    fn whatever_rots_only_what_was_put_in_comes_out(seed: u64, rot in 1_usize..12, bytes in 1_usize..300) {
        let (disk, log) = filled(100, bytes);
        let end = log.next();
        drop(log);
        let disk = disk.image(seed);
        (0..rot).for_each(|_| drop(disk.rot()));
        let (sound, _) = check_what_is_left(&disk, end);
        prop_assert!(sound as usize + rot >= 100, "{sound} of 100 after {rot}");
    }
}
