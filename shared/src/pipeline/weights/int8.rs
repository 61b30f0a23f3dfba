//! Weights as whole numbers of eight bits with a scale for each output: a quarter of the size.
//!
//! Symmetric, from -127 to 127, as in Jacob et al. (2018), section 3. Only matrices and kernels: vectors are small, and
//! what they hold (biases, norms) is felt in every answer. A scale keeps 12 bits of its mantissa, so that 127 times it is exact and
//! rounding what was rounded changes nothing.

use super::WeightTensor;

/// The largest whole number.
const LARGEST: f32 = 127.0;
/// Bits of an f32's mantissa that a scale leaves at 0.
const CUT_BITS: u32 = 11;

/// A tensor of eight bits.
#[derive(Debug, PartialEq)]
pub(super) struct Int8 {
    /// Row-major, as the tensor.
    pub(super) values: Vec<i8>,
    /// One for each output.
    pub(super) scales: Vec<f32>,
}

impl Int8 {
    /// Rounds a tensor; `None` for a vector.
    pub(super) fn of(tensor: &WeightTensor) -> Option<Self> {
        let outputs = Outputs::of(&tensor.shape)?;
        let mut largest = vec![0.0_f32; outputs.count];
        for (at, value) in tensor.values.iter().enumerate() {
            let largest = &mut largest[outputs.at(at)];
            *largest = largest.max(value.abs());
        }
        let scales: Vec<f32> = largest.into_iter().map(scale).collect();
        let round =
            |(at, value): (usize, &f32)| (value / scales[outputs.at(at)]).round().clamp(-LARGEST, LARGEST) as i8;
        Some(Self { values: tensor.values.iter().enumerate().map(round).collect(), scales })
    }

    /// The tensor of this shape; `None` if the shape has another number of values or outputs.
    pub(super) fn to_tensor(&self, shape: Vec<usize>) -> Option<WeightTensor> {
        let outputs = Outputs::of(&shape)?;
        let fits = outputs.count == self.scales.len() && shape.iter().product::<usize>() == self.values.len();
        let value = |(at, value): (usize, &i8)| f32::from(*value) * self.scales[outputs.at(at)];
        fits.then(|| WeightTensor { values: self.values.iter().enumerate().map(value).collect(), shape })
    }
}

/// The scale of values up to `largest`: above 0, and never too small.
fn scale(largest: f32) -> f32 {
    let exact = (largest / LARGEST).max(f32::MIN_POSITIVE);
    let cut = f32::from_bits(exact.to_bits() >> CUT_BITS << CUT_BITS);
    if cut < exact { f32::from_bits(cut.to_bits() + (1 << CUT_BITS)) } else { cut }
}

/// Where a tensor's outputs are: the columns of a matrix, the first dimension of a kernel.
struct Outputs {
    count: usize,
    /// Values of one output that lie side by side.
    stride: usize,
}

impl Outputs {
    fn of(shape: &[usize]) -> Option<Self> {
        match shape {
            [_, columns] => Some(Self { count: *columns, stride: 1 }),
            [filters, rest @ ..] if rest.len() >= 2 => Some(Self { count: *filters, stride: rest.iter().product() }),
            _ => None,
        }
    }

    fn at(&self, index: usize) -> usize {
        index / self.stride % self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(shape: &[usize]) -> WeightTensor {
        let values =
            (0..shape.iter().product::<usize>()).map(|at| ((at * 7_919) % 1_009) as f32 / 313.0 - 1.5).collect();
        WeightTensor { shape: shape.to_vec(), values }
    }

    #[test]
    fn rounding_is_near_and_rounding_again_changes_nothing() {
        for shape in [&[5, 3][..], &[4, 2, 3], &[1, 1]] {
            let tensor = tensor(shape);
            let rounded = Int8::of(&tensor).expect("no vector").to_tensor(shape.to_vec()).expect("fits");
            for (found, value) in rounded.values.iter().zip(&tensor.values) {
                assert!((found - value).abs() <= 2.0 / 254.0, "{found} {value}");
            }
            let again = Int8::of(&rounded).expect("no vector").to_tensor(shape.to_vec()).expect("fits");
            assert_eq!(again, rounded);
        }
        assert_eq!(Int8::of(&tensor(&[4])), None);
    }

    #[test]
    fn each_output_has_its_own_scale_and_nothing_stays_nothing() {
        let matrix = WeightTensor { shape: vec![2, 3], values: vec![1.0, 100.0, 0.0, -0.5, 50.0, 0.0] };
        let rounded = Int8::of(&matrix).expect("no vector");
        assert_eq!(rounded.values, [127, 127, 0, -63, 63, 0]);
        let back = rounded.to_tensor(vec![2, 3]).expect("fits");
        assert!((back.values[3] + 0.5).abs() < 0.005 && (back.values[4] - 50.0).abs() < 0.5, "{back:?}");
        assert_eq!(back.values[2], 0.0);
        assert!(rounded.to_tensor(vec![3, 2]).is_none(), "another number of outputs");
    }
}
