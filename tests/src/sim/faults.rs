//! What goes wrong, and when: the plan that a seed makes, and that can be cut down to what matters.

use super::random::Random;

/// One thing that goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The agent of a box is killed; its disk keeps all that was written.
    Kill,
    /// A box loses its power; its disk keeps what was synced, and parts of the rest.
    PowerCut,
    /// The agent of a box is killed between two of the next effects.
    KillSoon(u8),
    /// A connection breaks with whatever is on its way.
    Cut,
    /// No connection can be made from a box, for so many steps.
    Partition(u16),
    /// A connection swallows what it is given, until somebody loses patience.
    HalfOpen,
    /// The hub is killed and starts again.
    HubKill,
    /// The hub loses its power.
    HubPowerCut,
    /// The hub is away for so many steps.
    HubAway(u16),
    /// A broker's connections break.
    BrokerRestart,
    /// A box's disk fails now and then, for so many steps.
    DiskTrouble(u16),
    /// The hub's disk fails now and then, for so many steps.
    HubDiskTrouble(u16),
    /// A box's disk is full, for so many steps.
    DiskFull(u16),
    /// A bit flips on a box's disk.
    Rot,
    /// The newest record on a box's disk is damaged just before its power goes.
    RotTailAndPowerCut,
    /// A box loses its spool.
    LoseSpool,
    /// A box loses its state store.
    LoseState,
    /// A box's disk is copied.
    Backup,
    /// The copy takes the place of a box's disk, if there is one, and the box is offline for so many steps.
    Restore(u16),
    /// The hub's disk and database are copied.
    HubBackup,
    /// The copies take the place of the hub's disk and database, if there are any.
    HubRestore,
    /// A box's wall clock jumps by so many minutes.
    ClockJump(i16),
    /// Time passes: minutes.
    LongSilence(u8),
    /// Somebody brings a version of the model, good or bad.
    Release(u8),
    /// Somebody pauses, resumes or aborts the rollout.
    Wish(u8),
}

/// A fault, the step it comes at, and the box it happens to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Planned {
    /// The step.
    pub step: usize,
    /// The box, by its number; without meaning for the hub's faults.
    pub at: usize,
    /// The fault.
    pub fault: Fault,
}

/// What a world's character allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Climate {
    /// Whether media may lose what was synced. Then readings may be lost, but never in silence.
    pub rots: bool,
    /// Whether it is spools that bad media lose; else it is state stores. A box that lost both would know nothing.
    pub loses_spools: bool,
    /// Whether spools are so small that events must be dropped.
    pub is_cramped: bool,
    /// Whether disks are restored from copies.
    pub goes_back: bool,
    /// Whether versions of a model are rolled out.
    pub rolls_out: bool,
}

impl Climate {
    /// One world in four has bad media, one in four small spools, in one in four disks are restored, in one in four versions
    /// are rolled out.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        Self {
            rots: seed % 4 == 1,
            loses_spools: seed % 8 == 1,
            is_cramped: seed % 4 == 2,
            goes_back: seed % 4 == 3,
            rolls_out: seed.is_multiple_of(4),
        }
    }
}

/// The faults of a world, in order.
#[must_use]
pub fn plan(seed: u64, climate: Climate, steps: usize, boxes: usize) -> Vec<Planned> {
    let mut random = Random::new(seed ^ 0xfa17);
    let count = 3 + random.below(14);
    let mut plan: Vec<Planned> = (0..count)
        .map(|_| Planned { step: random.below(steps), at: random.below(boxes), fault: fault(&mut random, climate) })
        .collect();
    if climate.rolls_out {
        for _ in 0..2 + random.below(4) {
            plan.push(Planned { step: random.below(steps), at: 0, fault: Fault::Release(random.below(256) as u8) });
        }
        for _ in 0..random.below(4) {
            plan.push(Planned { step: random.below(steps), at: 0, fault: Fault::Wish(random.below(256) as u8) });
        }
    }
    plan.sort_by_key(|planned| planned.step);
    plan
}

fn fault(random: &mut Random, climate: Climate) -> Fault {
    let long = |random: &mut Random| 5 + random.below(60) as u16;
    let kinds = match climate {
        Climate { rots: true, .. } => 30,
        Climate { goes_back: true, .. } => 36,
        Climate { .. } => 24,
    };
    match random.below(kinds) {
        0..3 => Fault::Kill,
        3..6 => Fault::PowerCut,
        6..9 => Fault::KillSoon(random.below(6) as u8),
        9..11 => Fault::Cut,
        11 => Fault::Partition(long(random)),
        12 => Fault::HalfOpen,
        13 => Fault::HubKill,
        14..16 => Fault::HubPowerCut,
        16 => Fault::HubAway(long(random)),
        17..19 => Fault::BrokerRestart,
        19 => Fault::DiskTrouble(long(random)),
        20 => Fault::HubDiskTrouble(long(random)),
        21 => Fault::DiskFull(long(random)),
        22 => Fault::ClockJump(random.below(6_000) as i16 - 3_000),
        23 => Fault::LongSilence(1 + random.below(10) as u8),
        kind @ 24.. if climate.goes_back => match kind {
            24..27 => Fault::Backup,
            27..31 => Fault::Restore(random.below(500) as u16),
            31..33 => Fault::HubBackup,
            _ => Fault::HubRestore,
        },
        24..26 => Fault::Rot,
        26..28 => Fault::RotTailAndPowerCut,
        _ if climate.loses_spools => Fault::LoseSpool,
        _ => Fault::LoseState,
    }
}
