//! How much the pump shakes.
//!
//! Independent causes add up by their squares, as the powers of uncorrelated signals do:
//!
//! * **imbalance**: a mass `m` at the radius `e` pulls with `m e w²`, so it goes with the speed's square (ISO 21940-11);
//! * **flow off the best point**: recirculation and uneven load on the impeller; it goes with the dynamic pressure, so
//!   with the speed's square, and with the distance from the best flow (Gülich, *Centrifugal Pumps*, on vibration);
//! * **cavitation**: collapsing bubbles, broadband;
//! * **wear** of the bearings: broadband too, and looseness that lets imbalance shake the pump more.
//!
//! The drive end carries the coupling and feels imbalance more; the free end is nearer to the impeller's inlet. The
//! amplitudes are of our choice, of the size that ISO 20816 calls good for a machine this small.

/// What makes the pump shake.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Causes {
    /// Speed as a share of the rated speed.
    pub speed: f64,
    /// Flow as a share of the best flow at this speed.
    pub share_of_best_flow: f64,
    /// 0 is no cavitation, 1 is full.
    pub cavitation: f64,
    /// Imbalance as a multiple of the usual.
    pub imbalance: f64,
    /// 0 is new, 1 is worn out.
    pub wear: f64,
}

/// Amplitudes at one end, g RMS.
struct End {
    floor: f64,
    imbalance: f64,
    off_best_flow: f64,
    cavitation: f64,
    wear: f64,
}

const DRIVE_END: End = End { floor: 0.02, imbalance: 0.15, off_best_flow: 0.30, cavitation: 0.12, wear: 0.06 };
const FREE_END: End = End { floor: 0.015, imbalance: 0.12, off_best_flow: 0.24, cavitation: 0.16, wear: 0.04 };

/// By what share a worn-out bearing's play lets imbalance shake the pump more.
const LOOSENESS: f64 = 0.4;

/// The vibration of the drive end and of the free end, g RMS.
#[must_use]
pub fn ends_g(causes: &Causes) -> (f64, f64) {
    (DRIVE_END.total_g(causes), FREE_END.total_g(causes))
}

impl End {
    fn total_g(&self, causes: &Causes) -> f64 {
        let speed_squared = causes.speed * causes.speed;
        let off_best_flow = causes.share_of_best_flow - 1.0;
        let parts = [
            self.floor,
            self.imbalance * causes.imbalance * speed_squared * (1.0 + LOOSENESS * causes.wear),
            self.off_best_flow * speed_squared * off_best_flow * off_best_flow,
            self.cavitation * causes.cavitation,
            self.wear * causes.wear * causes.speed,
        ];
        parts.iter().map(|part| part * part).sum::<f64>().sqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NORMAL: Causes = Causes { speed: 0.8, share_of_best_flow: 0.6, cavitation: 0.0, imbalance: 1.0, wear: 0.0 };

    fn check_shakes_more(causes: Causes) {
        let (drive_end, free_end) = ends_g(&causes);
        let (normal_drive_end, normal_free_end) = ends_g(&NORMAL);
        assert!(drive_end > normal_drive_end && free_end > normal_free_end, "{causes:?}");
    }

    #[test]
    fn every_cause_shakes_both_ends_more() {
        check_shakes_more(Causes { speed: 0.9, ..NORMAL });
        check_shakes_more(Causes { share_of_best_flow: 0.3, ..NORMAL });
        check_shakes_more(Causes { cavitation: 0.5, ..NORMAL });
        check_shakes_more(Causes { imbalance: 2.0, ..NORMAL });
        check_shakes_more(Causes { wear: 0.5, ..NORMAL });
    }

    #[test]
    fn a_strong_imbalance_shakes_with_the_square_of_the_speed() {
        let strong = Causes { imbalance: 100.0, share_of_best_flow: 1.0, ..NORMAL };
        let ratio = ends_g(&Causes { speed: 0.4, ..strong }).0 / ends_g(&strong).0;
        assert!((ratio - 0.25).abs() < 0.001, "{ratio}");
    }
}
