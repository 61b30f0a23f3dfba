//! Windows of rows, and numbers about them.

use std::fmt;
use std::sync::Arc;

use realfft::num_complex::Complex;
use realfft::{RealFftPlanner, RealToComplex};
use serde::{Deserialize, Serialize};

use crate::pipeline::step::Statistic;

/// Below this power there is no telling noise from rounding.
const SMALLEST_POWER: f64 = 1e-12;

/// The newest rows of a stream, in one piece of memory that is filled round and round.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Ring {
    width: usize,
    capacity: usize,
    values: Vec<f64>,
    /// Where the next row goes.
    next: usize,
    /// Rows that are there, at most the capacity.
    filled: usize,
    /// Rows pushed since it was full, counted around a hop.
    since_due: u32,
}

impl Ring {
    pub(super) fn new(capacity: usize, width: usize) -> Self {
        Self { width, capacity, values: vec![0.0; capacity * width], next: 0, filled: 0, since_due: 0 }
    }

    pub(super) fn clear(&mut self) {
        (self.next, self.filled, self.since_due) = (0, 0, 0);
    }

    /// Whether it is a state that `fresh` could be in.
    pub(super) fn fits(&self, fresh: &Self) -> bool {
        (self.width, self.capacity, self.values.len()) == (fresh.width, fresh.capacity, fresh.values.len())
            && self.next < self.capacity
            && self.filled <= self.capacity
    }

    /// Takes a row; whether there are now as many as it holds.
    pub(super) fn push(&mut self, row: &[f64]) -> bool {
        self.values[self.next * self.width..][..self.width].copy_from_slice(row);
        self.next = (self.next + 1) % self.capacity;
        self.filled = (self.filled + 1).min(self.capacity);
        self.filled == self.capacity
    }

    /// Whether the row just pushed is one of every `hop`, counted from when it was first full.
    pub(super) fn is_due(&mut self, hop: u32) -> bool {
        let is_due = self.since_due == 0;
        self.since_due = (self.since_due + 1) % hop;
        is_due
    }

    /// The row that came so many rows before the newest.
    pub(super) fn back(&self, rows: usize) -> &[f64] {
        let index = (self.next + 2 * self.capacity - 1 - rows) % self.capacity;
        &self.values[index * self.width..][..self.width]
    }
}

/// A number about the values of one column of a window.
pub(super) fn statistic(wanted: Statistic, values: impl Iterator<Item = f64> + Clone) -> f64 {
    let count = values.clone().count().max(1) as f64;
    let mean_of =
        |power: i32, centre: f64| values.clone().map(|value| (value - centre).powi(power)).sum::<f64>() / count;
    match wanted {
        Statistic::Mean => mean_of(1, 0.0),
        Statistic::Std => mean_of(2, mean_of(1, 0.0)).sqrt(),
        Statistic::Min => values.fold(f64::INFINITY, f64::min),
        Statistic::Max => values.fold(f64::NEG_INFINITY, f64::max),
        Statistic::Rms => mean_of(2, 0.0).sqrt(),
        Statistic::Crest => {
            let (largest, rms) =
                (values.clone().fold(0.0, |largest: f64, value| largest.max(value.abs())), mean_of(2, 0.0).sqrt());
            if rms > 0.0 { largest / rms } else { 0.0 }
        }
        Statistic::Kurtosis => {
            let mean = mean_of(1, 0.0);
            let variance = mean_of(2, mean);
            if variance > 0.0 { mean_of(4, mean) / (variance * variance) } else { 0.0 }
        }
    }
}

/// The power of a window in bands of frequency.
#[derive(Clone)]
pub(super) struct Spectrum {
    transform: Arc<dyn RealToComplex<f64>>,
    hann: Vec<f64>,
    bands: usize,
    windowed: Vec<f64>,
    spectrum: Vec<Complex<f64>>,
    scratch: Vec<Complex<f64>>,
}

impl Spectrum {
    pub(super) fn new(length: usize, bands: usize) -> Self {
        let transform = RealFftPlanner::new().plan_fft_forward(length);
        let hann = |i: usize| 0.5 - 0.5 * (std::f64::consts::TAU * (i as f64 + 0.5) / length as f64).cos();
        Self {
            hann: (0..length).map(hann).collect(),
            bands,
            windowed: transform.make_input_vec(),
            spectrum: transform.make_output_vec(),
            scratch: transform.make_scratch_vec(),
            transform,
        }
    }

    /// Adds the logarithm of each band's power to `out`.
    pub(super) fn bands(&mut self, values: impl Iterator<Item = f64> + Clone, out: &mut Vec<f64>) {
        let length = self.hann.len() as f64;
        let mean = values.clone().sum::<f64>() / length;
        for ((windowed, value), hann) in self.windowed.iter_mut().zip(values).zip(&self.hann) {
            *windowed = (value - mean) * hann;
        }
        // The buffers were made for the transform, which fails on others only.
        let done = self.transform.process_with_scratch(&mut self.windowed, &mut self.spectrum, &mut self.scratch);
        let frequencies = self.spectrum.get(1..).filter(|_| done.is_ok()).unwrap_or_default();
        for band in 0..self.bands {
            let (from, to) = (band * frequencies.len() / self.bands, (band + 1) * frequencies.len() / self.bands);
            let power: f64 =
                frequencies[from..to].iter().map(Complex::norm_sqr).sum::<f64>() / (to - from).max(1) as f64;
            out.push((power / length + SMALLEST_POWER).ln());
        }
    }
}

impl fmt::Debug for Spectrum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spectrum").field("length", &self.hann.len()).field("bands", &self.bands).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_gives_back_its_newest_rows() {
        let mut ring = Ring::new(3, 2);
        let full: Vec<bool> = (0..5).map(|i| ring.push(&[f64::from(i), -f64::from(i)])).collect();
        assert_eq!(full, [false, false, true, true, true]);
        assert_eq!([ring.back(0)[0], ring.back(1)[1], ring.back(2)[0]], [4.0, -3.0, 2.0]);
    }

    #[test]
    fn statistics_are_what_their_names_say() {
        let of = |wanted| statistic(wanted, [3.0, -1.0, -1.0, 3.0].into_iter());
        assert_eq!(
            [of(Statistic::Mean), of(Statistic::Std), of(Statistic::Min), of(Statistic::Max)],
            [1.0, 2.0, -1.0, 3.0]
        );
        assert!((of(Statistic::Rms) - 5.0_f64.sqrt()).abs() < 1e-12);
        assert!((of(Statistic::Crest) - 3.0 / 5.0_f64.sqrt()).abs() < 1e-12);
        assert!((of(Statistic::Kurtosis) - 1.0).abs() < 1e-12);
        assert_eq!([Statistic::Crest, Statistic::Kurtosis].map(|s| statistic(s, [0.0; 4].into_iter())), [0.0, 0.0]);
    }

    #[test]
    fn a_tone_stands_out_in_the_band_of_its_frequency() {
        let mut spectrum = Spectrum::new(64, 4);
        let tone =
            |cycles: f64| (0..64).map(move |i| 5.0 + (std::f64::consts::TAU * cycles * f64::from(i) / 64.0).sin());
        for (cycles, band) in [(4.0, 0), (12.0, 1), (20.0, 2), (30.0, 3)] {
            let mut bands = Vec::new();
            spectrum.bands(tone(cycles), &mut bands);
            let loudest = (0..4).max_by(|a, b| bands[*a].total_cmp(&bands[*b])).expect("bands");
            assert_eq!(loudest, band, "{cycles} cycles: {bands:?}");
        }
    }
}
