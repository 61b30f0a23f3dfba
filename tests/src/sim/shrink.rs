//! Cuts a fault plan down to what it takes (A. Zeller, R. Hildebrandt, "Simplifying and Isolating Failure-Inducing
//! Input", 2002, in its simplest form: leave out ever smaller parts as long as the world still breaks).

use super::faults::Planned;

/// The numbers of the faults that are left.
pub fn shrink(whole: &[Planned], breaks: impl Fn(Vec<Planned>) -> bool) -> Vec<usize> {
    let mut left: Vec<usize> = (0..whole.len()).collect();
    let mut size = left.len().div_ceil(2).max(1);
    loop {
        let mut start = 0;
        while start < left.len() {
            let end = (start + size).min(left.len());
            let without: Vec<usize> = left[..start].iter().chain(&left[end..]).copied().collect();
            if breaks(without.iter().map(|number| whole[*number]).collect()) {
                left = without;
            } else {
                start = end;
            }
        }
        if size == 1 {
            return left;
        }
        size = size.div_ceil(2);
    }
}

#[cfg(test)]
mod tests {
    use super::super::faults::Fault;
    use super::*;

    #[test]
    fn what_does_not_matter_is_left_out() {
        let fault = |step| Planned { step, at: 0, fault: Fault::Kill };
        let whole: Vec<Planned> = (0..17).map(fault).collect();
        let breaks = |plan: Vec<Planned>| [3, 11].iter().all(|step| plan.contains(&fault(*step)));
        assert_eq!(shrink(&whole, breaks), [3, 11]);
    }
}
