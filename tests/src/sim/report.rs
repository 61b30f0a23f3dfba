//! What happened in many worlds, in numbers.

/// Counts of what happened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Steps.
    pub steps: u64,
    /// Times an agent or the hub was killed or lost its power.
    pub crashes: u64,
    /// Times a connection was broken, swallowed, or could not be made.
    pub partitions: u64,
    /// Calls that failed and damage that was done on disks.
    pub disk_faults: u64,
    /// Entries that arrived at the hub.
    pub entries: u64,
    /// Pictures of what comes in that arrived at the hub ahead of a backlog.
    pub pictures: u64,
    /// Versions that were brought to the hub.
    pub releases: u64,
    /// Times events were dropped from a full spool.
    pub drops: u64,
    /// Readings that were let go as a spool ran full.
    pub shed: u64,
}

impl Tally {
    /// Adds what happened in another world.
    pub fn add(&mut self, other: Self) {
        self.steps += other.steps;
        self.crashes += other.crashes;
        self.partitions += other.partitions;
        self.disk_faults += other.disk_faults;
        self.entries += other.entries;
        self.pictures += other.pictures;
        self.releases += other.releases;
        self.drops += other.drops;
        self.shed += other.shed;
    }
}
