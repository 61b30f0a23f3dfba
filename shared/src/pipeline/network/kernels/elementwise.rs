//! Functions of each number by itself, a vector at a time.

use pulp::{Simd, WithSimd};

/// Beyond this, tanh is 1 in f32.
const TANH_END: f32 = 9.0;
/// Minimax coefficients of tanh as an odd polynomial over an even one, as Eigen and others have them: right to a few units
/// in the last place.
const TANH_ODD: [f32; 7] =
    [-2.760_768_5e-16, 2.000_188e-13, -8.604_672e-11, 5.122_297_e-8, 1.485_722_4e-5, 6.372_619_3e-4, 4.893_524_6e-3];
const TANH_EVEN: [f32; 4] = [1.198_258_4e-6, 1.185_347_1e-4, 2.268_434_6e-3, 4.893_525e-3];

/// A function of one number. What is no number stays none.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Activation {
    /// The hyperbolic tangent.
    Tanh,
    /// The logistic function.
    Sigmoid,
    /// `x`, or 0 below 0.
    Relu,
    /// `x`, or `slope * x` below 0.
    LeakyRelu {
        /// The slope below 0.
        slope: f32,
    },
}

/// Does it to all values.
pub(super) struct Each<'a> {
    pub(super) activation: Activation,
    pub(super) values: &'a mut [f32],
}

impl WithSimd for Each<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match self.activation {
            Activation::Tanh => each(simd, self.values, |x| tanh(simd, x)),
            Activation::Sigmoid => each(simd, self.values, |x| sigmoid(simd, x)),
            Activation::Relu => {
                let zero = simd.splat_f32s(0.0);
                each(simd, self.values, |x| simd.select_f32s(simd.less_than_f32s(x, zero), zero, x));
            }
            Activation::LeakyRelu { slope } => {
                let (slope, zero) = (simd.splat_f32s(slope), simd.splat_f32s(0.0));
                each(simd, self.values, |x| simd.select_f32s(simd.less_than_f32s(x, zero), simd.mul_f32s(slope, x), x));
            }
        }
    }
}

#[inline(always)]
fn each<S: Simd>(simd: S, values: &mut [f32], function: impl Fn(S::f32s) -> S::f32s) {
    let (vectors, rest) = S::as_mut_simd_f32s(values);
    vectors.iter_mut().for_each(|vector| *vector = function(*vector));
    if !rest.is_empty() {
        let vector = simd.partial_load_f32s(rest);
        simd.partial_store_f32s(rest, function(vector));
    }
}

/// The hyperbolic tangent.
#[inline(always)]
pub(super) fn tanh<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let end = simd.splat_f32s(TANH_END);
    let bounded = simd.max_f32s(simd.min_f32s(x, end), simd.neg_f32s(end));
    let square = simd.mul_f32s(bounded, bounded);
    let odd = simd.mul_f32s(bounded, polynomial(simd, square, &TANH_ODD));
    let found = simd.div_f32s(odd, polynomial(simd, square, &TANH_EVEN));
    simd.select_f32s(simd.equal_f32s(x, x), found, x)
}

/// The logistic function, which is a tangent of half the width.
#[inline(always)]
pub(super) fn sigmoid<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let half = simd.splat_f32s(0.5);
    mul_add(simd, half, tanh(simd, simd.mul_f32s(half, x)), half)
}

#[inline(always)]
fn polynomial<S: Simd>(simd: S, x: S::f32s, highest_first: &[f32]) -> S::f32s {
    let start = simd.splat_f32s(highest_first[0]);
    highest_first[1..].iter().fold(start, |sum, next| mul_add(simd, sum, x, simd.splat_f32s(*next)))
}

/// `a * b + c`, in one instruction where the processor has one: elsewhere that would be a call into a library.
#[inline(always)]
pub(super) fn mul_add<S: Simd>(simd: S, a: S::f32s, b: S::f32s, c: S::f32s) -> S::f32s {
    const LANES_WITH_FUSED: usize = 8;
    if cfg!(target_arch = "aarch64") || S::F32_LANES >= LANES_WITH_FUSED {
        simd.mul_add_e_f32s(a, b, c)
    } else {
        simd.add_f32s(simd.mul_f32s(a, b), c)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pulp::Arch;

    fn all(activation: Activation, values: &[f32]) -> Vec<f32> {
        let mut values = values.to_vec();
        Arch::new().dispatch(Each { activation, values: &mut values });
        values
    }

    #[test]
    fn functions_are_right_everywhere_and_no_number_stays_none() {
        let inputs: Vec<f32> = (-4_000..=4_000).map(|i| i as f32 / 100.0).collect();
        for (x, (tangent, logistic)) in
            inputs.iter().zip(all(Activation::Tanh, &inputs).iter().zip(all(Activation::Sigmoid, &inputs)))
        {
            assert!((f64::from(*tangent) - f64::from(*x).tanh()).abs() < 3e-7, "tanh {x}: {tangent}");
            let expected = 1.0 / (1.0 + (-f64::from(*x)).exp());
            assert!((f64::from(logistic) - expected).abs() < 3e-7, "sigmoid {x}: {logistic}");
        }
        let leaky = Activation::LeakyRelu { slope: 0.5 };
        for activation in [Activation::Tanh, Activation::Sigmoid, Activation::Relu, leaky] {
            for length in [1, 8, 19] {
                assert!(all(activation, &vec![f32::NAN; length]).iter().all(|value| value.is_nan()), "{activation:?}");
            }
        }
        assert_eq!(all(Activation::Tanh, &[f32::INFINITY, f32::NEG_INFINITY, 0.0]), [1.0, -1.0, 0.0]);
        assert_eq!(all(Activation::Relu, &[f32::NEG_INFINITY, -2.0, 0.0, 3.0]), [0.0, 0.0, 0.0, 3.0]);
        assert_eq!(all(leaky, &[-2.0, 0.0, 3.0]), [-1.0, 0.0, 3.0]);
    }
}
