//! Layers that go through a sequence step after step. Their equations stand with burn's version of them.

use pulp::{Arch, Simd, WithSimd};

use super::elementwise::{mul_add, sigmoid, tanh};
use super::product::Product;
use super::sized;

/// Buffers that a layer works in.
#[derive(Default)]
pub(super) struct Scratch {
    /// A sequence with zeros around it.
    pub(super) padded: Vec<f32>,
    /// The input's share of all gates of all steps.
    of_input: Vec<f32>,
    /// The state's share of all gates of one step.
    of_state: Vec<f32>,
    state: Vec<f32>,
    cell: Vec<f32>,
}

/// A recurrent layer.
#[derive(Debug, Clone)]
pub(super) struct Recurrent {
    pub(super) of: Cell,
    pub(super) of_input: Product,
    pub(super) of_state: Product,
    pub(super) steps: usize,
    pub(super) units: usize,
    /// The state after every step, not only the last.
    pub(super) gives_all: bool,
}

/// Which recurrence.
#[derive(Debug, Clone, Copy)]
pub(super) enum Cell {
    /// Gated recurrent units, reset after the product.
    Gru,
    /// Long short-term memory.
    Lstm,
}

/// One step of all rows.
struct Step<'a> {
    units: usize,
    /// The input's share of the gates: a row's begin at `row * stride`.
    inputs: &'a [f32],
    stride: usize,
    /// The state's share of the gates, row after row.
    hidden: &'a [f32],
    state: &'a mut [f32],
    cell: &'a mut [f32],
}

impl Recurrent {
    /// Numbers that it holds for a row while it works.
    pub(super) fn inner_size(&self) -> usize {
        self.of_input.outputs() * self.steps
    }

    pub(super) fn run(&self, arch: Arch, rows: usize, given: &[f32], gives: &mut Vec<f32>, scratch: &mut Scratch) {
        let Self { of, of_input, of_state, steps, units, gives_all } = self;
        let gates = of_input.outputs();
        let inputs = sized(&mut scratch.of_input, rows * steps * gates);
        of_input.run(arch, given, of_input.inner(), rows * steps, inputs);
        let hidden = sized(&mut scratch.of_state, rows * gates);
        let state = sized(&mut scratch.state, rows * units);
        let cell = sized(&mut scratch.cell, rows * units);
        state.fill(0.0);
        cell.fill(0.0);
        let gives = sized(gives, if *gives_all { rows * steps * units } else { rows * units });
        for step in 0..*steps {
            of_state.run(arch, state, *units, rows, hidden);
            let inputs = &inputs[step * gates..];
            let all_rows = Step { units: *units, inputs, stride: steps * gates, hidden, state, cell };
            match of {
                Cell::Gru => arch.dispatch(GruStep(all_rows)),
                Cell::Lstm => arch.dispatch(LstmStep(all_rows)),
            }
            if *gives_all {
                for (row, state) in state.chunks_exact(*units).enumerate() {
                    gives[(row * steps + step) * units..][..*units].copy_from_slice(state);
                }
            }
        }
        if !gives_all {
            gives.copy_from_slice(state);
        }
    }
}

impl Step<'_> {
    /// Gives, a vector at a time, both shares of each gate, the state and the cell to `next`, which gives the new state and
    /// cell.
    #[inline(always)]
    fn each<S: Simd, const GATES: usize>(
        self,
        simd: S,
        next: impl Fn([S::f32s; GATES], [S::f32s; GATES], S::f32s, S::f32s) -> (S::f32s, S::f32s),
    ) {
        let Self { units, inputs, stride, hidden, state, cell } = self;
        let rows =
            state.chunks_exact_mut(units).zip(cell.chunks_exact_mut(units)).zip(hidden.chunks_exact(GATES * units));
        for (row, ((state, cell), hidden)) in rows.enumerate() {
            let inputs = &inputs[row * stride..][..GATES * units];
            for from in (0..units).step_by(S::F32_LANES) {
                let place = from..(from + S::F32_LANES).min(units);
                let (state, cell) = (&mut state[place.clone()], &mut cell[place]);
                let (x, h) = (parts(simd, inputs, units, from), parts(simd, hidden, units, from));
                let (new_state, new_cell) = next(x, h, load(simd, state), load(simd, cell));
                store(simd, state, new_state);
                store(simd, cell, new_cell);
            }
        }
    }
}

struct GruStep<'a>(Step<'a>);

impl WithSimd for GruStep<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        self.0.each::<S, 3>(simd, |x, h, state, cell| {
            let reset = sigmoid(simd, simd.add_f32s(x[0], h[0]));
            let update = sigmoid(simd, simd.add_f32s(x[1], h[1]));
            let candidate = tanh(simd, mul_add(simd, reset, h[2], x[2]));
            (mul_add(simd, update, simd.sub_f32s(state, candidate), candidate), cell)
        });
    }
}

struct LstmStep<'a>(Step<'a>);

impl WithSimd for LstmStep<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        self.0.each::<S, 4>(simd, |x, h, _, cell| {
            let gate = |at: usize| simd.add_f32s(x[at], h[at]);
            let kept = simd.mul_f32s(sigmoid(simd, gate(1)), cell);
            let cell = mul_add(simd, sigmoid(simd, gate(0)), tanh(simd, gate(2)), kept);
            (simd.mul_f32s(sigmoid(simd, gate(3)), tanh(simd, cell)), cell)
        });
    }
}

/// A vector of each gate, from unit `from` on.
#[inline(always)]
fn parts<S: Simd, const GATES: usize>(simd: S, all: &[f32], units: usize, from: usize) -> [S::f32s; GATES] {
    std::array::from_fn(|gate| {
        load(simd, &all[gate * units + from..(gate * units + from + S::F32_LANES).min((gate + 1) * units)])
    })
}

/// Up to a vector of numbers.
#[inline(always)]
fn load<S: Simd>(simd: S, values: &[f32]) -> S::f32s {
    match S::as_simd_f32s(values) {
        ([whole], []) => *whole,
        _ => simd.partial_load_f32s(values),
    }
}

/// Writes up to a vector of numbers. Whole ones by themselves: a masked write is many times slower on some processors.
#[inline(always)]
fn store<S: Simd>(simd: S, values: &mut [f32], vector: S::f32s) {
    match S::as_mut_simd_f32s(values) {
        ([whole], _) => *whole = vector,
        (_, part) => simd.partial_store_f32s(part, vector),
    }
}
