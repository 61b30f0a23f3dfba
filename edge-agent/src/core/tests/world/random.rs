//! Chance that can be repeated: splitmix64.

pub(in crate::core::tests) struct Random(u64);

impl Random {
    pub(in crate::core::tests) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `end`; 0 where there is none.
    pub(in crate::core::tests) fn below(&mut self, end: usize) -> usize {
        (self.draw() % (end as u64).max(1)) as usize
    }

    pub(in crate::core::tests) fn percent(&mut self, chance: usize) -> bool {
        self.below(100) < chance
    }

    fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
