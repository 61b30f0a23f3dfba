//! What the motor draws for the shaft's power.
//!
//! The losses of an induction motor are a part that is always there (iron, windage) and a part in the windings that
//! goes with the square of the load; the current is the active part, which gives power, and the magnetising part, which
//! does not, at a right angle to it. S. J. Chapman, *Electric Machinery Fundamentals* (McGraw-Hill), on induction motors.
//! The power factor and the efficiency follow: both are poor at small load.

/// Rated power at the shaft, W.
const RATED_W: f64 = 750.0;
/// Loss at any load, W.
const FIXED_LOSS_W: f64 = 55.0;
/// Loss in the windings at rated load, W.
const WINDING_LOSS_W: f64 = 90.0;
/// Magnetising current at 230 V, A; it goes with the voltage.
const MAGNETISING_A: f64 = 1.2;
/// Rated voltage, V.
const RATED_V: f64 = 230.0;

/// The current in A, RMS, that a motor draws at `mains_v` volts, above 0, to give `shaft_w` watts at its shaft.
#[must_use]
pub fn current_a(shaft_w: f64, mains_v: f64) -> f64 {
    (electric_w(shaft_w) / mains_v).hypot(MAGNETISING_A * mains_v / RATED_V)
}

fn electric_w(shaft_w: f64) -> f64 {
    let load = shaft_w / RATED_W;
    shaft_w + FIXED_LOSS_W + WINDING_LOSS_W * load * load
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn current_rises_with_power_and_with_falling_voltage() {
        let currents = [0.0, 100.0, 250.0, 500.0, 750.0].map(|shaft_w| current_a(shaft_w, RATED_V));
        assert!(currents.windows(2).all(|pair| pair[1] > pair[0]), "{currents:?}");
        assert!(current_a(500.0, 215.0) > current_a(500.0, 230.0));
    }

    #[test]
    fn efficiency_and_power_factor_are_those_of_a_small_motor() {
        let efficiency = RATED_W / electric_w(RATED_W);
        assert!((0.75..0.88).contains(&efficiency), "{efficiency}");
        let power_factor = |shaft_w| electric_w(shaft_w) / (RATED_V * current_a(shaft_w, RATED_V));
        assert!((0.8..0.97).contains(&power_factor(RATED_W)), "{}", power_factor(RATED_W));
        assert!(power_factor(100.0) < 0.6, "{}", power_factor(100.0));
    }
}
