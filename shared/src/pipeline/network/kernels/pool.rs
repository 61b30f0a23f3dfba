//! One number for every few steps of a channel.

use crate::pipeline::layer::Pooling;

/// A pool over a sequence. Zeros around it count in an average, and never are the largest.
#[derive(Debug, Clone)]
pub(super) struct Pool {
    pub(super) of: Pooling,
    pub(super) kernel: usize,
    pub(super) stride: usize,
    pub(super) padding: usize,
    pub(super) steps: usize,
    pub(super) channels: usize,
}

impl Pool {
    pub(super) fn run(&self, given: &[f32], gives: &mut Vec<f32>) {
        let Self { of, kernel, stride, padding, steps, channels } = *self;
        gives.clear();
        for row in given.chunks_exact(steps * channels) {
            for first in (0..=(steps + 2 * padding).saturating_sub(kernel)).step_by(stride) {
                let end = (first + kernel).saturating_sub(padding).min(steps);
                let start = first.saturating_sub(padding).min(end);
                let seen = row[start * channels..end * channels].chunks_exact(channels);
                let at = gives.len();
                gives.resize(at + channels, if of == Pooling::Max { f32::NEG_INFINITY } else { 0.0 });
                let pooled = &mut gives[at..];
                for step in seen {
                    match of {
                        Pooling::Max => pooled.iter_mut().zip(step).for_each(|(found, x)| *found = larger(*found, *x)),
                        Pooling::Average => pooled.iter_mut().zip(step).for_each(|(sum, x)| *sum += x / kernel as f32),
                    }
                }
            }
        }
    }
}

/// The larger one; what is no number stays none.
fn larger(a: f32, b: f32) -> f32 {
    if b > a || b.is_nan() { b } else { a }
}
