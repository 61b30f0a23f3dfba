//! `x W + b` with weights that were laid out for it.

use pulp::{Arch, Simd, WithSimd};

use super::elementwise::mul_add;

/// Rows and panels of one tile: with two vectors of each panel, as many sums as hide the latency of one.
pub(super) const TILE_ROWS: usize = 4;
const TILE_PANELS: usize = 4;

/// Weights `W [inner, outputs]` in panels of two vectors' width, each panel row after row, padded with zeros; and `b`.
#[derive(Debug, Clone)]
pub(super) struct Product {
    inner: usize,
    outputs: usize,
    panel: usize,
    packed: Vec<f32>,
    bias: Vec<f32>,
}

impl Product {
    /// Lays `weight`, row after row of `[inner, outputs]`, out for the vectors of this processor. An empty `bias` is none.
    pub(super) fn new(arch: Arch, inner: usize, weight: &[f32], bias: &[f32]) -> Self {
        let outputs = weight.len() / inner.max(1);
        let panel = 2 * arch.dispatch(Lanes);
        let panels = outputs.div_ceil(panel);
        let mut packed = vec![0.0; panels * inner * panel];
        for (row, values) in weight.chunks_exact(outputs.max(1)).enumerate() {
            for (index, part) in values.chunks(panel).enumerate() {
                packed[(index * inner + row) * panel..][..part.len()].copy_from_slice(part);
            }
        }
        let mut padded = bias.to_vec();
        padded.resize(panels * panel, 0.0);
        Self { inner, outputs, panel, packed, bias: padded }
    }

    pub(super) fn inner(&self) -> usize {
        self.inner
    }

    pub(super) fn outputs(&self) -> usize {
        self.outputs
    }

    /// Row `r` of `out` becomes `x_r W + b`, where `x_r` begins at `r * stride` in `x`.
    pub(super) fn run(&self, arch: Arch, x: &[f32], stride: usize, rows: usize, out: &mut [f32]) {
        if self.inner > 0 && self.outputs > 0 {
            arch.dispatch(Run { product: self, x, stride, rows, out });
        }
    }
}

/// Numbers in a vector.
struct Lanes;

impl WithSimd for Lanes {
    type Output = usize;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> usize {
        S::F32_LANES
    }
}

struct Run<'a> {
    product: &'a Product,
    x: &'a [f32],
    stride: usize,
    rows: usize,
    out: &'a mut [f32],
}

/// Two vectors.
type Pair<S> = [<S as Simd>::f32s; 2];

impl WithSimd for Run<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { product, x, stride, rows, out } = self;
        let Product { inner, outputs, panel, packed, bias } = product;
        let (bias, _) = S::as_simd_f32s(bias);
        let (bias, _) = bias.as_chunks::<2>();
        let panels = bias.len();
        let weights = |index: usize| {
            let (weights, _) = S::as_simd_f32s(&packed[index * inner * panel..][..inner * panel]);
            weights.as_chunks::<2>().0
        };
        let row_of = |row: usize| &x[row * stride..][..*inner];
        let whole = rows - rows % TILE_ROWS;
        for (index, bias) in bias.iter().enumerate() {
            let weights = weights(index);
            for row in (0..whole).step_by(TILE_ROWS) {
                let xs: [&[f32]; TILE_ROWS] = std::array::from_fn(|at| row_of(row + at));
                let sums = down::<S, TILE_ROWS>(simd, weights, *bias, xs);
                for (at, sum) in sums.into_iter().enumerate() {
                    store(simd, &mut out[(row + at) * outputs..][..*outputs], index * panel, sum);
                }
            }
        }
        for row in whole..rows {
            let (x, out) = (row_of(row), &mut out[row * outputs..][..*outputs]);
            let wide = panels - panels % TILE_PANELS;
            for index in (0..wide).step_by(TILE_PANELS) {
                let tile = std::array::from_fn(|at| weights(index + at));
                let biases = std::array::from_fn(|at| bias[index + at]);
                let sums = across::<S, TILE_PANELS>(simd, tile, biases, x);
                sums.into_iter().enumerate().for_each(|(at, sum)| store(simd, out, (index + at) * panel, sum));
            }
            for (index, bias) in bias.iter().enumerate().skip(wide) {
                let [sum] = down::<S, 1>(simd, weights(index), *bias, [x]);
                store(simd, out, index * panel, sum);
            }
        }
    }
}

/// One panel's share of several rows.
#[inline(always)]
fn down<S: Simd, const ROWS: usize>(
    simd: S,
    weights: &[Pair<S>],
    bias: Pair<S>,
    xs: [&[f32]; ROWS],
) -> [Pair<S>; ROWS] {
    let xs = xs.map(|x| &x[..weights.len()]);
    let mut sums = [bias; ROWS];
    for (at, [left, right]) in weights.iter().enumerate() {
        for (sum, x) in sums.iter_mut().zip(xs) {
            let x = simd.splat_f32s(x[at]);
            *sum = [mul_add(simd, x, *left, sum[0]), mul_add(simd, x, *right, sum[1])];
        }
    }
    sums
}

/// Several panels' share of one row.
#[inline(always)]
fn across<S: Simd, const PANELS: usize>(
    simd: S,
    weights: [&[Pair<S>]; PANELS],
    bias: [Pair<S>; PANELS],
    x: &[f32],
) -> [Pair<S>; PANELS] {
    let weights = weights.map(|weights| &weights[..x.len()]);
    let mut sums = bias;
    for (at, x) in x.iter().enumerate() {
        let x = simd.splat_f32s(*x);
        for (sum, weights) in sums.iter_mut().zip(weights) {
            let [left, right] = weights[at];
            *sum = [mul_add(simd, x, left, sum[0]), mul_add(simd, x, right, sum[1])];
        }
    }
    sums
}

/// Writes a panel's sums into a row, as far as the row goes.
#[inline(always)]
fn store<S: Simd>(simd: S, row: &mut [f32], from: usize, [left, right]: Pair<S>) {
    let lanes = S::F32_LANES;
    let row = &mut row[from..];
    if row.len() >= 2 * lanes {
        let (vectors, _) = S::as_mut_simd_f32s(&mut row[..2 * lanes]);
        vectors.copy_from_slice(&[left, right]);
    } else {
        let (first, rest) = row.split_at_mut(lanes.min(row.len()));
        simd.partial_store_f32s(first, left);
        if !rest.is_empty() {
            simd.partial_store_f32s(rest, right);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_is_what_adding_up_gives() {
        let arch = Arch::new();
        for inner in [1, 2, 7, 16] {
            for outputs in [1, 3, 8, 15, 16, 17, 33, 80] {
                for rows in [1, 3, 4, 9] {
                    let number = |seed: usize, at: usize| ((at * 37 + seed) % 23) as f32 / 11.0 - 1.0;
                    let weight: Vec<f32> = (0..inner * outputs).map(|at| number(1, at)).collect();
                    let bias: Vec<f32> = (0..outputs).map(|at| number(2, at)).collect();
                    let stride = inner + 1;
                    let x: Vec<f32> = (0..rows * stride).map(|at| number(3, at)).collect();
                    let mut out = vec![f32::NAN; rows * outputs];
                    Product::new(arch, inner, &weight, &bias).run(arch, &x, stride, rows, &mut out);
                    for (row, found) in out.chunks_exact(outputs).enumerate() {
                        for (column, found) in found.iter().enumerate() {
                            let terms = (0..inner).map(|at| x[row * stride + at] * weight[at * outputs + column]);
                            let expected = bias[column] + terms.sum::<f32>();
                            assert!((found - expected).abs() < 1e-5, "{inner} {outputs} {rows}: {found} {expected}");
                        }
                    }
                }
            }
        }
    }
}
