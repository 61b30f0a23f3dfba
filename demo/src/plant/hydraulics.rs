//! Flow and pressure: the pump's curve against the system's.
//!
//! * **Pump**: head `H = s² H0 - k Q²` at the speed `s` (share of the rated speed). This is the usual parabola with the
//!   affinity laws in it: flow goes with the speed, head with its square, power with its cube. J. F. Gülich,
//!   *Centrifugal Pumps* (Springer), on characteristics and similarity.
//! * **System**: `H = Hs + r Q²`, the static head and the losses of turbulent flow; Karassik et al., *Pump Handbook*
//!   (McGraw-Hill), on system curves. A valve's loss goes with `(Q / Kv)²` (IEC 60534-2-1), here with `Kv` in proportion
//!   to the opening. Pipe friction follows Blasius, `f` in proportion to `Re^(-1/4)`, so warm water flows a little better.
//! * **Efficiency**: `eta = eta_best (2 q - q²)` with `q = Q / (s Q_best)`: none at no flow, best at the best point.
//! * **Cavitation**: the suction head available is what atmosphere, lift, losses and vapour pressure leave (NPSHA); the
//!   head required (NPSH3) is, by its definition, the one at which 3 % of the head is lost (ISO 9906). It goes with the
//!   speed's square and rises with flow. Around it the loss grows exponentially, which is a fit and not a law.

/// Acceleration of gravity, m/s².
const GRAVITY: f64 = 9.806_65;
/// Standard atmosphere, Pa.
const ATMOSPHERE_PA: f64 = 101_325.0;
/// Head of the pump at rated speed and no flow, m.
const SHUTOFF_HEAD_M: f64 = 24.0;
/// What the pump's head loses with the square of the flow, m per (l/min)².
const PUMP_SLOPE: f64 = 6.0e-4;
/// Flow of the best efficiency at rated speed, l/min.
const BEST_FLOW_L_MIN: f64 = 100.0;
/// The best efficiency: usual for a pump of half a kilowatt.
const BEST_EFFICIENCY: f64 = 0.55;
/// Power lost in bearings and seal at rated speed, W; it goes with the speed.
const BEARING_LOSS_W: f64 = 25.0;
/// Height of the return's mouth above the sump, m.
const STATIC_HEAD_M: f64 = 0.5;
/// Height of the pump above the sump, m.
const SUCTION_LIFT_M: f64 = 4.3;
/// Loss in the suction pipe, m per (l/min)².
const SUCTION_SLOPE: f64 = 3.0e-5;
/// Loss in the pressure pipe at 20 deg C, m per (l/min)².
const PIPE_SLOPE: f64 = 4.7e-4;
/// Loss in the valve when it is fully open, m per (l/min)².
const VALVE_SLOPE: f64 = 9.0e-4;
/// The suction head required at rated speed and the best flow, m.
const REQUIRED_SUCTION_HEAD_M: f64 = 3.9;
/// The share of the head lost where the suction head is just what is required (ISO 9906).
const LOSS_AT_REQUIRED_HEAD: f64 = 0.03;
/// The share of the head lost where cavitation is heard at 63 % of its full strength: bubbles collapse loudly well
/// before the head drops (Gülich).
const LOSS_WHERE_LOUD: f64 = 0.015;
/// The change of suction head that changes the loss by the factor e, m.
const CAVITATION_WIDTH_M: f64 = 0.6;
/// The most of its head that the pump loses while it still pumps.
const MAX_HEAD_SHARE_LOST: f64 = 0.4;
/// The share of its head that a worn-out impeller has lost.
const HEAD_SHARE_LOST_TO_WEAR: f64 = 0.06;
/// The least opening: a seat never seals against a running pump in this model, and losses stay finite.
const MIN_VALVE: f64 = 0.05;
/// The least share of the best flow in the efficiency: at no flow power over efficiency has a limit, this is near it.
const MIN_SHARE_OF_BEST_FLOW: f64 = 0.02;

const L_MIN_PER_M3_S: f64 = 60_000.0;
const PA_PER_BAR: f64 = 1.0e5;

/// What the water's temperature changes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Liquid {
    /// Density, kg/m³.
    pub density: f64,
    /// Kinematic viscosity as a multiple of that at 20 deg C.
    pub viscosity: f64,
    /// Vapour pressure, Pa.
    pub vapour_pa: f64,
}

impl Liquid {
    /// Water at `celsius`, 5 to 60 deg C. Density and viscosity are fits to tables, good to 0.1 % and 6 %; the vapour
    /// pressure is Magnus' formula with the constants of Alduchov and Eskridge (1996).
    #[must_use]
    pub fn water(celsius: f64) -> Self {
        let above_20 = celsius - 20.0;
        Self {
            density: 998.2 - 0.21 * above_20 - 0.003_8 * above_20 * above_20,
            viscosity: (-0.023 * above_20 + 1.0e-4 * above_20 * above_20).exp(),
            vapour_pa: 610.94 * (17.625 * celsius / (243.04 + celsius)).exp(),
        }
    }

    /// The pressure of a column of `head_m` metres, Pa.
    fn pressure_pa(&self, head_m: f64) -> f64 {
        self.density * GRAVITY * head_m
    }
}

/// Pump and pipes at one moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Loop {
    /// Speed as a share of the rated speed, above 0.
    pub speed: f64,
    /// Valve opening, 0 to 1; taken as at least 0.05.
    pub valve: f64,
    /// Head lost at the suction beyond the pipe's, m.
    pub suction_loss_m: f64,
    /// The water.
    pub liquid: Liquid,
    /// 0 is new, 1 is worn out.
    pub wear: f64,
}

/// Pump and water at one flow.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Operation {
    /// Flow, l/min.
    pub flow_l_min: f64,
    /// Pressure between pump and valve, bar above atmosphere.
    pub pressure_bar: f64,
    /// Power the motor's shaft must give, W.
    pub shaft_w: f64,
    /// The flow as a share of the best flow at this speed.
    pub share_of_best_flow: f64,
    /// How much it cavitates: 0 is not at all, 1 is fully.
    pub cavitation: f64,
}

impl Loop {
    /// The flow at which the pump's and the system's curve meet when the share `head_share_lost` of the pump's head is
    /// lost to cavitation, l/min; 0 if the pump cannot lift the water.
    #[must_use]
    pub fn steady_flow_l_min(&self, head_share_lost: f64) -> f64 {
        let kept = 1.0 - head_share_lost;
        let head_left = kept * self.shutoff_head_m() - STATIC_HEAD_M - self.suction_loss_m;
        (head_left.max(0.0) / (kept * PUMP_SLOPE + self.system_slope())).sqrt()
    }

    /// What the loop does at `flow_l_min`.
    #[must_use]
    pub fn operation(&self, flow_l_min: f64, head_share_lost: f64) -> Operation {
        let squared = flow_l_min * flow_l_min;
        let full_head_m = self.shutoff_head_m() - PUMP_SLOPE * squared;
        let head_m = (1.0 - head_share_lost) * full_head_m;
        let suction_m = SUCTION_LIFT_M + self.suction_loss_m + SUCTION_SLOPE * squared;
        let share = flow_l_min / (self.speed * BEST_FLOW_L_MIN);
        Operation {
            flow_l_min,
            pressure_bar: self.liquid.pressure_pa(head_m - suction_m) / PA_PER_BAR,
            shaft_w: self.shaft_w(share, full_head_m),
            share_of_best_flow: share,
            cavitation: 1.0 - (-head_share_lost / LOSS_WHERE_LOUD).exp(),
        }
    }

    /// The share of its head that the pump loses to cavitation at `flow_l_min`.
    #[must_use]
    pub fn head_share_lost(&self, flow_l_min: f64) -> f64 {
        let margin_m = self.suction_head_available_m(flow_l_min) - self.suction_head_required_m(flow_l_min);
        (LOSS_AT_REQUIRED_HEAD * (-margin_m / CAVITATION_WIDTH_M).exp()).min(MAX_HEAD_SHARE_LOST)
    }

    fn shutoff_head_m(&self) -> f64 {
        self.speed * self.speed * SHUTOFF_HEAD_M * (1.0 - HEAD_SHARE_LOST_TO_WEAR * self.wear)
    }

    /// The loss of the whole way, m per (l/min)².
    fn system_slope(&self) -> f64 {
        let valve = self.valve.max(MIN_VALVE);
        SUCTION_SLOPE + PIPE_SLOPE * self.liquid.viscosity.powf(0.25) + VALVE_SLOPE / (valve * valve)
    }

    /// Cavitation costs head but little power, so `head_m` is the head without it.
    fn shaft_w(&self, share_of_best_flow: f64, head_m: f64) -> f64 {
        let share = share_of_best_flow.max(MIN_SHARE_OF_BEST_FLOW);
        let flow_m3_s = share * self.speed * BEST_FLOW_L_MIN / L_MIN_PER_M3_S;
        let efficiency = BEST_EFFICIENCY * (2.0 * share - share * share).max(0.1 * share);
        self.liquid.pressure_pa(head_m) * flow_m3_s / efficiency + BEARING_LOSS_W * self.speed
    }

    fn suction_head_available_m(&self, flow_l_min: f64) -> f64 {
        let above_vapour_m = (ATMOSPHERE_PA - self.liquid.vapour_pa) / self.liquid.pressure_pa(1.0);
        above_vapour_m - SUCTION_LIFT_M - self.suction_loss_m - SUCTION_SLOPE * flow_l_min * flow_l_min
    }

    fn suction_head_required_m(&self, flow_l_min: f64) -> f64 {
        let share = flow_l_min / (self.speed * BEST_FLOW_L_MIN);
        self.speed * self.speed * REQUIRED_SUCTION_HEAD_M * (0.5 + 0.5 * share * share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new_loop(speed: f64, valve: f64) -> Loop {
        Loop { speed, valve, suction_loss_m: 0.0, liquid: Liquid::water(20.0), wear: 0.0 }
    }

    /// Where the loop settles, cavitation included.
    fn settled(circuit: &Loop) -> Operation {
        let (mut flow, mut lost) = (circuit.steady_flow_l_min(0.0), 0.0);
        for _ in 0..200 {
            lost += 0.2 * (circuit.head_share_lost(flow) - lost);
            flow = circuit.steady_flow_l_min(lost);
        }
        circuit.operation(flow, lost)
    }

    #[test]
    fn closing_the_valve_lowers_flow_and_raises_pressure() {
        let openings = [0.9, 0.7, 0.5, 0.3, 0.15];
        let operations = openings.map(|valve| settled(&new_loop(0.8, valve)));
        for pair in operations.windows(2) {
            assert!(pair[1].flow_l_min < pair[0].flow_l_min, "{pair:?}");
            assert!(pair[1].pressure_bar > pair[0].pressure_bar, "{pair:?}");
            assert!(pair[1].shaft_w < pair[0].shaft_w, "{pair:?}");
        }
    }

    #[test]
    fn flow_follows_speed_and_power_its_cube_by_the_affinity_laws() {
        for (slow, fast) in [(0.7, 0.8), (0.8, 0.9), (0.7, 0.9)] {
            let [before, after] = [slow, fast].map(|speed| settled(&new_loop(speed, 0.5)));
            let ratio: f64 = fast / slow;
            let flow_error = after.flow_l_min / before.flow_l_min / ratio - 1.0;
            assert!(flow_error.abs() < 0.02, "{slow} to {fast}: {flow_error}");
            let hydraulic = |operation: Operation, speed| operation.shaft_w - BEARING_LOSS_W * speed;
            let power_error = hydraulic(after, fast) / hydraulic(before, slow) / ratio.powi(3) - 1.0;
            assert!(power_error.abs() < 0.02, "{slow} to {fast}: {power_error}");
        }
    }

    #[test]
    fn three_percent_of_the_head_is_lost_where_the_suction_head_is_just_what_is_required() {
        let mut circuit = new_loop(0.8, 0.4);
        let flow = 45.0;
        circuit.suction_loss_m = circuit.suction_head_available_m(flow) - circuit.suction_head_required_m(flow);
        assert!((circuit.head_share_lost(flow) - LOSS_AT_REQUIRED_HEAD).abs() < 1e-12);
        circuit.suction_loss_m -= 3.0;
        assert!(circuit.head_share_lost(flow) < 0.001);
    }

    #[test]
    fn a_lost_suction_head_lowers_flow_and_pressure() {
        let healthy = settled(&new_loop(0.8, 0.42));
        let starved = settled(&Loop { suction_loss_m: 3.3, ..new_loop(0.8, 0.42) });
        assert!(healthy.cavitation < 0.02, "{healthy:?}");
        assert!(starved.cavitation > 0.3, "{starved:?}");
        assert!(starved.flow_l_min < 0.93 * healthy.flow_l_min, "{starved:?}");
        assert!(starved.pressure_bar < 0.8 * healthy.pressure_bar, "{starved:?}");
    }

    #[test]
    fn water_is_as_tables_say() {
        for (celsius, density, viscosity, vapour_pa) in [
            (10.0, 999.7, 1.30, 1_228.0),
            (20.0, 998.2, 1.0, 2_339.0),
            (30.0, 995.6, 0.80, 4_247.0),
            (50.0, 988.0, 0.55, 12_352.0),
        ] {
            let water = Liquid::water(celsius);
            assert!((water.density / density - 1.0).abs() < 1e-3, "{celsius}: {water:?}");
            assert!((water.viscosity / viscosity - 1.0).abs() < 0.06, "{celsius}: {water:?}");
            assert!((water.vapour_pa / vapour_pa - 1.0).abs() < 0.01, "{celsius}: {water:?}");
        }
    }

    #[test]
    fn a_pump_too_slow_to_lift_the_water_gives_no_flow() {
        let stalled = new_loop(0.1, 0.5);
        assert_eq!(stalled.steady_flow_l_min(0.0), 0.0);
        assert!(stalled.operation(0.0, 0.0).shaft_w.is_finite());
    }
}
