//! The little statistics that calibration on the box and training at the hub share.

/// Mean and population standard deviation; zeros for nothing.
#[must_use]
pub fn mean_and_deviation(values: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
    let count = values.clone().count().max(1) as f64;
    let mean = values.clone().sum::<f64>() / count;
    let variance = values.map(|value| (value - mean) * (value - mean)).sum::<f64>() / count;
    (mean, variance.sqrt())
}

/// Mean and deviation of each column of rows of `width` numbers, as a z-score takes them: a frozen column gets a small
/// deviation above 0, because it must not make every later twitch infinite.
#[must_use]
pub fn scaling(rows: &[f32], width: usize) -> (Vec<f64>, Vec<f64>) {
    (0..width)
        .map(|column| {
            let (mean, std) =
                mean_and_deviation(rows.iter().skip(column).step_by(width).map(|value| f64::from(*value)));
            (mean, std.max(1e-3 * mean.abs()).max(1e-9))
        })
        .unzip()
}

/// The `q`-quantile with linear interpolation between neighbours; 0 for nothing.
#[must_use]
pub fn quantile(values: &mut [f64], q: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let place = q * values.len().saturating_sub(1) as f64;
    let (low, high) = (place.floor() as usize, place.ceil() as usize);
    match (values.get(low), values.get(high)) {
        (Some(low), Some(high)) => low + (high - low) * place.fract(),
        _ => 0.0,
    }
}

/// The centre of rows of `width` numbers and the lower triangle, row-major and square, that whitens what is left without
/// it: the inverse of the Cholesky factor of the covariance. `ridge` times the mean variance is added to each variance,
/// so that columns that hardly move, or move as one, stay usable.
#[must_use]
pub fn whitening(rows: &[f32], width: usize, ridge: f64) -> (Vec<f64>, Vec<f64>) {
    let count = (rows.len() / width.max(1)).max(1) as f64;
    let mean: Vec<f64> = (0..width)
        .map(|column| rows.iter().skip(column).step_by(width).map(|value| f64::from(*value)).sum::<f64>() / count)
        .collect();
    let mut covariance = vec![0.0; width * width];
    let mut centred = vec![0.0; width];
    for row in rows.chunks_exact(width.max(1)) {
        for ((centred, value), mean) in centred.iter_mut().zip(row).zip(&mean) {
            *centred = f64::from(*value) - mean;
        }
        for (i, a) in centred.iter().enumerate() {
            for (j, b) in centred.iter().enumerate().take(i + 1) {
                covariance[i * width + j] += a * b / count;
            }
        }
    }
    let trace: f64 = (0..width).map(|i| covariance[i * width + i]).sum();
    let added = (ridge * trace / width.max(1) as f64).max(1e-12);
    for i in 0..width {
        covariance[i * width + i] += added;
    }
    cholesky(&mut covariance, width);
    (mean, invert_lower(&covariance, width))
}

/// The squared Mahalanobis distance of `row` from a centre: the squared length of the whitened difference.
#[must_use]
pub fn squared_distance(row: &[f32], mean: &[f64], whitening: &[f64]) -> f64 {
    let width = row.len();
    let mut sum = 0.0;
    for line in 0..width {
        let factors = &whitening[line * width..=line * width + line];
        let whitened: f64 =
            factors.iter().zip(row).zip(mean).map(|((factor, value), mean)| factor * (f64::from(*value) - mean)).sum();
        sum += whitened * whitened;
    }
    sum
}

/// Replaces the lower triangle of a symmetric positive definite matrix, row-major, by its Cholesky factor.
pub fn cholesky(matrix: &mut [f64], size: usize) {
    for i in 0..size {
        for j in 0..=i {
            let (line_i, line_j) = (&matrix[i * size..i * size + j], &matrix[j * size..j * size + j]);
            let rest = matrix[i * size + j] - line_i.iter().zip(line_j).map(|(a, b)| a * b).sum::<f64>();
            // Rounding may leave a pivot a little below 0.
            matrix[i * size + j] = if i == j { rest.max(1e-300).sqrt() } else { rest / matrix[j * size + j] };
        }
    }
}

/// Solves `A X = B` for a matrix `A` of which `lower` is the Cholesky factor; `right` is B, row-major, and becomes X.
pub fn solve_with_cholesky(lower: &[f64], size: usize, right: &mut [f64]) {
    let width = right.len() / size.max(1);
    for i in 0..size {
        let (before, rest) = right.split_at_mut(i * width);
        let line = &mut rest[..width];
        for k in 0..i {
            let factor = lower[i * size + k];
            line.iter_mut().zip(&before[k * width..]).for_each(|(value, known)| *value -= factor * known);
        }
        line.iter_mut().for_each(|value| *value /= lower[i * size + i]);
    }
    for i in (0..size).rev() {
        let (before, after) = right.split_at_mut((i + 1) * width);
        let line = &mut before[i * width..];
        for k in i + 1..size {
            let factor = lower[k * size + i];
            line.iter_mut().zip(&after[(k - i - 1) * width..]).for_each(|(value, known)| *value -= factor * known);
        }
        line.iter_mut().for_each(|value| *value /= lower[i * size + i]);
    }
}

fn invert_lower(lower: &[f64], size: usize) -> Vec<f64> {
    let mut inverse = vec![0.0; size * size];
    for column in 0..size {
        for line in column..size {
            let sum: f64 = (column..line).map(|k| lower[line * size + k] * inverse[k * size + column]).sum();
            let unit = if line == column { 1.0 } else { 0.0 };
            inverse[line * size + column] = (unit - sum) / lower[line * size + line];
        }
    }
    inverse
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_interpolates() {
        assert!((quantile(&mut [3.0, 1.0, 2.0, 4.0], 0.5) - 2.5).abs() < 1e-12);
        assert!((quantile(&mut [1.0, 2.0], 1.0) - 2.0).abs() < 1e-12);
        assert!(quantile(&mut [], 0.5).abs() < 1e-12);
    }

    #[test]
    fn whitened_rows_have_unit_covariance_so_their_mean_squared_distance_is_their_width() {
        let rows: Vec<f32> = (0..2_000_u32)
            .flat_map(|i| {
                let (a, b) = (f64::from(i * 7919 % 1000) / 500.0, f64::from(i * 104_729 % 1000) / 500.0);
                [a as f32, (3.0 * a + b) as f32, (10.0 * b - a) as f32]
            })
            .collect();
        // Three columns made of two: without the ridge the covariance has no inverse.
        let (mean, whitening) = whitening(&rows, 3, 1e-6);
        let distances: f64 = rows.chunks_exact(3).map(|row| squared_distance(row, &mean, &whitening)).sum();
        assert!((distances / 2_000.0 - 2.0).abs() < 0.01, "{}", distances / 2_000.0);
    }

    #[test]
    fn the_distance_of_one_column_is_the_squared_z_score() {
        let rows = [1.0_f32, 3.0, 1.0, 3.0];
        let (mean, whitening) = whitening(&rows, 1, 0.0);
        assert!((squared_distance(&[5.0], &mean, &whitening) - 9.0).abs() < 1e-9);
    }

    #[test]
    fn equations_are_solved_for_every_right_hand_side() {
        // A = L L' with L = [[2, 0], [1, 3]]; X = [[1, -1], [2, 0.5]].
        let mut matrix = [4.0, 2.0, 2.0, 10.0];
        cholesky(&mut matrix, 2);
        let mut right = [8.0, -3.0, 22.0, 3.0];
        solve_with_cholesky(&matrix, 2, &mut right);
        for (found, expected) in right.iter().zip([1.0, -1.0, 2.0, 0.5]) {
            assert!((found - expected).abs() < 1e-12, "{right:?}");
        }
    }

    #[test]
    fn a_frozen_column_gets_a_small_deviation() {
        let (mean, std) = scaling(&[5.0, 1.0, 5.0, 3.0], 2);
        assert_eq!((mean, std), (vec![5.0, 2.0], vec![5e-3, 1.0]));
    }
}
